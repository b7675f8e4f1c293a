"""The node-local tier: one fetch for each node, one copy in memory; whatever happens to it, tasks get their data."""

import concurrent.futures
import contextlib
import json
import logging
import mmap
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import leaks
import numpy as np
import pytest
from helpers import limits, mounts, processes, raw_record, raw_tree

import ana
from ana import entries, files, locks, nodefolder, tiers, turns
from ana.stores import directory

KIB, MIB = 1 << 10, 1 << 20
STRANGER = 12345
ME = os.geteuid()


def noise(number, size_bytes=MIB):
    """An array that no other number gives."""
    return np.random.default_rng(number).standard_normal(size_bytes // 8)


class Node:
    """A tree, and a node's local folder."""

    def __init__(self, folder):
        self.tree = folder / "tree"
        self.cache = folder / "cache"

    def layer(self, **options):
        """Return a new layer that knows no object, as another process has."""
        return ana.DirDataLayer(self.tree, **{"node_cache": self.cache, "durable": False, **options})

    def store(self, value, **options):
        """Store a value in the tree alone; return its UUID."""
        with ana.using_dl(ana.DirDataLayer(self.tree, durable=False)):
            ref = ana.Ref(value)
            ref.make_uuid(**options)
            return ref.ana_store()

    def load(self, uuid, **options):
        """Load it as another process would."""
        with ana.using_dl(self.layer(**options)):
            return ana.Ref.ana_load(uuid).value

    def entries(self):
        """The complete entries."""
        return sorted(path for path in self.cache.rglob("*") if path.is_file() and not path.name.startswith("."))

    def leftovers(self):
        """What is neither a folder nor an entry."""
        return sorted(path for path in self.cache.rglob("*") if path.is_file() and path.name.startswith("."))

    def size_bytes(self):
        """What lies there, all in all."""
        return sum(path.stat().st_size for path in [*self.entries(), *self.leftovers()])


@pytest.fixture
def node(tmp_path):
    """A tree and a folder for a cache."""
    return Node(tmp_path)


@pytest.fixture
def reads(monkeypatch):
    """The offsets and sizes of what this process reads of large files' contents."""
    found = []
    read = files.Opened.read

    def noted(opened, offset, targets):
        found.append((offset, sum(map(len, targets))))
        return read(opened, offset, targets)

    monkeypatch.setattr(files.Opened, "read", noted)
    return found


def is_mapped(array, path):
    """Whether an array's memory is that of a file, mapped shared and read-only."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[1] == "r--s" and line.split()[-1] == str(path)
    return False


# What comes back


def test_arrays_are_mapped_read_only_from_one_file(node):
    """A large array is a read-only, page-aligned view of a mapped file; the second load maps the same file."""
    array = noise(1)
    uuid = node.store(array)
    first, second = node.load(uuid), node.load(uuid)
    (entry,) = node.entries()
    for found in (first, second):
        assert np.array_equal(found, array)
        assert is_mapped(found, entry)
        assert found.__array_interface__["data"][0] % mmap.PAGESIZE == 0
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0.0
    assert node.leftovers() == []


def test_the_second_load_reads_nothing_of_the_tree(node, reads):
    """Once it is cached, a state under its content's address is had without the tree."""
    uuid = node.store(noise(1))
    node.load(uuid)
    assert sum(size for _, size in reads) >= MIB
    reads.clear()
    assert np.array_equal(node.load(uuid), noise(1))
    assert reads == []


def test_small_states_are_left_to_the_tree(node):
    """Below the threshold nothing is cached, not even the folder is made."""
    array = noise(1, tiers.LEAST_BYTES // 2)
    assert np.array_equal(node.load(node.store(array)), array)
    assert not node.cache.exists()


def test_all_kinds_of_values_keep_their_types(node):
    """Out-of-band memory is read-only; whatever travels in the stream is as it always is."""
    frame = {"ints": np.arange(100_000), "letters": np.array(["a", "b"] * 5_000), "empty": np.zeros((0, 3))}
    value = {
        "bytes": os.urandom(MIB),
        "bytearray": bytearray(os.urandom(MIB)),
        "list": list(range(1000)),
        "str": "é" * 100_000,
        "memory": pickle.PickleBuffer(bytearray(b"x" * MIB)),
        "frozen": pickle.PickleBuffer(b"y" * MIB),
        "fortran": np.asfortranarray(np.arange(120_000.0).reshape(300, 400)),
        "small": np.arange(10),
        **frame,
    }
    found = node.load(node.store(value))
    assert node.entries()
    for name in ("bytes", "bytearray", "list", "str"):
        assert type(found[name]) is type(value[name])
        assert found[name] == value[name]
    found["bytearray"][:1] = b"!"
    for name, expected in (("memory", b"x" * MIB), ("frozen", b"y" * MIB)):
        assert found[name].readonly
        assert found[name] == expected
    for name in ("fortran", "small", *frame):
        assert found[name].dtype == value[name].dtype
        assert np.array_equal(found[name], value[name])
    assert found["fortran"].flags.f_contiguous
    # In-band, as in any state: below 4 KiB.
    assert found["small"].flags.writeable


def test_a_class_that_rebuilds_itself_of_a_buffer_gets_its_own_memory(node):
    """A bytearray that went out of band through a class's own reduction is a bytearray again, and writable."""
    import classes

    value = classes.Rebuilt(os.urandom(MIB))
    found = node.load(node.store(value))
    assert type(found.content) is bytearray
    assert found.content == value.content
    found.content[0] ^= 1


def test_pandas_and_scipy_work_on_mapped_memory(node):
    """What reads its arrays only does not notice."""
    import pandas as pd
    import scipy.sparse

    frame = pd.DataFrame({"a": noise(1), "b": noise(2)})
    matrix = scipy.sparse.random(2000, 2000, density=0.05, format="csr", random_state=1)
    found_frame, found_matrix = node.load(node.store([frame, matrix]))
    assert node.entries()
    pd.testing.assert_frame_equal(found_frame, frame)
    assert (found_matrix @ found_matrix.T != matrix @ matrix.T).nnz == 0
    assert found_frame.assign(c=1).groupby("c").a.sum().iloc[0] == pytest.approx(frame.a.sum())


@pytest.mark.parametrize("level", [0, 1])
def test_what_lies_there_is_the_content_at_its_place(node, level):
    """An entry holds the header and then each segment, decompressed, large ones at a page."""
    parts = [np.arange(300_000) % 7, noise(1, 5 * MIB), np.arange(600), noise(2, 100 * KIB)]
    with ana.using_dl(ana.DirDataLayer(node.tree, level=level)):
        ana.Ref(parts).make_uuid()
    (state,) = raw_tree.states(node.tree)
    uuid = Path(state).name.removesuffix(".pkl.zst")
    node.load(uuid)
    (entry,) = node.entries()
    data = entry.read_bytes()
    _, (stream, *buffers) = raw_record.read(raw_tree.path_of(node.tree, uuid).read_bytes())
    assert buffers == [part.tobytes() for part in parts]
    at = data.find(stream)
    assert at % 64 == 0
    at += len(stream)
    for buffer in buffers:
        begin = data.find(buffer, at)
        alignment = 4096 if len(buffer) >= 64 * KIB else 64
        assert begin == at + -at % alignment
        at = begin + len(buffer)
    assert len(data) == at
    assert stat.S_IMODE(entry.stat().st_mode) == 0o400
    for folder in (entry.parent, entry.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# Many processes

CHILD = """
import json, re, sys, time
import numpy as np
import ana
np.zeros(1)
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
ana.Ref(0).make_uuid()
print("ready", flush=True)
sys.stdin.readline()
array = ana.Ref.ana_load(sys.argv[3]).value
print(float(array.sum()), flush=True)
sys.stdin.readline()
found, inside = {}, False
address = array.__array_interface__["data"][0]
for line in open("/proc/self/smaps"):
    span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
    if span:
        inside = int(span[1], 16) <= address < int(span[2], 16)
    elif inside and line.endswith(" kB\\n"):
        name, size, _ = line.split()
        found[name.rstrip(":")] = int(size) * 1024
print(json.dumps(found), flush=True)
sys.stdin.readline()
"""


class Children:
    """Processes that do the same thing together, step by step."""

    def __init__(self, count, program, *arguments, wrapper=(), **options):
        words = [*map(str, wrapper), sys.executable, "-c", program, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": processes.environment()}
        self.all = [subprocess.Popen(words, **pipes, **options) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.all:
            child.stdin.close()
            child.kill() if sys.exc_info()[0] else None
            child.wait()
            child.stdout.close()

    def answers(self):
        """Return a line of each."""
        found = [child.stdout.readline().strip() for child in self.all]
        assert all(found)
        return found

    def step(self):
        """Let all go on at once."""
        for child in self.all:
            child.stdin.write("\n")
            child.stdin.flush()


def test_processes_of_a_node_share_the_memory(node):
    """Of an array that eight processes have read, each pays an eighth, and none has memory of its own."""
    array = noise(1, 16 * MIB)
    uuid = node.store(array)
    with Children(8, CHILD, node.tree, node.cache, uuid) as children:
        children.answers()
        children.step()
        assert {float(line) for line in children.answers()} == {float(array.sum())}
        children.step()
        for line in children.answers():
            usage = json.loads(line)
            assert usage["Rss"] >= array.nbytes
            assert usage["Private_Dirty"] + usage["Private_Clean"] + usage["Anonymous"] <= array.nbytes // 100
            assert usage["Pss"] <= array.nbytes // 7
    assert len(node.entries()) == 1


def test_eight_processes_at_once_read_the_tree_once(node, tmp_path):
    """As the kernel sees it: the state's content is read by one process, the others read a header at the most."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt-get install strace")
    uuid = node.store(noise(1, 8 * MIB))
    size = raw_tree.path_of(node.tree, uuid).stat().st_size
    wrapper = ("strace", "-ff", "-qq", "-y", "-e", "trace=read,pread64,preadv,preadv2,mmap", "-o", tmp_path / "log")
    with Children(8, CHILD, node.tree, node.cache, uuid, wrapper=wrapper) as children:
        children.answers()
        children.step()
        assert len(set(children.answers())) == 1
        children.step()
        children.answers()
    calls = [
        line for log in tmp_path.glob("log.*") for line in log.read_text().splitlines() if f"{uuid}.pkl.zst" in line
    ]
    read = sum(int(re.search(r"= (\d+)$", line)[1]) for line in calls)
    assert not any(line.startswith("mmap") for line in calls)
    assert size <= read <= size + 8 * files.HEAD_BYTES
    assert len(node.entries()) == 1
    assert node.leftovers() == []


def _load_together(begin, node, uuid, log):
    """Load in a forked process; note what was read of the tree."""
    read = files.Opened.read

    def noted(opened, offset, targets):
        with open(log, "a", encoding="ascii") as file:
            file.write(f"{sum(map(len, targets))}\n")
        return read(opened, offset, targets)

    files.Opened.read = noted
    begin.wait()
    assert np.array_equal(node.load(uuid), noise(1, 8 * MIB))


def test_a_launch_storm_fetches_once(node, tmp_path):
    """64 processes start together on a cold state: each has it, and the tree's content is read once."""
    uuid = node.store(noise(1, 8 * MIB))
    context = multiprocessing.get_context("fork")
    begin = context.Event()
    crowd = [context.Process(target=_load_together, args=(begin, node, uuid, tmp_path / "reads")) for _ in range(64)]
    for process in crowd:
        process.start()
    begin.set()
    for process in crowd:
        process.join()
    assert {process.exitcode for process in crowd} == {0}
    read = sum(map(int, (tmp_path / "reads").read_text().split()))
    assert 8 * MIB <= read < 8 * MIB + 64 * KIB
    assert node.leftovers() == []


def test_a_worker_that_nobody_configured_uses_the_environments_cache(node):
    """A reference and ANA_NODE_CACHE are enough."""
    array = noise(1)
    with ana.using_dl(ana.DirDataLayer(node.tree)):
        reference = pickle.dumps(ana.Ref(array))
    program = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).value.flags.writeable)"
    environment = processes.environment(ANA_NODE_CACHE=str(node.cache))
    assert processes.run_program(program, reference.hex(), env=environment).strip() == "False"
    assert len(node.entries()) == 1
    environment = processes.environment(ANA_NODE_CACHE="")
    assert processes.run_program(program, reference.hex(), env=environment).strip() == "True"


def test_threads_get_one_object_and_one_entry_each(node):
    """Many threads that load the same and different states do it once for each."""
    uuids = [node.store(noise(number)) for number in range(6)]
    layer = node.layer()
    with ana.using_dl(layer), concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ana.Ref.ana_load, uuids * 8))
        assert len({id(ref) for ref in found}) == 6
        for number, ref in enumerate(found[:6]):
            assert np.array_equal(ref.value, noise(number))
    assert len(node.entries()) == 6


def test_a_forked_child_uses_what_is_mapped_and_maps_more(node):
    """Mappings survive a fork; the child loads by itself."""
    one, two = node.store(noise(1)), node.store(noise(2))
    with ana.using_dl(node.layer()):
        ref = ana.Ref.ana_load(one)
        context = multiprocessing.get_context("fork")

        def child():
            assert np.array_equal(ref.value, noise(1))
            assert np.array_equal(ana.Ref.ana_load(two).value, noise(2))

        process = context.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert np.array_equal(ref.value, noise(1))
    assert len(node.entries()) == 2


# Leaders that die or hang

LEADER = """
import sys, time
import ana
from ana import nodefolder, tiers
writer = nodefolder._writer

begun = []

def slowly(descriptor):
    put = writer(descriptor)
    def put_once(offset, data):
        put(offset, data)
        if offset and not begun:
            begun.append(True)
            print("writing", flush=True)
            sys.stdin.readline()
    return put_once

nodefolder._writer = slowly
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
print(float(ana.Ref.ana_load(sys.argv[3]).value.sum()), flush=True)
"""


@pytest.mark.leaves_temporaries("a process is killed while it writes an entry")
def test_a_leader_that_is_killed_holds_up_nobody(node, monkeypatch):
    """Its lock dies with it; whoever waited fetches at once, and its half-written file is removed later."""
    uuid = node.store(noise(1))
    monkeypatch.setattr(tiers, "WAIT_SECONDS", 100.0)
    with Children(1, LEADER, node.tree, node.cache, uuid) as leader:
        assert leader.answers() == ["writing"]
        assert len(node.leftovers()) == 2
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(node.load, uuid)
            time.sleep(0.2)
            assert not waiting.done()
            begin = time.monotonic()
            leader.all[0].kill()
            assert np.array_equal(waiting.result(), noise(1))
            assert time.monotonic() - begin < 10
    assert len(node.entries()) == 1
    (left,) = node.leftovers()
    assert left.name.startswith(".tmp-")
    monkeypatch.setattr(nodefolder, "_LEFT_SECONDS", 0.0)
    node.load(node.store(noise(2)))
    assert node.leftovers() == []


def test_a_leader_that_is_stopped_holds_others_up_for_a_bounded_time(node, monkeypatch, caplog):
    """After the wait another one fetches; the stopped one goes on later, and harms nobody."""
    uuid, other = node.store(noise(1)), node.store(noise(2))
    monkeypatch.setattr(tiers, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(nodefolder, "_LEFT_SECONDS", 0.0)
    with Children(1, LEADER, node.tree, node.cache, uuid) as leader:
        assert leader.answers() == ["writing"]
        leader.all[0].send_signal(signal.SIGSTOP)
        try:
            begin = time.monotonic()
            with caplog.at_level(logging.WARNING, "ana.turns"):
                assert is_mapped(node.load(uuid), node.entries()[0])
            assert 0.3 < time.monotonic() - begin < 10
            assert "going on without its holder" in caplog.text
            # Cached from now on: nobody else waits. What the stopped one writes is not taken for a leftover.
            node.load(other)
            assert len(node.leftovers()) == 1
        finally:
            leader.all[0].send_signal(signal.SIGCONT)
        leader.step()
        assert [float(line) for line in leader.answers()] == [float(noise(1).sum())]
    assert len(node.entries()) == 2
    assert node.leftovers() == []
    assert np.array_equal(node.load(uuid), noise(1))


def test_a_child_that_was_forked_while_a_thread_fetched_holds_no_lock(node, monkeypatch):
    """The child closes its parent's lock and file; the parent's release is a release."""
    uuid = node.store(noise(1))
    begun, go_on = threading.Event(), threading.Event()
    writer = nodefolder._writer

    def slowly(descriptor):
        put = writer(descriptor)

        def put_late(offset, data):
            begun.set()
            assert go_on.wait(60)
            put(offset, data)

        return put_late

    monkeypatch.setattr(nodefolder, "_writer", slowly)
    context = multiprocessing.get_context("fork")
    end, ready = context.Event(), context.Queue()

    def child():
        ready.put([path for path in leaks._open_files() if str(node.cache) in path])
        end.wait(60)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(node.load, uuid)
        assert begun.wait(60)
        process = context.Process(target=child)
        process.start()
        try:
            assert ready.get(timeout=60) == []
            assert turns._watched
            go_on.set()
            fetching.result()
            with turns.Turn(str(node.entries()[0].parent / ".lock-x"), lambda: None, 0.0) as turn:
                assert turn.held
        finally:
            end.set()
            process.join()
            ready.close()
            ready.join_thread()
    assert turns._watched == set()
    assert len(node.entries()) == 1


@pytest.mark.parametrize("crowd", [2, 16])
def test_turns_are_taken_one_at_a_time(tmp_path, crowd):
    """However many want it, one holds it at a time, though its file comes and goes."""
    inside, most, done = [], [], []

    def take(_):
        for _ in range(20):
            with turns.Turn(str(tmp_path / "lock"), lambda: None, 60.0) as turn:
                assert turn.held
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()
                done.append(1)

    with concurrent.futures.ThreadPoolExecutor(crowd) as pool:
        list(pool.map(take, range(crowd)))
    assert max(most) == 1
    assert len(done) == 20 * crowd
    assert list(tmp_path.iterdir()) == []


# Room


def test_the_bound_is_kept_and_the_least_recently_used_goes(node):
    """What was used last stays; the sum of all never exceeds the bound."""
    uuids = [node.store(noise(number)) for number in range(8)]
    bound = 4 * MIB + 64 * KIB
    for number, uuid in enumerate(uuids):
        node.load(uuid, node_cache_bytes=bound)
        # The first is used again and again.
        node.load(uuids[0], node_cache_bytes=bound)
        assert node.size_bytes() <= bound
        time.sleep(0.01)
        assert {path.name for path in node.entries()} == {uuids[0], *uuids[max(1, number - 2) : number + 1]}


def test_eviction_leaves_what_is_mapped_alone(node):
    """An array whose entry was removed to make room is the same array."""
    uuids = [node.store(noise(number)) for number in range(5)]
    held = [node.load(uuid, node_cache_bytes=2 * MIB + 64 * KIB) for uuid in uuids]
    assert len(node.entries()) == 2
    for number, array in enumerate(held):
        assert np.array_equal(array, noise(number))
        assert not array.flags.writeable


def test_the_bound_is_for_all_stores_of_a_user(node, tmp_path):
    """Entries of another tree make room, too."""
    bound, elsewhere = 2 * MIB + 64 * KIB, Node(tmp_path / "elsewhere")
    elsewhere.cache = node.cache
    for number in range(3):
        elsewhere.load(elsewhere.store(noise(number)), node_cache_bytes=bound)
        node.load(node.store(noise(number)), node_cache_bytes=bound)
        assert node.size_bytes() <= bound
    assert len({path.parent for path in node.entries()}) == 2


def test_what_is_larger_than_the_bound_is_read_from_the_tree(node):
    """Nothing is thrown out for it, and it comes as without a cache."""
    small, large = node.store(noise(1)), node.store(noise(2, 4 * MIB))
    node.load(small, node_cache_bytes=2 * MIB)
    found = node.load(large, node_cache_bytes=2 * MIB)
    assert np.array_equal(found, noise(2, 4 * MIB))
    assert found.flags.writeable
    assert [path.name for path in node.entries()] == [small]


def test_what_is_too_large_does_not_keep_others_out(node):
    """The same process goes on caching what fits."""
    small, large = node.store(noise(1)), node.store(noise(2, 4 * MIB))
    with ana.using_dl(node.layer(node_cache_bytes=2 * MIB)):
        assert ana.Ref.ana_load(large).value.flags.writeable
        assert not ana.Ref.ana_load(small).value.flags.writeable


def test_many_entries_do_not_use_up_the_descriptors(node):
    """More states than the process may have files open are loaded and held; the program can still open files."""
    uuids = [node.store(noise(number, tiers.LEAST_BYTES)) for number in range(60)]
    program = """
import resource, sys, numpy as np, ana
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
held = [ana.Ref.ana_load(uuid).value for uuid in sys.argv[3:]]
print(sum(not array.flags.writeable for array in held), len([open("/dev/null") for _ in range(32)]))
print(*(float(array.sum()) for array in held))
"""
    said, sums = processes.run_program(program, node.tree, node.cache, *uuids).splitlines()
    mapped, opened = map(int, said.split())
    assert mapped >= 16
    assert opened == 32
    assert [float(word) for word in sums.split()] == [float(noise(n, tiers.LEAST_BYTES).sum()) for n in range(60)]


def test_a_full_disk_means_no_caching(node, tmp_path):
    """Where there is no room the state is read from the tree, and nothing is left on the disk."""
    uuid = node.store(noise(1, 2 * MIB))
    with mounts.ext4(tmp_path / "disk", 8 * MIB) as node.cache:
        filler = node.cache / "filler"
        filler.write_bytes(bytes(5 * MIB))
        assert np.array_equal(node.load(uuid, node_cache_bytes=6 * MIB), noise(1, 2 * MIB))
        assert node.entries() == [filler]
        filler.unlink()
        assert np.array_equal(node.load(uuid, node_cache_bytes=6 * MIB), noise(1, 2 * MIB))
        assert [path.name for path in node.entries()] == [uuid]


@contextlib.contextmanager
def _limited(place):
    place.mkdir()
    with limits.largest_file(4 * MIB):
        yield place


DISKS = {
    "ext4": lambda place: mounts.ext4(place, 6 * MIB),
    "tmpfs": lambda place: mounts.tmpfs(place, "size=4m"),
    "limit of a file's size": _limited,
}


@pytest.mark.parametrize("make", DISKS)
def test_a_disk_that_becomes_full_meanwhile_means_no_caching(node, tmp_path, monkeypatch, make):
    """The real error of a write in the middle of an entry: the task gets its data, and nothing is left."""
    uuid = node.store(noise(1, 8 * MIB))
    monkeypatch.setattr(nodefolder.NodeFolder, "_make_room", lambda *_: True)
    with DISKS[make](tmp_path / "disk") as node.cache:
        found = node.load(uuid)
        assert np.array_equal(found, noise(1, 8 * MIB))
        assert found.flags.writeable
        assert node.entries() == node.leftovers() == []


def test_after_a_refusal_the_disk_is_left_alone_for_a_while(node, tmp_path, monkeypatch):
    """A full disk is not filled up anew by each state."""
    uuids = [node.store(noise(number, 8 * MIB)) for number in range(3)]
    monkeypatch.setattr(nodefolder.NodeFolder, "_make_room", lambda *_: True)
    created, create = [], nodefolder.NodeFolder._create
    monkeypatch.setattr(nodefolder.NodeFolder, "_create", lambda *given: created.append(1) or create(*given))
    with mounts.tmpfs(tmp_path / "disk", "size=4m") as node.cache, ana.using_dl(node.layer()):
        for number, uuid in enumerate(uuids):
            assert np.array_equal(ana.Ref.ana_load(uuid).value, noise(number, 8 * MIB))
    assert len(created) == 1


def test_a_read_only_folder_means_no_caching(node, tmp_path, caplog):
    """Said once, not for each state."""
    uuids = [node.store(noise(number)) for number in range(3)]
    (tmp_path / "empty").mkdir()
    with mounts.read_only(tmp_path / "empty", tmp_path / "place") as node.cache, ana.using_dl(node.layer()):
        for number, uuid in enumerate(uuids):
            assert np.array_equal(ana.Ref.ana_load(uuid).value, noise(number))
    assert [record.levelname for record in caplog.records if record.name == "ana.nodefolder"] == ["WARNING"]


def test_entries_of_a_folder_that_became_read_only_are_still_used(node, tmp_path):
    """Reading needs no right to write; nor does a mapping that cannot note that it was used."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (tmp_path / "place").mkdir()
    with mounts.read_only(node.cache, tmp_path / "place") as node.cache:
        assert is_mapped(node.load(uuid), node.entries()[0])


def test_it_may_be_removed_at_any_time(node):
    """While a thread removes the whole folder again and again, every load gets its data."""
    uuids = [node.store(noise(number, 512 * KIB)) for number in range(8)]
    node.load(uuids[0])
    over = threading.Event()

    def remove():
        while not over.is_set():
            shutil.rmtree(node.cache, ignore_errors=True)
            time.sleep(0.001)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        held = [node.load(uuid) for _ in range(15) for uuid in uuids]
    finally:
        over.set()
        thread.join()
    for number, array in enumerate(held):
        assert np.array_equal(array, noise(number % 8, 512 * KIB))


def test_removed_between_two_loads_it_is_made_anew(node):
    """The same layer caches again."""
    one, two = node.store(noise(1)), node.store(noise(2))
    with ana.using_dl(node.layer()):
        held = ana.Ref.ana_load(one).value
        shutil.rmtree(node.cache)
        assert np.array_equal(ana.Ref.ana_load(two).value, noise(2))
        assert np.array_equal(held, noise(1))
    assert [path.name for path in node.entries()] == [two]


# Whose it is


def _user_folder(node):
    return node.cache / f"ana-{ME}"


def _chown(path):
    if ME:
        pytest.skip("only root gives files away")
    os.chown(path, STRANGER, STRANGER)


PLANTED = {
    "a symlink": lambda node: _user_folder(node).symlink_to(_evil(node)),
    "open to the group": lambda node: _user_folder(node).mkdir(mode=0o750),
    "another user's": lambda node: (_user_folder(node).mkdir(mode=0o700), _chown(_user_folder(node))),
    "a file": lambda node: _user_folder(node).write_bytes(b""),
}


def _evil(node):
    place = node.cache / "evil"
    place.mkdir(mode=0o700)
    return place


@pytest.mark.parametrize("planted", PLANTED)
def test_a_folder_that_is_not_ours_alone_is_not_used(node, planted, caplog):
    """Neither read nor written to; the state comes from the tree, and a warning says why."""
    node.cache.mkdir()
    PLANTED[planted](node)
    found = node.load(node.store(noise(1)))
    assert np.array_equal(found, noise(1))
    assert found.flags.writeable
    assert [path for path in node.entries() if path != _user_folder(node)] == []
    assert "not cached" in caplog.text


@pytest.mark.parametrize("what", ["the user's folder", "the store's folder", "the entry"])
def test_entries_that_others_could_have_written_are_not_used(node, what):
    """Whoever owns a folder or the file could have put anything there: a whole entry with other content, say."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.chmod(0o600)
    entry.write_bytes(data)
    assert not np.array_equal(node.load(uuid), noise(1))
    _chown({"the user's folder": entry.parent.parent, "the store's folder": entry.parent, "the entry": entry}[what])
    assert np.array_equal(node.load(uuid), noise(1))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_an_entry_that_others_may_open_is_not_used(node, mode):
    """Its content would be anybody's, and is replaced by one of our own."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.chmod(0o600)
    entry.write_bytes(data)
    entry.chmod(mode)
    assert np.array_equal(node.load(uuid), noise(1))
    assert stat.S_IMODE(entry.stat().st_mode) == 0o400
    assert np.array_equal(node.load(uuid), noise(1))


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_something_else_in_an_entrys_place_is_not_used(node, kind):
    """Nothing is followed, nothing is waited for."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    moved = entry.rename(node.cache / "moved")
    {"symlink": lambda: entry.symlink_to(moved), "fifo": lambda: os.mkfifo(entry), "folder": entry.mkdir}[kind]()
    found = node.load(uuid)
    assert np.array_equal(found, noise(1))
    assert not is_mapped(found, moved)


# What is not an entry


def _rewrite(entry, data):
    entry.chmod(0o600)
    entry.write_bytes(data)
    entry.chmod(0o400)


def _is_used(node, uuid, reads):
    reads.clear()
    assert np.array_equal(node.load(uuid), noise(1))
    return reads == []


def test_a_flipped_bit_of_the_header_shows(node, reads):
    """Each byte of what an entry says of itself is covered; a flipped one means fetching it anew."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = entry.read_bytes()
    size = entries.header_size(data)
    assert 100 < size < 1000
    for position in [*range(0, size, 7), size - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        _rewrite(entry, damaged)
        assert not _is_used(node, uuid, reads)
        assert _is_used(node, uuid, reads)
        assert entry.read_bytes() == data


@pytest.mark.parametrize("change", ["empty", "header", "half", "one byte less", "one byte more", "zeros", "text"])
def test_truncated_and_foreign_files_are_never_used(node, reads, change):
    """Nor longer ones; they are replaced."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = entry.read_bytes()
    changed = {
        "empty": b"",
        "header": data[: entries.header_size(data)],
        "half": data[: len(data) // 2],
        "one byte less": data[:-1],
        "one byte more": data + b"\0",
        "zeros": bytes(len(data)),
        "text": b"this is no entry of any kind" * 100,
    }[change]
    _rewrite(entry, changed)
    assert not _is_used(node, uuid, reads)
    assert _is_used(node, uuid, reads)


def test_entries_of_other_keys_stores_and_boots_are_never_used(node, reads, monkeypatch, tmp_path):
    """A whole entry under another's name, of another tree, or from before the node was booted, is none."""
    uuid, other = node.store(noise(1)), node.store(noise(2))
    elsewhere = Node(tmp_path / "elsewhere")
    assert elsewhere.store(noise(1)) == uuid
    for place, key in ((node, uuid), (node, other), (elsewhere, uuid)):
        place.load(key)
    entry, foreign = next(path for path in node.entries() if path.name == uuid), elsewhere.entries()[0]
    right = entry.read_bytes()
    for wrong in (next(path for path in node.entries() if path.name == other), foreign):
        _rewrite(entry, wrong.read_bytes())
        assert not _is_used(node, uuid, reads)
        assert entry.read_bytes() == right
    assert _is_used(node, uuid, reads)
    monkeypatch.setattr(nodefolder, "boot_id", lambda: bytes(16))
    assert not _is_used(node, uuid, reads)


def test_content_is_trusted_unless_it_is_to_be_verified(node, reads, monkeypatch, caplog):
    """As docs/node-cache.md says: the content of an own entry is hashed at each mapping only if that is asked for."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = bytearray(entry.read_bytes())
    data[-8] ^= 1
    _rewrite(entry, data)
    assert not np.array_equal(node.load(uuid), noise(1))
    monkeypatch.setenv("ANA_NODE_CACHE_VERIFY", "1")
    assert not _is_used(node, uuid, reads)
    assert "does not match its digest" in caplog.text
    assert _is_used(node, uuid, reads)


# What is true: the tree


def test_a_content_address_is_served_though_the_tree_has_lost_it(node):
    """Equal address, equal content. But the object is not taken for stored: a reference to it stores it again."""
    uuid = node.store(noise(1))
    node.load(uuid)
    path = raw_tree.path_of(node.tree, uuid)
    path.unlink()
    with ana.using_dl(node.layer()) as layer:
        ref = ana.Ref.ana_load(uuid)
        assert np.array_equal(ref.value, noise(1))
        assert not layer.store.has(uuid)
        assert not layer.store.is_whole(uuid)
        pickle.dumps(ref)
        assert layer.store.has(uuid)
    assert path.exists()


def test_a_given_uuid_is_what_the_tree_says(node):
    """Lost there, it is lost; replaced there, the entry is replaced."""
    node.store(noise(1), uuid="the mesh")
    assert np.array_equal(node.load("the mesh"), noise(1))
    assert len(node.entries()) == 1
    path = raw_tree.path_of(node.tree, "the mesh")
    path.unlink()
    with pytest.raises(ana.StateNotFoundError):
        node.load("the mesh")
    with ana.using_dl(ana.DirDataLayer(node.tree)):
        ref = ana.Ref(noise(2))
        ref.make_uuid(uuid="the mesh")
        ref.ana_store()
    assert np.array_equal(node.load("the mesh"), noise(2))
    assert len(node.entries()) == 1


def test_a_given_uuid_is_revalidated_by_its_header_alone(node, reads):
    """The content is not read again."""
    node.store(noise(1), uuid="the mesh")
    node.load("the mesh")
    assert _is_used(node, "the mesh", reads)


def test_puts_go_to_the_tree_alone(node):
    """What is stored is in the tree, and is cached when it is first loaded."""
    with ana.using_dl(node.layer()):
        uuid = ana.Ref(noise(1)).make_uuid()
    assert raw_tree.path_of(node.tree, uuid).exists()
    assert not node.cache.exists()


def test_a_damaged_state_is_a_typed_error_and_leaves_nothing(node):
    """What the tree cannot prove right never becomes an entry."""
    uuid = node.store(noise(1))
    path = raw_tree.path_of(node.tree, uuid)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ana.CorruptedStateError, match="checksum"):
            node.load(uuid)
        assert node.entries() == node.leftovers() == []


def test_many_states_and_prefetch_go_through_the_tier(node):
    """`load_many` and `prefetch` map what is cached."""
    uuids = [node.store(noise(number)) for number in range(6)]
    for _ in range(2):
        with ana.using_dl(node.layer()) as layer:
            for number, ref in enumerate(layer.load_many(uuids)):
                assert np.array_equal(ref.value, noise(number))
                assert not ref.value.flags.writeable
    assert len(node.entries()) == 6


def test_a_state_that_was_found_and_let_go_is_found_again(node):
    """After `release`, and a second time, `segments` gives the content; also if the entry is gone meanwhile."""
    uuid = node.store(noise(1))
    store = node.layer().store
    expected = [bytes(segment) for segment in store.get(uuid).segments()]
    found = store.get(uuid)
    found.release()
    assert [bytes(segment) for segment in found.segments()] == expected
    shutil.rmtree(node.cache)
    assert [bytes(segment) for segment in found.segments()] == expected
    found.verify()
    raw_tree.path_of(node.tree, uuid).unlink()
    with pytest.raises(ana.StateNotFoundError):
        found.verify()


# Options


def test_auto_takes_the_first_place_that_is_local(node, tmp_path, monkeypatch):
    """In this order; what is not set, not there, not local or not writable is passed over."""
    for name in ("SLURM_TMPDIR", "LOCAL_SCRATCH", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    uuid = node.store(noise(1))
    assert node.load(uuid, node_cache="auto").flags.writeable
    for name in ("TMPDIR", "LOCAL_SCRATCH", "SLURM_TMPDIR"):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.setenv(name, str(place))
        assert not node.load(uuid, node_cache="auto").flags.writeable
        assert len(list(place.rglob(uuid))) == 1
        assert len(list(tmp_path.rglob(uuid))) == {"TMPDIR": 1, "LOCAL_SCRATCH": 2, "SLURM_TMPDIR": 3}[name]
    for bad in ("relative", str(tmp_path / "missing"), "/proc"):
        monkeypatch.setenv("SLURM_TMPDIR", bad)
        assert nodefolder.choose("auto") == str(tmp_path / "LOCAL_SCRATCH")


def test_a_place_on_a_network_filesystem_is_refused(node, monkeypatch, caplog):
    """Mapped files there can kill a process: there is no cache, and a warning says why."""
    uuid = node.store(noise(1))
    monkeypatch.setattr(nodefolder.mounts, "filesystem", lambda _: "nfs4")
    assert node.load(uuid).flags.writeable
    assert "network filesystem" in caplog.text
    monkeypatch.setenv("TMPDIR", str(node.cache.parent))
    assert nodefolder.choose("auto") is None


def test_without_a_boot_id_there_is_no_cache(node, monkeypatch, tmp_path):
    """Then nobody could tell an entry that was on its way to the disk when the node went down."""
    monkeypatch.setattr(nodefolder, "_BOOT_ID", str(tmp_path / "missing"))
    assert node.load(node.store(noise(1))).flags.writeable
    assert not node.cache.exists()


def test_options_that_make_no_sense_are_refused(node, monkeypatch):
    """Before anything is touched, and with words that help."""
    for option in ({"node_cache": "x"}, {"node_cache_bytes": 1}):
        with pytest.raises(TypeError, match="is for a folder"):
            ana.DataLayer(**option)
    for value, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("1G", TypeError)):
        with pytest.raises(error, match="node_cache_bytes"):
            node.layer(node_cache_bytes=value)
    for said in ("1X", "G", "-1", "1.5G", "0", "lots"):
        monkeypatch.setenv("ANA_NODE_CACHE_BYTES", said)
        with pytest.raises(ana.ANAError, match="ANA_NODE_CACHE_BYTES"):
            node.layer()
    assert not node.tree.exists()
    for said, found in (("", None), ("17", 17), ("3k", 3 << 10), ("2M", 2 << 20), ("20G", 20 << 30), ("1T", 1 << 40)):
        assert tiers.limit(said, "it") == found


def test_the_environments_bound_is_kept(node, monkeypatch):
    """Also by who was told of the place alone."""
    monkeypatch.setenv("ANA_NODE_CACHE_BYTES", "1100K")
    monkeypatch.setenv("ANA_NODE_CACHE", str(node.cache))
    for number in range(3):
        assert not node.load(node.store(noise(number)), node_cache=None).flags.writeable
        assert len(node.entries()) == 1


def test_the_empty_string_means_no_cache_whatever_the_environment_says(node, monkeypatch):
    """One layer can do without."""
    monkeypatch.setenv("ANA_NODE_CACHE", str(node.cache))
    assert node.load(node.store(noise(1)), node_cache="").flags.writeable
    assert not node.cache.exists()


def test_little_memory_is_enough_to_fill_an_entry(node):
    """The first process, too, has no second copy of the array: it is written a piece at a time."""
    uuid = node.store(noise(1, 64 * MIB))
    program = """
import re, sys, numpy, ana
from pathlib import Path
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
array = ana.Ref.ana_load(sys.argv[3]).value
print(array.flags.writeable, re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    writeable, anonymous = processes.run_program(program, node.tree, node.cache, uuid).split()
    assert writeable == "False"
    assert int(anonymous) * KIB < 64 * MIB


# Without the tier


def test_those_who_find_a_state_damaged_read_it_again_at_different_times(node, monkeypatch):
    """On a network filesystem a job's tasks do not all read it anew at the same moment; once each, and no more."""
    uuid = node.store(noise(1))
    path = raw_tree.path_of(node.tree, uuid)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr("ana.mounts.is_network", lambda _: True)
    pauses = []
    monkeypatch.setattr(files, "look_anew", lambda _, pause=0.0: pauses.append(pause))
    for _ in range(20):
        with pytest.raises(ana.CorruptedStateError):
            node.load(uuid, node_cache="")
    assert len(pauses) == 20
    assert len({round(pause, 3) for pause in pauses}) > 10
    assert all(directory.FIRST_PAUSE_SECONDS <= pause <= 3 * directory.FIRST_PAUSE_SECONDS for pause in pauses)


def test_those_who_miss_a_state_look_again_a_bounded_number_of_times(node, monkeypatch):
    """On a network filesystem: longer and longer pauses that differ between tasks, and not much more than ANA_WAIT."""
    node.store(noise(1))
    monkeypatch.setattr("ana.mounts.is_network", lambda _: True)
    monkeypatch.setenv("ANA_WAIT", "2")
    seen = []
    monkeypatch.setattr(files, "look_anew", lambda _, pause=0.0: seen.append(pause))
    for _ in range(10):
        begin = len(seen)
        with pytest.raises(ana.StateNotFoundError):
            node.load("5f3ac0e1-0000-4000-8000-000000000001", node_cache="")
        pauses = seen[begin:]
        assert len(pauses) <= 8
        assert sum(pauses) <= 3.0
    assert len({round(pause, 3) for pause in seen}) > 20


def test_those_who_wait_for_a_writer_ask_at_different_times(tmp_path, monkeypatch):
    """The lock of a large state is asked for at a pace of each one's own, and some hundred times at the most."""
    import filelock

    paces = []

    class Noted(filelock.FileLock):
        def __init__(self, *arguments, **options):
            paces.append(options["poll_interval"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(filelock, "FileLock", Noted)
    for _ in range(20):
        with locks.saving_work(str(tmp_path / "lock"), 10.0) as held:
            assert held
    assert len({round(pace, 4) for pace in paces}) > 10
    assert all(10.0 / 400 <= pace <= 10.0 / 100 for pace in paces)
