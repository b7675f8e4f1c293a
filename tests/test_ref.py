"""`ana.Ref`: any value by reference, without a base class, loaded at its first use."""

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import threading
from functools import cached_property
from typing import TypeVar

import pytest
from support import classes

import ana
from ana import maintenance

Value = TypeVar("Value")


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    return tmp_path / "s"


VALUES = [
    None,
    False,
    0,
    "",
    "text",
    [1, [2]],
    {"k": (1, 2)},
    {1, 2},
    b"\0" * 10_000,
    2.5,
    int,
    classes.A,
    ...,
    NotImplemented,
    range(3),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_value(folder, value):
    """Every picklable value travels, None and falsy ones too."""
    data = pickle.dumps(ana.Ref(value))
    gc.collect()
    ana.set_dl(pickle_dir=folder)
    ref = pickle.loads(data)
    assert ref.value == value
    assert ref.value is ref.value


def test_an_array_travels_by_reference(folder):
    """A numpy array comes back equal, from a reference of a few bytes."""
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    array = numpy.arange(100_000, dtype="f8").reshape(100, 1000)
    data = pickle.dumps(ana.Ref(array))
    assert len(data) < 200 + len(str(folder))
    ana.set_dl(pickle_dir=folder)
    assert numpy.array_equal(pickle.loads(data).value, array)


def test_nothing_is_read_before_the_value_is_asked_for(folder):
    """Unpickling, copying, comparing, printing and passing on a Ref need no store; `.value` does."""
    data = pickle.dumps(ana.Ref([1, 2]))
    (file,) = folder.rglob("*.pkl.zst")
    raw = file.read_bytes()
    file.unlink()
    ana.set_dl(pickle_dir=folder, errors="raise")
    ref = pickle.loads(data)
    assert copy.copy(ref) is copy.deepcopy(ref) is pickle.loads(data) is ref
    assert pickle.dumps(ref) == data
    assert repr(ref) == f"<ana.Ref {ref.uuid[:8]}, not loaded>"
    assert ref == ref  # noqa: PLR0124 - comparing is what is tested
    assert len({ref, ref}) == 1
    with pytest.raises(ana.StateNotFoundError):
        _ = ref.value
    file.write_bytes(raw)
    assert ref.value == [1, 2]


def test_making_a_ref_stores_nothing(folder):
    """Only pickling it, or asking for its UUID, does."""
    ref = ana.Ref([1])
    assert ref.uuid is None
    assert classes.states(folder) == []
    uuid = ref.make_uuid()
    assert classes.states(folder) == [f"{uuid}.pkl.zst"]


def test_identity(folder):
    """One Ref per UUID, one value per Ref, in the process that made it and in others."""
    ref = ana.Ref([1])
    data = pickle.dumps(ref)
    assert pickle.loads(data) is ref
    assert ana.Ref([1]).make_uuid() == ref.uuid
    ana.set_dl(pickle_dir=folder)
    first, second = pickle.loads(data), pickle.loads(data)
    assert first is second
    assert ana.Ref.ana_load(ref.uuid).value is first.value


def test_type_arguments():
    """`Ref[int]` is for type checkers, and makes ordinary Refs."""
    ref = ana.Ref[int](5)
    assert ref.value + 1 == 6
    assert pickle.loads(pickle.dumps(ref)) is ref


def test_a_given_uuid(folder):
    """A Ref may have a given UUID."""
    ref = ana.Ref("v")
    assert ref.make_uuid(uuid="mine") == "mine"
    data = pickle.dumps(ref)
    ana.set_dl(pickle_dir=folder)
    assert pickle.loads(data).value == "v"


def test_a_value_that_cannot_be_pickled(folder):
    """The ordinary error; the Ref has no UUID then, and nothing was stored."""
    ref = ana.Ref(threading.Lock())
    with pytest.raises(TypeError, match="lock"):
        pickle.dumps(ref)
    assert ref.uuid is None
    assert classes.tree(folder).keys() == {"ana.json"}


def test_inside_of_other_objects(folder):
    """In a Storable's state an addressed Ref stays lazy; in another Ref's value too."""
    inner = ana.Ref([1])
    uuid = inner.make_uuid()
    outer = classes.A(ana.Ref({"inner": inner}))
    outer.x.make_uuid()
    data = pickle.dumps([outer, outer.make_uuid()])
    ana.set_dl(pickle_dir=folder)
    file = classes.file_of(folder, uuid)
    raw = file.read_bytes()
    file.unlink()
    found = pickle.loads(data)[0].x.value["inner"]
    with pytest.raises(ana.StateNotFoundError):
        _ = found.value
    file.write_bytes(raw)
    assert found.value == [1]


def test_a_ref_inside_of_an_object_in_a_process_that_nobody_configured(folder, tmp_path):
    """A lazy Ref that came with a stored state is loaded from the store that the state came from."""
    inner = ana.Ref([1, 2, 3])
    inner.make_uuid()
    outer = classes.A(inner)
    outer.make_uuid()
    (tmp_path / "handed").write_bytes(pickle.dumps(outer))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).x.value)"
    assert classes.run(code, str(tmp_path / "handed"), cwd=tmp_path) == "[1, 2, 3]"


