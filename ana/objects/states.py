"""What the state of an object is, and how it is restored: its attributes, or what its class tells pickle.

Plain pickle makes an object once its state is there. ANA makes the object first, because other states may refer to it.
So pickle's hooks are applied in place, and a class for which that is impossible is refused.
"""

import copy
import copyreg
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ana.objects import attributes, ghost

__all__ = [
    "Plan",
    "check",
    "copied",
    "hooked",
    "newly",
    "plan_of",
    "restore",
    "theirs",
]

CONTENT: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    dict: (lambda obj: dict(dict.items(obj)), dict.update),
    OrderedDict: (lambda obj: list(OrderedDict.items(obj)), OrderedDict.update),
    list: (lambda obj: list(list.__iter__(obj)), list.extend),
    set: (lambda obj: list(set.__iter__(obj)), set.update),
}
"""How the content of a built-in base is read and restored, bypassing the class's own methods."""

_OURS = "ana.storable"
_ANAS = frozenset({"_ana_getstate", "_ana_setstate"})
_AS_ATTRIBUTES = frozenset({"collections", "dataclasses"})
"""Modules whose hooks add nothing to attributes and content: those of Counter and of frozen slotted dataclasses."""
_REF = "use ana.Ref(value)"
_CURES = f"define _ana_getstate and _ana_setstate, or {_REF}"

_COPYREG: Any = copyreg
_NEWOBJ = _COPYREG.__newobj__
_NEWOBJ_EX = _COPYREG.__newobj_ex__
_RECONSTRUCTOR = _COPYREG._reconstructor  # noqa: SLF001 - what old reductions say


class Reduced:
    """What a class tells pickle to do to an empty object. Without `arguments`, `__init__` is not called."""

    __module__ = "ana.reference"  # pickles name it there
    __slots__ = ("arguments", "items", "pairs", "state")

    def __init__(self, arguments: tuple[Any, ...] | None, state: Any, items: Any, pairs: Any) -> None:
        self.arguments: tuple[Any, ...] | None = arguments
        self.state: Any = state
        self.items: Any = items
        self.pairs: Any = pairs

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, (self.arguments, self.state, self.items, self.pairs)


class Plan(weakref.ref[type]):
    """How the objects of a class are pickled. It dies with the class, which it does not keep alive."""

    __slots__ = (
        *("asked_first", "asked_first_twice", "hooks", "is_enum"),
        *("new_arguments", "number", "plain", "reduction", "refusal"),
    )

    number: int
    plain: bool
    """Pickle's own opcodes do the same, without any Python code."""
    is_enum: bool
    hooks: bool
    """`__getstate__` or `__setstate__` define the state."""
    new_arguments: str
    """`__getnewargs_ex__` or `__getnewargs__`, if the class has one: only `__new__` can make its objects."""
    reduction: str
    """`__reduce_ex__` or `__reduce__`, if the class has one that is not ours."""
    asked_first: bool
    """Pickle calls the class's `__reduce_ex__` instead of ours."""
    asked_first_twice: bool
    """It reaches ours by `super().__reduce_ex__()`, and ours must then call a `__reduce__` of the class."""
    refusal: str
    """Why objects of the class cannot be made without their state."""


_plans: dict[int, Plan] = {}
"""By the class's id. A table with weak keys is three times slower, and it is asked for each pickled object."""


def _forget(dead: Plan, plans: dict[int, Plan] = _plans) -> None:
    # As a default: at the interpreter's end the module's own names are gone.
    if plans.get(dead.number) is dead:
        del plans[dead.number]


def plan_of(cls: type) -> Plan:
    """Return how objects of a class are pickled. Computed once per class."""
    found = _plans.get(id(cls))
    if found is not None and found() is cls:
        return found
    plan = Plan(cls, _forget)
    plan.number = id(cls)
    own = _says_itself(cls)
    enum: Any = sys.modules.get("enum")
    plan.is_enum = enum is not None and issubclass(cls, enum.Enum)
    plan.reduction = next((name for name in ("__reduce_ex__", "__reduce__") if _definer(cls, name, own=own)), "")
    plan.asked_first = plan.reduction == "__reduce_ex__" and _is_in_front(cls, plan.reduction)
    plan.asked_first_twice = plan.asked_first and _definer(cls, "__reduce__", own=True) is not None
    plan.hooks = not own and any(_definer(cls, name) for name in ("__getstate__", "__setstate__"))
    names = ("__getnewargs_ex__", "__getnewargs__")
    plan.new_arguments = "" if own else next((name for name in names if _definer(cls, name)), "")
    plan.refusal = "" if plan.is_enum else _refusal(cls, own=own)
    plan.plain = not (own or plan.reduction or plan.hooks or plan.new_arguments or plan.refusal) and _is_plain(cls)
    _plans[plan.number] = plan
    return plan


