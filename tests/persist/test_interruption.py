"""Signals, forks and locks at bad moments: a consistent state afterwards, and nobody waits for the dead."""

import fcntl
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import raw_tree
from support.classes import A
from support.processes import PATIENCE_SECONDS, environment, run_program

import ana
from ana import maintenance
from ana.objects import identity

INTERRUPTED = """
import os, pickle, random, signal, sys, ana
from support.classes import A
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
layer = ana.set_dl(pickle_dir=sys.argv[1], durable=False)
chance = random.Random(int(sys.argv[2]))
number = interrupted = 0
longest = 1e-3
kept = []
# Until enough were interrupted and enough were not, however slow the machine is.
while interrupted < int(sys.argv[3]) or number - interrupted < int(sys.argv[3]) / 2:
    number += 1
    a = A([number, "x" * 100])
    b = A(a)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, longest))
        a.make_uuid()
        reference = pickle.dumps(b.make_uuid() and b)
        layer.live.forget_kept()
        c = A(pickle.loads(reference)); c.make_uuid()
        signal.setitimer(signal.ITIMER_REAL, 0)
        longest *= 0.98
    except Alarm:
        interrupted += 1
        longest *= 1.01
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    # Whatever has a UUID now is in the store, whole, with what it holds.
    for obj in (a, b):
        if obj.uuid is not None:
            pickle.dumps(obj)
            kept.append((obj.uuid, number))
    if a.uuid and b.uuid:
        u = b.uuid
        del a, b
        try: del c
        except NameError: pass
        layer.live.forget_kept()
        assert A.ana_load(u).x.x[0] == number
from ana.persist import inflight
assert not inflight._by_key, inflight._by_key
assert len(kept) > 20, (interrupted, number)
fresh = ana.set_dl(pickle_dir=sys.argv[1])
for uuid, number in kept:
    state = fresh.load_state(uuid)
print(interrupted, number)
"""


@pytest.mark.slow
@pytest.mark.leaves_temporaries("a handler may raise just where a temporary is about to be removed")
def test_exceptions_out_of_signal_handlers(tmp_path):
    """A handler that raises at any moment of storing and loading: what has a UUID is stored, no claim stays."""
    interrupted = int(run_program(INTERRUPTED, tmp_path / "store", 1, 400).split()[0])
    left = raw_tree.strangers(tmp_path / "store")
    assert all(os.path.basename(path).startswith(".tmp-") for path in left)
    assert len(left) <= interrupted / 20
    assert maintenance.sweep(tmp_path / "store", older_than_seconds=0).removed == left
    assert raw_tree.strangers(tmp_path / "store") == []


def hold_lock(path, ready):
    """Lock a file as another writer does, for good."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready.set()
        time.sleep(3600)


LARGE = bytes(range(256)) * 8192
"""2 MiB: large enough for writers to wait for each other, with `locking`."""


@pytest.fixture
def impatient(monkeypatch):
    """Locks are waited for a second, not ten."""
    monkeypatch.setattr("ana.stores.directory.store.LOCK_SECONDS", 0.5)


@pytest.fixture(params=["local disk", "network"])
def locking(request, monkeypatch):
    """Writers of large states lock, as those of larger ones: on a network in a thread of its own."""
    monkeypatch.setattr("ana.stores.directory.store.LOCKED_BYTES", len(LARGE))
    if request.param == "network":
        on_a_network(monkeypatch)


def on_a_network(monkeypatch):
    """Have every folder taken for one on a network."""
    monkeypatch.setattr("ana.stores.directory.store.LOCKED_BYTES_REMOTE", len(LARGE))
    monkeypatch.setattr("ana.fs.mounts.is_network", lambda *_: True)


def lock_path(store, key):
    """Return the path of the lock that writers of a key use."""
    return store / ".ana" / "locks" / f"{raw_tree.path_of(store, key).parts[-3]}.lock"


@pytest.mark.slow
def test_a_lock_that_is_never_released_costs_time_only(tmp_path, impatient, locking):
    """A writer waits for the lock's holder for a bounded time, and then writes."""
    store = tmp_path / "store"
    layer = ana.set_dl(pickle_dir=store)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_lock, args=(str(lock_path(store, "large")), ready))
    holder.start()
    try:
        assert ready.wait(60)
        layer.store_state("large", LARGE)
        assert layer.load_state("large") == LARGE
    finally:
        holder.kill()
        holder.join()
    assert layer.stats().lock_timeouts == 1
    layer.store_state("large too", LARGE)


def test_a_killed_holder_blocks_nobody(tmp_path, locking):
    """The lock of a writer that was killed is free at once."""
    store = tmp_path / "store"
    layer = ana.set_dl(pickle_dir=store)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_lock, args=(str(lock_path(store, "large")), ready))
    holder.start()
    assert ready.wait(60)
    holder.kill()
    holder.join()
    layer.store_state("large", LARGE)
    assert layer.stats().lock_timeouts == 0


