"""Ctrl-C, SIGTERM and SIGHUP end the `ana` command with an exit code and at most one line, from its first import on.

Python turns Ctrl-C into an exception wherever it arrives: during imports, in a destructor, at interpreter shutdown.
Here a signal raises once, while the command works, so that it can clean up. Before that the process ends at once.
Afterwards signals are ignored, because the work is done.

This module is imported before the rest of the package, because imports take most of a short command's time. It imports
nothing that Python has not already imported. A program that only uses the package keeps its own handlers.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the base of `signal`, imported 3 ms faster
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["INTERRUPTED", "answer", "run", "run_within"]

INTERRUPTED = 130
"""The shells' exit code for "stopped by Ctrl-C"."""
AGAIN_SECONDS = 0.001

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_raising = False


class _Ended(SystemExit):
    """SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        self.number = int(number)
        self.status = 128 + self.number
        super().__init__(self.status)


def answer() -> None:
    """Let signals end this process, which is the command's, from now on."""
    _answer_by(_answer, *_SIGNALS)


def run(work: Callable[[], int]) -> int:
    """Run the command's `work`, then exit: return its result, or the exit code of the signal that ended it."""
    try:
        return _run(work)
    except KeyboardInterrupt:
        # The signal came just before or after the work.
        return _interrupted()
    except _Ended as ended:
        return ended.status
    finally:
        # Py_RunMain takes a KeyboardInterrupt from an eval(), as in dataclasses, for unhandled until the next eval().
        eval("0")  # noqa: S307 - see above


def run_within(work: Callable[[], int]) -> int:
    """Do the same in a program that continues: each signal raises, and the handlers are restored afterwards."""
    before = _answer_by(_raise, signal.SIGTERM, signal.SIGHUP)
    try:
        return work()
    except KeyboardInterrupt:
        return _interrupted()
    except _Ended as ended:
        return ended.status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(work: Callable[[], int]) -> int:
    global _raising  # noqa: PLW0603 - signal handlers have no other state
    sys.unraisablehook = _unraisable
    try:
        _raising = True
        return work()
    except KeyboardInterrupt:
        return _interrupted()
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # Set by `_unraisable`: at the interpreter's end it would kill the process.
        signal.setitimer(signal.ITIMER_REAL, 0)
        _raising = False


def _answer_by(handler: Callable[[int, FrameType | None], None], *numbers: int) -> dict[int, Any]:
    """Install a handler for signals, and return the previous handlers."""
    before: dict[int, Any] = {}
    for number in numbers:
        found = signal.getsignal(number)
        # An ignored signal stays ignored: SIGHUP under nohup, SIGINT of a background job.
        if found in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = found
            signal.signal(number, handler)
    return before


def _answer(number: int, frame: FrameType | None) -> None:
    """Raise once, while the command works; at any other time, exit at once."""
    global _raising  # noqa: PLW0603 - once is enough
    if not _raising:
        if number == signal.SIGINT:
            _interrupted()
        os._exit(128 + number)
    _raising = False
    _raise(number, frame)


def _raise(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise _Ended(number)


def _interrupted() -> int:
    try:  # noqa: SIM105 - contextlib takes time to import
        os.write(2, b"ana: interrupted\n")
    except OSError:
        # Standard error is closed.
        pass
    return INTERRUPTED


def _unraisable(what: Any) -> None:
    """Raise an interrupt again a moment later, if it came in a destructor, which cannot propagate it."""
    global _raising  # noqa: PLW0603 - raise a second time
    error = what.exc_value
    if not isinstance(error, KeyboardInterrupt | _Ended):
        sys.__unraisablehook__(what)
        return
    number = error.number if isinstance(error, _Ended) else signal.SIGINT
    signal.signal(signal.SIGALRM, lambda _, frame: _answer(number, frame))
    _raising = True
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


def _is_the_command() -> bool:
    """Return whether this process is `python -m ana` or the interpreter's script `ana`, and not a child of it."""
    words = sys.orig_argv
    if sys.argv[:1] == ["-m"]:
        # sys.argv has this form while the module is being located.
        return words[words.index("-m") :][1:2] == ["ana"] if "-m" in words else "-mana" in words
    script = sys.argv[0] if sys.argv else ""
    if os.path.basename(script) != "ana" or script not in words:
        return False
    return os.path.dirname(os.path.realpath(script)) == os.path.dirname(sys.executable)


if _is_the_command():
    answer()
