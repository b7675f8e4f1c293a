"""What `dl.stats()` says: each number against what can be seen from outside."""

import dataclasses
import os
import pickle
import sys
import threading
import time

import blake3
import filelock
import pytest
from support import classes, processes, raw_tree

import ana
from ana.fs import locks
from ana.layers import statistics
from ana.layers.statistics import Stats
from ana.runtime import counters
from ana.stores.directory.store import DirectoryStore

MIB = 1 << 20
NOISE = blake3.blake3(b"noise").digest(length=6 * MIB)


@pytest.fixture
def tree(tmp_path):
    """A folder with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "tree")
    return tmp_path / "tree"


def _stats():
    return ana.get_dl().stats()


def _changed(stats):
    """Return the numbers that are not zero."""
    return {name: value for name, value in dataclasses.asdict(stats).items() if value}


def _file_bytes(tree):
    return sum((tree / name).stat().st_size for name in raw_tree.states(tree))


# What is counted


def test_a_new_layer_has_done_nothing(tree):
    """All numbers are zero; they are frozen."""
    stats = _stats()
    assert stats == Stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.stored = 1


def test_each_field_is_documented_and_counted():
    """Stats has a field for each counter, in the same order, and docs/observing.md has a line for each."""
    names = [each.name for each in dataclasses.fields(Stats)]
    assert names == list(counters.NAMES)
    text = (processes.ROOT / "docs" / "observing.md").read_text(encoding="utf-8")
    assert [name for name in (*names, "moved_bytes", "spared_bytes") if f"`{name}`" not in text] == []


@pytest.mark.parametrize("size", [1000, 6 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("text", ["noise", "zeros"])
def test_stored_states(tree, size, text):
    """States stored, their size before compression, and that of their files, to the byte."""
    classes.A(NOISE[:size] if text == "noise" else bytes(size)).make_uuid()
    stats = _stats()
    assert stats.stored == 1
    assert size < stats.stored_raw_bytes < size + 300
    assert stats.stored_file_bytes == _file_bytes(tree) == stats.moved_bytes
    assert set(_changed(stats)) == {"stored", "stored_raw_bytes", "stored_file_bytes"}


def test_states_that_are_there_already(tree):
    """An equal object, and the same one looked at again, are found: nothing is written, and its bytes are spared."""
    first, equal = classes.A(NOISE[:1000]), classes.A(NOISE[:1000])
    first.make_uuid()
    before = _stats()
    equal.make_uuid()
    first.ana_store()
    stats = _stats()
    assert (stats.stored, stats.found) == (1, 2)
    assert stats.found_raw_bytes == 2 * before.stored_raw_bytes == stats.spared_bytes
    assert stats.stored_file_bytes == before.stored_file_bytes


@pytest.mark.parametrize("size", [1000, 6 * MIB], ids=["small", "large"])
def test_loaded_states(tree, size):
    """States loaded from the store, their size, and that of their files."""
    uuid = classes.A(NOISE[:size]).make_uuid()
    stored = _stats()
    ana.set_dl(pickle_dir=tree)
    assert classes.A.ana_load(uuid).x == NOISE[:size]
    assert _changed(_stats()) == {
        "from_store": 1,
        "from_store_raw_bytes": stored.stored_raw_bytes,
        "from_store_file_bytes": _file_bytes(tree),
    }


def test_references_that_a_live_object_answers(tree):
    """Whether it was made or loaded here: each reference counts, with the size of the state that is not read."""
    made = classes.A(NOISE[:1000])
    made.make_uuid()
    raw_bytes = _stats().stored_raw_bytes
    reference = pickle.dumps(made)
    for _ in range(5):
        assert pickle.loads(reference) is made
    assert classes.A.ana_load(made.uuid) is made
    assert (_stats().from_memory, _stats().from_memory_raw_bytes) == (6, 6 * raw_bytes)
    ana.set_dl(pickle_dir=tree)
    loaded = pickle.loads(reference)
    for _ in range(5):
        assert pickle.loads(reference) is loaded
    assert (_stats().from_store, _stats().from_memory) == (1, 5)
    assert _stats().spared_bytes == _stats().from_memory_raw_bytes == 5 * raw_bytes


def test_a_state_that_another_holds(tree):
    """Objects within objects: each is loaded once, and what is alive is not loaded again."""
    child = classes.A("child")
    child.make_uuid()
    parents = [classes.A([child, number]) for number in range(3)]
    uuids = [parent.make_uuid() for parent in parents]
    assert _stats().stored == 4
    ana.set_dl(pickle_dir=tree)
    loaded = [classes.A.ana_load(uuid) for uuid in uuids]
    assert len({id(parent.x[0]) for parent in loaded}) == 1
    assert (_stats().from_store, _stats().from_memory) == (4, 2)


def test_many_at_once(tree):
    """`store_many` and `load_many` count as one by one, though threads do the work."""
    layer = ana.get_dl()
    refs = [ana.Ref((number, NOISE[:1000])) for number in range(100)]
    uuids = layer.store_many(refs)
    assert (_stats().stored, _stats().stored_file_bytes) == (100, _file_bytes(tree))
    layer = ana.set_dl(pickle_dir=tree)
    loaded = layer.load_many(uuids)
    assert len(loaded) == _stats().from_store == 100
    layer.store_many([ana.Ref((number, NOISE[:1000])) for number in range(50, 150)])
    assert (_stats().stored, _stats().found) == (50, 50)


def test_damage(tree):
    """A state whose bytes are wrong: counted, after it was read again; healing it is a state stored."""
    made = classes.A("state")
    path = raw_tree.path_of(tree, made.make_uuid())
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ana.set_dl(pickle_dir=tree)
    with pytest.raises(ana.CorruptedStateError):
        classes.A.ana_load(made.uuid)
    stats = _stats()
    assert stats.damaged >= 1
    assert stats.retries >= 1
    assert stats.from_store == 0
    made.ana_store()
    assert _stats().stored == 1


def test_a_state_that_is_not_there(tree):
    """It was looked for twice, and nothing else is counted."""
    with pytest.raises(ana.StateNotFoundError):
        classes.A.ana_load("5f3ac0e1-0000-8000-8000-000000000000")
    assert _changed(_stats()) == {"retries": 1}


@pytest.fixture
def locking(monkeypatch):
    """Writers of large states lock, as those of larger ones do."""
    monkeypatch.setattr("ana.stores.directory.store.LOCKED_BYTES", 2 * MIB)


def test_waiting_for_a_lock(tree, monkeypatch, locking):
    """A writer of a large state that waits for another: how often and how long, and that nothing went wrong."""
    lock = _lock_of(tree, "large")
    acquire = filelock.FileLock.acquire

    def noticed(self, timeout=None, **options):
        if timeout:
            # The attempt without a wait has failed: from here on the writer waits.
            threading.Timer(0.3, lock.release).start()
        return acquire(self, timeout=timeout, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", noticed)
    began = time.perf_counter()
    ana.get_dl().store_state("large", NOISE)
    stats = _stats()
    assert (stats.stored, stats.waits, stats.lock_timeouts) == (1, 1, 0)
    assert 0.3 <= stats.wait_seconds < time.perf_counter() - began


def test_a_lock_without_a_wait_is_none(tree, locking):
    """A lock that is to be had at once is no wait."""
    ana.get_dl().store_state("large", NOISE)
    assert set(_changed(_stats())) == {"stored", "stored_raw_bytes", "stored_file_bytes"}


def test_a_lock_that_is_not_to_be_had(tree, monkeypatch, locking):
    """After its time the writer goes on without, which is counted."""
    monkeypatch.setattr("ana.stores.directory.store.LOCK_SECONDS", 0.1)
    lock = _lock_of(tree, "large")
    ana.get_dl().store_state("large", NOISE[: 2 * MIB])
    lock.release()
    stats = _stats()
    assert (stats.stored, stats.waits, stats.lock_timeouts) == (1, 1, 1)


def test_a_place_without_locks_is_no_timeout(tree, locking):
    """Where no lock file can be made nobody waited in vain."""
    (tree / ".ana").write_text("in the way")
    ana.get_dl().store_state("large", NOISE)
    assert set(_changed(_stats())) == {"stored", "stored_raw_bytes", "stored_file_bytes"}


def _lock_of(tree, key):
    """Hold the lock of a key's shard, as another process's writer would."""
    store = DirectoryStore(str(tree))
    path = tree / ".ana" / "locks" / f"{os.path.relpath(store.path(key), tree)[:2]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, thread_local=False)
    lock.acquire(timeout=5)
    return lock


@pytest.mark.parametrize("make", [ana.DataLayer, lambda: ana.DictDataLayer({})], ids=["dict", "mapping"])
def test_stores_in_memory_count_as_well(make):
    """Stored, found, loaded, answered: as in a folder; a file's bytes are those in the mapping."""
    layer = ana.set_dl(make())
    made = classes.A("state")
    uuid = made.make_uuid()
    classes.A("state").make_uuid()
    size = len(layer.store.mapping[uuid])
    layer.live.table.clear()
    classes.A.ana_load(uuid)
    stats = layer.stats()
    assert (stats.stored, stats.found, stats.from_store) == (1, 1, 1)
    assert stats.stored_file_bytes == stats.from_store_file_bytes == size


