"""States to pickle streams and back: protocol 5, out-of-band buffers, children, by-value classes.

While a state is pickled, a `Collector` stands for the record that is being made: references that are
met are written bare (without the store's home) and noted as its children.
"""

import io
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Protocol

__all__ = ["Collector", "collector", "dump", "load"]

PROTOCOL = 5
_MAIN = (b"__main__",)
_log = logging.getLogger("ana.pickling")
IN_BAND_BYTES = 4096
"""Buffers below this size stay in the stream: a segment of their own costs more than a copy."""


class Collector(Protocol):
    """What a Storable talks to while a state is being pickled."""

    def meet(self, child: Any) -> None:
        """Note that the state that is being pickled refers to `child`; called for every Storable."""


class _Active(threading.local):
    collector: Collector | None = None


_active = _Active()


def collector() -> Collector | None:
    """Return the collector of the state that this thread is pickling into a record, if any."""
    return _active.collector


def dump(get_state: Callable[[], object], into: Collector, *, stays: bool = False) -> list[memoryview]:
    """Pickle a state; return its segments: the pickle stream, then each out-of-band buffer as flat bytes.

    References that are met (also by `get_state` itself) are told to `into` and written bare. Classes and
    functions of `__main__`, or of modules that were registered by value, go by value through
    cloudpickle, unless the state `stays` in this process. Raises what pickling raises; PicklingError where
    cloudpickle would be needed and is not installed. Nothing is stored then.
    """
    before, _active.collector = _active.collector, into
    try:
        return _dump(get_state(), () if stays else _by_value_modules())
    finally:
        _active.collector = before


def _dump(state: object, by_value: tuple[bytes, ...]) -> list[memoryview]:
    try:
        segments = _dump_with(pickle.Pickler, state)
    except Exception:
        # Perhaps only because a lambda or a local class is the script's own: cloudpickle can have those.
        if not _meets(state, _by_value_modules()):
            raise
        return _dump_with(_cloudpickler(state), state)
    # A quick look first: the exact one pickles again.
    stream: Any = segments[0].obj
    for name in by_value:
        if name in stream:
            return _dump_by_value(state, segments) if _meets(state, by_value) else segments
    return segments


def load(segments: Sequence[bytes | memoryview]) -> Any:
    """Unpickle a state from its segments; arrays use the memory of theirs. Runs what the pickle says."""
    buffers = map(_alone, segments[1:])
    return pickle.loads(segments[0], buffers=buffers)  # noqa: S301 - the point of the whole; bytes are verified


def _alone(segment: bytes | memoryview) -> memoryview:
    """Return a view whose `obj` has just these bytes, not all that they were cut out of: some classes take that."""
    return memoryview(pickle.PickleBuffer(segment))


def _dump_with(pickler_class: Callable[..., Any], state: object) -> list[memoryview]:
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < IN_BAND_BYTES:
            return True
        buffers.append(view)
        return False

    if pickler_class is pickle.Pickler:
        # The same without a file: large states are not copied while the file grows.
        return [memoryview(pickle.dumps(state, PROTOCOL, buffer_callback=keep)), *buffers]
    file = io.BytesIO()
    pickler_class(file, protocol=PROTOCOL, buffer_callback=keep).dump(state)
    return [memoryview(file.getvalue()), *buffers]


def _dump_by_value(state: object, by_reference: list[memoryview]) -> list[memoryview]:
    pickler = _cloudpickler(state)
    try:
        return _dump_with(pickler, state)
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
