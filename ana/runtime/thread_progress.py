"""Whether another thread gets on: by the processor time that it uses, and by what it has at hand while it waits.

What a thread waits for cannot be asked in Python: a user's lock, the import lock and a thread pool are all the same.
"""

import gc
import sys
import threading
import time
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

__all__ = ["Thread", "is_waiting_for_me"]

SHARE = 0.005
"""So much of the time does a thread compute that gets on; one that polls for a lock every 10 ms uses less."""
LEAST_SECONDS = 0.001
WINDOW_SECONDS = 1.0
DEPTH = 6
MOST_OBJECTS = 20_000
"""So far is it looked from a thread's variables: an executor, its attributes, its set of threads, a thread."""

_WAITING = {
    ("threading", "wait"),
    ("threading", "join"),
    ("threading", "_wait_for_tstate_lock"),
    ("selectors", "select"),
}
_OPAQUE = (CodeType, FrameType, FunctionType, ModuleType, type)


class Thread:
    """The thread that makes it, as others see it. The thread must be alive whenever it is asked about."""

    def __init__(self) -> None:
        self.number = threading.get_ident()
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was seen earlier says nothing."""
        self.asked = False
        """Whether anybody has looked since."""
        self._computed_seconds = -1.0
        self._since = 0.0

    def idle_seconds(self) -> float:
        """Return for how long it has used no processor time, as far as anybody has looked."""
        if sys.is_finalizing():
            # It may have been ended, and then there is no clock of its own any more.
            return float("inf")
        self.asked = True
        now = time.monotonic()
        computed = time.clock_gettime(time.pthread_getcpuclockid(self.number))
        expected = max(LEAST_SECONDS, SHARE * min(now - self._since, WINDOW_SECONDS))
        if self._computed_seconds < 0 or computed - self._computed_seconds > expected:
            self._computed_seconds, self._since = computed, now
        return now - self._since


def is_waiting_for_me(number: int) -> bool:
    """Return whether a thread waits for others, and has the calling one at hand: in a pool, say, of its variables."""
    frame: FrameType | None = sys._current_frames().get(number)  # noqa: SLF001 - its documented name
    if frame is None or (_module(frame), frame.f_code.co_name) not in _WAITING:
        return False
    level: list[Any] = []
    # Its frames down to our own, from which the code of users was called.
    while frame is not None and not _module(frame).startswith("ana."):
        level += _variables(frame)
        frame = frame.f_back
    return _leads_to(level, threading.current_thread())


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _variables(frame: FrameType) -> list[Any]:
    """Return what the local variables of a function hold, and the global ones that it names."""
    found = list(frame.f_locals.values())
    if _module(frame).partition(".")[0] not in sys.stdlib_module_names:
        names = frame.f_code.co_names
        found += [frame.f_globals[name] for name in names if name in frame.f_globals]
    return found


def _leads_to(level: list[Any], wanted: object) -> bool:
    seen: set[int] = set()
    for _ in range(DEPTH):
        level = [obj for obj in level if id(obj) not in seen and not isinstance(obj, _OPAQUE)]
        seen.update(map(id, level))
        if id(wanted) in seen:
            return True
        if len(seen) > MOST_OBJECTS:
            break
        level = gc.get_referents(*level)
    return False
