"""Futures of any executor, whose `result()` opens a packed reply."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["open_with"]

_NOTHING = object()


class _Opening:
    """Opens one reply, once."""

    def __init__(self, open_reply: Callable[[Any], Any]) -> None:
        self._open: Callable[[Any], Any] | None = open_reply
        self._lock = threading.Lock()
        self._value: Any = _NOTHING

    def value(self, reply: Any) -> Any:
        """Return what the reply holds. Raises what loading it raises, and loads it anew on the next call."""
        with self._lock:
            if self._open is not None:
                self._value = self._open(reply)
                # Also what the function holds: the last future of an executor may hold its temporary folder.
                self._open = None
            return self._value


def open_with(future: Any, open_reply: Callable[[Any], Any]) -> "concurrent.futures.Future[Any]":
    """Make a future's `result()` pass its reply through a function. Return the future.

    It stays the object that its executor knows, but gets a subclass of its class. Cancelling, callbacks and waiting
    work as before.
    """
    future._ana_opening = _Opening(open_reply)  # noqa: SLF001 - ours
    future.__class__ = _opening_class(type(future))
    opening: concurrent.futures.Future[Any] = future
    return opening


_classes: dict[type, type] = {}


def _opening_class(cls: type) -> type:
    return _classes.get(cls) or _classes.setdefault(cls, _make_class(cls))


def _make_class(cls: Any) -> type:
    class Opening(cls):  # type: ignore[misc]  # any executor's class of futures
        def result(self, timeout: float | None = None) -> Any:
            return self._ana_opening.value(super().result(timeout))

        def exception(self, timeout: float | None = None) -> BaseException | None:
            error: BaseException | None = super().exception(timeout)
            return _error_of(self) if error is None else error

        def cancel(self) -> bool:
            # Parsl's futures cannot be cancelled, and raise this. `map` cancels futures in any case.
            try:
                return bool(super().cancel())
            except NotImplementedError:
                return False

        def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
            # What asyncio calls from Python 3.14 on.
            done, cancelled, result, error = super()._get_snapshot()
            if done and not cancelled and error is None:
                error = _error_of(self)
                result = None if error is not None else self.result()
            return done, cancelled, result, error

    for method in (Opening.result, Opening.exception, Opening.cancel):
        method.__doc__ = getattr(cls, method.__name__).__doc__
    Opening.__name__, Opening.__qualname__, Opening.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Opening


def _error_of(future: "concurrent.futures.Future[Any]") -> Exception | None:
    """Return what keeps a finished future's result from being loaded, if anything."""
    try:
        future.result()
    except Exception as error:  # noqa: BLE001 - it is what the caller asks for
        return error
    return None
