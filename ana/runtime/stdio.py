"""Standard streams for the command: always open, in any encoding, with errors of their own type."""

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
        self.errno: int | None = error.errno


class _Output(io.FileIO):
    """Standard output. After an error it discards what is written, so that the final flush does not fail, too."""

    def write(self, data: Any) -> int:
        """Write some of the data. Raises OutputError, not OSError, which libraries would handle themselves."""
        try:
            while (done := super().write(data)) is None:
                # The descriptor is non-blocking, because a program that shares the terminal or pipe set that.
                select.select([], [self], [])
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise OutputError(error) from error
        return done


class _Errors(io.FileIO):
    """Standard error: failing to report an error is not an error."""

    def write(self, data: Any) -> int:
        """Write the data if possible."""
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Set up this process's streams. A closed stream acts like /dev/null."""
    for number in range(3):
        _open(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open until exit
    sys.stdout = _stream(sys.stdout, _Output(1, "wb", closefd=False))
    sys.stderr = _stream(sys.stderr, _Errors(2, "wb", closefd=False))


def _open(number: int) -> None:
    """Open a closed descriptor on /dev/null; otherwise the next opened file would become this stream."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _stream(before: IO[str] | None, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a text stream in the encoding of the previous one; characters that it lacks are escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,  # noqa: PLR2004 - standard error
    )
