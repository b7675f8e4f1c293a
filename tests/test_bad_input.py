"""Input of all bad kinds: the right error, nothing stored, and no object that believes it is."""

import copyreg
import functools
import os
import pickle
import shutil
import subprocess
import sys
import threading
import uuid as uuid_module

import pytest
from support import classes

import ana


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    return tmp_path / "s"


def assert_nothing_stored(folder):
    """Neither a state nor a temporary file, nor a folder of one."""
    assert classes.tree(folder).keys() == {"ana.json"}


class Refuses:
    def __reduce__(self):
        raise pickle.PicklingError("never")


UNPICKLABLE = {
    "lock": threading.Lock,
    "open file": lambda: open(os.devnull),  # noqa: SIM115 - held open on purpose
    "generator": lambda: (number for number in ()),
    "refusing": Refuses,
    "frame": sys._getframe,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("what", UNPICKLABLE)
@pytest.mark.parametrize("way", ["make_uuid", "ana_store", "given, pickled", "given, ana_store", "ref"])
def test_a_state_that_cannot_be_pickled(folder, what, way):
    """The ordinary pickling error; nothing stored, no temporary file; without a UUID, or not taken for stored."""
    value = UNPICKLABLE[what]()
    obj = classes.A(["deep", value])
    if way.startswith("given"):
        obj.make_uuid(uuid="given")
    ways = {
        "make_uuid": obj.make_uuid,
        "ana_store": obj.ana_store,
        "given, pickled": lambda: pickle.dumps(obj),
        "given, ana_store": obj.ana_store,
        "ref": lambda: pickle.dumps(ana.Ref([value])),
    }
    with pytest.raises(Exception) as plain:
        pickle.dumps([value])
    for _ in range(2):
        with pytest.raises(type(plain.value)) as raised:
            ways[way]()
        assert str(raised.value).startswith(str(plain.value).split("'")[0])
        assert_nothing_stored(folder)
    assert obj.uuid == ("given" if way.startswith("given") else None)
    obj.x = "now it can"
    obj.ana_store()
    assert len(classes.states(folder)) == 1


class Holder:
    """Holds attributes, some of them in slots."""

    __slots__ = ("__dict__", "slotted")

    def __init__(self, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)


class OwnState(ana.Storable):
    """Its state is of its own making, with nothing that is an attribute."""

    def _ana_getstate(self):
        return {"made": [threading.Lock()]}


def closure(held):
    """Return a function that holds a value."""
    return lambda: held


def nested(depth):
    """Return lists in lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


PATHS = {
    "attribute": (classes.A, "A.x"),
    "containers": (lambda lock: classes.A({"cache": {"guard": [1, (lock,)]}}), "A.x['cache']['guard'][1][0]"),
    "attributes": (lambda lock: ana.Ref(Holder(layers=[0, Holder(lock=lock)])), "Ref.value.layers[1].lock"),
    "slot": (lambda lock: ana.Ref([Holder(slotted=lock)]), "Ref.value[0].slotted"),
    "set": (lambda lock: ana.Ref({lock}), "Ref.value element"),
    "key": (lambda lock: ana.Ref({lock: 1}), "Ref.value key <lock>"),
    "partial": (lambda lock: classes.A(functools.partial(print, lock)), "A.x.args[0]"),
    "method": (lambda lock: classes.A(Holder(lock=lock).__init__), "A.x.__self__.lock"),
    "closure": (lambda lock: classes.A(closure(lock)), "A.x.held"),
    "own state": (lambda _: OwnState(), "OwnState._ana_getstate()['made'][0]"),
    "in a Ref inside": (lambda lock: classes.A(ana.Ref([lock])), "Ref.value[0]"),
    "among many": (lambda lock: classes.A([[Holder(n=n) for n in range(20_000)], lock]), "A.x[1]"),
}


@pytest.mark.parametrize("kind", PATHS)
def test_the_error_names_class_way_and_cure(folder, kind, monkeypatch):
    """What it is that cannot be pickled, how to get there from the object, and what to do."""
    # A busy machine may need more than two seconds for the way to one of 20,000.
    monkeypatch.setattr("ana.objects.unpicklable.MOST_SECONDS", 120.0)
    make, way = PATHS[kind]
    with pytest.raises(TypeError, match=r"_ana_getstate.*_ana_setstate") as raised:
        make(threading.Lock()).make_uuid()
    assert str(raised.value).startswith(f"cannot pickle '_thread.lock' object: {way} is a _thread.lock. ")
    assert_nothing_stored(folder)


def test_the_error_of_what_is_too_deep(folder):
    """Says so briefly; a circle on the way does not matter."""
    obj = classes.A([nested(100_000)])
    obj.x.append(obj.x)
    with pytest.raises(RecursionError, match=r"A\.x\[0\].* … .*ana\.Ref") as raised:
        obj.make_uuid()
    assert len(str(raised.value)) < 500


class Odd:
    """Raises an error of its own when it is pickled, and when anybody looks at it."""

    def __getattr__(self, name):
        raise RuntimeError("do not look")

    def __repr__(self):
        raise RuntimeError("do not look")

    def __reduce__(self):
        raise ZeroDivisionError("not today")


def notes(error):
    """Return an error's notes, without those that pickle adds since Python 3.14."""
    return [note for note in getattr(error, "__notes__", []) if not note.startswith("when serializing ")]


def test_an_error_of_the_users_own_keeps_its_message(folder):
    """The way is a note to it."""
    with pytest.raises(ZeroDivisionError) as raised:
        classes.A({"odd": Odd()}).make_uuid()
    assert raised.value.args == ("not today",)
    (note,) = notes(raised.value)
    assert note.startswith("A.x['odd'] is a test_bad_input.Odd. Odd.__reduce__ raised this: correct it")


class Mistaken(ana.Storable):
    """Makes a mistake in its own hook."""

    def _ana_getstate(self):
        return len(self)


def test_the_advice_about_a_hook_is_not_to_write_that_hook(folder):
    """If the user's own `_ana_getstate` raises, the message names it, and does not say to leave something out there."""
    with pytest.raises(TypeError) as alone:
        Mistaken().make_uuid()
    assert str(alone.value) == "object of type 'Mistaken' has no len()"
    with pytest.raises(TypeError) as held:
        classes.A({"inner": [Mistaken()]}).make_uuid()
    way = "A.x['inner'][0] is a test_bad_input.Mistaken"
    cure = "Mistaken._ana_getstate raised this: correct it there, or leave the object out of what holds it"
    assert str(held.value) == f"{alone.value}: {way}. {cure}"
    assert notes(held.value) == []


def test_extension_codes_are_refused(folder):
    """A number that `copyreg.add_extension` gave means nothing in another process."""
    copyreg.add_extension("test_bad_input", "Holder", 77)
    try:
        with pytest.raises(pickle.PicklingError, match=r"test_bad_input\.Holder.* 77.*remove_extension"):
            ana.Ref(Holder(x=1)).make_uuid()
        assert ana.Ref([1, b"\x82\x4d"]).make_uuid()
    finally:
        copyreg.remove_extension("test_bad_input", "Holder", 77)
    assert ana.Ref(Holder(x=1)).make_uuid()


def test_an_unpicklable_child_stores_nothing_of_the_parent(folder):
    """One that cannot be stored deep inside: nothing of what holds it has an address."""
    child = classes.A(threading.Lock())
    child.make_uuid(uuid="child")
    parent = classes.A([child])
    with pytest.raises(TypeError, match="lock"):
        parent.make_uuid()
    assert parent.uuid is None
    assert_nothing_stored(folder)


def test_a_class_that_cannot_be_pickled(folder):
    """A local class: the ordinary error of the pickler, and nothing is stored."""

    class Local(ana.Storable):
        pass

    obj = Local()
    obj.make_uuid(uuid="given")
    with pytest.raises((AttributeError, pickle.PicklingError), match="Local"):
        pickle.dumps(obj)
    assert_nothing_stored(folder)


@pytest.mark.parametrize("way", ["make_uuid", "ana_store", "pickled", "given", "copied"])
def test_getstate_that_raises(folder, way):
    """Its own error; nothing stored, no UUID where there was none."""
    obj = classes.GetStateRaises(1)
    if way == "given":
        obj.make_uuid(uuid="given")
    ways = {
        "make_uuid": obj.make_uuid,
        "ana_store": obj.ana_store,
        "pickled": lambda: pickle.dumps(obj),
        "given": lambda: pickle.dumps(obj),
        "copied": lambda: __import__("copy").copy(obj),
    }
    with pytest.raises(ZeroDivisionError, match="no state today"):
        ways[way]()
    assert obj.uuid == ("given" if way == "given" else None)
    assert_nothing_stored(folder)


def test_setstate_that_raises(folder):
    """A StateLoadError that names UUID, class and file, carries the cause, and comes again at each use."""
    obj = classes.SetStateRaises(1)
    uuid = obj.make_uuid()
    data = pickle.dumps(obj)
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data)
    for use in (lambda: found.x, lambda: found.x, lambda: classes.SetStateRaises.ana_load(uuid)):
        with pytest.raises(ana.StateLoadError, match="not with me") as raised:
            use()
        error = raised.value
        assert error.uuid == uuid
        assert error.class_name == "support.classes:SetStateRaises"
        assert error.path == str(classes.file_of(folder, uuid))
        assert isinstance(error.__cause__, ZeroDivisionError)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.uuid, again.path) == (str(error), error.uuid, error.path)


