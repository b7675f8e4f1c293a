"""Standard streams as the command needs them: open, in any encoding, and with errors that are known for theirs."""

import io
import os
import select
import sys
from typing import IO, Any

__all__ = ["OutputError", "prepare"]


class OutputError(Exception):
    """Standard output cannot be written to. Attribute: `errno`."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror}")
        self.errno = error.errno


class _Output(io.FileIO):
    """Standard output: what is written after an error goes nowhere, so that nobody stumbles over it at the end."""

    def write(self, data: Any) -> int:
        """Write some of it. Raises OutputError: no OSError, which libraries take for their own affair."""
        try:
            while (done := super().write(data)) is None:
                # It does not block, as the terminal or pipe is shared with a program that wants that.
                select.select([], [self], [])
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise OutputError(error) from error
        return done


class _Errors(io.FileIO):
    """Standard error: that nobody can be told of an error is none."""

    def write(self, data: Any) -> int:
        """Write it, if it can be written."""
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Set up this process's streams. One that is closed leads nowhere, like /dev/null."""
    for number in range(3):
        _open(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open to the end
    sys.stdout = _stream(sys.stdout, _Output(1, "wb", closefd=False))
    sys.stderr = _stream(sys.stderr, _Errors(2, "wb", closefd=False))


def _open(number: int) -> None:
    """Have a descriptor lead somewhere: the next file that is opened would be this stream."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _stream(before: IO[str] | None, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a stream of text in the encoding that was there before; what that lacks is escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,  # noqa: PLR2004 - standard error
    )
