"""What a class tells pickle (`__getstate__`, `__reduce__`, copyreg ...) is honoured, or the class is refused."""

import collections
import contextlib
import copy
import copyreg
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import ipaddress
import os
import pickle
import sys
import threading
import typing
import uuid

import pytest
from support import classes, processes

import ana
from ana.objects import states


def stored(obj):
    """Return the object as another process gets it: from the store, by its reference."""
    obj.make_uuid()
    data = pickle.dumps(obj)
    assert len(data) < 500
    ana.set_dl(ana.DictDataLayer(ana.get_dl().store.mapping))
    found = pickle.loads(data)
    assert found is not obj
    return found


def by_value(obj):
    """Return a copy through a pickle without a UUID."""
    return pickle.loads(pickle.dumps(obj))


def inside(obj):
    """Return the object as it comes back inside the state of another one."""
    return stored(classes.A([obj])).x[0]


def deep(obj):
    """Return a deep copy."""
    return copy.deepcopy(obj)


WAYS = pytest.mark.parametrize("way", [stored, by_value, inside, deep, copy.copy])


@pytest.fixture(autouse=True)
def _layer():
    ana.set_dl(ana.DictDataLayer({}))


class Client:
    """Drops its lock, and makes it anew."""

    def __init__(self, url):
        self.url = url
        self.lock = threading.Lock()

    def __getstate__(self):
        return {"url": self.url}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.lock = threading.Lock()


class ClientFirst(Client, ana.Storable):
    pass


class ClientLast(ana.Storable, Client):
    pass


class ClientList(list, Client, ana.Storable):
    def __init__(self, url):
        Client.__init__(self, url)
        self.append(url)


@WAYS
@pytest.mark.parametrize("cls", [ClientFirst, ClientLast, ClientList])
def test_getstate_and_setstate(way, cls):
    """What `__getstate__` leaves out, `__setstate__` makes anew; a built-in base keeps its content."""
    found = way(cls("x"))
    assert found.url == "x"
    assert found.lock.acquire(blocking=False)
    assert not isinstance(found, list) or list(found) == ["x"]


class Cached(ana.Storable):
    """`__getstate__` alone: the hash depends on the process."""

    def __init__(self, name):
        self.name = name
        self.cache = "stale"

    def __getstate__(self):
        return {"name": self.name, "cache": None}


class Falsy(ana.Storable):
    """A state that is falsy, but not None, reaches `__setstate__`."""

    def __getstate__(self):
        return 0

    def __setstate__(self, state):
        self.got = state


class Nothing(ana.Storable):
    """No state: `__setstate__` is not called, as pickle has it."""

    def __getstate__(self):
        return None

    def __setstate__(self, state):
        raise AssertionError


class Pair(ana.Storable):
    """Slots and a dict, in the pair that pickle knows; a property of the same name as a slot takes the value."""

    __slots__ = ("__dict__", "hidden", "left")

    def __init__(self, left, right):
        self.left = left
        self.right = right
        self.hidden = "left out"

    def __getstate__(self):
        return {"right": self.right}, {"left": self.left}


class OnlySetstate(ana.Storable):
    """`__setstate__` alone gets what pickle would give it."""

    __slots__ = ("__dict__", "left")

    def __setstate__(self, state):
        self.got = state


@WAYS
def test_states_of_every_kind(way):
    """A dict, a falsy one, None, a pair for the slots, pickle's own form."""
    found = way(Cached("n"))
    assert (found.name, found.cache) == ("n", None)
    assert way(Falsy()).got == 0
    assert vars(way(Nothing())) == {}
    found = way(Pair(1, 2))
    assert (found.left, found.right, hasattr(found, "hidden")) == (1, 2, False)
    obj = OnlySetstate()
    obj.left, obj.right = 1, 2
    assert way(obj).got == ({"right": 2}, {"left": 1})


class Unfit(ana.Storable):
    def __getstate__(self):
        return (1, 2, 3)


@WAYS
def test_a_state_that_nothing_could_take_is_refused(way):
    """Before it is stored, not when it is loaded."""
    with pytest.raises(TypeError, match=r"Unfit.__getstate__ returns a tuple.*__setstate__.*ana\.Ref"):
        way(Unfit())


class Old(ana.Storable):
    """Was stored when its hooks were not asked: by its attributes."""

    def __init__(self):
        self.x = 1

    def __getstate__(self):
        return (self.x,)

    def __setstate__(self, state):
        (self.x,) = state


