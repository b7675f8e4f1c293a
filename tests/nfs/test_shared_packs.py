"""Packs that one client writes and another reads: what is seen, and what it costs in calls to the server."""

import os
import pickle
import random

import pytest
from clients import Model
from conftest import counted_mount
from mountstats import RoundTrips

import ana
from ana.format import address, pack, record
from ana.stores.base import Put
from ana.stores.directory.store import DirectoryStore

PACK_BYTES = 64 << 10
STATE_BYTES = 1000


def state(number):
    """Return a key and a state of 1 kB that cannot be compressed."""
    data = b"%d " % number + random.Random(number).randbytes(STATE_BYTES)
    content = record.content("mesh:Mesh", [memoryview(data)])
    return address.content_uuid(content.digest), content


@pytest.fixture
def writer(shared):
    """A store that the near client packs into."""
    store = DirectoryStore(str(shared.near / "tree"))
    store.packs.pack_bytes = PACK_BYTES
    yield store
    store.packs.seal()
    store.packs.files.reset()


@pytest.fixture
def reader(shared, writer):
    """The same store as the far client has it open, before there is any pack."""
    store = DirectoryStore(str(shared.far / "tree"))
    yield store
    store.packs.files.reset()


def put(store, *numbers):
    """Put states, one after the other; return their keys."""
    keys = []
    for number in numbers:
        key, content = state(number)
        store.put(key, content, (), repair=False)
        keys.append(key)
    return keys


def put_many(store, numbers):
    """Put states all at once; return their keys."""
    puts = [Put(*state(number), (), repair=False) for number in numbers]
    problems = []
    store.put_many(puts, lambda number, **said: problems.append(said) if said.get("error") else None)
    assert problems == []
    return [put.key for put in puts]


def is_right(store, key, number, said=""):
    """Return whether a load, by a hint if there is one, returns what was put."""
    if said:
        store.note_hint(key, said)
    return [bytes(part) for part in store.get(key).segments()] == [bytes(view) for view in state(number)[1].views]


def file_of(store, key):
    """Return the path of the pack that holds a state."""
    return os.path.join(store.packs.folder, store.hint(key).partition(":")[0] + pack.SUFFIX)


# What the other client sees


def test_a_growing_pack_is_seen(writer, reader):
    """Each state as soon as it is acknowledged: by hint, and by its UUID alone; in order and out of order."""
    for number in range(20):
        (key,) = put(writer, number)
        assert is_right(reader, key, number, writer.hint(key) if number % 2 else "")
    for number in range(20, 40):
        (key,) = put(writer, number)
        assert reader.has(key)


def test_new_packs_are_seen(shared, writer, reader):
    """Of a writer that begins another pack, and of writers that begin later; sealed or not."""
    for number in range(6):
        (key,) = put(writer, number)
        if number % 2:
            writer.packs.seal()
        assert is_right(reader, key, number)
    for number in range(6, 10):
        other = DirectoryStore(str(shared.near / "tree"))
        other.packs.pack_bytes = PACK_BYTES
        (key,) = put(other, number)
        assert reader.has(key)
        assert is_right(reader, key, number, other.hint(key))
        other.packs.seal()


def test_a_miss_is_not_remembered(writer, reader):
    """What was not there a moment ago, nor its pack, nor the packs' folder: it is found once it is stored."""
    for number in range(5):
        key = state(number)[0]
        assert not reader.has(key)
        with pytest.raises(ana.StateNotFoundError):
            reader.get(key, wait=False)
        reader.note_hint(key, f"not-there-1-{number}:0:300")
        with pytest.raises(ana.StateNotFoundError):
            reader.get(key, wait=False)
        put(writer, number)
        assert is_right(reader, key, number)
        writer.packs.seal()


def test_many_at_once_are_seen(writer, reader):
    """A batch is in the pack as a whole."""
    keys = put_many(writer, range(500))
    assert all(map(reader.has, keys))
    for number in random.Random(1).sample(range(500), 50):
        assert is_right(reader, keys[number], number)


def test_references_lead_to_packs(shared, writer, reader):
    """A reference that the near client has pickled is loaded on the far one, with all that it refers to."""
    with ana.using_dl(pickle_dir=shared.near / "tree", pack_bytes="64k") as layer:
        parent = Model([Model(number) for number in range(5)])
        for child in parent.value:
            child.make_uuid()
        uuid = parent.make_uuid()
        hint = layer.store.hint(uuid)
        data = pickle.dumps(parent)
        layer.store.packs.seal()
        layer.store.packs.files.reset()
    assert hint.encode() in data
    with ana.using_dl(pickle_dir=shared.far / "tree") as layer:
        layer.store.note_hint(uuid, hint)
        assert [child.value for child in Model.ana_load(uuid).value] == list(range(5))
        layer.store.packs.files.reset()


