"""What a reference looks like, what it does not do, and how objects get their addresses."""

import copy
import io
import logging
import pickle
import pickletools

import pytest
from support import classes, raw_record

import ana
from ana import reference


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "store")
    return str(tmp_path / "store")


def reload_layer(folder, **options):
    """Forget all live objects, as in another process."""
    return ana.set_dl(pickle_dir=folder, **options)


def globals_of(data):
    """Return the names that a pickle of protocol 2 or 3 imports."""
    return [str(value).replace(" ", ".") for code, value, _ in pickletools.genops(data) if code.name == "GLOBAL"]


def test_a_reference_is_load_of_class_uuid_and_home(folder):
    """Outside of stored states: `(ana.reference.load, (cls, uuid, home))`."""
    a = classes.A(1)
    uuid = a.make_uuid()
    assert a.__reduce_ex__(5) == (reference.load, (classes.A, uuid, folder))
    assert globals_of(pickle.dumps(a, 2)) == ["ana.reference.load", "support.classes.A"]


def test_a_reference_inside_a_state_is_bare(folder):
    """Inside of stored states the home is left out: a tree can be moved, and addresses don't depend on it."""
    inner = classes.A(1)
    inner.make_uuid()
    outer = classes.A([inner])
    outer.make_uuid()
    ((load, arguments),) = captured_references(folder, outer.uuid)
    assert load is reference.load
    assert arguments == (classes.A, inner.uuid)


def captured_references(folder, uuid):
    """Return the calls of `reference.load` that a stored state makes, read without loading them."""
    raw = classes.file_of(folder, uuid).read_bytes()
    stream = raw_record.decompress(raw)
    calls = []

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("ana.reference", "load"):
                return lambda *arguments: calls.append((reference.load, arguments))
            return super().find_class(module, name)

    Reader(io.BytesIO(stream)).load()
    return calls


def test_a_moved_tree_still_loads(folder, tmp_path):
    """Parent and children load from the same tree at another path."""
    inner = classes.A(1)
    inner.make_uuid()
    outer = classes.A([inner])
    uuid = outer.make_uuid()
    moved = tmp_path / "moved"
    (tmp_path / "store").rename(moved)
    ana.set_dl(pickle_dir=moved)
    assert classes.A.ana_load(uuid).x[0].x == 1


@pytest.mark.parametrize("protocol", range(6))
def test_all_protocols(folder, protocol):
    """References and ordinary copies go through every pickle protocol."""
    a = classes.A([1, "ü", b"\0"])
    b = pickle.loads(pickle.dumps(a, protocol))
    assert b.x == a.x
    a.make_uuid()
    data = pickle.dumps(a, protocol)
    assert pickle.loads(data) is a
    reload_layer(folder)
    assert pickle.loads(data).x == a.x


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_reference_is_small(folder, protocol):
    """Under 200 bytes plus the path, whatever the object holds."""
    a = classes.A(bytes(1_000_000))
    a.make_uuid()
    assert len(pickle.dumps(a, protocol)) < 200 + len(folder)


def test_a_ref_is_small_too(folder):
    """`ana.Ref` pickles into as little."""
    assert len(pickle.dumps(ana.Ref(bytes(1_000_000)))) < 200 + len(folder)


def test_copies_of_an_addressed_object_are_itself(folder):
    """Copy and deepcopy give the object, also deep inside of containers and of unaddressed objects."""
    a = classes.A([1])
    a.make_uuid()
    before = classes.tree(folder)
    holder = {"k": [a, (a, classes.A(a))]}
    deep = copy.deepcopy(holder)
    assert copy.copy(a) is copy.deepcopy(a) is a
    assert deep["k"] is not holder["k"]
    assert deep["k"][0] is deep["k"][1][0] is a
    assert deep["k"][1][1] is not holder["k"][1][1]
    assert deep["k"][1][1].x is a
    assert classes.tree(folder) == before


def test_a_given_uuid_is_not_stored_by_copying(folder):
    """An object with a given UUID that was never pickled is not stored by copy or deepcopy either."""
    a = classes.A([1])
    a.make_uuid(uuid="given")
    assert copy.copy(a) is copy.deepcopy([a])[0] is a
    assert classes.states(folder) == []


