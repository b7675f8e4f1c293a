"""Threads and processes that write packs: shared syncs, forks, pools, full disks, power cuts, killed writers."""

import contextlib
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from support import mounts, power, processes, raw_pack, raw_record, raw_tree
from support.classes import A

import ana
from ana.fs import append_file
from ana.stores.directory.store import DirectoryStore

pytestmark = pytest.mark.once

PACKS = {"pack_bytes": "64k"}
KIB = 1 << 10
MIB = 1 << 20
fork = multiprocessing.get_context("fork")


@pytest.fixture
def tree(tmp_path):
    """Where the store is."""
    return tmp_path / "tree"


@contextlib.contextmanager
def packing(tree, **options):
    """Make a store the current layer; afterwards no pack of it is open, so that its disk can be unmounted."""
    with ana.using_dl(pickle_dir=tree, **options) as layer:
        try:
            yield layer
        finally:
            with contextlib.suppress(ana.StoreError):
                layer.store.packs.seal()
            layer.store.packs.files.reset()


def whole(tree):
    """Return what the states in packs hold, by key, read past ana; a torn end is ignored."""
    found = {}
    for path in raw_pack.packs(tree):
        data = path.read_bytes()
        for key, at, size in raw_pack.records(data):
            with contextlib.suppress(Exception):
                found[key] = raw_record.read(data[at : at + size])[1]
    return found


def all_load(tree, values):
    """See that a reader that has only the UUIDs finds all of them, with their values."""
    with packing(tree) as layer:
        for uuid, value in values.items():
            assert layer.store.has(uuid)
            assert A.ana_load(uuid).x == value


def in_threads(number_of_threads, work):
    """Call `work(number)` in threads that start together; return the results, or the errors, in order."""
    results = [None] * number_of_threads
    start = threading.Barrier(number_of_threads)

    def call(number):
        start.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(number_of_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# Threads

THREADS = """
import sys, threading, ana
from support.classes import A

layer = ana.set_dl(pickle_dir=sys.argv[1], pack_bytes="64k")
start = threading.Barrier(16)

def work(thread):
    start.wait()
    for number in range(25):
        A([thread, number, "x" * 500]).make_uuid()

threads = [threading.Thread(target=work, args=(thread,)) for thread in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.slow
def test_threads_share_syncs(tree):
    """Sixteen threads store 400 states, each waits for the disk, and far fewer syncs than states are made."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt-get install strace")
    log = tree.with_name("log")
    command = ["strace", "-f", "-o", log, "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=5000"]
    processes.run(*command, sys.executable, "-c", THREADS, tree)
    # A call that another thread's interrupts has a second line.
    syncs = sum("fdatasync(" in line for line in log.read_text().splitlines())
    assert len(whole(tree)) == 400
    assert len(raw_pack.packs(tree)) == 1
    assert syncs <= 400 / 4


def test_a_sync_that_fails_is_told_to_all_that_wait(tree, monkeypatch):
    """None of them counts its state as stored; what was synced before stays; the next try works, in another pack."""
    layer = ana.set_dl(pickle_dir=tree, **PACKS)
    before = A("before").make_uuid()
    waiting = threading.Semaphore(0)
    real = append_file.AppendFile.write
    lock = threading.Lock()
    failures = []

    def write(self, offset, parts):
        real(self, offset, parts)
        waiting.release()

    def fdatasync(_):
        with lock:
            if not failures:
                # Until each has written: they share this sync, or come too late for it.
                for _ in range(8):
                    waiting.acquire()
            failures.append(1)
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(append_file.AppendFile, "write", write)
    monkeypatch.setattr(append_file.os, "fdatasync", fdatasync)
    parts = [A(number) for number in range(8)]
    errors = in_threads(8, lambda number: parts[number].make_uuid())
    monkeypatch.undo()
    assert [(type(error), error.errno) for error in errors] == [(ana.StoreError, errno.ENOSPC)] * 8
    assert [part.uuid for part in parts] == [None] * 8
    assert list(whole(tree)) == [before]
    assert not any(layer.store.has(uuid) for uuid in layer.store.packs.tables if uuid != before)
    uuids = {part.make_uuid(): part.x for part in parts}
    all_load(tree, uuids | {before: "before"})


