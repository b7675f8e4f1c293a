"""Commands on a terminal of their own, and the environment that they get."""

import contextlib
import os
import pty
import sys
from pathlib import Path

import ana

__all__ = ["environment", "on_a_terminal"]

ROOT = Path(ana.__file__).parents[1]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, without what changes colours and widths, and with ana importable."""
    without = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **changes}


def on_a_terminal(*arguments: str, **changes: str) -> tuple[int, str]:
    """Run `python -m ana` on a terminal of its own; return the exit code and all that the terminal got."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "ana", *arguments], environment(**changes))  # noqa: S606 - a child of a fork
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the last process has closed it
        while block := os.read(terminal, 65536):
            seen += block
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode()
