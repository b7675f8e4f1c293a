"""Storable's default state, whatever the class looks like; and that unpickling calls nothing of it."""

import copy
import gc
import pickle
import weakref
from typing import NamedTuple

import pytest
from support import classes

import ana
from ana.objects import ghost


class NamedPair(NamedTuple):
    a: int


def again(obj):
    """Return another object made of the stored state of `obj`, as another process would have it."""
    obj.make_uuid()
    data = pickle.dumps(obj)
    mapping = ana.get_dl().store.mapping
    ana.set_dl(ana.DictDataLayer(mapping))
    found = pickle.loads(data)
    assert found is not obj
    assert found._ana_uuid == obj._ana_uuid
    return found


def copied(obj):
    """Return an ordinary copy, through a pickle without a UUID."""
    found = pickle.loads(pickle.dumps(obj))
    assert found is not obj
    assert found._ana_uuid is None
    return found


WAYS = pytest.mark.parametrize("way", [copied, again])


def test_the_readme_example():
    """Without a UUID a pickle is an ordinary copy; with one it is the very object."""
    a = classes.A(1)
    assert a.uuid is None
    b = pickle.loads(pickle.dumps(a))
    assert b is not a
    assert b.x == 1
    uuid = a.make_uuid()
    assert a.uuid == uuid == a.ana_uuid == a.make_uuid()
    assert pickle.loads(pickle.dumps(a)) is a
    assert a.ana_store() == uuid
    assert classes.A.ana_load(uuid) is a


@WAYS
def test_slots_come_back(way):
    """Slots given as a list, private ones and ones never set come back as they were."""
    found = way(classes.Slotted(1, [2]))
    assert found.shown == 1
    assert found.private() == [2]
    assert not hasattr(found, "never")
    assert not hasattr(found, "__dict__")


@WAYS
def test_slots_of_all_levels_and_a_dict_come_back(way):
    """The same private name on two levels means two attributes; `__dict__` is kept besides the slots."""
    found = way(classes.SlottedMore(1, 2))
    assert found.privates() == (2, ("more", 2))
    assert (found.shown, found.more, found.free) == (1, 1, 2)


@WAYS
def test_a_slotted_class_that_delegates_keeps_its_own_state(way):
    """`__getattr__` is not asked for a `__dict__`: what the inner object holds is not the outer one's state."""
    found = way(classes.SlottedProxy(classes.A(5)))
    assert found.inner.x == 5
    assert set(found._ana_getstate()) == {"inner"}


@WAYS
def test_getattr_that_recurses_is_not_called_on_an_empty_shell(way):
    """A class whose `__getattr__` needs a state to end comes back."""
    found = way(classes.Recursive(classes.A(5)))
    assert found.inner.x == found.x == 5


@WAYS
@pytest.mark.parametrize("cls", [classes.Frozen, classes.SlottedData, classes.FrozenSlotted])
def test_dataclasses_come_back(way, cls):
    """Frozen and slotted dataclasses come back, past their refusing `__setattr__`."""
    found = way(cls(1, ["b"]))
    assert (found.a, found.b) == (1, ["b"])


@WAYS
def test_a_field_named_uuid_is_the_classes_own(way):
    """A dataclass may have a required field `uuid`; ANA's is in `ana_uuid` then."""
    with pytest.raises(TypeError):
        classes.FieldUUID()
    obj = classes.FieldUUID("mine", 3)
    found = way(obj)
    assert (found.uuid, found.b) == ("mine", 3)
    assert obj.uuid == "mine"
    assert obj.ana_uuid != "mine"


@WAYS
def test_an_attribute_named_uuid_is_the_objects_own(way):
    """An object may have an attribute `uuid`; ANA's is in `ana_uuid` then."""
    found = way(classes.AttributeUUID("mine"))
    assert found.uuid == "mine"
    assert found.ana_uuid != "mine"


@WAYS
def test_properties_over_the_same_names(way):
    """What is in `__dict__` comes back as it is, past properties of the same names."""
    found = way(classes.Properties(4))
    assert found.fixed == 4
    assert found.doubled == 8


@WAYS
def test_names_that_are_no_strings(way):
    """What a program has put into `__dict__` comes back, as with pickle."""
    obj = classes.A(1)
    obj.__dict__[5] = "five"
    assert way(obj).__dict__ == {"x": 1, 5: "five"}


@WAYS
def test_own_state_methods_are_used(way):
    """`_ana_getstate` and `_ana_setstate` decide what is stored and what becomes of it."""
    found = way(classes.OwnState(7))
    assert (found.x, found.scratch) == (7, "own")


