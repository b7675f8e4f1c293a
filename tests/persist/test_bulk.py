"""Many states at once: store_many, load_many, prefetch, and the children of one object."""

import errno
import gc
import os
import pickle
import signal
import threading
import time
import uuid

import pytest
from support.classes import A, B, Counted, Node
from support.gauge import Gauge

import ana
from ana.objects import identity
from ana.persist import bulk, prefetching
from ana.stores.directory.store import DirectoryStore

WINDOW = 100
"""So many states are read ahead at once here."""
COUNT = WINDOW + 20
"""More than a window of reading."""


class Refuses(ana.Storable):
    """Does not pickle."""

    def _ana_getstate(self):
        raise RuntimeError("no state today")


@pytest.fixture(params=["memory", "durable", "fast", "late"])
def layer(request, tmp_path, monkeypatch):
    """A layer of each kind: one by one (in memory; on a disk that nobody waits for), and overlapping."""
    monkeypatch.setattr(prefetching, "WINDOW_STATES", WINDOW)
    if request.param == "memory":
        return ana.DataLayer()
    if request.param == "late":
        monkeypatch.setattr(DirectoryStore, "high_latency", True)
    # Nobody else writes here: what is missing is missing at once.
    monkeypatch.setenv("ANA_WAIT", "0")
    return ana.DirDataLayer(tmp_path / "store", durable=request.param == "durable")


@pytest.fixture
def late(tmp_path, monkeypatch):
    """A folder that is taken for one on a network filesystem."""
    monkeypatch.setattr(prefetching, "WINDOW_STATES", WINDOW)
    monkeypatch.setattr(DirectoryStore, "high_latency", True)
    monkeypatch.setenv("ANA_WAIT", "0")
    return ana.DirDataLayer(tmp_path / "late", durable=False)


def anew(layer):
    """Return a layer over the same store that knows no objects."""
    if layer._state_store is not None:
        return ana.DictDataLayer(layer._state_store)
    return ana.DirDataLayer(layer.home, durable=False)


def files_of(layer):
    """Return the contents of a folder's files by name."""
    found = {}
    for folder, _, names in os.walk(layer.home):
        found |= {name: os.path.getsize(f"{folder}/{name}") for name in names if name.endswith(".pkl.zst")}
    return found


def test_store_many_is_one_by_one(layer, tmp_path):
    """The same UUIDs, in order, and the same files as make_uuid on each."""
    with ana.using_dl(tmp_path / "other"):
        expected = [A(number).make_uuid() for number in range(COUNT)]
        files = files_of(ana.get_dl())
    objects = [A(number) for number in range(COUNT)]
    assert layer.store_many(iter(objects)) == expected
    assert [obj.uuid for obj in objects] == expected
    if layer._state_store is None:
        assert files_of(layer) == files
    else:
        assert list(layer._state_store) == expected


def test_load_many_gives_the_objects_in_order(layer):
    """Each with its state, one object per UUID, whichever order and repetition is asked for."""
    uuids = layer.store_many(A(number) for number in range(COUNT))
    far = anew(layer)
    order = [*reversed(uuids), uuids[7], uuids[7]]
    found = far.load_many(iter(order), A)
    assert [obj.x for obj in found] == [*reversed(range(COUNT)), 7, 7]
    assert found[-1] is found[-2] is found[COUNT - 8]
    assert [obj.uuid for obj in found] == order


def test_the_live_object_is_what_load_many_returns(layer):
    """What is alive is not loaded again; the rest is."""
    objects = [A(number) for number in range(10)]
    uuids = layer.store_many(objects)
    del objects[5:]
    gc.collect()
    found = layer.load_many(uuids)
    assert all(one is other for one, other in zip(objects, found, strict=False))
    assert [obj.x for obj in found] == list(range(10))


def test_nothing_at_all(layer):
    """No objects, no UUIDs, nothing to prefetch: nothing happens."""
    assert layer.store_many([]) == layer.load_many([]) == []
    assert ana.prefetch([]) is None