@pytest.mark.parametrize("other", ["memory", "another folder", "environment"])
def test_a_ref_inside_of_an_object_where_another_layer_is_set(folder, tmp_path, monkeypatch, other):
    """It is looked for where the state came from that held it; what it pickles into says so, too."""
    inner = ana.Ref([1, 2, 3])
    inner.make_uuid()
    outer = classes.A(inner)
    data = [outer.make_uuid(), pickle.dumps(outer)][1]
    expected = pickle.dumps(inner)
    # While they are alive they are what is found.
    del inner, outer
    gc.collect()
    if other == "environment":
        monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "other"))
    ana.set_dl(**({"pickle_dir": tmp_path / "other"} if other == "another folder" else {}))
    found = pickle.loads(data).x
    assert pickle.dumps(found) == expected
    assert found.value == [1, 2, 3]


def test_a_damaged_value(folder):
    """Raises what is wrong with it at each use, and heals when it is stored again."""
    ref = ana.Ref(list(range(100)))
    data = pickle.dumps(ref)
    classes.damage(classes.file_of(folder, ref.uuid))
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data)
    for _ in range(2):
        with pytest.raises(ana.CorruptedStateError, match=ref.uuid):
            _ = found.value
    ref.ana_store()
    assert found.value == list(range(100))


def test_many_threads_ask_for_one_value(folder):
    """All get the same one."""
    data = pickle.dumps(ana.Ref([1] * 1000))
    gc.collect()
    ana.set_dl(pickle_dir=folder)
    ref = pickle.loads(data)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        values = list(pool.map(lambda _: ref.value, range(64)))
    assert {id(value) for value in values} == {id(ref.value)}


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_in_pools(folder, method):
    """Workers get the value, and hand the Ref back as the object that was sent."""
    ref = ana.Ref({"k": 1})
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(classes.value_of_ref, ref).result(60) == {"k": 1}
        assert pool.submit(classes.back, ref).result(60) is ref


def test_a_ref_inside_of_an_object_is_a_reference_without_being_asked(folder):
    """A Ref that never got a UUID is not part of the state that holds it: it is stored for itself, and stays lazy."""
    inner = ana.Ref(list(range(100_000)))
    outer = classes.A(inner)
    uuid = outer.make_uuid()
    assert inner.uuid is not None
    assert classes.file_of(folder, uuid).stat().st_size < 1000
    del inner, outer
    ana.set_dl(pickle_dir=folder)
    found = classes.A.ana_load(uuid)
    assert "not loaded" in repr(found.x)
    assert found.x.value == list(range(100_000))


class Reluctant:
    """Counts how often it is pickled."""

    pickled = 0

    def __reduce__(self):
        type(self).pickled += 1
        return Reluctant, ()


class NoRepr(list):
    """Anything but its own repr, which would be as large as the content."""

    def __repr__(self):
        raise AssertionError


class Refuses:
    """Answers no question at all."""

    def __repr__(self):
        raise ValueError("no repr")

    def __getattr__(self, name):
        raise ValueError("no attributes")

    def __len__(self):
        raise ValueError("no length")


def test_repr_says_what_kind_of_value_it_is(folder):
    """Type, shape and dtype or length, size, the UUID's first eight characters; never the value's own repr."""
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    ref = ana.Ref(numpy.zeros((1000, 3)))
    assert repr(ref) == "<ana.Ref: ndarray, shape (1000, 3), float64, 24,000 bytes>"
    uuid = ref.make_uuid()
    assert repr(ref) == f"<ana.Ref {uuid[:8]}: ndarray, shape (1000, 3), float64, 24,000 bytes>"
    assert repr(ana.Ref(NoRepr([1, 2]))) == "<ana.Ref: NoRepr, length 2>"
    assert repr(ana.Ref(3)) == "<ana.Ref: int>"
    wide = repr(ana.Ref(numpy.zeros(1, [(f"field {n}", "f8") for n in range(1000)])))
    assert len(wide) < 200


def test_repr_never_raises(folder):
    """Whatever the value says or the UUID looks like; of an empty Ref, a missing or circular value, too."""
    assert repr(ana.Ref(Refuses())) == "<ana.Ref: Refuses>"
    assert repr(ana.Ref.__new__(ana.Ref)) == "<ana.Ref, not loaded>"
    ref = ana.Ref(None)
    ref.make_uuid("a\n\ud800 and more")
    assert repr(ref) == "<ana.Ref a\\n\\ud800 and : NoneType>"
    ref = ana.Ref(None)
    ref._value = ref
    assert repr(ref) == "<ana.Ref: Ref>"
    obj = classes.A([1])
    obj.make_uuid()
    reference = pickle.dumps(obj)
    classes.file_of(folder, obj.uuid).unlink()
    ana.set_dl(pickle_dir=folder)
    assert repr(ana.Ref(pickle.loads(reference))) == "<ana.Ref: A, not loaded>"


