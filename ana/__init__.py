"""ANA: store a large Python object once, and send references to it."""

# Before all that takes time: the command answers Ctrl-C from here on.
from ana.runtime import interrupts as _interrupts  # noqa: F401 - see there

# isort: split
import importlib
import logging
import sys
import types
from typing import TYPE_CHECKING, Any

from ana._version import __version__
from ana.errors import (
    ANAError,
    CorruptedStateError,
    LockTimeoutError,
    StateChangedError,
    StateLoadError,
    StateNotFoundError,
    StoreError,
    UnsupportedFormatError,
    UntrustedStoreError,
    UUIDConflictError,
)
from ana.layers import current as _current
from ana.layers.current import get_dl, set_dl, using_dl
from ana.layers.layer import DataLayer, DictDataLayer, DirDataLayer, SimpleDataLayer
from ana.layers.resolve import load, prefetch
from ana.storable import Ref, Storable, StorableABC

if TYPE_CHECKING:
    from ana.layers.statistics import Stats
    from ana.tasks.executor import Executor
    from ana.tasks.unwrapping import unwrap

__all__ = [
    "ANAError",
    "CorruptedStateError",
    "DataLayer",
    "DictDataLayer",
    "DirDataLayer",
    "Executor",
    "LockTimeoutError",
    "Ref",
    "SimpleDataLayer",
    "StateChangedError",
    "StateLoadError",
    "StateNotFoundError",
    "Stats",
    "Storable",
    "StorableABC",
    "StoreError",
    "UUIDConflictError",
    "UnsupportedFormatError",
    "UntrustedStoreError",
    "__version__",
    "get_dl",
    "load",
    "prefetch",
    "set_dl",
    "unwrap",
    "using_dl",
]

dl: DataLayer
"""The current layer: read and assigned by old programs."""

logging.getLogger("ana").addHandler(logging.NullHandler())


_LATE = {"Executor": "ana.tasks.executor", "Stats": "ana.layers.statistics", "unwrap": "ana.tasks.unwrapping"}
"""Public names, and their modules, which import what takes longer than all of ana: dataclasses, concurrent.futures."""

if not TYPE_CHECKING:  # else any name would be one of ours

    def __getattr__(name: str) -> object:
        # Of the module, not of its class: that would cost each pickle of a reference a twentieth more instructions.
        if name == "dl":
            return _current.get_dl()
        if name in _LATE:
            found = globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
            return found
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)


class _Package(types.ModuleType):
    """Lets old programs assign `dl`, and lists the public names only."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle like other modules do in cloudpickle, which knows them by their exact type: functions name us."""
        return importlib.import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        """Return what `ana.<TAB>` offers."""
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dl":
            _current.set_dl(value)
        else:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
