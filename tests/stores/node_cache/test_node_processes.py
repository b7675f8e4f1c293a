"""Many processes of a node: one fetches, all share; leaders that die or hang hold nobody up for long."""

import concurrent.futures
import json
import logging
import multiprocessing
import pickle
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from support import leaks, processes, raw_tree
from support.node import Children, Node, is_mapped, noise

import ana
from ana.fs import files, locks, node_lock
from ana.runtime.counters import Counters
from ana.stores.directory import finder as directory
from ana.stores.node_cache import node_folder
from ana.stores.node_cache import store as tiered

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def node(tmp_path):
    """A tree and a folder for a cache."""
    return Node(tmp_path)


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    """Many processes start together on a cold state: each has it, and the tree's content is read once."""
    uuid = node.store(noise(1, 8 * MIB))
    context = multiprocessing.get_context("fork")
    begin = context.Event()
    crowd = [context.Process(target=_load_together, args=(begin, node, uuid, tmp_path / "reads")) for _ in range(16)]
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
from ana.stores.node_cache import node_folder, store as tiered
writer = node_folder._writer

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

node_folder._writer = slowly
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
print(float(ana.Ref.ana_load(sys.argv[3]).value.sum()), flush=True)
"""


@pytest.mark.leaves_temporaries("a process is killed while it writes an entry")
def test_a_leader_that_is_killed_holds_up_nobody(node, monkeypatch, caplog):
    """Its lock dies with it; whoever waited fetches at once, and its half-written file is removed later."""
    uuid = node.store(noise(1))
    monkeypatch.setattr(tiered, "WAIT_SECONDS", 100.0)
    with Children(1, LEADER, node.tree, node.cache, uuid) as leader:
        assert leader.answers() == ["writing"]
        assert len(node.leftovers()) == 2
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(node.load, uuid)
            time.sleep(0.2)
            assert not waiting.done()
            leader.all[0].kill()
            assert np.array_equal(waiting.result(), noise(1))
    assert "going on without its holder" not in caplog.text
    assert len(node.entries()) == 1
    (left,) = node.leftovers()
    assert left.name.startswith(".tmp-")
    monkeypatch.setattr(node_folder, "_LEFT_SECONDS", 0.0)
    node.load(node.store(noise(2)))
    assert node.leftovers() == []


def test_a_leader_that_is_stopped_holds_others_up_for_a_bounded_time(node, monkeypatch, caplog):
    """After the wait another one fetches; the stopped one goes on later, and harms nobody."""
    uuid, other = node.store(noise(1)), node.store(noise(2))
    monkeypatch.setattr(tiered, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(node_folder, "_LEFT_SECONDS", 0.0)
    with Children(1, LEADER, node.tree, node.cache, uuid) as leader:
        assert leader.answers() == ["writing"]
        leader.all[0].send_signal(signal.SIGSTOP)
        try:
            begin = time.monotonic()
            with caplog.at_level(logging.WARNING, "ana.turns"):
                assert is_mapped(node.load(uuid), node.entries()[0])
            assert time.monotonic() - begin > 0.3
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
    writer = node_folder._writer

    def slowly(descriptor):
        put = writer(descriptor)

        def put_late(offset, data):
            begun.set()
            assert go_on.wait(60)
            put(offset, data)

        return put_late

    monkeypatch.setattr(node_folder, "_writer", slowly)
    context = multiprocessing.get_context("fork")
    end, ready = context.Event(), context.Queue()

    def watched():
        # Closed ones of other tests may be waiting for the garbage collection.
        return [file for file in node_lock._watched.values() if not file.closed]

    def child():
        ready.put([path for path in leaks._open_files() if str(node.cache) in path])
        end.wait(60)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(node.load, uuid)
        assert begun.wait(60)
        process = context.Process(target=child)
        process.start()
        try:
            assert ready.get(timeout=120) == []
            assert len(watched()) == 2
            go_on.set()
            fetching.result()
            with node_lock.NodeLock(str(node.entries()[0].parent / ".lock-x"), lambda: None, 0.0) as turn:
                assert turn.held
        finally:
            go_on.set()
            end.set()
            process.join()
            ready.close()
            ready.join_thread()
    assert not watched()
    assert len(node.entries()) == 1


INTERRUPTED = """
import logging, os, random, shutil, signal, sys, time
import numpy as np
import ana