def test_what_was_stored_by_attributes_loads():
    """States of a version that did not ask `__getstate__`."""
    mapping = ana.get_dl().store.mapping
    hooks = Old.__getstate__, Old.__setstate__
    del Old.__getstate__, Old.__setstate__
    states._plans.clear()
    obj = Old()
    uuid = obj.ana_store()
    Old.__getstate__, Old.__setstate__ = hooks
    states._plans.clear()
    ana.set_dl(ana.DictDataLayer(mapping))
    assert Old.ana_load(uuid).x == 1


class OwnSays(ana.Storable):
    """Defines ANA's own: pickle's are not asked."""

    def __init__(self, x):
        self.x = x

    def _ana_getstate(self):
        return {"x": self.x}

    def __getstate__(self):
        raise AssertionError

    def __getnewargs__(self):
        raise AssertionError


@WAYS
def test_ana_getstate_goes_before_all_of_pickles(way):
    """A class that defines it is asked nothing else."""
    assert way(OwnSays(3)).x == 3


class Task:
    """A base that rebuilds itself by its arguments."""

    def __init__(self, x):
        self.x = x
        self.derived = ("derived", x)

    def __reduce__(self):
        return type(self), (self.x,)


class TaskFirst(Task, ana.Storable):
    pass


class TaskLast(ana.Storable, Task):
    pass


class Tree(ana.Storable):
    """Rebuilds itself with a state, items and pairs; the items know it."""

    def __init__(self, name):
        self.name = name
        self.items, self.pairs = [], {}

    def append(self, item):
        self.items.append(item)

    def __setitem__(self, key, value):
        self.pairs[key] = value

    def __reduce__(self):
        return Tree, (self.name,), {"extra": [self]}, iter(self.items), iter(self.pairs.items())


class Address(ipaddress.IPv4Address, ana.Storable):
    __slots__ = ()


class Identifier(ana.Storable, uuid.UUID):
    """The standard library's class, with slots, `__getstate__`, and a `__setattr__` that refuses."""

    __slots__ = ()


@WAYS
@pytest.mark.parametrize("cls", [TaskFirst, TaskLast])
def test_reduce_by_arguments(way, cls):
    """`__reduce__` of a base, before ours or behind: `__init__` gets its arguments again."""
    found = way(cls(list(range(1000))))
    assert found.derived == ("derived", list(range(1000)))
    assert type(found) is cls


@WAYS
def test_reduce_with_state_items_and_pairs(way):
    """All five parts of a reduction, and the object itself among them."""
    obj = Tree("t")
    obj.append(1)
    obj["k"] = 2
    found = way(obj)
    assert (found.name, found.items, found.pairs) == ("t", [1], {"k": 2})
    assert found.extra[0] is (obj if way is copy.copy else found)
    assert way(Address("10.0.0.1")) == Address("10.0.0.1")
    assert way(Identifier(int=5)) == Identifier(int=5)


class Count(collections.Counter, ana.Storable):
    pass


@WAYS
def test_counters_keep_counts_and_attributes(way):
    """Counter's own `__reduce__` says no more than ANA does."""
    obj = Count("aab")
    obj.name = "letters"
    found = way(obj)
    assert (found, found.name) == (Count("aab"), "letters")


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen(ana.Storable):
    a: int
    b: list


def test_a_frozen_slotted_dataclass_has_the_address_that_it_always_had():
    """Its generated hooks say what the attributes say."""
    assert Frozen(1, ["b"]).make_uuid() == FROZEN_UUID
    assert stored(Frozen(1, ["b"])) == Frozen(1, ["b"])


FROZEN_UUID = "c1d20837-d709-85e2-955d-db7822b74519"


class Phase(ana.Storable, enum.Enum):
    SOLID = 1
    LIQUID = ("a", "list")


class Access(ana.Storable, enum.Flag):
    READ = 1
    WRITE = 2


class Tone(ana.Storable, str, enum.Enum):  # noqa: UP042 - a mixin is what is tested
    LOW = "low"


MEMBERS = [Phase.SOLID, Phase.LIQUID, Access.READ, Access.READ | Access.WRITE, Tone.LOW]


@pytest.mark.parametrize("member", MEMBERS)
def test_members_of_an_enum_stay_members(tmp_path, member):
    """With a UUID and without, copied, inside of states, loaded by their UUID."""
    assert by_value(member) is deep(member) is copy.copy(member) is inside(member) is member
    uuid = member.make_uuid()
    assert by_value(member) is inside(member) is member
    ana.set_dl(pickle_dir=tmp_path)
    assert member.ana_store() == uuid
    code = (
        f"import ana, test_hooks as t; m = t.MEMBERS[{MEMBERS.index(member)}]; print(type(m).ana_load({uuid!r}) is m)"
    )
    env = processes.environment(ANA_PICKLE_DIR=str(tmp_path))
    env["PYTHONPATH"] += os.pathsep + os.path.dirname(__file__)
    assert processes.run_program(code, env=env) == "True\n"


