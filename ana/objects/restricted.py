"""Restricts the globals that a state may name when it is unpickled. Not a sandbox; see SECURITY.md.

A state may call whatever is allowed, with any arguments. So an allowed package with a function that runs code is a
hole.
"""

import io
import pickle
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

__all__ = ["PATHS_OF_3_13", "AllowedGlobals", "ForbiddenGlobalError", "allows", "known_as"]

_ALWAYS = {
    "ana.reference": {"load", "new", "fill", "Reduced", "storage"},
    "ana.storable": {"Ref"},
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int"),
        *("list", "object", "range", "set", "slice", "str", "tuple", "NoneType", "Ellipsis", "NotImplemented"),
    },
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copyreg": {"__newobj__", "__newobj_ex__", "_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath"},
    # The names that version 1.0 wrote in Python 3.13.
    "pathlib._local": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath"},
    "uuid": {"UUID", "SafeUUID"},
}
"""Globals that only hold data. They are always allowed."""


PATHS_OF_3_13 = "pathlib._local"


def known_as(module: str) -> str:
    """Return the name that a module has in every version of Python."""
    return "pathlib" if module == PATHS_OF_3_13 else module


class ForbiddenGlobalError(pickle.UnpicklingError):
    """A state names a global that is not allowed."""


class AllowedGlobals:
    """The modules, with all below them, whose globals a state may name. Immutable, so safe to use from many threads."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.modules: tuple[str, ...] = tuple(modules)
        self._below = tuple(f"{name}." for name in self.modules)
        allowed = self

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if not allowed.allows(module, name):
                    return _refuse(module, name)
                return allowed.checked(known_as(module), name, super().find_class)

        self._unpickler = Unpickler

    def allows(self, module: str, name: str) -> bool:
        """Return whether a state may name this global."""
        return self._allows_module(module) or name in _ALWAYS.get(module, ())

    def load(self, stream: bytes | memoryview, buffers: Iterable[bytes | memoryview] | None = None) -> Any:
        """Unpickle a state from its stream and its buffers. Raises ForbiddenGlobalError, and what unpickling raises."""
        return self._unpickler(io.BytesIO(stream), buffers=buffers).load()

    def checked(self, module: str, name: str, find: Any) -> Any:
        """Find a global. Refuse one that an allowed module has only imported from another module."""
        found = find(module, name)
        *path, _ = name.split(".")
        if path and not all(isinstance(find(module, ".".join(path[: n + 1])), type) for n in range(len(path))):
            return _refuse(module, name)
        home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
        if isinstance(found, ModuleType) or (isinstance(home, str) and not self._is_at_home(home, module, found)):
            return _refuse(module, name)
        return found

    def _is_at_home(self, home: str, module: str, found: Any) -> bool:
        if self._allows_module(home) or (module in _ALWAYS and not self._allows_module(module)):
            return True
        return getattr(found, "__qualname__", "") in _ALWAYS.get(home, ())

    def _allows_module(self, module: str) -> bool:
        return module in self.modules or module.startswith(self._below)


def allows(allowed: AllowedGlobals | None) -> Callable[[str, str], bool] | None:
    """Return the predicate that `class_names.find_class` takes."""
    return None if allowed is None else allowed.allows


def _refuse(module: str, name: str) -> Any:
    msg = f"it names {module}.{name}, which allowed= does not include: add {module.partition('.')[0]!r} if you trust it"
    raise ForbiddenGlobalError(msg)