def test_copies_of_an_unaddressed_object_are_ordinary(folder):
    """A shallow copy shares, a deep one does not; shared parts stay shared, circles stay circles."""
    part = [1]
    a = classes.A([part, part])
    a.me = a
    shallow, deep = copy.copy(a), copy.deepcopy(a)
    assert shallow is not a
    assert shallow.x is a.x
    assert deep.x[0] is deep.x[1]
    assert deep.x[0] is not part
    assert deep.me is deep
    assert shallow.uuid is deep.uuid is a.uuid is None
    assert classes.states(folder) == []


@pytest.mark.parametrize("cls", [classes.DictFirst, classes.OrderedLast, classes.Slotted, classes.FrozenSlotted])
def test_copies_keep_content_and_class(cls):
    """Copies of subclasses of built-ins, slotted and frozen classes are whole."""
    obj = cls({"a": [1]}) if issubclass(cls, dict) else cls([1], [2])
    for found in (copy.copy(obj), copy.deepcopy(obj)):
        assert type(found) is cls
        assert found._ana_getstate() == obj._ana_getstate()


def test_same_class_and_state_is_the_same_uuid_in_another_process(folder, tmp_path):
    """The address follows from the content, in every process; a rerun stores nothing."""
    a = classes.A({"k": [1.5, None, b"x" * 10_000]})
    uuid = a.make_uuid()
    before = classes.tree(folder)
    code = (
        "import ana, sys; from support import classes; ana.set_dl(pickle_dir=sys.argv[1])\n"
        "print(classes.A({'k': [1.5, None, b'x' * 10_000]}).make_uuid())"
    )
    assert classes.run(code, folder, cwd=tmp_path, PYTHONHASHSEED="7") == uuid
    assert classes.tree(folder) == before


def test_the_uuid_is_of_version_8(folder):
    """A content address is a canonical UUIDv8, RFC 9562 variant; a circle's is a UUIDv4."""
    import uuid

    derived = uuid.UUID(classes.A(1).make_uuid())
    assert (derived.version, derived.variant) == (8, uuid.RFC_4122)
    node = classes.Node(1)
    node.after = node
    assert uuid.UUID(node.make_uuid()).version == 4


def test_other_class_or_module_is_another_uuid():
    """The class's qualified name and module are part of the address."""
    here = type("A", (classes.A,), {"__module__": __name__, "__qualname__": "A"})
    uuids = {classes.A(1).make_uuid(), classes.B(1).make_uuid(), here(1).make_uuid(), classes.A(2).make_uuid()}
    assert len(uuids) == 4


def test_equal_content_shares_uuid_and_file(folder):
    """Two equal objects have one UUID, are stored once; unpickling gives the one that the layer holds."""
    a, b = classes.A([1]), classes.A([1])
    assert a.make_uuid() == b.make_uuid()
    assert len(classes.states(folder)) == 1
    assert pickle.loads(pickle.dumps(b)) is a
    assert pickle.loads(pickle.dumps(a)) is a


EXPLICIT = [
    "x",
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    ".hidden",
    "...",
    "u" * 200,
    "\N{SNAKE}" * 200,
    "a\0b",
    "a/b\\c",
    "~",
    "%2e",
    "-rf *",
    "line\nbreak",
    "ana.json",
    "\ud800",
    " ",
    "0123abcd-0123-4123-8123-0123456789ab",
    "0123ABCD-0123-4123-8123-0123456789AB",
    "CON",
]


