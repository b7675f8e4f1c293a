"""States to pickles and back: children, classes by value, buffers out of band.

While a state is being pickled, a `Collector` notes the references in it as the children of its record. They are pickled
bare, without the store's home.
"""

import copyreg
import io
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, Protocol

from ana.objects.out_of_band import PROTOCOL, Pickled, write
from ana.objects.restricted import PATHS_OF_3_13, AllowedGlobals, known_as

__all__ = [
    "Collector",
    "by_value_modules",
    "cloudpickler",
    "collector",
    "dump",
    "load",
    "may_go_by_value",
    "names_any",
    "with_reducers",
]

_MAIN = (b"__main__",)
_EXTENSIONS: dict[tuple[str, str], int] = getattr(copyreg, "_extension_registry", {})
"""What `copyreg.add_extension` knows."""
_OTHER_PATHS = sys.version_info >= (3, 13)
"""There `reducers` knows about `pathlib`."""
_IN_MEMORY = (io.BytesIO, io.StringIO)
_log = logging.getLogger("ana.pickling")


class Collector(Protocol):
    """Collects the Storables that a state refers to while it is being pickled."""

    def meet(self, child: Any) -> bool:
        """Return whether the state refers to `child`; otherwise it holds the child. Called for every Storable."""

    def is_final(self, error: Exception) -> bool:
        """Return whether an error came from an inner state, so that pickling this one in another way would not help."""

    def find(self, uuid: str) -> Any:
        """Return the collected child with this UUID."""


class _Active(threading.local):
    collector: Collector | None = None


_active = _Active()


def collector() -> Collector | None:
    """Return the collector of the state that this thread is pickling, if any."""
    return _active.collector


def dump(get_state: Callable[[], object], into: Collector, *, stays: bool = False) -> Pickled:
    """Pickle a state: the pickle stream, then each buffer and each large `bytes` object as flat bytes.

    References in it, also those that `get_state` itself pickles, are reported to `into` and pickled bare. cloudpickle
    pickles classes and functions of `__main__`, and of modules registered by value, by value, unless the state `stays`
    in this process. It also pickles whatever plain pickle refuses. Raises what pickling raises, and PicklingError if
    cloudpickle is needed for `__main__` and not installed, or cannot read what it wrote. Nothing is stored then.
    """
    before, _active.collector = _active.collector, into
    try:
        return _dump(get_state(), () if stays else by_value_modules(), into)
    finally:
        _active.collector = before


def _dump(state: object, by_value: tuple[bytes, ...], into: Collector) -> Pickled:
    try:
        pickled = write(with_reducers(pickle.Pickler), state)
    except Exception as error:
        # Do not retry what failed in an inner state: n nested states would be pickled 2^n times.
        if into.is_final(error):
            raise
        return _dump_what_pickle_refuses(state, error, into)
    if _EXTENSIONS:
        _check_extensions(pickled)
    # A quick check first: the exact one pickles again.
    for name in by_value:
        for frames in pickled.frames:
            if name in frames:
                return _dump_by_value(state, pickled, into) if names_any(state, by_value) else pickled
    return pickled


def may_go_by_value(pickled: Pickled) -> bool:
    """Return whether a state may name something that other processes cannot import, and so needs other bytes there."""
    return any(name in frames for name in by_value_modules() for frames in pickled.frames)