def test_a_sync_that_is_interrupted_costs_nobody_a_state(tree, monkeypatch):
    """Ctrl-C while a thread waits for the disk: it is raised, and what others have written is stored."""
    ana.set_dl(pickle_dir=tree, **PACKS)
    acknowledged = {A("before").make_uuid(): "before"}
    real = os.fdatasync

    def fdatasync(descriptor):
        monkeypatch.setattr(append_file.os, "fdatasync", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(append_file.os, "fdatasync", fdatasync)
    part = A("interrupted")
    with pytest.raises(KeyboardInterrupt):
        part.make_uuid()
    assert part.uuid is None
    acknowledged[part.make_uuid()] = "interrupted"
    acknowledged[A("after").make_uuid()] = "after"
    all_load(tree, acknowledged)


def test_a_pack_that_is_deleted_under_threads_harms_no_other_file(tree, tmp_path):
    """Its descriptor may be another file's by the time a slow thread writes: it is not closed before."""
    store = DirectoryStore(str(tree), durable=False)
    store.packs.pack_bytes = 64 * KIB
    stop = threading.Event()
    others = []

    def work(number):
        if number == 0:
            for _ in range(150):
                for path in raw_pack.packs(tree):
                    path.unlink(missing_ok=True)
                store.packs._forget(getattr(store.packs._writer, "name", ""))
                path = tmp_path / f"other {len(others)}"
                others.append(os.open(path, os.O_RDWR | os.O_CREAT))
            stop.set()
        else:
            count = 0
            while not stop.is_set():
                count += 1
                record = b"record %d %d" % (number, count)
                store.packs.append([("5f3ac0e1-1234-8123-9123-%012x" % (number << 32 | count), record)])

    assert in_threads(4, work) == [None] * 4
    assert [os.fstat(other).st_size for other in others] == [0] * 150
    for other in others:
        os.close(other)


# Disks


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """What was acknowledged is there, the error names the disk, and with room again all can be stored."""
    with mounts.ext4(tmp_path / "disk", 8 * MIB) as place, packing(place / "tree", **PACKS):
        ballast = place / "ballast"
        ballast.write_bytes(bytes(4 * MIB))
        acknowledged = {}
        chance = random.Random(1)

        def store_until_full():
            for number in range(10_000):
                value = [number, chance.randbytes(3000)]
                acknowledged[A(value).make_uuid()] = value

        with pytest.raises(ana.StoreError) as caught:
            store_until_full()
        assert caught.value.errno == errno.ENOSPC
        many = [A([number, chance.randbytes(3000)]) for number in range(100)]
        with pytest.raises(ana.StoreError):
            ana.get_dl().store_many(many)
        all_load(place / "tree", acknowledged)
        ballast.unlink()
        uuids = ana.get_dl().store_many(many)
        all_load(place / "tree", acknowledged | {uuid: part.x for uuid, part in zip(uuids, many, strict=True)})
        assert all(path.stat().st_size for path in raw_pack.packs(place / "tree"))


def test_a_read_only_store(tmp_path):
    """Loading works, sealed or not; storing says why not, unless the state is there."""

    def prepare(place):
        processes.run_program(
            "import sys, os, ana; from support.classes import A\n"
            "layer = ana.set_dl(pickle_dir=sys.argv[1], pack_bytes='64k')\n"
            "A('sealed').make_uuid(); layer.store.packs.seal()\n"
            "A('open').make_uuid(); os._exit(0)",
            place / "tree",
        )

    with (
        mounts.ext4_read_only(tmp_path / "disk", 32 * MIB, prepare) as (place, _),
        packing(place / "tree", **PACKS) as layer,
    ):
        for value in ("sealed", "open"):
            assert A.ana_load(A(value).make_uuid()).x == value
        uuids = layer.store_many([A("open"), A("sealed")])
        assert all(map(layer.store.has, uuids))
        for store in (A("new").make_uuid, lambda: layer.store_many([A("also new")])):
            with pytest.raises(ana.StoreError) as caught:
                store()
            assert caught.value.errno == errno.EROFS


@pytest.fixture
def disk():
    """A disk whose power can be cut."""
    with power.disk() as made:
        yield made


def test_durable_states_survive_a_power_cut(disk):
    """After each acknowledgement the power may fail: all that was acknowledged is there, whatever else is not."""
    tree = disk.place / "tree"
    acknowledged = {}
    with packing(tree, **PACKS) as layer:
        for step in range(6):
            if step == 3:
                layer.store.packs.seal()
            if step % 2:
                parts = [A([step, number]) for number in range(20)]
                acknowledged |= {uuid: part.x for uuid, part in zip(layer.store_many(parts), parts, strict=True)}
            else:
                acknowledged[A([step]).make_uuid()] = [step]
            with disk.after_a_power_cut() as place:
                assert acknowledged.keys() <= whole(place / "tree").keys()
                all_load(place / "tree", acknowledged)
                with packing(place / "tree", **PACKS):
                    all_load(place / "tree", {A("after the power cut").make_uuid(): "after the power cut"})


def test_what_others_packed_is_made_durable(disk):
    """A state that another process has packed without waiting counts as stored here only once it is on the disk."""
    tree = disk.place / "tree"
    program = (
        "import sys, os, ana; from support.classes import A\n"
        "layer = ana.set_dl(pickle_dir=sys.argv[1], pack_bytes='64k', durable=False)\n"
        "for number in range(5): print(A(['not durable', number]).make_uuid())\n"
        "sys.stdout.flush(); os._exit(0)"
    )
    uuids = processes.run_program(program, tree).split()
    with packing(tree) as layer:
        assert all(map(layer.store.has, uuids))
        parent = A([A.ana_load(uuids[0])])
        key = parent.make_uuid()
    with disk.after_a_power_cut() as place, packing(place / "tree"):
        assert set(uuids) <= whole(place / "tree").keys()
        assert A.ana_load(key).x[0].x == ["not durable", 0]


# Forks and pools


def _child(work):
    """Call `work` in a forked child, and return its JSON."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(send, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(send)
    with open(receive, encoding="utf-8") as answer:
        said = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(said)


def test_a_forked_child_has_a_pack_of_its_own(tree):
    """Parent and child go on: each in its own pack, and each finds what the other has stored."""
    layer = ana.set_dl(pickle_dir=tree, **PACKS)
    before = A("before").make_uuid()
    (own,) = raw_pack.packs(tree)

    def work():
        child = A("child").make_uuid()
        assert layer.store.has(before)
        assert A.ana_load(before).x == "before"
        return child

    child = _child(work)
    after = A("after").make_uuid()
    assert {key for key, _, _ in raw_pack.records(own.read_bytes())} == {before, after}
    assert len(raw_pack.packs(tree)) == 2
    all_load(tree, {before: "before", child: "child", after: "after"})
    assert layer.store.has(child)


def test_a_fork_while_threads_write(tree):
    """Whatever the threads hold at that moment: the child stores and loads at once, the parent loses nothing."""
    layer = ana.set_dl(pickle_dir=tree, **PACKS)
    stop = threading.Event()
    acknowledged = {A("first").make_uuid(): "first"}

    def work(number):
        if number:
            count = 0
            while not stop.is_set():
                count += 1
                value = [number, count]
                acknowledged[A(value).make_uuid()] = value
                layer.store.packs.refresh()
            return
        try:
            for count in range(15):
                known = list(acknowledged)[-1]

                def in_child(count=count, known=known):
                    assert layer.store.has(known)
                    return A(["child", count]).make_uuid()

                acknowledged[_child(in_child)] = ["child", count]
        finally:
            stop.set()

    assert in_threads(4, work) == [None] * 4
    all_load(tree, acknowledged)


def _store_one(number):
    uuid = A(["worker", number]).make_uuid()
    return uuid, A(["result", number])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["Pool", "ProcessPoolExecutor"])
def test_pools(tree, method, kind):
    """Workers store and read each other's, references go both ways, and all packs are sealed once they have ended."""
    context = multiprocessing.get_context(method)
    with ana.using_dl(pickle_dir=tree, **PACKS) as layer:
        A("of the parent").make_uuid()
        if kind == "Pool":
            with context.Pool(3) as pool:
                results = pool.map(_store_one, range(12), chunksize=1)
                pool.close()
                pool.join()
        else:
            with ProcessPoolExecutor(3, mp_context=context) as executor:
                results = list(executor.map(_store_one, range(12)))
        assert [result.x for _, result in results] == [["result", number] for number in range(12)]
        assert all(layer.store.has(uuid) for uuid, _ in results)
        unsealed = [path for path in raw_pack.packs(tree) if raw_pack.index(path.read_bytes()) is None]
        assert len(unsealed) == 1
        layer.store.packs.seal()
    all_load(tree, {uuid: ["worker", number] for number, (uuid, _) in enumerate(results)})
    for path in raw_pack.packs(tree):
        assert raw_pack.index(path.read_bytes()) is not None


EXITS = {
    "at the end": "",
    "sys.exit": "sys.exit(0)",
    "an error": "sys.stderr.close(); raise SystemExit(0)",
    "with a thread": "import threading; threading.Thread(target=A('thread').make_uuid).start()",
    "atexit": "import atexit; atexit.register(lambda: A('late').make_uuid())",
}


@pytest.mark.parametrize("way", EXITS)
def test_packs_are_sealed_at_exit(tree, way):
    """However the program ends, but by a signal: its pack has an index."""
    program = "import sys, ana; from support.classes import A\nana.set_dl(pickle_dir=sys.argv[1], pack_bytes='64k')\n"
    processes.run_program(f"{program}A('state').make_uuid()\n{EXITS[way]}", tree)
    for path in raw_pack.packs(tree):
        assert raw_pack.index(path.read_bytes()), way


# Many writers

WRITER = """
import sys, ana
from support.classes import A

layer = ana.set_dl(pickle_dir=sys.argv[1], pack_bytes="64k", durable=False)
number = 0
while True:
    parts = [A([sys.argv[2], number, n, "x" * (n * 37 % 500)]) for n in range(number % 7 + 1)]
    uuids = layer.store_many(parts) if number % 2 else [part.make_uuid() for part in parts]
    sys.stdout.write("".join(f"{uuid} {part.x[1]} {part.x[2]}\\n" for uuid, part in zip(uuids, parts)))
    sys.stdout.flush()
    number += 1
"""
READER = """
import sys, ana
from support.classes import A

layer = ana.set_dl(pickle_dir=sys.argv[1])
for line in sys.stdin:
    uuid, number, n = line.split()
    if not layer.store.has(uuid): print("missing", line, flush=True)
    elif A.ana_load(uuid).x[1:3] != [int(number), int(n)]: print("wrong", line, flush=True)
"""


def _kill_writers_for(seconds, tree):
    """Start writers and kill them at any moment; pass what they acknowledge to readers beside them; return it all."""
    chance = random.Random(seconds)
    acknowledged, problems = {}, []
    readers = [_started(READER, tree, stdin=subprocess.PIPE) for _ in range(2)]
    end, generation = time.monotonic() + seconds, 0
    while time.monotonic() < end or not acknowledged:
        generation += 1
        writers = [_started(WRITER, tree, f"{generation} {number}") for number in range(3)]
        lines = [writers[0].stdout.readline()]
        time.sleep(chance.uniform(0, 0.5))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for number, writer in enumerate(writers):
            text, _ = writer.communicate()
            lines = [*lines, *text.splitlines(keepends=True)] if number == 0 else text.splitlines(keepends=True)
            for line in lines:
                if line.endswith("\n"):
                    uuid, at, n = line.split()
                    acknowledged[uuid] = [f"{generation} {number}", int(at), int(n)]
                    reader = readers[len(acknowledged) % 2]
                    reader.stdin.write(line)
                    reader.stdin.flush()
    for reader in readers:
        problems.append(reader.communicate()[0])
        assert reader.returncode == 0
    assert problems == ["", ""]
    return acknowledged


def _started(program, *arguments, **options):
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = processes.environment()
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_writers_lose_nothing(tree, seconds):
    """Every state that was acknowledged is found, at once and in the end, by readers that have only its UUID."""
    acknowledged = _kill_writers_for(seconds, tree)
    with packing(tree) as layer:
        for uuid, value in acknowledged.items():
            assert layer.store.has(uuid)
            assert A.ana_load(uuid).x[:3] == value
    assert acknowledged.keys() <= whole(tree).keys()


def _store_twenty(tree, gate, number, sender):
    os.close(gate[1])
    # The end of the file: when all are there, and the parent has closed its end.
    os.read(gate[0], 1)
    with ana.using_dl(pickle_dir=tree, durable=False, **PACKS) as layer:
        common = [A(["common", n]).make_uuid() for n in range(10)]
        own = layer.store_many([A([number, n]) for n in range(10)])
        layer.store.packs.seal()
    sender.send((common, own))


@pytest.mark.parametrize("number_of_processes", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_many_writers_at_once(tree, number_of_processes):
    """In a new store, all at the same moment: a pack for each, and every state is found."""
    gate = os.pipe()
    pipes = [fork.Pipe(duplex=False) for _ in range(number_of_processes)]
    crowd = [
        fork.Process(target=_store_twenty, args=(tree, gate, number, sender))
        for number, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(crowd, pipes, strict=True):
        process.start()
        sender.close()
    for end in gate:
        os.close(end)
    answers = []
    for receiver, _ in pipes:
        assert receiver.poll(processes.PATIENCE_SECONDS)
        answers.append(receiver.recv())
        receiver.close()
    for process in crowd:
        process.join()
        process.close()
    assert len({tuple(common) for common, _ in answers}) == 1
    assert len(raw_pack.packs(tree)) == number_of_processes
    assert raw_tree.states(tree) == []
    values = {uuid: [number, n] for number, (_, own) in enumerate(answers) for n, uuid in enumerate(own)}
    all_load(tree, values | {uuid: ["common", n] for n, uuid in enumerate(answers[0][0])})
