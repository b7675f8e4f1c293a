"""Subclasses of `ana.Ref`. Their state is only the value, so anything else that they hold would be lost."""

from functools import cached_property
from typing import Any

from ana.objects import attributes
from ana.objects.ghost import loaded_class

__all__ = ["check"]

_NO_STATE = frozenset({"_value", "__orig_class__"})
"""The value, and the `R[int]` of `R[int](value)`."""
_HOOKS = ("__getstate__", "__setstate__")


def check(ref: Any) -> None:
    """Raise TypeError for a Ref that holds more than its value, unless its class defines its state itself."""
    cls: Any = loaded_class(ref)
    if cls._ana_getstate.__module__ != "ana.storable":
        return
    lost = [name for name in _HOOKS if getattr(cls, name, None) is not getattr(object, name, None)]
    lost += [name for name in attributes.get(ref) if name not in _NO_STATE and not _is_cached(cls, name)]
    if lost:
        msg = (
            f"{cls.__qualname__} is an ana.Ref, whose state is the value alone, so {', '.join(lost)} would be lost: "
            "derive from ana.Storable, put it into the value, or define _ana_getstate and _ana_setstate"
        )
        raise TypeError(msg)


def _is_cached(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), cached_property)
