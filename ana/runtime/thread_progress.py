"""Whether another thread makes progress, judged by its processor time and by the objects it refers to while it waits.

Python cannot tell what a thread waits for: a user's lock, the import lock and a thread pool all look the same.
"""

import gc
import sys
import threading
import time
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

__all__ = ["Thread", "is_waiting_for_me"]

SHARE = 0.005
"""A thread that makes progress uses at least this share of the time; one that polls every 10 ms uses less."""
LEAST_SECONDS = 0.001
WINDOW_SECONDS = 1.0
DEPTH = 6
MOST_OBJECTS = 20_000
"""How far to search from a thread's variables: an executor, its attributes, its set of threads, a thread."""

_WAITING = {
    ("threading", "wait"),
    ("threading", "join"),
    ("threading", "_wait_for_tstate_lock"),
    ("selectors", "select"),
}
_OPAQUE = (CodeType, FrameType, FunctionType, ModuleType, type)


class Thread:
    """The creating thread, as others see it. The thread must be alive when a method is called."""

    def __init__(self) -> None:
        self.number: int = threading.get_ident()
        self._native_number = threading.get_native_id()
        self.forget()

    def forget(self) -> None:
        """Discard earlier observations."""
        self.asked: bool = False
        """Whether `idle_seconds` was called since."""
        self._computed_seconds = -1.0
        self._since = 0.0

    def idle_seconds(self) -> float:
        """Return for how long the thread has used no processor time, since the first call."""
        if sys.is_finalizing():
            # The thread may have ended, and then it has no clock.
            return float("inf")
        self.asked = True
        now = time.monotonic()
        computed = time.clock_gettime(time.pthread_getcpuclockid(self.number))
        expected = max(LEAST_SECONDS, SHARE * min(now - self._since, WINDOW_SECONDS))
        if self._computed_seconds < 0 or computed - self._computed_seconds > expected:
            self._computed_seconds, self._since = computed, now
        return now - self._since

    def wants_to_run(self) -> bool:
        """Return whether the thread waits for a processor or a disk only: on a busy machine, for seconds."""
        try:
            with open(f"/proc/self/task/{self._native_number}/stat", "rb") as file:
                said = file.read()
        except OSError:
            # Not Linux, or no /proc.
            return False
        # The program's name, in parentheses, may contain anything.
        return said.rpartition(b")")[2].split()[0] in {b"R", b"D"}


def is_waiting_for_me(number: int) -> bool:
    """Return whether a thread waits for others and can reach the calling thread, for example in a pool variable."""
    frame: FrameType | None = sys._current_frames().get(number)  # noqa: SLF001 - its documented name
    if frame is None or (_module(frame), frame.f_code.co_name) not in _WAITING:
        return False
    level: list[Any] = []
    # Its frames up to ANA's own, which called the user's code.
    while frame is not None and not _module(frame).startswith("ana."):
        level += _variables(frame)
        frame = frame.f_back
    return _leads_to(level, threading.current_thread())


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _variables(frame: FrameType) -> list[Any]:
    """Return the values of a function's local variables, and of the global variables that it names."""
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
