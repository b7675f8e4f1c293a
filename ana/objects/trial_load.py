"""Checks that a state written by cloudpickle can be read: unpickles it once before it is stored.

cloudpickle silently writes some classes that cannot be rebuilt. Other processes rebuild them, but this process has them
already. So they are not rebuilt here, because a registry of subclasses would notice. Instead, the check looks at what
their bases require.
"""

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ana.objects.out_of_band import Pickled

__all__ = ["check"]

_CLOUDPICKLE = "cloudpickle.cloudpickle"
_SKELETONS = frozenset({"_make_skeleton_class", "_make_skeleton_enum"})


def check(pickled: Pickled, find_child: Callable[[str], Any]) -> None:
    """Unpickle a state, with its live children. Raises PicklingError if that fails. A MemoryError does not count."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = super().find_class(module, name)
            if module == "ana.reference" and name == "load":
                return lambda _, uuid, *__: find_child(uuid)
            if module == _CLOUDPICKLE and name in _SKELETONS:
                return lambda *arguments: _makable(_class_here(found, arguments))
            if module == _CLOUDPICKLE and name == "_class_setstate":
                return lambda cls, _: cls
            return found

    try:
        stream, *buffers = pickled.segments()
        Unpickler(io.BytesIO(b"".join(stream)), buffers=_copies(pickled, buffers)).load()
    except MemoryError:
        return
    except Exception as error:
        msg = (
            f"cloudpickle wrote a state that it cannot read ({type(error).__name__}: {error}): "
            "move its classes and functions to a module, or leave them out in _ana_getstate"
        )
        raise pickle.PicklingError(msg) from error


def _copies(pickled: Pickled, buffers: list[list[memoryview]]) -> Iterator[bytes | bytearray]:
    """Yield a writable copy of each buffer, because the unpickled objects may write to it."""
    for number, parts in enumerate(buffers, 1):
        content = b"".join(parts)
        yield content if number in pickled.bytes_segments else bytearray(content)


def _class_here(make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Return the class that cloudpickle wrote. cloudpickle keeps a table of classes by what it writes with each."""
    known: dict[Any, Any] = dict(getattr(sys.modules[_CLOUDPICKLE], "_DYNAMIC_CLASS_TRACKER_BY_ID", {}))
    return next((known[word] for word in arguments if isinstance(word, str) and word in known), None) or make(
        *arguments
    )


def _makable(cls: Any) -> Any:
    """Return a class that can be made from its name, bases and content alone. Raises TypeError for others."""
    _bind(super(cls, cls).__init_subclass__)
    meta = type(cls)
    if meta.__new__ is not type.__new__:
        _bind(meta.__new__, meta, cls.__name__, cls.__bases__, {})
    if meta.__init__ is not type.__init__:
        _bind(meta.__init__, cls, cls.__name__, cls.__bases__, {})
    return cls


def _bind(function: Any, *arguments: Any) -> None:
    import inspect  # noqa: PLC0415 - takes 10 ms and more

    try:
        signature = inspect.signature(function)
    except ValueError:
        # Made in C, so it has no signature.
        return
    signature.bind(*arguments)
