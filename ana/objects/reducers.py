"""Reducers for values that would pickle differently in another version of Python or another run.

Pickles name `storage` as `ana.reference.storage`. Its arguments never change.
"""

import functools
import pickle
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["storage", "table"]

Reducer = Callable[[Any], Any]

_OTHER_PATHS = sys.version_info >= (3, 13)


def table() -> dict[type, Reducer]:
    """Return the reducers for the modules that this process has imported, by exact type."""
    found: dict[type, Reducer] = {}
    if _OTHER_PATHS and "pathlib" in sys.modules:
        found.update(_paths())
    if "torch" in sys.modules:
        found.update(_storages(sys.modules["torch"]))
    return found


@functools.cache
def _paths() -> dict[type, Reducer]:
    """Have Python 3.13 and later write paths as 3.11 and 3.12 do: by their parts, as classes of `pathlib`.

    3.13 calls the module `pathlib._local`, which 3.11 and 3.12 do not have. 3.14 calls it `pathlib` again.
    """
    pathlib: Any = sys.modules["pathlib"]
    names = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")
    classes = [getattr(pathlib, name) for name in names]
    for cls in (pathlib.PurePath, pathlib.Path, *classes):
        # No other way makes a pickler use this name.
        cls.__module__ = "pathlib"
    return dict.fromkeys(classes, lambda path: (type(path), path.parts))


@functools.cache
def _storages(torch: Any) -> dict[type, Reducer]:
    """Pickle the memory of torch's CPU tensors out of band, like that of arrays.

    torch itself writes the memory's address, which differs in each run.
    """
    kinds = (getattr(getattr(torch, "storage", None), name, None) for name in ("TypedStorage", "UntypedStorage"))
    return {kind: _storage for kind in kinds if kind is not None}


def _storage(held: Any) -> Any:
    torch: Any = sys.modules["torch"]
    # The public name warns.
    untyped = getattr(held, "_untyped_storage", held)
    if untyped.device.type != "cpu":
        return held.__reduce__()
    dtype = None if untyped is held else held.dtype
    content = torch.empty(0, dtype=torch.uint8).set_(untyped).numpy()
    return storage, (pickle.PickleBuffer(content), dtype)


def storage(content: Any, dtype: Any) -> Any:
    """Return a torch storage with this content; with a dtype, a typed one."""
    import torch  # noqa: PLC0415 - only where a state holds one

    view = memoryview(content)
    if view.readonly:
        # Mapped from a node cache, so read-only; torch has no read-only tensors.
        view = memoryview(bytearray(view))
    flat = torch.frombuffer(view, dtype=torch.uint8) if view.nbytes else torch.empty(0, dtype=torch.uint8)
    untyped = flat.untyped_storage()
    if dtype is None:
        return untyped
    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


storage.__module__ = "ana.reference"
