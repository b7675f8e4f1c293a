"""States to pickles and back: children, classes that go by value, buffers with memory of their own.

While a state is pickled, a `Collector` stands for the record that is being made: references that are
met are pickled bare (without the store's home) and noted as its children.
"""

import io
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, Protocol

from ana.fence import Fence
from ana.streams import PROTOCOL, Pickled, write

__all__ = ["Collector", "collector", "dump", "load", "may_go_by_value"]

_MAIN = (b"__main__",)
_log = logging.getLogger("ana.pickling")


class Collector(Protocol):
    """What a Storable talks to while a state is being pickled."""

    def meet(self, child: Any) -> bool:
        """Return whether the state that is being pickled refers to `child`, or holds it; called for every Storable."""

    def is_final(self, error: Exception) -> bool:
        """Return whether an error came from a state that was met: pickling this one in another way is no cure."""


class _Active(threading.local):
    collector: Collector | None = None


_active = _Active()


def collector() -> Collector | None:
    """Return the collector of the state that this thread is pickling into a record, if any."""
    return _active.collector


def dump(get_state: Callable[[], object], into: Collector, *, stays: bool = False) -> Pickled:
    """Pickle a state: the pickle stream, then each buffer and each large `bytes` object as flat bytes.

    References that are met (also by `get_state` itself) are told to `into` and pickled bare. Classes and
    functions of `__main__`, or of modules that were registered by value, go by value through
    cloudpickle, unless the state `stays` in this process. Raises what pickling raises; PicklingError where
    cloudpickle would be needed and is not installed. Nothing is stored then.
    """
    before, _active.collector = _active.collector, into
    try:
        return _dump(get_state(), () if stays else _by_value_modules(), into)
    finally:
        _active.collector = before


def _dump(state: object, by_value: tuple[bytes, ...], into: Collector) -> Pickled:
    try:
        pickled = write(pickle.Pickler, state)
    except Exception as error:
        # Perhaps only because a lambda or a local class is the script's own: cloudpickle can have those.
        # Never again what failed further down: of n states in one another, that would be 2^n times.
        if into.is_final(error) or not _meets(state, _by_value_modules()):
            raise
        return write(_cloudpickler(state), state)
    # A quick look first: the exact one pickles again.
    for name in by_value:
        for frames in pickled.frames:
            if name in frames:
                return _dump_by_value(state, pickled) if _meets(state, by_value) else pickled
    return pickled


def may_go_by_value(pickled: Pickled) -> bool:
    """Return whether a state may name what other processes cannot import, so that it has other bytes for them."""
    return any(name in frames for name in _by_value_modules() for frames in pickled.frames)


def load(segments: Sequence[bytes | memoryview], allowed: Fence | None = None) -> Any:
    """Unpickle a state from its segments; arrays use the memory of theirs. Runs what the pickle says.

    Raises what unpickling raises, and `fence.Refused` where it names what is not allowed.
    """
    stream = segments[0]
    buffers = _alone(segments[1:]) if len(segments) > 1 else None
    if allowed is not None:
        return allowed.load(stream, buffers)
    return pickle.loads(stream, buffers=buffers)  # noqa: S301 - the point of the whole; bytes are verified


def _alone(segments: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield `bytes` objects as they are; of views, ones whose `obj` has just these bytes: some classes take that.

    Not all the bytes that they were cut out of.
    """
    for segment in segments:
        yield segment if isinstance(segment, bytes) else memoryview(pickle.PickleBuffer(segment))


def _dump_by_value(state: object, by_reference: Pickled) -> Pickled:
    pickler = _cloudpickler(state)
    try:
        return write(pickler, state)
    except Exception as error:  # noqa: BLE001 - whatever a class holds that cannot be pickled
        # By reference, as ever: it loads wherever the same script runs.
        _log.warning("a class of __main__ does not pickle by value (%s): it goes by reference", error)
        return by_reference


def _by_value_modules() -> tuple[bytes, ...]:
    """Return the names of the modules whose classes other processes cannot import."""
    cloudpickle = sys.modules.get("cloudpickle")
    registered = cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else ()
    if not registered:
        return _MAIN
    return (b"__main__", *(name.encode() for name in registered))


class _Met(Exception):  # noqa: N818 - an answer, not an error
    pass


def _meets(state: object, modules: tuple[bytes, ...]) -> bool:
    """Say whether pickling `state` would name a class or function of one of the modules."""
    names = {name.decode() for name in modules}

    class Scout(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type | FunctionType) and _of_module(obj, names):
                raise _Met
            return NotImplemented

    try:
        Scout(io.BytesIO(), protocol=PROTOCOL, buffer_callback=lambda _: None).dump(state)
    except _Met:
        return True
    except Exception:  # noqa: BLE001 - the first attempt's own error is the one to raise
        return False
    return False


def _of_module(obj: type | FunctionType, names: set[str]) -> bool:
    module = obj.__module__ or ""
    return any(module == name or (name != "__main__" and module.startswith(f"{name}.")) for name in names)


def _cloudpickler(state: object) -> Callable[..., Any]:
    try:
        import cloudpickle  # noqa: PLC0415 - optional, and only here
    except ImportError:
        msg = (
            f"a state of type {type(state).__name__} holds a class or function of __main__, which other "
            "processes cannot import: install cloudpickle (pip install cloudpickle), or move it to a module"
        )
        raise pickle.PicklingError(msg) from None
    pickler: Callable[..., Any] = cloudpickle.Pickler
    return pickler