def _says_itself(cls: type) -> bool:
    """Return whether a class has an `_ana_getstate` of its own, which then takes the place of pickle's hooks."""
    return _definer(cls, "_ana_getstate") is not None


def _definer(cls: Any, name: str, *, own: bool = False) -> type | None:
    """Return the first Python class in the MRO that defines `name`, if any. With `own`, only a class before ours."""
    for base in cls.__mro__:
        if base.__module__ == _OURS and not (base.__name__ == "Ref" and name in _ANAS):
            if own and base.__name__ == "Storable":
                return None
        elif name in vars(base) and not ghost.is_made_in_c(base):
            known = getattr(vars(base)[name], "__module__", "") in _AS_ATTRIBUTES
            return None if known else base
    return None


def _is_in_front(cls: type, name: str) -> bool:
    found = getattr(cls, name)
    return getattr(found, "__module__", "") != _OURS


def _refusal(cls: type, *, own: bool) -> str:
    """Return why objects of a class cannot be made first and filled later; "" if they can."""
    base: Any = ghost.builtin_base(cls)
    if base is object or base in CONTENT:
        return ""
    said = f"{cls.__qualname__} derives from {base.__name__}, whose"
    if base.__hash__ not in (None, object.__hash__) or not _can_be_empty(cls):
        return f"{said} value cannot be given to an object that exists already: {_REF}"
    return "" if own else f"{said} content the default state does not hold: {_CURES}"


def _can_be_empty(cls: type) -> bool:
    try:
        ghost.make(cls)
    except Exception:  # noqa: BLE001 - whatever a type made in C raises without arguments
        return False
    return True


def _is_plain(cls: Any) -> bool:
    """Return whether pickle's own NEWOBJ and BUILD do what `reference.new` and `fill` do."""
    return (
        cls.__new__ is object.__new__
        and cls.__dictoffset__ != 0
        and not attributes.slots(cls)
        and cls.__getattribute__ is object.__getattribute__
        and not any(hasattr(cls, name) for name in ("__getattr__", "__setstate__"))
        and _definer(cls, "_ana_setstate") is None
    )


class _Asking(threading.local):
    obj: Any = None
    by_value = False
    reached = False


_asking = _Asking()


def is_asked_by_value(obj: object) -> bool:
    """Note that a class's own reduction calls ours. Return whether the value is asked for, even if there is a UUID."""
    if _asking.obj is not obj:
        return False
    _asking.reached = True
    return _asking.by_value


def theirs(obj: Any, protocol: Any, *, by_value: bool = False) -> tuple[Any, bool]:
    """Return what the class's own reduction returns, and whether it calls ours (`super().__reduce__()`)."""
    cls = ghost.loaded_class(obj)
    before = _asking.obj, _asking.by_value, _asking.reached
    _asking.obj, _asking.by_value, _asking.reached = obj, by_value, False
    try:
        registered: Any = copyreg.dispatch_table.get(cls)
        if registered is not None:
            said = registered(obj)
        else:
            plan = plan_of(cls)
            definer: Any = _definer(cls, plan.reduction)
            reduce = vars(definer)[plan.reduction].__get__(obj, cls)
            said = reduce(protocol) if plan.reduction == "__reduce_ex__" else reduce()
        return said, _asking.reached
    finally:
        _asking.obj, _asking.by_value, _asking.reached = before


def check(obj: Any) -> None:
    """Raise TypeError for an object whose state could not be restored, or whose pickling would bypass ANA."""
    cls = type(obj)
    plan = plan_of(cls)
    registered = cls in copyreg.dispatch_table
    if plan.refusal:
        raise TypeError(plan.refusal)
    if plan.is_enum:
        if _says_itself(cls):
            msg = (
                f"{cls.__qualname__} is an Enum, whose members are pickled by name: _ana_getstate would be passed over"
            )
            raise TypeError(msg)
        return
    if (registered or plan.asked_first) and not theirs(obj, 4, by_value=True)[1]:
        asked = "the function that copyreg.pickle registered" if registered else "its own __reduce_ex__"
        cure = "" if registered else "call super().__reduce_ex__() there, or "
        msg = f"{cls.__qualname__} would be pickled by value all the same: pickle asks {asked}, not ANA: {cure}{_REF}"
        raise TypeError(msg)