def test_the_layer_need_not_be_the_current_one(layer):
    """Everything goes into the layer that was asked, also what is inside of a Ref."""
    current = ana.get_dl()
    uuids = layer.store_many([A(ana.Ref([number])) for number in range(10)])
    assert not current._state_store
    far = anew(layer)
    found = far.load_many(uuids, A)
    assert [obj.x.value for obj in found] == [[number] for number in range(10)]


def test_the_same_object_and_equal_content(layer):
    """The same object twice and equal ones have one UUID, and are stored once."""
    one = A("x")
    objects = [one, A("y"), one, A("x"), B("x"), A("x")]
    uuids = layer.store_many(objects)
    assert uuids[0] == uuids[2] == uuids[3] == uuids[5]
    assert len(set(uuids)) == 3
    found = anew(layer).load_many(uuids)
    assert [type(obj) for obj in found] == [A, A, A, A, B, A]


def test_children_are_stored_first(layer, monkeypatch):
    """When a state is put, what it refers to is in the store: also where all are new."""
    put = type(layer.store).put
    early = []

    def checked(store, key, state, children, *, repair):
        early.extend(child for child in children if not store.has(child))
        return put(store, key, state, children, repair=repair)

    monkeypatch.setattr(type(layer.store), "put", checked)
    leaves = [A(number) for number in range(50)]
    inner = [A(leaves[number : number + 5]) for number in range(0, 50, 5)]
    top = A(inner)
    uuids = layer.store_many([*leaves, *inner, top])
    assert early == []
    found = anew(layer).load_many(uuids[-1:])[0]
    assert [leaf.x for obj in found.x for leaf in obj.x] == list(range(50))
    assert [len(layer.store.get(uuid).header.children) for uuid in uuids] == [0] * 50 + [5] * 10 + [10]


@pytest.mark.slow
def test_a_chain_and_rings(layer):
    """Long chains, and objects in a circle, addressed by content or given, come back as they were."""
    chain = [Node(0)]
    for number in range(1, 200):
        chain.append(Node(number, chain[-1]))
    ring = [Node(number) for number in range(3)]
    for number, node in enumerate(ring):
        node.after = ring[(number + 1) % 3]
    given = [Node(10), Node(11)]
    given[0].after, given[1].after = given[1], given[0]
    with ana.using_dl(layer):
        for number, node in enumerate(given):
            node.make_uuid(f"given {number}")
    uuids = layer.store_many([*chain, *ring[:1], *given])
    assert uuids[-2:] == ["given 0", "given 1"]
    far = anew(layer)
    found = far.load_many(uuids, Node)
    assert found[199].after is found[198]
    assert found[200].after.after.after is found[200]
    assert found[201].after is found[202]
    assert found[202].after is found[201]


def test_given_uuids_the_first_wins(layer):
    """Of different contents under one given UUID the first of the list is stored; a strict layer says so."""
    objects = [A(number) for number in range(5)]
    with ana.using_dl(layer):
        for obj in objects:
            obj.make_uuid("one name")
    layer.strict = True
    with pytest.raises(ana.UUIDConflictError):
        layer.store_many(objects)
    assert anew(layer).load_many(["one name"])[0].x == 0


def test_addressed_objects_go_into_another_layer(layer):
    """What has its UUID from elsewhere is stored here too, loaded for that where need be."""
    with ana.using_dl():
        uuids = ana.get_dl().store_many([A(number) for number in range(20)])
        objects = [A(number) for number in range(20)]
        assert ana.get_dl().store_many(objects) == uuids
        ref = ana.Ref("lazy")
        ref.make_uuid()
        reference = pickle.dumps(ref)
        del ref
        gc.collect()
        objects.append(pickle.loads(reference))
        assert layer.store_many(objects) == [*uuids, objects[-1].uuid]
        assert layer.store_many(objects) == [*uuids, objects[-1].uuid]
    assert [obj.x for obj in anew(layer).load_many(uuids)] == list(range(20))
    assert anew(layer).load_many([objects[-1].uuid])[0].value == "lazy"


