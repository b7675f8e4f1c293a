"""Classes by name: what a header calls them, and which class that is here."""

import importlib
import sys
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["MAIN", "class_name", "find_class", "generation", "is_defined_here", "known_as", "newest"]

MAIN = frozenset({"__main__", "__mp_main__", "__worker__"})
"""What workers of multiprocessing and of mpi4py.futures call the main module, which is the same script."""


_generations: "weakref.WeakKeyDictionary[type, int]" = weakref.WeakKeyDictionary()
_counts: dict[str, int] = {}


def class_name(cls: type) -> str:
    """Return "module:qualified.name", under which a class goes into addresses and headers."""
    module = cls.__module__
    return f"{'__main__' if module in MAIN else module}:{cls.__qualname__}"


def known_as(cls: type) -> Any:
    """Return what is found under the name of a class in this process: perhaps a later definition; None if nothing."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def newest(cls: type) -> type:
    """Return the latest definition of a class: the one that is found under its name; `cls` where there is none."""
    found = known_as(cls)
    return found if isinstance(found, type) and class_name(found) == class_name(cls) else cls


def is_defined_here(cls: type) -> bool:
    """Return whether a class was defined by its module's code in this process, as far as its methods tell."""
    module = vars(sys.modules[cls.__module__])
    return all(value.__globals__ is module for value in vars(cls).values() if isinstance(value, FunctionType))


def generation(cls: type) -> int:
    """Return how many other definitions of a class this process has asked this about before: 0 for the first one."""
    found = _generations.get(cls)
    if found is None:
        name = class_name(cls)
        found = _generations[cls] = _counts.get(name, 0)
        _counts[name] = found + 1
    return found


def find_class(name: str, relative: type, allows: Callable[[str, str], bool] | None = None) -> type | None:
    """Return the class that a header names, importing its module like pickle; None if it is not to be found.

    Nothing is imported that `allows`, asked with module and name, does not allow.
    """
    module_name, _, path = name.partition(":")
    if allows is not None and not allows(module_name, path):
        return None
    if module_name == "__main__" and not _is_from_main(relative):
        # Another program's main module: only the reference itself knows the class.
        return None
    try:
        found: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - a module may raise anything while it is imported
        return None
    return found if isinstance(found, type) else None


def _is_from_main(cls: type) -> bool:
    return class_name(cls).startswith("__main__:") and getattr(sys.modules["__main__"], cls.__name__, None) is cls
