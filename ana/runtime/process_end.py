"""Calls functions when this process ends: at exit, and in workers of multiprocessing, which end without it."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["call"]

_functions: dict[Callable[[], object], None] = {}
_lock = threading.Lock()
_known_to_multiprocessing = False


def call(function: Callable[[], object]) -> None:
    """Call a function when this process, or one that is forked from it, ends. Repeated calls do nothing."""
    with _lock:
        if function in _functions:
            return
        if not _functions:
            atexit.register(_end)
            os.register_at_fork(before=_tell_multiprocessing, after_in_child=_after_fork)
        _functions[function] = None
    _tell_multiprocessing()


def _end(_: object = None) -> None:
    for function in list(_functions):
        function()


def _tell_multiprocessing() -> None:
    """Make multiprocessing's workers call them before os._exit, also those forked later, which lose finalizers."""
    global _known_to_multiprocessing  # noqa: PLW0603 - one per process
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None or _known_to_multiprocessing:
        return
    _known_to_multiprocessing = True
    util.register_after_fork(_functions_holder, _finish_with_multiprocessing)
    _finish_with_multiprocessing()


class _Holder:
    """Registered with multiprocessing, which wants an object that it can refer to weakly."""


_functions_holder = _Holder()


def _finish_with_multiprocessing(_: object = None) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, _end, exitpriority=-1000)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - one per process, replaced after fork
    _lock = threading.Lock()