class Cooperative(ana.Storable):
    """Asks ANA for its reduction, and looks at it."""

    asked = 0

    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        type(self).asked += 1
        return super().__reduce__()


class CooperativeOnlyEx(ana.Storable):
    asked = 0

    def __init__(self, x):
        self.x = x

    def __reduce_ex__(self, protocol):
        type(self).asked += 1
        return super().__reduce_ex__(protocol)


class CooperativeEx(Cooperative):
    def __reduce_ex__(self, protocol):
        type(self).asked += 1
        return super().__reduce_ex__(protocol)


@WAYS
@pytest.mark.parametrize("cls", [Cooperative, CooperativeOnlyEx, CooperativeEx])
def test_a_reduction_that_calls_ours_is_called(way, cls):
    """As in a class that counts how often it is pickled."""
    cls.asked = 0
    assert way(cls([1])).x == [1]
    assert cls.asked


def rebuild(x):
    """Make a Factory."""
    return Factory(x)


class Factory(ana.Storable):
    """Only a function can make it."""

    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return rebuild, (self.x,)


class OwnNew(ana.Storable):
    """Its `__new__` wants an argument, which pickle asks for."""

    def __new__(cls, x):
        made = super().__new__(cls)
        made.made_with = x
        return made

    def __init__(self, x):
        self.x = x

    def __getnewargs__(self):
        return (self.x,)


class OwnNewEx(OwnNew):
    def __new__(cls, *, x):
        return super().__new__(cls, x)

    def __init__(self, *, x):
        self.x = x

    def __getnewargs_ex__(self):
        return (), {"x": self.x}


class ReduceEx:
    """A base that pickle asks before ANA."""

    def __init__(self, x):
        self.x = x

    def __reduce_ex__(self, protocol):
        return type(self), (self.x,)


class ReduceExFirst(ReduceEx, ana.Storable):
    pass


class Registered(ana.Storable):
    def __init__(self, x):
        self.x = x


class Global(ana.Storable):
    """Is pickled by its name."""

    x = 3

    def __reduce__(self):
        return "THE_ONE"


THE_ONE = Global()


@pytest.fixture
def registered():
    """Have copyreg know a reduction of Registered."""
    copyreg.pickle(Registered, lambda obj: (Registered, (obj.x,)))
    yield
    del copyreg.dispatch_table[Registered]


