"""What the `repr` of a Ref says about its value: short, fast, and never an error.

Engines log the repr of a task's arguments, and the value's own repr may be as large as the value.
"""

from typing import Any

from ana.objects.ghost import is_ghost, loaded_class

__all__ = ["describe", "summary"]

_TEXT_CHARACTERS = 60
_SIZED = (bytes, bytearray, dict, frozenset, list, set, str, tuple)
"""Types whose length is known without a computation."""


def describe(value: Any) -> str:
    """Return a value's type and, if they are cheap to get, its shape and dtype or length, and its size in bytes."""
    if is_ghost(value):
        return f"{loaded_class(value).__name__}, not loaded"
    parts = [_attempt(part, value) for part in (_type, _shape, _dtype, _size)]
    return ", ".join(filter(None, parts))


def summary(value: Any) -> str:
    """Return a value's type, shape and dtype, or its type and length: `ndarray (1000, 1000) float64`, `list of 20`."""
    cls = type(value)
    if cls in _SIZED:
        return f"{cls.__name__} of {len(value):,}"
    name = _attempt(_type, value)
    shape = _attempt(_bare_shape, value)
    return f"{name} {shape} {_attempt(_dtype, value)}".rstrip() if shape else name


def _bare_shape(value: Any) -> str:
    """Return an array's shape; "" for a scalar of numpy."""
    return str(tuple(map(int, value.shape))) if value.shape else ""


def _attempt(describe_part: Any, value: Any) -> str:
    try:
        text: str = describe_part(value)
    except Exception:  # noqa: BLE001 - whatever a user's class raises
        return ""
    return text if len(text) <= _TEXT_CHARACTERS else f"{text[:_TEXT_CHARACTERS]}…"


def _type(value: Any) -> str:
    return type(value).__name__


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"shape {tuple(map(int, shape))}"
    return f"length {len(value):,}"


def _dtype(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return "" if dtype is None else str(dtype)


def _size(value: Any) -> str:
    size = value.nbytes
    return f"{size:,} bytes" if isinstance(size, int) else ""
