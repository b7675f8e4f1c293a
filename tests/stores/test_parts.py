"""Parts: a large buffer is stored once, however many objects hold it; nothing else changes."""

import gc
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import memory, processes, raw_record, raw_tree
from support.classes import A
from support.gauge import Gauge

import ana
from ana import maintenance
from ana.format import parts, record
from ana.objects import identity
from ana.stores.directory.store import DirectoryStore
from ana.stores.directory.stored_file import StoredFile
from ana.tasks.depot import Depot

KIB = 1 << 10
LEAST = 256 * KIB
SIZE_BYTES = 600 * KIB
LARGE_BYTES = 5 << 20
"""More than is copied when it is hashed."""
PARTS = {"part_bytes": "256KiB", "durable": False}


def noise(number, size_bytes=SIZE_BYTES):
    """Return an array that no other number gives."""
    return np.random.default_rng(number).standard_normal(size_bytes // 8)


def headers(tree):
    """Return the headers of all states' files, by UUID."""
    found = {}
    for name in raw_tree.states(tree):
        data = (tree / name).read_bytes()
        head = record.parse_header(data, len(data), record.key_of(data), name)
        found[head.key] = head
    return found


def parts_in(tree):
    """Return the UUIDs of the parts that have files."""
    return [key for key, head in headers(tree).items() if head.class_name == parts.CLASS_NAME]


def part_of(tree, uuid):
    """Return the UUID of a state's only part."""
    (part,) = headers(tree)[uuid].parts
    return part.key


def stored_bytes(tree):
    """Return the size of all states' files."""
    return sum((tree / name).stat().st_size for name in raw_tree.states(tree))


def anew(tree, **options):
    """Make a layer that knows no object, as another process has, the current one."""
    gc.collect()
    return ana.set_dl(pickle_dir=tree, keep_bytes=0, **{**PARTS, **options})


# Storing


def test_objects_that_share_an_array_store_it_once(tmp_path):
    """Twenty objects with one array: it is stored once; twenty more with other parameters write hardly anything."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    shared = noise(1)
    for number in range(20):
        A({"array": shared, "number": number}).make_uuid()
    first = stored_bytes(tmp_path)
    assert SIZE_BYTES < first < SIZE_BYTES + 50_000
    ana.get_dl().store_many([A({"array": shared, "number": number}) for number in range(20, 40)])
    assert stored_bytes(tmp_path) - first < 50_000
    assert len(parts_in(tmp_path)) == 1
    assert len(headers(tmp_path)) == 41


def test_a_part_is_the_raw_bytes(tmp_path):
    """`zstd -dc` of its file gives what the array holds; `zstd -dc` of the state's file, the rest."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    array = noise(1)
    uuid = A(array).make_uuid()
    data = raw_tree.path_of(tmp_path, part_of(tmp_path, uuid)).read_bytes()
    assert raw_record.decompress(data) == array.tobytes()
    assert len(raw_record.decompress(raw_tree.path_of(tmp_path, uuid).read_bytes())) < 1000


def test_what_is_small_or_in_the_stream_is_no_part(tmp_path):
    """Buffers below `part_bytes`, and content that is not out of band; with 0, nothing is a part."""
    ana.set_dl(pickle_dir=tmp_path / "some", **PARTS)
    A([noise(1, LEAST - 8), "text" * LEAST, bytearray(LEAST)]).make_uuid()
    A([noise(1), b"\0" * LEAST, np.zeros((LEAST // 8, 2), order="F")]).make_uuid()
    assert len(parts_in(tmp_path / "some")) == 3
    ana.set_dl(pickle_dir=tmp_path / "none", part_bytes=0)
    A(noise(1, 9 << 20)).make_uuid()
    assert not parts_in(tmp_path / "none")
    ana.set_dl(pickle_dir=tmp_path / "default")
    A([noise(1, 8 << 20), noise(1, (8 << 20) - 8)]).make_uuid()
    assert len(parts_in(tmp_path / "default")) == 1


@pytest.mark.once
def test_the_least_size_of_parts_is_the_format_s(monkeypatch):
    """A smaller buffer has no chunks of its own; the environment is checked as the option is."""
    assert ana.set_dl(part_bytes=record.LARGE_BYTES).part_bytes == record.LARGE_BYTES
    for wrong in (record.LARGE_BYTES - 1, "1k"):
        with pytest.raises(ValueError, match=r"part_bytes must be .* at least 262144"):
            ana.set_dl(part_bytes=wrong)
    monkeypatch.setenv("ANA_PART_BYTES", "1MiB")
    assert ana.set_dl().part_bytes == 1 << 20
    monkeypatch.setenv("ANA_PART_BYTES", "1kiB")
    with pytest.raises(ana.ANAError, match="ANA_PART_BYTES"):
        ana.set_dl()


values = st.lists(
    st.tuples(st.sampled_from(("array", "bytes", "bytearray")), st.integers(0, 2), st.integers(LEAST - 1, 2 * LEAST)),
    max_size=3,
)
least_sizes = st.sampled_from((0, LEAST, LEAST + 100, 2 * LEAST, 8 << 20))


def _value(kind, number, size):
    data = bytes([number]) * size
    return {"array": np.frombuffer(bytearray(data), "u1"), "bytes": data, "bytearray": bytearray(data)}[kind]


def _check(found, content):
    assert [type(one) for one in found] == [type(one) for one in content]
    assert all(bytes(mine) == bytes(theirs) for mine, theirs in zip(found, content, strict=True))
    assert all(one.flags.writeable for one in found if isinstance(one, np.ndarray))


@pytest.mark.slow
@pytest.mark.once
@settings(max_examples=40)
@given(st.lists(st.tuples(values, least_sizes), min_size=1, max_size=5), st.booleans())
def test_stores_with_and_without_parts_read_each_other(objects, in_memory):
    """Layers with any `part_bytes` work in one store: equal UUIDs, equal values, whoever wrote first."""
    with memory.folder() as folder:
        shared = {}
        made = []

        def layer(least):
            if in_memory:
                return ana.DictDataLayer(shared, part_bytes=least)
            return ana.DirDataLayer(folder, part_bytes=least, durable=False)

        for described, least in objects:
            content = [_value(*one) for one in described]
            with ana.using_dl(layer(least)):
                uuid = A(content).make_uuid()
            with ana.using_dl(part_bytes=0):
                assert A(content).make_uuid() == uuid
            made.append((uuid, content))
        for _, least in objects:
            with ana.using_dl(layer(least)):
                for uuid, content in made:
                    _check(A.ana_load(uuid).x, content)


def test_a_state_that_is_there_in_one_piece_gets_no_parts(tmp_path):
    """The first writer decides: who comes later with parts adds nothing."""
    ana.set_dl(pickle_dir=tmp_path, part_bytes=0, durable=False)
    uuid = A(noise(1)).make_uuid()
    anew(tmp_path)
    assert A(noise(1)).make_uuid() == uuid
    assert list(headers(tmp_path)) == [uuid]


def test_bare_states_have_parts_too(tmp_path):
    """`store_state` shares what objects share."""
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    layer.store_state("bare", noise(1))
    A(noise(1)).make_uuid()
    assert len(parts_in(tmp_path)) == 1
    assert (layer.load_state("bare") == noise(1)).all()


def test_large_buffers_are_hashed_once(tmp_path, monkeypatch):
    """The address of a part follows from the digests that the address of the state needs anyway."""
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    hashed = []
    before = record.chunks.digest

    def digest(views):
        hashed.append(sum(map(len, views)))
        return before(views)

    monkeypatch.setattr(record.chunks, "digest", digest)
    uuid = A(noise(1)).make_uuid()
    assert sum(hashed) < SIZE_BYTES + 5000
    assert layer.store.has(uuid)


# Loading


def test_arrays_are_each_object_s_own_unless_they_are_shared(tmp_path):
    """By default writable and apart; with `share_parts` read-only, and in memory once, as long as one is in use."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    uuids = [A([noise(1), number]).make_uuid() for number in range(2)]
    anew(tmp_path)
    first, second = (A.ana_load(uuid).x[0] for uuid in uuids)
    assert first.flags.writeable
    assert not np.shares_memory(first, second)
    layer = anew(tmp_path, share_parts=True)
    first, second = (A.ana_load(uuid).x[0] for uuid in uuids)
    assert not first.flags.writeable
    assert np.shares_memory(first, second)
    assert (first == noise(1)).all()
    key = part_of(tmp_path, uuids[0])
    assert layer.shared_parts.get(key) is not None
    del first, second
    other = A(1).make_uuid()
    anew(tmp_path)
    # The last object is always kept.
    A.ana_load(other)
    gc.collect()
    assert layer.shared_parts.get(key) is None


def test_equal_arrays_of_one_object_are_apart(tmp_path):
    """They are one part, and two arrays: a program that writes into one does not see it in the other."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    uuid = A([noise(1), noise(1)]).make_uuid()
    assert len(parts_in(tmp_path)) == 1
    anew(tmp_path)
    first, second = A.ana_load(uuid).x
    first[0] = 7
    assert (second == noise(1)).all()


@pytest.mark.parametrize("many", [False, True], ids=["of one object", "of many objects"])
def test_parts_are_read_many_at_a_time_from_a_server(tmp_path, monkeypatch, many):
    """Those of one object together; in bulk, those of all objects that are loaded next."""
    monkeypatch.setattr(DirectoryStore, "high_latency", True)
    monkeypatch.setenv("ANA_WAIT", "0")
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    arrays = [noise(number) for number in range(6)]
    uuids = ana.get_dl().store_many([A([array]) for array in arrays] if many else [A(arrays)])
    layer = anew(tmp_path)
    reads = Gauge(monkeypatch, StoredFile, "_segments", enough=4)
    found = [array for obj in layer.load_many(uuids, A) for array in obj.x]
    assert all((mine == theirs).all() for mine, theirs in zip(found, arrays, strict=True))
    assert reads.most >= 4
    assert reads.calls == 6 + len(uuids)


def test_a_node_maps_a_part_once(tmp_path):
    """With a node cache all objects of a process have the same memory, mapped from the one entry of the part."""
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    ana.set_dl(pickle_dir=tree, **PARTS)
    uuids = [A([noise(1), number]).make_uuid() for number in range(4)]
    anew(tree, node_cache=cache)
    found = [A.ana_load(uuid).x for uuid in uuids]
    assert [number for _, number in found] == [0, 1, 2, 3]
    assert all((array == noise(1)).all() and not array.flags.writeable for array, _ in found)
    assert all(np.shares_memory(found[0][0], array) for array, _ in found)
    entries = [path.name for path in cache.rglob("*") if path.is_file()]
    assert entries == [part_of(tree, uuids[0])]
    layer = anew(tree, node_cache=cache)
    again = A.ana_load(uuids[0]).x[0]
    assert (again == noise(1)).all()
    assert layer.stats().from_store_raw_bytes < 1000


def test_a_large_state_with_parts_has_an_entry_of_its_own(tmp_path, monkeypatch):
    """What is not in parts is cached as ever, and checked if that is asked for."""
    monkeypatch.setenv("ANA_NODE_CACHE_VERIFY", "1")
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    ana.set_dl(pickle_dir=tree, part_bytes="500KiB", durable=False)
    content = [noise(1), noise(2, LEAST), "text" * LEAST]
    uuid = A(content).make_uuid()
    for _ in range(2):
        anew(tree, node_cache=cache)
        found = A.ana_load(uuid).x
        assert (found[0] == content[0]).all()
        assert (found[1] == content[1]).all()
        assert found[2] == content[2]
        del found
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {uuid, part_of(tree, uuid)}


def test_what_an_executor_ships_is_a_part(tmp_path):
    """The buffer that a task takes is that of an object, under the same key."""
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    uuid = A(noise(1)).make_uuid()
    depot = Depot(layer.store, durable=True)
    key, _, _ = depot.put(memoryview(noise(1)).cast("B"), is_bytes=False)
    assert key == part_of(tmp_path, uuid)
    assert len(raw_tree.states(tmp_path)) == 2


def test_a_part_is_never_unpickled(tmp_path):
    """Its bytes may be anybody's pickle: loading it as an object or a bare state is refused."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    evil = pickle.dumps(print, 4).ljust(LEAST, b"\0")
    uuid = A(evil).make_uuid()
    layer = anew(tmp_path)
    key = part_of(tmp_path, uuid)
    for load in (A.ana_load, ana.load, layer.load_state):
        with pytest.raises(ana.StateLoadError, match="part") as caught:
            load(key)
        assert caught.value.uuid == key
    assert A.ana_load(uuid).x == evil


# What is missing, damaged or changed


def test_a_state_whose_part_is_missing_is_missing(tmp_path):
    """The error is the state's, and names the part; storing the object again heals it."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    obj = A(noise(1))
    uuid = obj.make_uuid()
    key = part_of(tmp_path, uuid)
    raw_tree.path_of(tmp_path, key).unlink()
    with ana.using_dl(ana.DirDataLayer(tmp_path, **PARTS)) as layer:
        with pytest.raises(ana.StateNotFoundError, match=key) as caught:
            A.ana_load(uuid)
        assert caught.value.uuid == uuid
        assert not layer.store.is_whole(uuid)
    obj.ana_store()
    anew(tmp_path)
    assert (A.ana_load(uuid).x == noise(1)).all()


@pytest.mark.parametrize("part_bytes", [0, "256KiB", "8MiB"])
def test_a_purged_part_is_stored_again_after_recheck_seconds(tmp_path, part_bytes):
    """Pickling an object looks for its parts as for its state, whatever would be parts here; a loaded object, too."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    uuid = A(noise(1)).make_uuid()
    anew(tmp_path, part_bytes=part_bytes, recheck_seconds=0)
    obj = A.ana_load(uuid)
    key = part_of(tmp_path, uuid)
    for _ in range(2):
        raw_tree.path_of(tmp_path, key).unlink()
        pickle.dumps(obj)
        assert raw_tree.path_of(tmp_path, key).exists()
    assert list(headers(tmp_path)[uuid].parts)


def test_a_damaged_part_is_healed_by_storing_again(tmp_path):
    """A flipped byte is never returned: the error names the part and the state; who has the object repairs it."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    obj = A(noise(1))
    uuid = obj.make_uuid()
    path = raw_tree.path_of(tmp_path, part_of(tmp_path, uuid))
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with ana.using_dl(ana.DirDataLayer(tmp_path, **PARTS)), pytest.raises(ana.CorruptedStateError) as caught:
        A.ana_load(uuid)
    assert (caught.value.uuid, caught.value.path) == (uuid, str(path))
    assert path.name[:36] in str(caught.value)
    obj.ana_store()
    anew(tmp_path)
    assert (A.ana_load(uuid).x == noise(1)).all()
    assert len(list(path.parent.glob(".bad-*"))) == 1


def test_a_part_with_other_content_is_refused(tmp_path):
    """A record that is whole, under the part's key, but not what the state holds."""
    ana.set_dl(pickle_dir=tmp_path, **PARTS)
    uuid = A(noise(1)).make_uuid()
    key = part_of(tmp_path, uuid)
    content = record.content("", [memoryview(noise(2)).cast("B")])
    raw_tree.path_of(tmp_path, key).write_bytes(record.encode(key, content))
    anew(tmp_path)
    with pytest.raises(ana.CorruptedStateError, match="other content"):
        A.ana_load(uuid)


def _changing(layer, monkeypatch, change):
    before = layer.store.put_many

    def put_many(puts, done):
        change()
        before(puts, done)

    monkeypatch.setattr(layer.store, "put_many", put_many)


@pytest.mark.parametrize("bulk", [False, True])
def test_a_buffer_that_changes_while_it_is_stored(tmp_path, monkeypatch, bulk):
    """What was hashed is stored or nothing: an error that names the class of the object, not of the part."""
    monkeypatch.setattr(record, "COPIED_BYTES", 0)
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    array = noise(1) if bulk else noise(1, LARGE_BYTES)
    obj = A(array)

    def change():
        array[len(array) // 2] += 1

    _changing(layer, monkeypatch, change)
    with pytest.raises(ana.StateChangedError, match="changed while it was stored") as caught:
        layer.store_many([obj]) if bulk else obj.make_uuid()
    assert caught.value.class_name == "support.classes:A"
    assert identity.mark_of(obj) is None
    assert not raw_tree.states(tmp_path)


def test_a_buffer_that_changed_once_is_stored_as_it_is_now(tmp_path, monkeypatch):
    """The object is pickled again, and gets the address of what is stored."""
    monkeypatch.setattr(record, "COPIED_BYTES", 0)
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    array = noise(1, LARGE_BYTES)
    todo = [1]

    def change():
        while todo:
            array[0] += todo.pop()

    _changing(layer, monkeypatch, change)
    uuid = A(array).make_uuid()
    anew(tmp_path)
    assert (A.ana_load(uuid).x == array).all()


@pytest.mark.parametrize("size_bytes", [SIZE_BYTES, LARGE_BYTES])
def test_what_was_hashed_of_a_buffer_is_stored(tmp_path, monkeypatch, size_bytes):
    """Below 32 MiB, what is written is a copy of what was hashed, whatever becomes of the buffer meanwhile."""
    monkeypatch.setattr(record, "_last_was_written", True)
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    array = noise(1, size_bytes)
    was = array.copy()
    _changing(layer, monkeypatch, lambda: array.fill(0))
    uuid = A(array).make_uuid()
    anew(tmp_path)
    assert (A.ana_load(uuid).x == was).all()
    assert uuid == A(was).make_uuid()


def test_one_part_that_fails_fails_its_holders_alone(tmp_path, monkeypatch):
    """In bulk, the others are stored."""
    layer = ana.set_dl(pickle_dir=tmp_path, **PARTS)
    objects = [A(noise(number % 2)) for number in range(3)] + [A("small")]
    objects[2].y = 1
    before = layer.store.put
    wrong = record.content("", [memoryview(noise(0)).cast("B")]).leaves

    def failing(key, state, children, *, repair):
        if state.class_name == parts.CLASS_NAME and list(state.leaves) == list(wrong):
            raise RuntimeError
        return before(key, state, children, repair=repair)

    monkeypatch.setattr(layer.store, "put", failing)
    with pytest.raises(RuntimeError):
        layer.store_many(objects)
    assert [identity.mark_of(obj) is not None for obj in objects] == [False, True, False, True]


KILLED = """
import os, signal, sys
import ana
from support.classes import A

ana.set_dl(pickle_dir=sys.argv[1], part_bytes="256KiB")
before, calls = getattr(os, sys.argv[2]), []

def dying(*arguments, **options):
    calls.append(1)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*arguments, **options)

setattr(os, sys.argv[2], dying)
A([bytes([number]) * 600_000 for number in (1, 2)]).make_uuid()
"""


@pytest.mark.once
@pytest.mark.leaves_temporaries
@pytest.mark.parametrize("call", ["pwritev", pytest.param("fsync", marks=pytest.mark.slow), "link", "unlink"])
def test_a_killed_writer_leaves_nothing_half_done(tmp_path, call):
    """At any call: each state that is there has its parts, and storing again makes it whole."""
    for number in range(1, 30):
        tree = tmp_path / str(number)
        words = [sys.executable, "-c", KILLED, str(tree), call, str(number)]
        code = subprocess.run(words, env=processes.environment(), check=False).returncode
        for head in headers(tree).values() if tree.exists() else ():
            assert all(raw_tree.path_of(tree, child).exists() for child in head.children)
        anew(tree)
        uuid = A([bytes([number]) * 600_000 for number in (1, 2)]).make_uuid()
        anew(tree)
        assert A.ana_load(uuid).x[1] == bytes([2]) * 600_000
        assert not maintenance.verify(tree).problems
        if code == 0:
            assert number > 2
            return
        assert code == -signal.SIGKILL
    pytest.fail("it never got to its end")