def test_plain_pickling_counts_nothing():
    """SimpleDataLayer stores nothing, and says so."""
    ana.set_dl(ana.SimpleDataLayer())
    made = classes.A("state")
    made.make_uuid()
    assert pickle.loads(pickle.dumps(made)) is made
    assert _stats() == Stats()


# Sums


def test_stats_can_be_added(tree):
    """Each number is the sum; bytes moved and spared follow from them."""
    one = Stats(stored=1, stored_file_bytes=10, from_store_file_bytes=5, wait_seconds=0.5, found_raw_bytes=7)
    total = one + one + Stats(from_memory_raw_bytes=100, from_tier_raw_bytes=1000)
    assert (total.stored, total.moved_bytes, total.wait_seconds, total.spared_bytes) == (2, 30, 1.0, 1114)


def test_numbers_of_stores_that_are_gone_stay():
    """What a process has done in all holds also what layers did that it has let go of."""
    before = counters.snapshot().get("memory", {}).get("stored", 0)
    for number in range(3):
        with ana.using_dl():
            classes.A(number).make_uuid()
    assert counters.snapshot()["memory"]["stored"] == before + 3


def test_layers_leave_no_counters_behind():
    """A program that makes a new layer for each piece of work does not grow."""
    ana.DataLayer()
    before = len(counters._alive), len(counters._past)
    for _ in range(100):
        ana.DataLayer()
    assert (len(counters._alive), len(counters._past)) == before