def hooked(obj: Any) -> Any:
    """Return the state of an object whose class tells pickle what it is; None if the attributes are the state.

    Raises TypeError if the state could not be restored into an existing object.
    """
    plan = plan_of(type(obj))
    if plan.is_enum:
        return None
    if plan.reduction:
        said, is_ours = theirs(obj, 4, by_value=True)
        if not is_ours:
            return _in_place(type(obj), said)
    if plan.new_arguments:
        msg = f"{type(obj).__qualname__} has {plan.new_arguments}: its objects exist once __new__ has run: {_CURES}"
        raise TypeError(msg)
    if not plan.hooks:
        return None
    content = CONTENT.get(ghost.builtin_base(type(obj)))
    items = None if content is None else content[0](obj)
    return Reduced(None, _fitting(type(obj), obj.__getstate__()), items, None)


def _in_place(cls: Any, said: Any) -> Reduced:
    """Return a reduction as something to do to an existing object. Raises TypeError if that is impossible."""
    if isinstance(said, str):
        msg = f"{cls.__qualname__} is pickled by its name, {said!r}, as its __reduce__ says: {_REF}"
        raise TypeError(msg)
    make, arguments, state, items, pairs, setter = (*said, None, None, None, None)[:6]
    base = ghost.builtin_base(cls)
    usual = cls.__new__ is base.__new__ and type(cls).__call__ is type.__call__ and (base is object or base in CONTENT)
    is_empty = (make, arguments) in ((_NEWOBJ, (cls,)), (_RECONSTRUCTOR, (cls, object, None)))
    if setter is not None or not usual or not (is_empty or make is cls):
        by = getattr(make, "__qualname__", repr(make))
        msg = f"{cls.__qualname__} is made anew by {by}, as its __reduce__ says, so cannot be filled later: {_CURES}"
        raise TypeError(msg)
    return Reduced(
        None if is_empty else arguments,
        _fitting(cls, state),
        None if items is None else list(items),
        None if pairs is None else list(pairs),
    )


def _fitting(cls: type, state: Any) -> Any:
    """Return a state that `__setstate__`, or pickle itself, can restore. Raises TypeError for any other."""
    if state is None or hasattr(cls, "__setstate__") or (isinstance(state, dict) and cls.__dictoffset__):
        return state
    if isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, dict | None) for part in state):  # noqa: PLR2004 - a pair
        return state
    name = f"{cls.__qualname__}.__getstate__"
    msg = f"{name} returns a {type(state).__name__}, which only a __setstate__ could take: define one, or {_REF}"
    raise TypeError(msg)


def restore(obj: Any, said: Reduced) -> None:
    """Do to an empty object what its class tells pickle to do."""
    content = CONTENT.get(ghost.builtin_base(type(obj)))
    if said.arguments is not None:
        type(obj).__init__(obj, *said.arguments)
    elif content is not None and said.items is not None and said.pairs is None:
        content[1](obj, said.items)
        said = Reduced(None, said.state, None, None)
    for item in said.items or ():
        obj.append(item)
    for key, value in said.pairs or ():
        obj[key] = value
    if said.state is not None:
        _build(obj, said.state)


def _build(obj: Any, state: Any) -> None:
    """Set an object's state as pickle does."""
    if hasattr(type(obj), "__setstate__"):
        obj.__setstate__(state)
        return
    state, slots = state if isinstance(state, tuple) else (state, None)
    if state:
        object.__getattribute__(obj, "__dict__").update((_interned(name), value) for name, value in state.items())
    for name, value in (slots or {}).items():
        setattr(obj, name, value)


def _interned(name: Any) -> Any:
    return sys.intern(name) if type(name) is str else name


def newly(obj: Any) -> Any:
    """Return the reduction of an object without a UUID that only `__new__` can make; None for any other.

    Raises TypeError for an object of a refused class.
    """
    plan = plan_of(type(obj))
    if plan.refusal:
        raise TypeError(plan.refusal)
    if not plan.new_arguments or plan.reduction:
        return None
    said = getattr(obj, plan.new_arguments)()
    make = _NEWOBJ_EX if plan.new_arguments == "__getnewargs_ex__" else _NEWOBJ
    return make, (type(obj), *said), obj.__getstate__()


def copied(obj: Any, memo: dict[int, Any] | None) -> Any:
    """Return an ordinary copy of an object without a UUID, made as its class defines. With `memo`, a deep copy."""
    cls = type(obj)
    said, is_ours = None, True
    if cls in copyreg.dispatch_table or plan_of(cls).reduction:
        said, is_ours = theirs(obj, 4, by_value=True)
    if is_ours:
        said = newly(obj)
    if said is not None:
        rebuild: Any = copy
        # Private, but it is how copy itself applies a reduction, under this name from Python 2.3 to 3.15.
        return obj if isinstance(said, str) else rebuild._reconstruct(obj, memo, *said)  # noqa: SLF001 - no public way
    made = ghost.make(cls)
    state = obj._ana_getstate()
    if memo is not None:
        memo[id(obj)] = made
        state = copy.deepcopy(state, memo)
    made._ana_setstate(state)
    return made