MODULE = """
import ana
class Changing(ana.Storable):
    {slots}
    def __init__(self, x):
        self.x = x
class Inner:
    def __init__(self, x):
        self.x = x
"""


@pytest.fixture
def changing(tmp_path, monkeypatch):
    """Return a function that imports a version of a module of the user's."""
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()

    def write(text):
        sys.modules.pop("changing_module", None)
        (tmp_path / "modules" / "changing_module.py").write_text(text)
        import importlib

        importlib.invalidate_caches()
        __import__("shutil").rmtree(tmp_path / "modules" / "__pycache__", ignore_errors=True)
        return importlib.import_module("changing_module")

    yield write
    sys.modules.pop("changing_module", None)


def test_a_class_that_lost_an_attribute(folder, changing):
    """A slotted class that no longer has the slot: an error that names UUID, class and file."""
    obj = changing(MODULE.format(slots="__slots__ = ('x',)")).Changing(1)
    uuid = obj.make_uuid()
    new = changing(MODULE.format(slots="__slots__ = ('y',)")).Changing
    ana.set_dl(pickle_dir=folder)
    with pytest.raises(ana.StateLoadError) as raised:
        new.ana_load(uuid)
    assert_names(raised.value, uuid, "changing_module:Changing", folder)


def assert_names(error, uuid, class_name, folder):
    """The error says, in words and as attributes, what it is about."""
    file = str(classes.file_of(folder, uuid))
    assert (error.uuid, error.class_name, error.path) == (uuid, class_name, file)
    for word in (uuid, class_name, file):
        assert word in str(error)