# Threads and forks


@pytest.mark.slow
def test_counting_is_exact_between_threads(tree):
    """Eight threads that all unpickle references: not one is lost, however often the interpreter changes threads."""
    made = classes.A("state")
    made.make_uuid()
    reference = pickle.dumps(made)
    size = _stats().stored_raw_bytes
    counted = ana.get_dl().store.counters
    start = threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(20_000):
            pickle.loads(reference)
            counted.note_wait(1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    stats = _stats()
    assert (stats.from_memory, stats.from_memory_raw_bytes) == (160_000, 160_000 * size)
    assert (stats.waits, stats.wait_seconds) == (160_000, 160_000.0)


def test_a_forked_child_begins_at_zero(tree):
    """What its parent did is not its own."""
    made = classes.A("state")
    made.make_uuid()
    program = """
import os, sys, pickle, ana; from support import classes
layer = ana.set_dl(pickle_dir=sys.argv[1])
made = classes.A("new")
made.make_uuid()
reference = pickle.dumps(made)
if os.fork() == 0:
    pickle.loads(reference)
    print(layer.stats().stored, layer.stats().from_memory, flush=True)
    os._exit(0)
os.wait()
print(layer.stats().stored, layer.stats().from_memory)
"""
    assert processes.run_program(program, tree).split() == ["0", "1", "1", "0"]


def test_the_lock_counts_what_it_is_given(tmp_path):
    """`locks.saving_work` counts for the store that asks: here nobody else does."""
    counted = counters.Counters("/store")
    with locks.saving_work(str(tmp_path / "lock"), 60.0, counted) as held:
        assert held
        with locks.saving_work(str(tmp_path / "lock"), 0.05, counted) as again:
            assert not again
    assert (counted.waits, counted.lock_timeouts) == (1, 1)


def test_a_tier_can_count(tree):
    """A tier in front of a store notes what it had, which is spared."""
    ana.get_dl().store.counters.note_from_tier("5f3ac0e1-0000-8000-8000-000000000000", 1000, time.perf_counter())
    assert _changed(_stats()) == {"from_tier": 1, "from_tier_raw_bytes": 1000}
    assert _stats().spared_bytes == 1000


def test_reading_numbers_of_other_versions():
    """Numbers that this version does not know are passed over, missing ones are zero; what is no number is refused."""
    assert Stats.read({"stored": 2, "something new": 3}) == Stats(stored=2)
    for value in ("2", None, True, [1]):
        with pytest.raises(TypeError):
            Stats.read({"stored": value})
    assert statistics.Summary(folder="/").total == Stats()
