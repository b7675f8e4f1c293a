"""Attributes of objects, in `__dict__` and in the slots of all classes: read and set past the class's own methods."""

import sys
import weakref
from contextlib import suppress
from types import MemberDescriptorType
from typing import Any

from ana.objects import ghost

__all__ = ["fill_plain", "get", "put", "slots"]

_slots_of: "weakref.WeakKeyDictionary[type, dict[str, int]]" = weakref.WeakKeyDictionary()
"""The slots of a class, and where in the MRO each is. Not the members: those hold the class, which would never go."""


def get(obj: Any) -> dict[str, Any]:
    """Return the attributes in an object's `__dict__` and in the slots of all its classes."""
    try:
        # Not by getattr: a class that delegates would return another object's.
        state = dict(object.__getattribute__(obj, "__dict__"))
    except AttributeError:
        state = {}
    mro = type(obj).__mro__
    for name, place in slots(type(obj)).items():
        # A slot that was never set has no attribute.
        with suppress(AttributeError):
            state[name] = mro[place].__dict__[name].__get__(obj)
    return state


def put(obj: Any, state: dict[str, Any]) -> None:
    """Set attributes where `get` read them, bypassing properties of the same names."""
    places, mro = slots(type(obj)), type(obj).__mro__
    rest = {}
    for name, value in state.items():
        place = places.get(name)
        if place is None:
            rest[name] = value
        else:
            mro[place].__dict__[name].__set__(obj, value)
    if rest:
        object.__getattribute__(obj, "__dict__").update(rest)


def fill_plain(obj: Any, state: dict[str, Any]) -> None:
    """Set the attributes of a plain object, one by one and interned, so that objects of a class share their keys."""
    held = obj.__dict__
    for name, value in state.items():
        held[sys.intern(name) if type(name) is str else name] = value


def slots(cls: type) -> dict[str, int]:
    """Return the slots of a class and its Python bases; a private "__x" goes by the name "_Class__x"."""
    known = _slots_of.get(cls)
    if known is not None:
        return known
    found: dict[str, int] = {}
    for place, base in enumerate(cls.__mro__):
        if ghost.is_made_in_c(base):
            continue
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType) and name not in ("__dict__", "__weakref__"):
                found.setdefault(name, place)
    _slots_of[cls] = found
    return found