def test_a_class_inside_of_a_state_that_vanished(folder, changing):
    """An error that names UUID, class and file, and what is missing; deferred when unpickled."""
    module = changing(MODULE.format(slots=""))
    obj = module.Changing(module.Inner(1))
    uuid = obj.make_uuid()
    data = pickle.dumps(obj)
    new = changing(MODULE.format(slots="").replace("Inner", "Other")).Changing
    ana.set_dl(pickle_dir=folder)
    with pytest.raises(ana.StateLoadError, match="Inner") as raised:
        new.ana_load(uuid)
    assert_names(raised.value, uuid, "changing_module:Changing", folder)
    found = pickle.loads(data)
    with pytest.raises(ana.StateLoadError, match="Inner"):
        _ = found.x


def test_a_class_that_vanished(folder, changing):
    """Asked for by the base class: an error that names UUID, class and file."""
    uuid = changing(MODULE.format(slots="")).Changing(1).make_uuid()
    changing("import ana")
    ana.set_dl(pickle_dir=folder)
    with pytest.raises(ana.StateLoadError) as raised:
        ana.Storable.ana_load(uuid)
    assert_names(raised.value, uuid, "changing_module:Changing", folder)


def test_a_module_that_vanished(folder, changing, tmp_path):
    """The child's module is gone: the parent's error names the parent's UUID and file, and is deferred."""
    module = changing(MODULE.format(slots=""))
    parent = classes.A([module.Inner(1)])
    uuid = parent.make_uuid()
    data = pickle.dumps(parent)
    (tmp_path / "modules" / "changing_module.py").unlink()
    del sys.modules["changing_module"]
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data)
    with pytest.raises(ana.StateLoadError, match="changing_module") as raised:
        _ = found.x
    assert_names(raised.value, uuid, "support.classes:A", folder)


@pytest.mark.parametrize(
    "bad", [None, 7, b"bytes", 1.5, ["x"], object(), ana.Storable], ids=lambda bad: type(bad).__name__
)
def test_uuids_of_a_wrong_type(folder, bad):
    """TypeError, before anything is touched."""
    with pytest.raises(TypeError):
        classes.A.ana_load(bad)
    if bad is not None:
        obj = classes.A(1)
        with pytest.raises(TypeError):
            obj.make_uuid(uuid=bad)
        assert obj.uuid is None
    assert_nothing_stored(folder)