@pytest.mark.parametrize("late", ["lazy", "healed"])
def test_what_was_loaded_late_keeps_the_address_of_its_content(tmp_path, late):
    """Another layer that has the state believes its address, after one look, as of any other object."""
    make = ana.Ref if late == "lazy" else classes.A
    for name in ("second", "first"):
        layer = ana.set_dl(pickle_dir=tmp_path / name, strict=True)
        obj = make(Reluctant())
        data = [obj.make_uuid(), pickle.dumps(obj)][1]
        path = layer.store.path(obj.uuid)
        del obj
    ana.set_dl(pickle_dir=tmp_path / "first")
    os.rename(path, f"{path}.away")
    found = pickle.loads(data)
    os.rename(f"{path}.away", path)
    assert isinstance(found.value if late == "lazy" else found.x, Reluctant)
    ana.set_dl(pickle_dir=tmp_path / "second", strict=True)
    Reluctant.pickled = 0
    pickle.dumps(found)
    assert Reluctant.pickled == 0


class WithUnit(ana.Ref):
    """Holds more than a value."""

    def __init__(self, value, unit):
        super().__init__(value)
        self.unit = unit


class WithSlot(ana.Ref):
    """In a slot."""

    __slots__ = ("unit",)

    def __init__(self, value, unit):
        super().__init__(value)
        self.unit = unit


class WithHook(ana.Ref):
    """Says what its state is, to pickle only."""

    def __init__(self, value, _unit):
        super().__init__(value)

    def __getstate__(self):
        return self._value


class WithState(WithUnit):
    """Says what its state is."""

    def _ana_getstate(self):
        return super()._ana_getstate(), self.unit

    def _ana_setstate(self, s):
        self._value, self.unit = s


class OfNumbers(ana.Ref[Value]):
    """Adds methods only."""

    @cached_property
    def total(self):
        return sum(self.value)


DO = [copy.copy, copy.deepcopy, pickle.dumps, lambda ref: ref.make_uuid(), lambda ref: pickle.dumps(ana.Ref([ref]))]


@pytest.mark.parametrize("do", DO, ids=["copy", "deepcopy", "dumps", "make_uuid", "within"])
@pytest.mark.parametrize("cls", [WithUnit, WithSlot, WithHook])
def test_a_ref_that_holds_more_than_its_value_is_refused(folder, cls, do):
    """Its state is the value, so the rest would be lost; the message says what, and the cure."""
    ref = cls([1], "m")
    with pytest.raises(TypeError, match=r"(unit|__getstate__) would be lost: derive from ana\.Storable"):
        do(ref)
    assert (ref.uuid, classes.states(folder)) == (None, [])


def test_a_ref_of_a_class_that_says_its_state(folder):
    """It comes back whole, copied and stored."""
    ref = WithState([1], "m")
    assert copy.deepcopy(ref).unit == "m"
    data = pickle.dumps(ref)
    del ref
    gc.collect()
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data)
    assert (found.value, found.unit) == ([1], "m")


def test_a_ref_of_a_class_that_adds_methods(folder):
    """The parameter of a generic class and cached properties are not part of its state."""
    ref, other = OfNumbers[int]([1, 2]), OfNumbers([1, 2])
    assert ref.total == 3
    assert copy.deepcopy(ref).value == [1, 2]
    data = pickle.dumps(ref)
    assert ref.uuid == other.make_uuid()
    del ref, other
    gc.collect()
    ana.set_dl(pickle_dir=folder)
    assert pickle.loads(data).total == 3


def test_its_header_says_what_the_value_is(folder):
    """Type, shape and dtype, or type and length: what `ana ls` shows."""
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    told = {
        "ndarray (2, 3) float32": numpy.zeros((2, 3), "f4"),
        "ndarray (0,) int64": numpy.zeros(0, "i8"),
        "float64": numpy.float64(1),
        "list of 2,000": [0] * 2000,
        "dict of 1": {"k": 1},
        "bytes of 3": b"abc",
        "int": 7,
        "NoneType": None,
    }
    found = {state.uuid: state.summary for state in maintenance.ls(str(folder))}
    assert found == {}
    uuids = {ana.Ref(value).make_uuid(): name for name, value in told.items()}
    assert {state.uuid: state.summary for state in maintenance.ls(str(folder))} == uuids


class Strange:
    """A value that must not be asked: its length takes an hour, and its shape is an error."""

    def __len__(self):
        raise AssertionError

    @property
    def shape(self):
        raise ArithmeticError


def test_a_value_is_not_asked_for_what_may_cost(folder):
    """Only built-in types are asked for their length, and no error in a value's own code keeps it from the store."""
    uuid = ana.Ref(Strange()).make_uuid()
    assert maintenance.show(str(folder), uuid).summary == "Strange"


class Told(ana.Storable):
    """A class that says something about its objects."""

    def __init__(self, cells):
        self.cells = cells

    def _ana_summary(self):
        return f"{self.cells:,} cells"


def test_a_class_may_say_something_about_its_objects(folder):
    """Beside its name, in lists."""
    uuid = Told(1000).make_uuid()
    assert maintenance.show(str(folder), uuid).summary == "1,000 cells"
