"""Ghosts: objects without their state. Every use of a ghost loads its state first, or raises the reason.

Raising while a reference is unpickled would hang `multiprocessing.Pool` and kill Dask workers. So the object is made
anyway, and its class is replaced by a subclass in which every operation loads the state first.
"""

import collections
import enum
import weakref
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from ana.objects import ghost_classes, identity
from ana.objects.ghost_classes import admit, has_ghost_class, loaded_class, use

__all__ = [
    "admit",
    "complete",
    "empty",
    "ghostify",
    "has_ghost_class",
    "is_ghost",
    "loaded_class",
    "make",
    "member",
    "revert",
    "use",
]

_IMMUTABLE_TYPE = 1 << 8
"""Py_TPFLAGS_IMMUTABLETYPE: most classes made in C."""


class _Poison:
    """Fills a ghost that is a dict or list, so that C code which looks only at the size does not take it for empty."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<state not loaded>"


_POISON = _Poison()
_FILL: dict[type, Callable[[Any], object]] = {
    dict: lambda obj: dict.__setitem__(obj, _POISON, _POISON),
    collections.OrderedDict: lambda obj: collections.OrderedDict.__setitem__(obj, _POISON, _POISON),
    list: lambda obj: list.append(obj, _POISON),
}
_EMPTY: dict[type, Callable[[Any], object]] = {
    dict: dict.clear,
    collections.OrderedDict: collections.OrderedDict.clear,
    list: list.clear,
}

_builtin_bases: "weakref.WeakKeyDictionary[type, type]" = weakref.WeakKeyDictionary()


def is_made_in_c(cls: type) -> bool:
    """Return whether a class was made in C, and so lays out its instances itself."""
    new = vars(cls).get("__new__")
    return bool(cls.__flags__ & _IMMUTABLE_TYPE) or (isinstance(new, BuiltinFunctionType) and new.__self__ is cls)


def builtin_base(cls: type) -> type:
    """Return the type that lays out the instances of `cls`: the first of its bases that was made in C."""
    found = _builtin_bases.get(cls)
    if found is None:
        found = _builtin_bases[cls] = next(base for base in cls.__mro__ if is_made_in_c(base))
    return found


def make(cls: type) -> Any:
    """Make an instance of `cls` without calling its `__new__` or `__init__`.

    Raises TypeError for a class whose built-in base cannot be made without arguments.
    """
    new: Any = cls.__new__
    if new is not object.__new__:
        new = builtin_base(cls).__new__
    return new(cls)


def ghostify(obj: Any, uuid: str, load: Callable[[], None]) -> None:
    """Make every use of `obj` call `load` first, which fills the object and calls `complete`, or raises."""
    identity.mark(obj, uuid, given=True).defer(load)
    _close(obj)


def empty(obj: Any) -> None:
    """Remove what fills a ghost that is a dict or list, before its state does."""
    clear = _EMPTY.get(builtin_base(loaded_class(obj)))
    if clear is not None:
        clear(obj)


def complete(obj: Any) -> None:
    """Make a ghost that has its state an ordinary object, for all threads."""
    found = identity.mark_of(obj)
    if found is not None and found.loader is not None:
        # The class first: without a loader, the object counts as one that anybody may use.
        ghost_classes.restore(obj)
        found.note_state_set()


def revert(obj: Any) -> None:
    """Make an object whose load failed the ghost again that it was. Its next use loads again."""
    found = identity.mark_of(obj)
    if found is not None:
        found.dismiss()
    if not has_ghost_class(obj):
        return
    if getattr(loaded_class(obj), "_ana_lazy", False):
        ghost_classes.restore(obj)
    else:
        _close(obj)


def _close(obj: Any) -> None:
    fill = _FILL.get(builtin_base(loaded_class(obj)))
    if fill is not None and not ghost_classes.is_closed(obj):
        fill(obj)
    ghost_classes.close(obj)


def member(obj: Any) -> Any:
    """Return the member of an Enum that a filled object stands for. For other objects, return the object."""
    if not isinstance(obj, enum.Enum):
        return obj
    found = type(obj).__members__.get(obj.name)
    return type(obj)(obj.value) if found is None else found


def is_ghost(obj: object) -> bool:
    """Return whether an object is not whole yet: it has a ghost class, or loads lazily by itself (a Ref)."""
    found = identity.mark_of(obj)
    return found is not None and found.loader is not None