def with_reducers(pickler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of such picklers with our reducers. Users' reducers take precedence."""
    if "torch" not in sys.modules and not (_OTHER_PATHS and "pathlib" in sys.modules):
        return pickler
    from ana.objects import reducers  # noqa: PLC0415 - few states need them

    table: dict[Any, Any] = reducers.table()

    def make(*arguments: Any, **options: Any) -> Any:
        made = pickler(*arguments, **options)
        made.dispatch_table = {**table, **getattr(made, "dispatch_table", copyreg.dispatch_table)}
        return made

    return make


def load(segments: Sequence[bytes | memoryview], allowed: AllowedGlobals | None = None) -> Any:
    """Unpickle a state from its segments. Arrays use their segments' memory. Runs the code that the pickle names.

    Raises what unpickling raises, and `restricted.ForbiddenGlobalError` if the pickle names a forbidden global.
    """
    stream = segments[0]
    buffers = _alone(segments[1:]) if len(segments) > 1 else None
    if allowed is not None:
        return allowed.load(stream, buffers)
    try:
        return pickle.loads(stream, buffers=buffers)  # noqa: S301 - what ANA is for; the bytes are verified
    except ModuleNotFoundError as error:
        if error.name != PATHS_OF_3_13:
            raise
    return _Unpickler(io.BytesIO(stream), buffers=_alone(segments[1:])).load()


class _Unpickler(pickle.Unpickler):
    """Reads the paths that version 1.0 wrote in Python 3.13."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(known_as(module), name)


def _alone(segments: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield `bytes` unchanged, and re-wrap views so that `view.obj` exposes only their own bytes.

    Some classes read `view.obj`, which would be all the bytes that the view was cut from.
    """
    for segment in segments:
        yield segment if isinstance(segment, bytes) else memoryview(pickle.PickleBuffer(segment))


def _dump_what_pickle_refuses(state: object, error: Exception, into: Collector) -> Pickled:
    """Pickle a state with cloudpickle: lambdas, local classes, modules ... Raises what prevents that."""
    pickler = cloudpickler()
    if pickler is None:
        if not names_any(state, by_value_modules()):
            raise error
        msg = (
            f"a state of type {type(state).__name__} holds a class or function of __main__, which other "
            "processes cannot import: install cloudpickle (pip install cloudpickle), or move it to a module"
        )
        raise pickle.PicklingError(msg) from None
    try:
        pickled = write(with_reducers(pickler), state)
    except Exception as last:
        # cloudpickle raises another error for a state that is nested too deeply.
        if isinstance(error, RecursionError) and not into.is_final(last):
            raise error from None
        if last.__context__ is error and repr(last) == repr(error):
            # Both say the same: once is enough for the traceback.
            last.__context__ = None
        raise
    _check_readable(pickled, into)
    if _EXTENSIONS:
        _check_extensions(pickled)
    return pickled


def _dump_by_value(state: object, by_reference: Pickled, into: Collector) -> Pickled:
    pickler = cloudpickler()
    if pickler is None:
        return _dump_what_pickle_refuses(state, ImportError("cloudpickle"), into)
    try:
        pickled = write(with_reducers(pickler), state)
        _check_readable(pickled, into)
    except Exception as error:  # noqa: BLE001 - whatever a class holds that cannot be pickled
        # By reference, as always: it loads wherever the same script runs.
        _log.warning("a class of __main__ does not pickle by value (%s): it goes by reference", error)
        return by_reference
    return pickled


def by_value_modules() -> tuple[bytes, ...]:
    """Return the names of the modules whose classes other processes cannot import."""
    cloudpickle = sys.modules.get("cloudpickle")
    registered = cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else ()
    if not registered:
        return _MAIN
    return (b"__main__", *(name.encode() for name in registered))


class _Met(Exception):  # noqa: N818 - an answer, not an error
    pass


def names_any(state: object, modules: tuple[bytes, ...]) -> bool:
    """Return whether pickling `state` would name a class or function of one of the modules."""
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


def cloudpickler() -> Callable[..., Any] | None:
    """Return a factory of cloudpickle's picklers, if it is installed."""
    try:
        import cloudpickle  # noqa: PLC0415 - optional, and only here
    except ImportError:
        return None

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        """Does not read open files. cloudpickle would copy their content into a StringIO, and would wait for a pipe."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, io.IOBase) and obj not in (sys.stdout, sys.stderr) and not isinstance(obj, _IN_MEMORY):
                msg = f"cannot pickle {type(obj).__module__ + '.' + type(obj).__qualname__!r} object"
                raise TypeError(msg)
            return super().reducer_override(obj)

    return Pickler


def _check_extensions(pickled: Pickled) -> None:
    """Refuse a state that names a class by a `copyreg.add_extension` code, which other processes do not know."""
    import pickletools  # noqa: PLC0415 - hardly ever needed

    stream = b"".join(pickled.segments()[0])
    for opcode, code, _ in pickletools.genops(stream):
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            name = next((".".join(name) for name, known in _EXTENSIONS.items() if known == code), "a class")
            msg = (
                f"copyreg.add_extension has {name} written as the number {code}, which other processes do not know: "
                "call copyreg.remove_extension before it is stored"
            )
            raise pickle.PicklingError(msg)


def _check_readable(pickled: Pickled, into: Collector) -> None:
    from ana.objects import trial_load  # noqa: PLC0415 - only for what cloudpickle wrote

    trial_load.check(pickled, into.find)