@pytest.mark.parametrize("bad", ["", "x" * 201, "\N{SNAKE}" * 201], ids=["empty", "long", "long emoji"])
def test_uuids_of_a_wrong_length(folder, bad):
    """ValueError, before anything is touched."""
    with pytest.raises(ValueError):
        classes.A.ana_load(bad)
    obj = classes.A(1)
    with pytest.raises(ValueError):
        obj.make_uuid(uuid=bad)
    assert obj.uuid is None
    assert_nothing_stored(folder)


def test_unknown_uuids(folder, tmp_path):
    """StateNotFoundError: none of the spellings that `uuid.UUID` takes stands for the canonical one."""
    (tmp_path / "x.pkl.zst").write_bytes(b"not yours")
    uuid = classes.A(1).make_uuid()
    ana.set_dl(pickle_dir=folder)
    arabic = uuid.translate({ord(str(digit)): chr(0x660 + digit) for digit in range(10)})
    spellings = ["{" + uuid + "}", f"urn:uuid:{uuid}", uuid.replace("-", ""), f" {uuid}", f"{uuid}\n", arabic]
    for wrong in ["unknown", "../../x", "../x", "/etc/passwd", str(uuid_module.uuid4()), *spellings, uuid.upper()]:
        with pytest.raises(ana.StateNotFoundError) as raised:
            classes.A.ana_load(wrong)
        assert raised.value.uuid == wrong
        assert repr(wrong) in str(raised.value)
        assert str(folder) in str(raised.value)
    assert classes.A.ana_load(uuid).x == 1
    assert classes.A.ana_load(uuid_module.UUID(uuid)).x == 1


def test_ana_load_of_another_class(folder):
    """The UUID of an object of another class, alive or not: an error that names both classes."""
    obj = classes.A(1)
    uuid = obj.make_uuid()
    for _ in range(2):
        with pytest.raises(ana.StateLoadError) as raised:
            classes.Node.ana_load(uuid)
        assert "classes:A" in str(raised.value)
        assert "classes:Node" in str(raised.value)
        ana.set_dl(pickle_dir=folder)
    assert classes.A.ana_load(uuid).x == 1


def test_ana_load_by_a_base_class(folder):
    """Asking by a base class gives the object of its own class."""
    uuid = classes.B(1).make_uuid()
    ana.set_dl(pickle_dir=folder)
    assert type(classes.A.ana_load(uuid)) is classes.B
    ana.set_dl(pickle_dir=folder)
    assert type(ana.Storable.ana_load(uuid)) is classes.B


def block(folder, uuid):
    """Put a file where the folder of a UUID has to go, so that nothing can be stored there, even by root."""
    shard = folder / uuid[:2]
    shard.write_text("in the way")
    return shard


@pytest.mark.parametrize("way", ["make_uuid", "ana_store"])
def test_a_store_that_fails_leaves_no_address(folder, way):
    """An object without a UUID has none afterwards either; when the store works again, it is stored."""
    ana.set_dl()
    uuid = classes.A(1).make_uuid()
    ana.set_dl(pickle_dir=folder)
    obstacle = block(folder, uuid)
    obj = classes.A(1)
    for _ in range(2):
        with pytest.raises(ana.StoreError) as raised:
            getattr(obj, way)()
        assert isinstance(raised.value, OSError)
        assert obj.uuid is None
    obstacle.unlink()
    assert getattr(obj, way)() == uuid
    assert classes.states(folder) == [f"{uuid}.pkl.zst"]


def test_a_store_that_fails_for_a_given_uuid(folder):
    """Each pickling tries again, and raises; when the store works again, it is stored."""
    obj = classes.A(1)
    obj.make_uuid(uuid="5" * 8 + "-5555-4555-8555-" + "5" * 12)
    obstacle = block(folder, "55")
    for _ in range(2):
        for attempt in (lambda: pickle.dumps(obj), obj.ana_store):
            with pytest.raises(ana.StoreError):
                attempt()
    obstacle.unlink()
    assert pickle.loads(pickle.dumps(obj)) is obj
    assert len(classes.states(folder)) == 1


class Failing(dict):
    """A mapping that cannot be written to for a while."""

    full = False

    def __setitem__(self, key, value):
        if self.full:
            raise OSError(28, "No space left on device")
        super().__setitem__(key, value)