@pytest.mark.parametrize("wrong", [3, "text", None, A])
def test_what_is_no_storable_is_refused_before_anything_is_done(layer, wrong):
    """A TypeError names its place and type; the others are untouched."""
    objects = [A(1), wrong]
    with pytest.raises(TypeError, match=f"item 1 .* {type(wrong).__name__}"):
        layer.store_many(objects)
    assert objects[0].uuid is None
    assert not layer._state_store


@pytest.mark.parametrize(
    ("wrong", "error"), [(3, TypeError), (None, TypeError), ("", ValueError), ("x" * 201, ValueError)]
)
def test_what_is_no_uuid_is_refused_before_anything_is_done(layer, wrong, error):
    """All UUIDs are checked before the first is looked for."""
    with pytest.raises(error):
        layer.load_many(["missing", wrong])
    if wrong != "":
        with pytest.raises(error):
            ana.prefetch(["missing", wrong])
    with pytest.raises(TypeError):
        layer.load_many("one string")


def test_one_that_does_not_pickle_leaves_the_others(layer):
    """They are stored; it has no UUID; its error says which object it was."""
    objects = [A(1), A(2), Refuses(), A(3)]
    with pytest.raises(RuntimeError, match="no state today") as caught:
        layer.store_many(objects)
    assert "object 2 of 4" in caught.value.__notes__[0]
    assert objects[2].uuid is None
    assert [obj.x for obj in anew(layer).load_many(obj.uuid for obj in objects if obj.uuid)] == [1, 2, 3]


def test_what_could_not_be_put_has_no_uuid(layer, monkeypatch):
    """Nor has what refers to it; whoever has one is in the store, and another try stores all."""
    put = type(layer.store).put
    objects = [A(number) for number in range(20)]
    parents = [A(objects[3]), A(objects[4])]
    bad = A(3).make_uuid()

    def full(store, key, *arguments, **options):
        if key == bad:
            raise ana.StoreError("/there", errno.ENOSPC, "full")
        return put(store, key, *arguments, **options)

    monkeypatch.setattr(type(layer.store), "put", full)
    with pytest.raises(ana.StoreError) as caught:
        layer.store_many([*objects, *parents])
    assert caught.value.errno == errno.ENOSPC
    assert objects[3].uuid is None
    assert parents[0].uuid is None
    uuids = [obj.uuid for obj in [*objects, *parents] if obj.uuid is not None]
    assert objects[0].uuid in uuids
    assert all(layer.store.has(uuid) for uuid in uuids)
    monkeypatch.undo()
    assert len(layer.store_many([*objects, *parents])) == 22
    assert [obj.x.x for obj in anew(layer).load_many(obj.uuid for obj in parents)] == [3, 4]


def test_a_missing_and_a_damaged_state_raise_in_order(layer):
    """The first that cannot be had is what is raised, with its own error."""
    uuids = layer.store_many(A(number) for number in range(30))
    missing = str(uuid.uuid4())
    with pytest.raises(ana.StateNotFoundError) as caught:
        anew(layer).load_many([*uuids, missing])
    assert caught.value.uuid == missing
    if layer._state_store is not None:
        layer._state_store[uuids[20]] = layer._state_store[uuids[20]][:-1]
    else:
        os.truncate(layer.store.path(uuids[20]), os.path.getsize(layer.store.path(uuids[20])) - 1)
    with pytest.raises(ana.CorruptedStateError) as caught:
        anew(layer).load_many([*uuids, missing])
    assert caught.value.uuid == uuids[20]


def test_the_wrong_class_is_refused(layer):
    """All are of the class that was asked for."""
    uuids = layer.store_many([A(1), B(2)])
    assert [type(obj) for obj in anew(layer).load_many(uuids, A)] == [A, B]
    with pytest.raises(ana.StateLoadError):
        anew(layer).load_many(uuids, B)
    with pytest.raises(TypeError, match="cls is a class"):
        layer.load_many(uuids, "A")