@pytest.mark.slow
@pytest.mark.parametrize("part_bytes", [0, 1 << 20], ids=["whole", "part"])
def test_one_of_many_writers_writes_a_large_state(tmp_path, part_bytes):
    """Of writers of the same large state, or part, that begin together, one creates a file, and the others find it."""
    program = """
import sys, ana
ana.set_dl(pickle_dir=sys.argv[1], part_bytes=int(sys.argv[2]))
from ana.fs import atomic as publishing
written = []
publish = publishing.publish
def counting(folder, name, *arguments, **options):
    written.append(name)
    return publish(folder, name, *arguments, **options)
publishing.publish = counting
sys.stdin.readline()
ana.get_dl().store_state("large", bytes(range(256)) * 160000)
print(*written)
"""
    ana.set_dl(pickle_dir=tmp_path / "store")
    words = [sys.executable, "-c", program, str(tmp_path / "store"), str(part_bytes)]
    processes = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(6)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    written = [name for process in processes for name in process.communicate(timeout=120)[0].split()]
    large = max((tmp_path / "store").rglob("*.zst"), key=lambda path: path.stat().st_size)
    assert written.count(large.name) == 1


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EIO", "EACCES"])
def test_locks_that_do_not_work_are_passed_over(tmp_path, monkeypatch, impatient, locking, code):
    """A filesystem whose flock fails, in whatever way, stores all the same."""
    import errno

    def flock(*_):
        raise OSError(getattr(errno, code), code)

    layer = ana.set_dl(pickle_dir=tmp_path / "store")
    # A fault that no filesystem here has.
    monkeypatch.setattr(fcntl, "flock", flock)
    layer.store_state("large", LARGE)
    assert layer.load_state("large") == LARGE


@pytest.mark.slow
def test_a_lock_server_that_hangs_is_left_behind(tmp_path, monkeypatch, impatient):
    """A lock call that does not return holds a writer up for a bounded time."""
    on_a_network(monkeypatch)
    released = threading.Event()
    layer = ana.set_dl(pickle_dir=tmp_path / "store")
    monkeypatch.setattr(fcntl, "flock", lambda *_: released.wait(200))
    layer.store_state("large", LARGE)
    assert "ana-lock" in [thread.name for thread in threading.enumerate()]
    released.set()
    assert layer.load_state("large") == LARGE


def test_locks_that_exclude_nobody_do_no_harm(tmp_path, monkeypatch, locking):
    """Where everybody gets the lock at once, the state is stored once, whole, as on `nolock` mounts."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    layer = ana.set_dl(pickle_dir=tmp_path / "store")
    threads = [threading.Thread(target=layer.store_state, args=("large", LARGE)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.load_state("large") == LARGE
    assert len(raw_tree.states(tmp_path / "store")) == 1


def in_child(work):
    """Run `work` in a forked child; say whether it worked there within two minutes."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def test_fork_while_threads_store_and_load(tmp_path):
    """Children that are forked while threads are at work, with codecs and locks in use, can do it all themselves."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    stop = threading.Event()

    def work():
        number = 0
        while not stop.is_set():
            number += 1
            a = A([number, "x" * 10_000])
            reference = pickle.dumps(a.make_uuid() and a)
            del a
            ana.get_dl().live.forget_kept()
            assert pickle.loads(reference).x[0] == number

    def in_the_child():
        a = A(["child", os.getpid()])
        reference = pickle.dumps(a.make_uuid() and a)
        del a
        ana.get_dl().live.forget_kept()
        assert pickle.loads(reference).x == ["child", os.getpid()]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        results = [in_child(in_the_child) for _ in range(12)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(results)


class Slow(dict):
    """A dict that takes its time to take an item, and says when it begins."""

    def __init__(self, items):
        super().__init__(items)
        self.begun = threading.Event()

    def __setitem__(self, key, value):
        self.begun.set()
        time.sleep(0.2)
        super().__setitem__(key, value)


def test_a_child_does_not_inherit_half_a_change(tmp_path):
    """Forked while a thread is noting which object is kept alive, a child can release all that is kept."""
    layer = ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    uuid = A(1).make_uuid()
    keeper = identity._keeper
    slow = keeper._layers = Slow(keeper._layers)
    thread = threading.Thread(target=A.ana_load, args=(uuid,))
    thread.start()
    try:
        assert slow.begun.wait(PATIENCE_SECONDS)
        assert in_child(layer.live.forget_kept)
    finally:
        thread.join()
        keeper._layers = dict(slow)


def square(a):
    """Do a pool's task."""
    result = A(a.x * a.x)
    result.make_uuid()
    return result


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path, method):
    """A pool of each start method gets objects by reference, and sends its results back by reference."""
    ana.set_dl(pickle_dir=tmp_path / "store")
    given = [A(number) for number in range(8)]
    for a in given:
        a.make_uuid()
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map(square, given)
        pool.close()
        pool.join()
    assert [result.x for result in results] == [number * number for number in range(8)]
    assert all(result.uuid is not None for result in results)