REFUSED = {
    "factory": lambda: Factory(3),
    "new": lambda: OwnNew(3),
    "new ex": lambda: OwnNewEx(x=3),
    "reduce_ex": lambda: ReduceExFirst(3),
    "copyreg": lambda: Registered(3),
    "global": lambda: THE_ONE,
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("registered")
def test_what_cannot_be_filled_later_is_refused_with_the_cure(kind):
    """When it is stored, under an address or a given UUID; as a value it is what plain pickle makes of it."""
    obj = REFUSED[kind]()
    for way in (by_value, deep, copy.copy):
        found = way(obj)
        assert (found.x, type(found)) == (3, type(obj))
        assert getattr(found, "made_with", 3) == 3
    with pytest.raises(TypeError, match=r"(?i)ana\.Ref\(value\)"):
        obj.make_uuid()
    assert obj.uuid is None
    if kind in ("reduce_ex", "copyreg"):
        with pytest.raises(TypeError, match=r"ana\.Ref\(value\)"):
            obj.make_uuid("given")
    assert stored(ana.Ref(obj)).value.x == 3
    assert inside(obj).x == 3


class WithState:
    """Says what its state is, as ANA's own message used to advise."""

    def _ana_getstate(self):
        return {"unit": "m"}

    def _ana_setstate(self, state):
        self.unit = state["unit"]


class Length(WithState, ana.Storable, float):
    pass


class Name(WithState, ana.Storable, str):  # noqa: SLOT000 - as users have it
    pass


class Labels(WithState, ana.Storable, frozenset):
    pass


class Impedance(WithState, ana.Storable, complex):
    pass


class Price(WithState, ana.Storable, decimal.Decimal):
    pass


class Day(WithState, ana.Storable, dt.datetime):
    pass


class Span(WithState, ana.Storable, dt.timedelta):
    pass


VALUES = [Length(3.5), Name("abc"), Labels("ab"), Impedance(1j), Price("1.5"), Day(2020, 1, 1), Span(3)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("way", [stored, by_value, inside])
def test_values_of_immutable_types_are_refused(way, value):
    """An object that exists already cannot become another float; states of the class's own making do not help."""
    with pytest.raises(TypeError, match=rf"{type(value).__name__} derives from .*exists already: use ana\.Ref"):
        way(value)


def test_arrays_are_refused():
    """No array can be made without a shape."""
    numpy = pytest.importorskip("numpy", reason="pip install numpy")

    class Field(WithState, ana.Storable, numpy.ndarray):
        pass

    with pytest.raises(TypeError, match=r"Field derives from ndarray.*use ana\.Ref"):
        numpy.arange(3.0).view(Field).make_uuid()


def test_attrs_classes_are_asked(tmp_path):
    """Slotted ones drop their cached hash by a `__getstate__` of attrs' own."""
    attrs = pytest.importorskip("attrs", reason="pip install attrs")
    made = attrs.make_class("Point", ["x"], (ana.Storable,), slots=True, frozen=True, cache_hash=True)
    obj = made(1)
    hash(obj)
    state = obj._ana_getstate()
    found = made.__new__(made)
    found._ana_setstate(state)
    assert (found, hash(found)) == (obj, hash(obj))
    assert not state.state.get("_attrs_cached_hash")


class Copies:
    def __init__(self):
        self.copies = 0

    def __copy__(self):
        made = type(self)()
        made.copies = self.copies + 1
        return made

    def __deepcopy__(self, memo):
        made = type(self)()
        made.copies = self.copies + 10
        return made


class CopiesFirst(Copies, ana.Storable):
    pass


class CopiesLast(ana.Storable, Copies):
    pass


@pytest.mark.parametrize("cls", [CopiesFirst, CopiesLast])
def test_copy_and_deepcopy_of_a_base(cls):
    """Are asked, wherever the base stands."""
    assert (copy.copy(cls()).copies, deep(cls()).copies) == (1, 10)


def test_literals_show_the_attributes():
    """Whatever pickle is told."""
    (shown,) = Cached("n").to_literal()["objects"].values()
    assert shown["object"] == {"name": "n", "cache": "stale"}


class Small(ana.Storable):
    def __init__(self, n):
        self.name, self.value = n, 2 * n


def test_small_objects_are_pickled_as_plain_ones():
    """Without a UUID, by pickle's own opcodes: no call of ours when they are loaded, and keys that are shared."""
    data = pickle.dumps([Small(n) for n in range(10)], 5)
    assert b"ana.reference" not in data
    assert [vars(found) for found in pickle.loads(data)] == [{"name": n, "value": 2 * n} for n in range(10)]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(Small(1), protocol)).value == 2


def test_small_objects_inside_of_states_share_their_keys():
    """What comes back takes no more memory than what was stored."""
    for n in range(50):
        Small(n)  # Python gives the first ones room for more attributes.
    found = stored(classes.A([Small(n) for n in range(10)])).x
    sizes = {sys.getsizeof(vars(one)) for one in found}
    assert sizes == {sys.getsizeof(vars(Small(1)))}


class Resource(ana.Storable):
    """Its destructor wants what a state brings."""

    closed: typing.ClassVar = []

    def __init__(self, handle):
        self.handle = handle

    def __setstate__(self, state):
        if state["handle"] == "bad":
            raise ValueError("bad handle")
        self.__dict__.update(state)

    def __del__(self):
        self.closed.append(self.handle)


@pytest.mark.parametrize("trouble", ["missing", "damaged", "refused"])
def test_the_destructor_of_an_object_that_never_had_its_state_is_not_called(tmp_path, trouble):
    """One that waits for it, or whose load failed; that of one that was loaded is."""
    layer = ana.set_dl(pickle_dir=tmp_path, keep_bytes=0)
    obj = Resource("bad" if trouble == "refused" else "good")
    uuid = obj.make_uuid()
    data = pickle.dumps(obj)
    del obj
    layer.live.forget_kept()
    gc.collect()
    file = classes.file_of(tmp_path, uuid)
    if trouble == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    elif trouble == "missing":
        file.unlink()
    Resource.closed.clear()
    for act in (lambda: pickle.loads(data), lambda: Resource.ana_load(uuid)):
        with contextlib.suppress(ana.ANAError):
            act()
        gc.collect()
    assert Resource.closed == []


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_lazy_ref_loads_nothing(tmp_path, way):
    """It is the Ref itself where it has a UUID, loaded or not; without one, a Ref of the value or of a copy of it."""
    ana.set_dl(pickle_dir=tmp_path)
    ref = ana.Ref([[1]])
    copied = way(ref)
    assert copied is not ref
    assert copied.value == [[1]]
    assert (copied.value is ref.value) == (way is copy.copy)
    data = pickle.dumps(ref)
    ana.set_dl(pickle_dir=tmp_path)
    lazy = pickle.loads(data)
    assert way(lazy) is lazy
    assert way([lazy])[0] is lazy
    assert "not loaded" in repr(lazy)