@WAYS
def test_neither_new_nor_init_is_called(way):
    """Unpickling makes the object past `__new__` and `__init__`, which may need arguments."""
    obj = classes.Strict(3)
    before = classes.Strict.calls
    assert way(obj).x == 3
    assert classes.Strict.calls == before


@WAYS
@pytest.mark.parametrize("cls", [classes.DictFirst, classes.DictLast, classes.OrderedFirst, classes.OrderedLast])
def test_dict_subclasses_keep_content_order_and_attributes(way, cls):
    """Either order of the bases: items in order, and attributes."""
    obj = cls(z=1, a=2)
    obj.note = "n"
    found = way(obj)
    assert list(found.items()) == [("z", 1), ("a", 2)]
    assert found.note == "n"
    assert type(found) is cls


@WAYS
@pytest.mark.parametrize("cls", [classes.ListFirst, classes.ListLast])
def test_list_subclasses_keep_content_and_attributes(way, cls):
    """Either order of the bases: items and attributes."""
    obj = cls([3, 1, 2])
    obj.note = "n"
    found = way(obj)
    assert list(found) == [3, 1, 2]
    assert found.note == "n"


@WAYS
@pytest.mark.parametrize("cls", [classes.SetFirst, classes.SetLast])
def test_set_subclasses_keep_content_and_attributes(way, cls):
    """Either order of the bases: members and attributes."""
    obj = cls([3, 1, 2])
    obj.note = "n"
    found = way(obj)
    assert found == {1, 2, 3}
    assert found.note == "n"


@WAYS
def test_content_is_taken_past_the_classes_own_methods(way):
    """A dict that does not show its items in iteration, and refuses to be filled, comes back whole."""
    obj = classes.Lying()
    dict.__setitem__(obj, "hidden", 1)
    assert dict(dict.items(way(obj))) == {"hidden": 1}


def test_a_container_that_holds_itself():
    """Dict and list subclasses that contain themselves come back so, with and without a UUID."""
    holder = classes.ListFirst()
    holder.append(holder)
    plain = pickle.loads(pickle.dumps(holder))
    assert plain[0] is plain
    found = again(holder)
    assert found[0] is found


WITH_CONTENT = {
    "deque": lambda: classes.Deque([1, 2]),
    "defaultdict": lambda: classes.DefaultDict(list, a=[1]),
    "partial": lambda: classes.Partial(print, 1),
    "array": lambda: classes.Numbers("i", [1]),
    "random": lambda: classes.Dice(7),
    "decimal": lambda: classes.Money("1.5"),
    "bytesio": lambda: classes.Buffer(b"x"),
    "str": lambda: classes.Text("x"),
    "frozenset": lambda: classes.Frozenset([1]),
    "exception": lambda: classes.BareMistake("no"),
}


@pytest.mark.parametrize("base", WITH_CONTENT)
@pytest.mark.parametrize("use", [ana.Storable.make_uuid, pickle.dumps])
def test_content_that_the_default_state_would_lose_is_refused(base, use):
    """Bases whose content ANA does not know: TypeError that says what to do, before anything is pickled."""
    obj = WITH_CONTENT[base]()
    if base == "random" and use is pickle.dumps:
        # Has a `__reduce__` in Python, which says all that there is.
        assert pickle.loads(use(obj)).random() == obj.random()
        return
    with pytest.raises(TypeError, match=r"use ana\.Ref"):
        use(obj)
    assert obj._ana_uuid is None
    assert not ana.get_dl().store.mapping


@WAYS
def test_such_bases_work_with_states_of_their_own(way):
    """Deques, defaultdicts and exceptions that define their states come back."""
    deque = way(classes.DequeWithState([1, 2]))
    assert list(deque) == [1, 2]
    default = way(classes.DefaultDictWithState(list, a=[1]))
    assert default == {"a": [1]}
    assert default["b"] == []
    mistake = way(classes.Mistake("bad", 3))
    assert mistake.args == ("bad", 3)
    assert str(mistake) == str(ValueError("bad", 3))


@pytest.mark.parametrize("base", [tuple, int, bytes, NamedPair])
def test_bases_without_weak_references_are_refused_with_their_class(base):
    """Classes whose objects can't be found again by UUID fail where they are defined, and the cure is named."""
    with pytest.raises(TypeError, match=r"ana\.Ref"):
        type("Refused", (ana.Storable, base), {})
    with pytest.raises(TypeError, match=r"ana\.Ref"):
        type("Refused", (base, ana.Storable), {})


@WAYS
def test_multiple_inheritance(way):
    """A Storable with slots, a foreign class without, and a dict below both."""
    found = way(classes.Both())
    assert (found.left, found.own, found.hello()) == (1, 2, "right")


