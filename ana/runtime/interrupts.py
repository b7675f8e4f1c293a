"""Ctrl-C, SIGTERM and SIGHUP end the `ana` command with an exit code and at most a line, from its first import on.

Python answers a Ctrl-C by an exception wherever it comes: while modules are imported, in a destructor, while the
interpreter ends. Here it is an exception once, while the command works, so that it cleans up. Before that the process
ends at once, and after that signals are ignored: what was to be done is done.

Imported before everything else of the package, as that takes most of a short command's time, and imports nothing that
Python has not imported by then. A program that only uses the package keeps its own handlers.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what the module `signal` is made of, 3 ms sooner
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["INTERRUPTED", "answer", "run", "run_within"]

INTERRUPTED = 130
"""The shells' word for "stopped by Ctrl-C"."""
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
    """Have signals end this process from now on, which is the command's."""
    _answer_by(_answer, *_SIGNALS)


def run(work: Callable[[], int]) -> int:
    """Return what the command's `work` returns, or the exit code of the signal that ended it; the program ends then."""
    try:
        return _run(work)
    except KeyboardInterrupt:
        # Just before or after it.
        return _interrupted()
    except _Ended as ended:
        return ended.status
    finally:
        # One that came out of an eval(), as in dataclasses, would count as not handled (Py_RunMain) until the next.
        eval("0")  # noqa: S307 - see above


def run_within(work: Callable[[], int]) -> int:
    """Do the same within a program that goes on, and has its handlers back then; each signal raises."""
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
    global _raising  # noqa: PLW0603 - handlers know nothing else
    sys.unraisablehook = _unraisable
    try:
        _raising = True
        return work()
    except KeyboardInterrupt:
        return _interrupted()
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _raising = False


def _answer_by(handler: Callable[[int, FrameType | None], None], *numbers: int) -> dict[int, Any]:
    """Answer signals so from now on; return what did it before."""
    before: dict[int, Any] = {}
    for number in numbers:
        found = signal.getsignal(number)
        # What is ignored stays so: SIGHUP under nohup, SIGINT in a script's background.
        if found in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = found
            signal.signal(number, handler)
    return before


def _answer(number: int, frame: FrameType | None) -> None:
    """Raise once, while the command works; at all other times, leave at once."""
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
        # Nobody can read it.
        pass
    return INTERRUPTED


def _unraisable(what: Any) -> None:
    """Raise once more, a moment later, what a destructor cannot pass on."""
    global _raising  # noqa: PLW0603 - again
    error = what.exc_value
    if not isinstance(error, KeyboardInterrupt | _Ended):
        sys.__unraisablehook__(what)
        return
    number = error.number if isinstance(error, _Ended) else signal.SIGINT
    signal.signal(signal.SIGALRM, lambda _, frame: _answer(number, frame))
    _raising = True
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


def _is_the_command() -> bool:
    """Return whether this process is `python -m ana` or the script `ana` beside its interpreter, and no child of it."""
    words = sys.orig_argv
    if sys.argv[:1] == ["-m"]:
        # As long as the module is being looked for.
        return words[words.index("-m") :][1:2] == ["ana"] if "-m" in words else "-mana" in words
    script = sys.argv[0] if sys.argv else ""
    if os.path.basename(script) != "ana" or script not in words:
        return False
    return os.path.dirname(os.path.realpath(script)) == os.path.dirname(sys.executable)


if _is_the_command():
    answer()
