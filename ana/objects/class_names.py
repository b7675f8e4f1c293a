"""Classes by name: what a header calls a class, and which class that is in this process."""

import importlib
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = [
    "MAIN",
    "came_by_value",
    "class_name",
    "find_class",
    "generation",
    "known_as",
    "newest",
    "note_origin",
    "why_missing",
]

MAIN = frozenset({"__main__", "__mp_main__", "__worker__"})
"""Names that workers of multiprocessing and mpi4py.futures give to the main module, which is the same script."""


_MAKERS = frozenset({"_make_skeleton_class", "_make_skeleton_enum", "_create_type"})
"""Functions of cloudpickle and dill that rebuild a class."""

_came_by_value: "weakref.WeakSet[type]" = weakref.WeakSet()
_generations: "weakref.WeakKeyDictionary[type, int]" = weakref.WeakKeyDictionary()
_counts: dict[str, int] = {}


def class_name(cls: type) -> str:
    """Return "module:qualified.name", the name of a class in addresses and headers."""
    module = cls.__module__
    return f"{'__main__' if module in MAIN else module}:{cls.__qualname__}"


def known_as(cls: type) -> Any:
    """Return what this process has under the name of a class, perhaps a later definition; None if nothing."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def newest(cls: type) -> type:
    """Return the latest definition of a class: the one under its name, or `cls` if there is none."""
    found = known_as(cls)
    return found if isinstance(found, type) and class_name(found) == class_name(cls) else cls


def note_origin(cls: type) -> None:
    """Note whether an unpickler such as cloudpickle's is making a new class. Call it while the class is being made."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the public way (inspect) is the same, slower
    for _ in range(8):
        if frame is None:
            return
        if frame.f_code.co_name in _MAKERS:
            _came_by_value.add(cls)
            return
        frame = frame.f_back


def came_by_value(cls: type) -> bool:
    """Return whether a class came to this process in a pickle, as far as `note_origin` knows."""
    return cls in _came_by_value


def generation(cls: type) -> int:
    """Return the number of a class's definition, counted from 0 in the order in which this process asked."""
    found = _generations.get(cls)
    if found is None:
        name = class_name(cls)
        found = _generations[cls] = _counts.get(name, 0)
        _counts[name] = found + 1
    return found


def find_class(name: str, relative: type, allows: Callable[[str, str], bool] | None = None) -> type | None:
    """Return the class that a header names, importing its module like pickle; None if it cannot be found.

    Imports only what `allows`, called with module and name, permits.
    """
    module_name, _, path = name.partition(":")
    if allows is not None and not allows(module_name, path):
        return None
    if module_name == "__main__" and not _is_from_main(relative):
        # A class of another program's main module. Only the reference itself knows it.
        return None
    try:
        found = _imported(module_name, path)
    except Exception:  # noqa: BLE001 - a module may raise anything while it is imported
        return None
    return found if isinstance(found, type) else None


def why_missing(name: str) -> str:
    """Return why a class that `find_class` may import is not found."""
    module_name, _, path = name.partition(":")
    try:
        found = _imported(module_name, path)
    except Exception as error:  # noqa: BLE001 - as above
        return f"{type(error).__name__}: {error}"
    return f"{module_name}.{path} is of type {type(found).__name__}, not a class"


def _imported(module_name: str, path: str) -> Any:
    found: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _is_from_main(cls: type) -> bool:
    return class_name(cls).startswith("__main__:") and getattr(sys.modules["__main__"], cls.__name__, None) is cls