def test_a_mapping_that_fails():
    """Its own error; the object does not believe that it is stored, nor that it has an address."""
    mapping = Failing()
    ana.set_dl(ana.DictDataLayer(mapping))
    child, obj, given = classes.A("child"), classes.A(1), classes.A("given")
    child.make_uuid()
    given.make_uuid(uuid="given")
    mapping.full = True
    with pytest.raises(OSError, match="No space"):
        obj.make_uuid()
    assert obj.uuid is None
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            pickle.dumps(given)
    parent = classes.A([child, given])
    with pytest.raises(OSError, match="No space"):
        parent.make_uuid()
    assert parent.uuid is None
    mapping.full = False
    pickle.dumps([parent, given])
    parent.make_uuid()
    assert mapping.keys() == {child.uuid, parent.uuid, "given"}


FULL = """
import resource, signal, pickle, os, sys, ana; from support import classes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
layer = ana.set_dl(pickle_dir=sys.argv[1])
obj = classes.A(os.urandom(3_000_000))
given = classes.A(os.urandom(3_000_000))
given.make_uuid(uuid="given")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))
for attempt in (obj.make_uuid, obj.ana_store, lambda: pickle.dumps(given), given.ana_store):
    try:
        attempt()
    except ana.StoreError as error:
        print(error.errno, obj.uuid)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
def found():
    return sorted(name for _, _, names in os.walk(sys.argv[1]) for name in names if not name.endswith(".lock"))
print(found())
obj.make_uuid()
pickle.dumps(given)
print(len(found()))
"""


def test_a_write_that_is_cut_short(tmp_path):
    """Files may not grow beyond a limit: StoreError with the system's number, and no temporary file is left."""
    answer = classes.run(FULL, str(tmp_path / "s"), cwd=tmp_path).splitlines()
    assert answer == ["27 None"] * 4 + ["['ana.json']", "3"]


def test_a_folder_that_was_removed(folder):
    """A store that vanished: storing raises, and nothing is made in its place; one that is opened anew takes all."""
    obj = classes.A(1)
    uuid = obj.make_uuid()
    shutil.rmtree(folder)
    for store in (classes.A(2).make_uuid, obj.ana_store):
        with pytest.raises(ana.StoreError, match="has gone"):
            store()
    assert not folder.exists()
    ana.set_dl(pickle_dir=folder)
    obj.ana_store()
    ana.set_dl(pickle_dir=folder)
    assert classes.A.ana_load(uuid).x == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_folder_that_is_read_only(folder, tmp_path):
    """Another user without write permission: loading works, storing raises StoreError, no address is given."""
    obj = classes.A([1])
    uuid = obj.make_uuid()
    code = (
        "import sys, os, ana, ana.maintenance; from support import classes\n"
        "os.chdir('/'); os.setgid(65534); os.setuid(65534)\n"
        "ana.set_dl(pickle_dir=sys.argv[1])\n"
        "print(classes.A.ana_load(sys.argv[2]).x)\n"
        "obj = classes.A('new')\n"
        "try:\n"
        "    obj.make_uuid()\n"
        "except ana.StoreError as error:\n"
        "    print(error.errno, obj.uuid)\n"
    )
    open_to_all(folder)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    assert classes.run(code, str(folder), uuid, cwd=tmp_path) == "[1]\n13 None"


def open_to_all(folder):
    """Let every user read a folder, by the folders above it."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path.parts[1:2] == ("tmp",) and len(path.parts) > 2:
            path.chmod(path.stat().st_mode | 0o055)


def test_references_with_senseless_homes(folder):
    """A home that is no folder, a file, empty, or not even a path: deferred, like any place without the state."""
    from ana import reference

    for home in ("", "/nonexistent/x", "/etc/passwd", "relative", "nul\0byte", "x" * 10_000, "memory:", "http://x"):
        found = reference.load(classes.A, "unknown", home)
        with pytest.raises(ana.StateNotFoundError, match="unknown"):
            _ = found.x
        del found


def test_objects_that_change_after_they_were_addressed(folder):
    """A change after make_uuid is not stored: another process gets the content that the UUID names."""
    obj = classes.A("before")
    data = [obj.make_uuid(), pickle.dumps(obj)][1]
    obj.x = "after"
    pickle.dumps(obj)
    ana.set_dl(pickle_dir=folder)
    assert pickle.loads(data).x == "before"


def test_the_command_line_of_python_without_a_main_file(tmp_path):
    """`python -c`: classes of `__main__` have no file, and still travel."""
    code = (
        "import ana, pickle\n"
        "class Own(ana.Storable): pass\n"
        "own = Own(); own.x = 1; own.make_uuid()\n"
        "print(pickle.loads(pickle.dumps(own)) is own)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=classes.environment(), capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "True\n"