class Alarm(BaseException):
    pass

def ring(*_):
    raise Alarm

def refuse(record):
    raise AssertionError(record.getMessage())

signal.signal(signal.SIGALRM, ring)
tree, cache, uuid, seconds = *sys.argv[1:4], float(sys.argv[4])
chance = random.Random(1)
expected = ana.DirDataLayer(tree).load_state(uuid).copy()
layer = ana.DirDataLayer(tree, node_cache=cache)
layer.load_state(uuid)
opened = len(os.listdir("/proc/self/fd"))
number = interrupted = 0
end = time.monotonic() + seconds
while time.monotonic() < end or interrupted <= 20:
    number += 1
    if number % 2:
        shutil.rmtree(cache, ignore_errors=True)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 3e-3))
        found = layer.load_state(uuid)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert np.array_equal(found, expected)
    except Alarm:
        interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
# Nobody holds a lock any more: it would be broken with a warning, which is an error here.
logging.getLogger("ana.turns").addFilter(refuse)
assert np.array_equal(layer.load_state(uuid), expected)
# A handler may raise between an open() and what closes it; more often where the machine is busy.
left = len(os.listdir("/proc/self/fd")) - opened
assert left <= 5 + interrupted / 8, (left, interrupted)
print(interrupted)
"""


@pytest.mark.slow
@pytest.mark.leaves_temporaries("a handler may raise just where a temporary is about to be removed")
def test_exceptions_out_of_signal_handlers_hold_up_nobody(node):
    """A handler that raises at any moment of fetching and mapping: no lock stays held, nothing wrong is cached."""
    with ana.using_dl(node.layer()) as layer:
        layer.store_state("state", noise(1))
    interrupted = int(processes.run_program(INTERRUPTED, node.tree, node.cache, "state", 3))
    assert len(node.leftovers()) <= 5 + interrupted / 8
    assert len(node.entries()) == 1


@pytest.mark.parametrize("crowd", [2, 16])
def test_turns_are_taken_one_at_a_time(tmp_path, crowd):
    """However many want it, one holds it at a time, though its file comes and goes."""
    inside, most, done = [], [], []

    def take(_):
        for _ in range(20):
            with node_lock.NodeLock(str(tmp_path / "lock"), lambda: None, 60.0) as turn:
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


# Without the tier


def test_those_who_find_a_state_damaged_read_it_again_at_different_times(node, monkeypatch):
    """On a network filesystem a job's tasks do not all read it anew at the same moment; once each, and no more."""
    uuid = node.store(noise(1))
    path = raw_tree.path_of(node.tree, uuid)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr("ana.fs.mounts.is_network", lambda *_: True)
    pauses = []
    monkeypatch.setattr(files, "revalidate", lambda _, pause=0.0: pauses.append(pause))
    for _ in range(20):
        with pytest.raises(ana.CorruptedStateError):
            node.load(uuid, node_cache="")
    assert len(pauses) == 20
    assert len({round(pause, 3) for pause in pauses}) > 10
    assert all(directory.FIRST_PAUSE_SECONDS <= pause <= 3 * directory.FIRST_PAUSE_SECONDS for pause in pauses)


def test_those_who_miss_a_state_look_again_a_bounded_number_of_times(node, monkeypatch):
    """On a network filesystem: longer and longer pauses that differ between tasks, and not much more than ANA_WAIT."""
    node.store(noise(1))
    monkeypatch.setattr("ana.fs.mounts.is_network", lambda *_: True)
    monkeypatch.setenv("ANA_WAIT", "2")
    seen = []
    monkeypatch.setattr(files, "revalidate", lambda _, pause=0.0: seen.append(pause))
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
        with locks.saving_work(str(tmp_path / "lock"), 10.0, Counters(str(tmp_path))) as held:
            assert held
    assert len({round(pace, 4) for pace in paces}) > 10
    assert all(10.0 / 400 <= pace <= 10.0 / 100 for pace in paces)