@WAYS
@pytest.mark.parametrize(
    ("obj", "same"),
    [
        (classes.Mapping(a=1), lambda found: dict(found) == {"a": 1}),
        (classes.Mapping(), lambda found: dict(found) == {} and not found),
        (classes.Sequence([1, 2]), lambda found: list(found) == [1, 2]),
        (classes.MutableSet([1, 2]), lambda found: set(found) == {1, 2}),
        (classes.Caller(2), lambda found: found(3) == 5),
    ],
    ids=["mapping", "empty mapping", "sequence", "set", "callable"],
)
def test_abstract_bases(way, obj, same):
    """StorableABC goes with the classes of collections.abc; empty, so falsy, ones too."""
    obj._ana_uuid = None
    assert same(way(obj))


@pytest.mark.parametrize("cls", [classes.Falsy, classes.EqualNoHash, classes.Raising])
def test_objects_that_are_falsy_or_refuse_to_answer(cls):
    """Nobody asks an object whether it is true, what it equals or hashes to: identity holds."""
    obj = cls(3)
    parent = classes.A([obj, obj])
    obj.make_uuid()
    parent.make_uuid()
    assert pickle.loads(pickle.dumps(obj)) is obj
    assert cls.ana_load(obj.uuid) is obj
    data = pickle.dumps([obj, parent])
    mapping = ana.get_dl().store.mapping
    ana.set_dl(ana.DictDataLayer(mapping))
    other, parent = pickle.loads(data)
    assert other is not obj
    assert other.x == 3
    assert parent.x[0] is parent.x[1] is other


def test_registering_classes_hear_of_no_inner_subclass():
    """`__init_subclass__` and metaclasses are called for the user's own classes only."""
    names, made = list(classes.Registered.names), list(classes.Meta.made)
    assert names == ["RegisteredChild"]
    for cls in (classes.RegisteredChild, classes.WithMeta):
        obj = cls(1)
        obj.make_uuid()
        data = pickle.dumps(obj)
        del obj
        ana.get_dl().store.mapping.clear()
        missing = pickle.loads(data)
        with pytest.raises(ana.StateNotFoundError):
            _ = missing.x
        assert isinstance(missing, cls)
    assert classes.Registered.names == names
    assert classes.Meta.made == made


@WAYS
def test_a_metaclass_is_kept(way):
    """Classes of a metaclass come back as its instances."""
    found = way(classes.WithMeta(4))
    assert found.x == 4
    assert type(type(found)) is classes.Meta


def test_make_uuid_inside_init_gives_a_uuid_and_stores_the_finished_object():
    """A constructor may ask for the UUID: the content is what the object holds when it is first pickled."""
    obj = EarlyUUID(5)
    assert obj.seen == obj.uuid
    data = pickle.dumps(obj)
    mapping = ana.get_dl().store.mapping
    ana.set_dl(ana.DictDataLayer(mapping))
    assert pickle.loads(data).late == 5


class EarlyUUID(ana.Storable):
    def __init__(self, x):
        self.seen = self.make_uuid()
        self.late = x


def _plain():
    class Model(ana.Storable):
        pass

    return Model


def _slotted():
    class Model(ana.Storable):
        __slots__ = ("x",)

    return Model


def _content():
    class Model(dict, ana.Storable):
        pass

    return Model


def _fail():
    raise ana.StateNotFoundError("a", "here")


@pytest.mark.parametrize("how", ["state taken", "state missing", "copied", "stored"])
@pytest.mark.parametrize("make", [_plain, _slotted, _content])
def test_a_class_that_nobody_has_any_more_goes_away(tmp_path, make, how):
    """Nothing here holds the classes that a long-lived process sees: notebook cells, clients, jobs."""
    layer = ana.set_dl(pickle_dir=tmp_path / "s", keep_bytes=0)
    seen = []
    for number in range(3):
        cls = make()
        obj = cls()
        obj.x = number
        if how == "state missing":
            ghost.ghostify(obj, f"missing {number}", _fail)
            assert "not loaded" in repr(obj)
        elif how == "stored":
            obj.make_uuid()
        elif how == "copied":
            copy.copy(obj)
        else:
            obj._ana_setstate(obj._ana_getstate())
        seen.append(weakref.ref(cls))
        del cls, obj
    layer.live.forget_kept()
    gc.collect()
    assert [ref() for ref in seen] == [None] * 3


def test_the_ghost_class_of_a_class_is_one(tmp_path):
    """As long as anybody has an object of it."""
    one, two = classes.A(1), classes.A(2)
    for obj in (one, two):
        ghost.ghostify(obj, f"missing {obj.x}", _fail)
    assert type(one) is type(two)
