"""ANA: store a large Python object once, and send references to it."""

# Before all that takes time: the command answers Ctrl-C from here on.
from ana.runtime import interrupts as _interrupts  # noqa: F401 - see there

# isort: split
import importlib
import logging
import sys
import types

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

__all__ = [
    "ANAError",
    "CorruptedStateError",
    "DataLayer",
    "DictDataLayer",
    "DirDataLayer",
    "LockTimeoutError",
    "Ref",
    "SimpleDataLayer",
    "StateChangedError",
    "StateLoadError",
    "StateNotFoundError",
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
    "using_dl",
]

dl: DataLayer
"""The current layer: read and assigned by old programs."""

logging.getLogger("ana").addHandler(logging.NullHandler())


class _Package(types.ModuleType):
    """Lets old programs read and assign `ana.dl`, the current layer."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle like other modules do in cloudpickle, which knows them by their exact type: functions name us."""
        return importlib.import_module, (self.__name__,)

    @property
    def dl(self) -> DataLayer:
        """The current layer."""
        return _current.get_dl()

    @dl.setter
    def dl(self, new: DataLayer) -> None:
        _current.set_dl(new)


sys.modules[__name__].__class__ = _Package