@pytest.mark.slow
def test_many_children_are_loaded_as_one_by_one(late):
    """An object with 1,000 children is the same whether they are read ahead or not, also where one is missing."""
    children = [Counted(number) for number in range(1000)]
    top = A(children)
    late.store_many([*children, top])
    lost, uuid_of_top = children[500].uuid, top.uuid
    del children, top
    gc.collect()
    os.unlink(late.store.path(lost))
    Counted.loads = 0
    found = anew(late).load_many([uuid_of_top])[0].x
    assert [obj.x for number, obj in enumerate(found) if number != 500] == [n for n in range(1000) if n != 500]
    assert Counted.loads == 999
    with pytest.raises(ana.StateNotFoundError):
        _ = found[500].x


def test_refs_inside_stay_ghosts(late):
    """Many Refs in a state are found ahead, but their content waits until it is asked for."""
    uuids = late.store_many([A([ana.Ref(Counted(number)) for number in range(50)])])
    Counted.loads = 0
    found = anew(late).load_many(uuids)[0].x
    assert all("not loaded" in repr(ref) for ref in found)
    assert found[3].value.x == 3


@pytest.mark.parametrize("size", [100, 300_000])
def test_prefetch_loads_refs_and_uuids(layer, size, monkeypatch):
    """References, ghosts and UUIDs are there afterwards; what is missing raises when it is used."""
    with ana.using_dl(layer):
        refs = [ana.Ref(os.urandom(size)) for _ in range(20)]
        references = pickle.dumps(refs)
        values = [ref.value for ref in refs]
        uuids = layer.store_many(A(number) for number in range(20))
        lost = refs[7].uuid
        del refs
        gc.collect()
    if layer._state_store is not None:
        del layer._state_store[lost]
    else:
        os.unlink(layer.store.path(lost))
    with ana.using_dl(layer):
        found = pickle.loads(references)
        ana.prefetch([*found, *uuids, "no such state", uuid.uuid4()])
        get = layer.store.get
        monkeypatch.setattr(layer.store, "get", None)
        assert [ref.value for n, ref in enumerate(found) if n != 7] == [v for n, v in enumerate(values) if n != 7]
        assert [A.ana_load(uuid).x for uuid in uuids] == list(range(20))
        monkeypatch.setattr(layer.store, "get", get)
        with pytest.raises(ana.StateNotFoundError):
            _ = found[7].value


def test_prefetch_looks_where_the_reference_says(late):
    """What is not in the current layer is read ahead from the home of its reference."""
    with ana.using_dl(late):
        references = pickle.dumps([ana.Ref(number) for number in range(COUNT)])
    gc.collect()
    with ana.using_dl():
        found = pickle.loads(references)
        ana.prefetch(found)
        assert not any("not loaded" in repr(ref) for ref in found)
        assert [ref.value for ref in found] == list(range(COUNT))


def test_prefetch_refuses_what_is_no_reference():
    """A TypeError names its place and type."""
    with pytest.raises(TypeError, match=r"item 1 .* int"):
        ana.prefetch([A(1), 3])


def test_puts_and_gets_overlap(tmp_path, monkeypatch):
    """In a folder that is durable, several states are put at once; where the store answers late, read at once."""
    puts, gets = Gauge(monkeypatch, DirectoryStore, "put"), Gauge(monkeypatch, DirectoryStore, "get")
    layer = ana.DirDataLayer(tmp_path / "store")
    uuids = layer.store_many([A(number) for number in range(50)])
    assert puts.most > 1
    assert puts.calls == 50
    monkeypatch.setattr(DirectoryStore, "high_latency", True)
    gc.collect()
    anew(layer).load_many(uuids)
    assert gets.most > 1
    assert gets.calls == 50


def test_children_are_read_at_the_same_time_unless_few(late, monkeypatch):
    """Many children overlap, each is asked for once; few, a chain and a local disk start no thread."""
    many_children, few = A([A(n) for n in range(50)]), A([A(-1), A(-2)])
    for obj in [*many_children.x, *few.x]:
        late.store_many([obj])
    uuids = late.store_many([many_children, few])
    del obj, many_children, few
    gc.collect()
    gets = Gauge(monkeypatch, DirectoryStore, "get")
    with ana.using_dl(anew(late)):
        assert len(A.ana_load(uuids[0]).x) == 50
    assert gets.most > 1
    assert gets.calls == 51
    monkeypatch.setattr(threading.Thread, "start", None)
    with ana.using_dl(anew(late)):
        assert len(A.ana_load(uuids[1]).x) == 2
    monkeypatch.setattr(DirectoryStore, "high_latency", False)
    with ana.using_dl(anew(late)):
        assert len(A.ana_load(uuids[0]).x) == 50