@pytest.mark.parametrize("uuid", EXPLICIT, ids=ascii)
def test_any_string_can_be_a_uuid(folder, tmp_path, uuid):
    """1 to 200 characters of any kind: stored inside of the tree, and found again."""
    a = classes.A(uuid)
    assert a.make_uuid(uuid=uuid) == uuid
    assert classes.states(folder) == []
    data = pickle.dumps(a)
    assert len(classes.states(folder)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
    assert pickle.loads(data) is a
    reload_layer(folder)
    assert pickle.loads(data).x == uuid
    reload_layer(folder)
    assert classes.A.ana_load(uuid).x == uuid


def test_all_these_strings_are_different_states(folder):
    """No two of them fall together."""
    for uuid in EXPLICIT:
        obj = classes.A(uuid)
        obj.make_uuid(uuid=uuid)
        obj.ana_store()
    reload_layer(folder)
    assert [classes.A.ana_load(uuid).x for uuid in EXPLICIT] == EXPLICIT


def test_a_given_uuid_that_stands_for_other_content_is_refused(folder):
    """Under a UUID of version 8 nothing but the content that it is the address of is stored; nothing was touched."""
    a, b = classes.A("one"), classes.A("two")
    uuid = classes.A("one").make_uuid()
    with pytest.raises(ValueError, match="stands for content"):
        b.make_uuid(uuid)
    assert b.uuid is None
    assert a.make_uuid(uuid) == uuid
    assert classes.states(folder) == [f"{uuid}.pkl.zst"]


def test_a_given_uuid_is_stored_by_ana_store(folder):
    """`ana_store` stores what has a given UUID, and returns it."""
    a = classes.A(1)
    a.make_uuid(uuid="given")
    assert a.ana_store() == "given"
    assert classes.states(folder) == ["given.pkl.zst"]


@pytest.mark.parametrize("store", [pickle.dumps, ana.Storable.ana_store], ids=["pickled", "ana_store"])
def test_the_first_writer_of_a_given_uuid_wins_and_it_is_said_once(folder, caplog, store):
    """Other content under the same UUID is logged once; what is stored stays."""
    first = classes.A("first")
    first.make_uuid(uuid="same")
    first.ana_store()
    reload_layer(folder)
    second = classes.A("second")
    second.make_uuid(uuid="same")
    with caplog.at_level(logging.WARNING, "ana"):
        store(second)
        store(second)
        pickle.dumps(second)
    assert [record.getMessage() for record in caplog.records if "same" in record.getMessage()].__len__() == 1
    reload_layer(folder)
    assert classes.A.ana_load("same").x == "first"


@pytest.mark.parametrize("store", [pickle.dumps, ana.Storable.ana_store], ids=["pickled", "ana_store"])
def test_strict_raises_where_a_given_uuid_is_taken(folder, store):
    """`strict=True`: UUIDConflictError, each time."""
    first = classes.A("first")
    first.make_uuid(uuid="same")
    first.ana_store()
    reload_layer(folder, strict=True)
    second = classes.A("second")
    second.make_uuid(uuid="same")
    for _ in range(2):
        with pytest.raises(ana.UUIDConflictError, match="same"):
            store(second)


def test_equal_content_under_the_same_given_uuid_is_no_conflict(folder, caplog):
    """A rerun with the same UUID and content is fine, strict or not."""
    for _ in range(2):
        reload_layer(folder, strict=True)
        a = classes.A([1, 2])
        a.make_uuid(uuid="same")
        pickle.dumps(a)
        a.ana_store()
    assert not caplog.records


def test_a_given_uuid_of_another_class_is_never_handed_out_as_this_one(folder):
    """A reference to class Node never yields a Slotted that happens to be alive under the same given UUID."""
    other = classes.Slotted(1, 2)
    other.make_uuid(uuid="same")
    other.ana_store()
    node = classes.Node(1)
    node.make_uuid(uuid="same")
    found = pickle.loads(pickle.dumps(node))
    assert isinstance(found, classes.Node)
    assert other.shown == 1


def test_a_circle_of_addressed_objects(folder):
    """Objects that refer to each other, each with a UUID, come back as a circle."""
    nodes = [classes.Node(number) for number in range(5)]
    for number, node in enumerate(nodes):
        node.after = nodes[(number + 1) % 5]
    for node in nodes:
        node.make_uuid()
    data = pickle.dumps(nodes[0])
    assert len(classes.states(folder)) == 5
    assert pickle.loads(data) is nodes[0]
    reload_layer(folder)
    found = pickle.loads(data)
    walk = [found]
    for _ in range(5):
        walk.append(walk[-1].after)
    assert [node.number for node in walk] == [0, 1, 2, 3, 4, 0]
    assert walk[-1] is found
    assert [node.uuid for node in walk[:5]] == [node.uuid for node in nodes]


def test_a_circle_in_which_only_one_has_a_uuid(folder):
    """The others travel inside its state."""
    a, b = classes.Node(1), classes.Node(2)
    a.after, b.after = b, a
    a.make_uuid()
    data = pickle.dumps(a)
    assert len(classes.states(folder)) == 1
    reload_layer(folder)
    found = pickle.loads(data)
    assert found.after.number == 2
    assert found.after.after is found


def test_children_are_stored_before_their_parent(folder):
    """A state that is in the store has what it refers to there, given UUIDs included."""
    child = classes.A("child")
    child.make_uuid(uuid="child")
    parent = classes.A([child])
    assert classes.states(folder) == []
    uuid = parent.make_uuid()
    assert set(classes.states(folder)) == {"child.pkl.zst", f"{uuid}.pkl.zst"}


def test_another_layer_gets_the_state_when_the_object_is_next_pickled(folder, tmp_path):
    """After `set_dl(another)` an object keeps its UUID, and is stored there with all it refers to."""
    child = classes.A("child")
    child.make_uuid()
    parent = classes.A([child])
    uuid = parent.make_uuid()
    ana.set_dl(pickle_dir=tmp_path / "second")
    assert parent.uuid == uuid
    data = pickle.dumps(parent)
    assert parent.uuid == uuid
    assert classes.states(tmp_path / "second") == classes.states(folder)
    assert pickle.loads(data) is parent
    assert pickle.loads(data).x[0] is child


def test_another_layer_gets_the_state_by_ana_store(folder, tmp_path):
    """`ana_store` does it too."""
    a = classes.A("child")
    uuid = a.make_uuid()
    ana.set_dl(pickle_dir=tmp_path / "second")
    assert a.ana_store() == uuid
    assert classes.states(tmp_path / "second") == [f"{uuid}.pkl.zst"]


@pytest.mark.parametrize("first", ["memory", "folder"])
def test_a_reference_made_under_a_layer_that_is_in_use_gives_the_live_object(tmp_path, first):
    """One object per UUID and layer: its references give it as long as both are there, whatever layer is set."""
    layer = ana.set_dl(pickle_dir=tmp_path / "first") if first == "folder" else ana.set_dl()
    a = classes.A(1)
    a.make_uuid()
    data = pickle.dumps(a)
    ana.set_dl(pickle_dir=tmp_path / "second")
    assert pickle.loads(data) is a
    ana.set_dl(layer)
    with ana.using_dl(pickle_dir=tmp_path / "third"):
        assert pickle.loads(data) is a


def test_a_live_object_whose_layer_is_gone_is_found(tmp_path):
    """Its state went with the layer in memory; the object itself is still there, and better than an error."""
    ana.set_dl()
    a = classes.A(1)
    a.make_uuid()
    data = pickle.dumps(a)
    ana.set_dl(pickle_dir=tmp_path / "second")
    assert pickle.loads(data) is a


def test_ana_store_heals_a_damaged_or_missing_state(folder):
    """What is there is verified, and written again where it is damaged or gone."""
    a = classes.A([1, 2, 3])
    uuid = a.make_uuid()
    classes.damage(classes.file_of(folder, uuid))
    a.ana_store()
    reload_layer(folder)
    assert classes.A.ana_load(uuid).x == [1, 2, 3]
    classes.file_of(folder, uuid).unlink()
    a.ana_store()
    reload_layer(folder)
    assert classes.A.ana_load(uuid).x == [1, 2, 3]


def test_a_process_that_only_passes_objects_on_loads_nothing(tmp_path, monkeypatch):
    """After `defer_loads`: what is unpickled is loaded when it is used, and pickled again into the same reference."""
    from ana.layers import resolve

    ana.set_dl(pickle_dir=tmp_path / "s")
    obj = classes.Counted([1])
    obj.make_uuid()
    data = pickle.dumps(obj)
    del obj
    ana.set_dl(pickle_dir=tmp_path / "s")
    monkeypatch.setattr(classes.Counted, "loads", 0)
    monkeypatch.setattr(resolve, "_deferring", False)
    resolve.defer_loads()
    passed = pickle.loads(data)
    assert pickle.dumps(passed) == data
    assert isinstance(passed, classes.Counted)
    assert classes.Counted.loads == 0
    assert passed.x == [1]
    assert classes.Counted.loads == 1
    resolve.defer_loads(until_used=False)
    del passed
    ana.set_dl(pickle_dir=tmp_path / "s")
    pickle.loads(data)
    assert classes.Counted.loads == 2