# Packs that go


@pytest.mark.parametrize("hinted", [False, True], ids=["by UUID", "by hint"])
def test_a_pack_that_is_deleted_under_a_reader(shared, writer, reader, hinted):
    """The state's other place is found, or an error says that it is not there; nothing else is returned."""
    keys = put_many(writer, range(300))
    assert is_right(reader, keys[0], 0, writer.hint(keys[0]))
    hints = [writer.hint(key) for key in keys]
    writer.packs.seal()
    other = DirectoryStore(str(shared.near / "tree"))
    other.packs.pack_bytes = PACK_BYTES
    kept = put(other, *range(0, 300, 30))
    other.packs.seal()
    (doomed,) = {name for name in os.listdir(writer.packs.folder) if name.startswith(hints[0].partition(":")[0])}
    os.unlink(os.path.join(writer.packs.folder, doomed))
    reader.wait_seconds = 0.3
    for number in (270, 240, 30):
        assert is_right(reader, kept[number // 30], number, hints[number] if hinted else "")
    for number in (299, 150 + 1, 7):
        # What the client has cached of the deleted file may still be right.
        try:
            assert is_right(reader, keys[number], number, hints[number] if hinted else "")
        except (ana.StateNotFoundError, ana.StoreError):
            continue
    assert put(other, 299) == [keys[299]]
    assert is_right(reader, keys[299], 299)
    other.packs.seal()


def test_all_packs_are_purged_under_a_writer(shared, writer, reader):
    """The far client removes them all: the writer notices within a second, and what it stores then is seen."""
    (key,) = put(writer, 1)
    assert reader.has(key)
    for path in (shared.far / "tree" / "packs").glob(f"*{pack.SUFFIX}"):
        path.unlink()
    numbers = iter(range(2, 100_000))
    last = next(numbers)
    while not os.path.exists(file_of(reader, put(writer, last)[0])) and not reader.has(state(last)[0]):
        last = next(numbers)
    assert is_right(reader, state(last)[0], last)


# What it costs


def test_a_state_into_an_open_pack_costs_one_call(shared, writer):
    """A stable WRITE, which is the sync, too."""
    put(writer, 0, 1)
    mount = counted_mount(shared.near)
    with RoundTrips(mount) as trips:
        put(writer, *range(2, 22))
    assert trips.total <= 20, str(trips)


def test_many_states_cost_a_hundredth_of_a_call(shared, writer):
    """1,000 of them, by one put_many."""
    put(writer, 0)
    mount = counted_mount(shared.near)
    with RoundTrips(mount) as trips:
        put_many(writer, range(1, 1001))
    assert trips.total <= 10, str(trips)


def _hints(writer, count):
    """Put so many states; return their keys, with their hints."""
    keys = put_many(writer, range(count))
    return [(key, writer.hint(key)) for key in keys]


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_loads_by_reference_are_within_budget(shared, writer, reader, sealed):
    """The first state of a pack opens it; its neighbours come with what was read ahead; any other costs one read.

    As with loose states, the folder is warm: the client has read another pack in it.
    """
    (key,) = put(writer, 100_000)
    assert is_right(reader, key, 100_000, writer.hint(key))
    writer.packs.seal()
    hints = _hints(writer, 1000) + [(key, writer.hint(key)) for key in put_many(writer, range(1000, 5000))]
    if sealed:
        writer.packs.seal()
    mount = counted_mount(shared.far)
    with RoundTrips(mount) as first:
        assert is_right(reader, hints[0][0], 0, hints[0][1])
    with RoundTrips(mount) as neighbours:
        for number in range(1, 101):
            assert is_right(reader, hints[number][0], number, hints[number][1])
    chosen = random.Random(1).sample(range(1000, 5000), 50)
    with RoundTrips(mount) as anywhere:
        for number in chosen:
            assert is_right(reader, hints[number][0], number, hints[number][1])
    assert first.total <= 4, str(first)
    assert neighbours.total <= 10, str(neighbours)
    assert anywhere.total <= 50, str(anywhere)