def test_memory_is_bounded(late, monkeypatch):
    """No more than a window's bytes wait to be put, nor are held ahead, however many there are."""
    monkeypatch.setattr(bulk, "WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(prefetching, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(prefetching, "SMALL_BYTES", 0)
    waiting, ahead = [], []
    flush, read = bulk._Batch.flush, prefetching.Prefetcher._read

    def watched_flush(batch):
        waiting.append(batch._waiting_bytes)
        flush(batch)

    def watched_read(states, *arguments):
        result = read(states, *arguments)
        ahead.append(states._bytes)
        return result

    monkeypatch.setattr(bulk._Batch, "flush", watched_flush)
    monkeypatch.setattr(prefetching.Prefetcher, "_read", watched_read)
    contents = [os.urandom(100_000) for _ in range(60)] + [os.urandom(3 << 20), b"last"]
    uuids = late.store_many(A(content) for content in contents)
    assert 6 <= len(waiting) <= 10
    assert max(waiting) < (1 << 20) + (3 << 20) + 10_000
    assert [obj.x for obj in anew(late).load_many(uuids)] == contents
    assert 6 <= len(ahead) <= 30
    assert max(ahead) <= 1 << 20


@pytest.mark.slow
def test_an_interrupt_leaves_no_work_going_on_and_no_false_marks(tmp_path, monkeypatch):
    """After Ctrl-C every object with a UUID is in the store, and a second call stores the rest."""
    layer = ana.DirDataLayer(tmp_path / "store")
    put = DirectoryStore.put
    calls, ended, sent = [], [], []

    def slow(*arguments, **options):
        calls.append(1)
        # In this thread, where it strikes at once: elsewhere it might between an open() and its `try`.
        if threading.current_thread() is threading.main_thread() and not sent:
            sent.append(1)
            while len(calls) < 100:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
        try:
            return put(*arguments, **options)
        finally:
            ended.append(1)

    objects = [A(number) for number in range(500)]
    monkeypatch.setattr(DirectoryStore, "put", slow)
    with pytest.raises(KeyboardInterrupt):
        layer.store_many(objects)
    assert len(calls) - len(ended) <= 1  # this thread's own, perhaps interrupted before its `try`
    stored = [obj for obj in objects if obj.uuid is not None]
    assert len(stored) < 500
    assert all(layer.store.has(obj.uuid) for obj in stored)
    monkeypatch.undo()
    uuids = layer.store_many(objects)
    assert [obj.x for obj in anew(layer).load_many(uuids)] == list(range(500))


def test_many_threads_store_the_same_many(tmp_path):
    """Threads that store equal and the same objects at once agree."""
    layer = ana.DirDataLayer(tmp_path / "store")
    shared = [A(number) for number in range(100)]
    results = []

    def work():
        results.append(layer.store_many([*shared, *(A(number) for number in range(100))]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results)
    assert [obj.x for obj in anew(layer).load_many(results[0][:100])] == list(range(100))


def test_the_simple_layer_gives_uuids_and_stores_nothing():
    """Plain pickling with identity: there is nothing to store into."""
    layer = ana.SimpleDataLayer()
    objects = [A(1), A(2)]
    uuids = layer.store_many([*objects, objects[0]])
    assert uuids == [objects[0].uuid, objects[1].uuid, objects[0].uuid]
    assert not layer._state_store
    with pytest.raises(ana.ANAError):
        ana.SimpleDataLayer().load_many(uuids)


def test_objects_that_were_stored_are_let_go_of(layer):
    """Storing many keeps none of them alive."""
    layer.store_many(A(number) for number in range(100))
    gc.collect()
    assert not [mark for mark in identity._marks.values() if isinstance(mark(), A)]
