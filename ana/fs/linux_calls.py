"""System calls of Linux that Python does not offer, by ctypes. Each does without where there is none."""

import errno
import os
from collections.abc import Callable
from functools import cache

__all__ = ["rename_to_new", "start_writing_back"]

_SYNC_FILE_RANGE_WRITE = 2
"""From <fcntl.h>: start writing dirty pages, without waiting."""
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
"""From <fcntl.h> and <stdio.h>: relative paths as usual; fail if the name exists."""


def start_writing_back(descriptor: int, offset: int, size: int) -> None:
    """Let the kernel start writing a part of a file back. Errors show at the final fsync or close."""
    start = _c_function("sync_file_range", "int", "int64", "int64", "uint")
    if start is not None:
        start(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)


def rename_to_new(old: str, new: str) -> None:
    """Rename without replacing (rename(2), RENAME_NOREPLACE); without that support, rename anyway."""
    call = _c_function("renameat2", "int", "char_p", "int", "char_p", "uint")
    if call is not None:
        import ctypes  # noqa: PLC0415 - see _c_function

        if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return
        if ctypes.get_errno() == errno.EEXIST:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    # Not supported, or it failed: then this call reports the error.
    os.rename(old, new)


@cache
def _c_function(name: str, *kinds: str) -> Callable[..., int] | None:
    """Return a function of the C library (Linux), called without the GIL; None if it does not exist."""
    try:
        import ctypes  # noqa: PLC0415 - takes milliseconds, and few states need it

        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = [getattr(ctypes, f"c_{kind}") for kind in kinds]
    found: Callable[..., int] = function
    return found
