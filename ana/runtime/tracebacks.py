"""Tracebacks without the frames in which ANA found an error out, and warnings that name the user's line."""

import sys
from types import FrameType
from typing import TypeVar

__all__ = ["shortened", "users_level"]

Error = TypeVar("Error", bound=BaseException)

_NOT_THE_USERS = sys.stdlib_module_names | {"ana"}


def shortened(error: Error) -> Error:
    """Return an error whose traceback begins with the first frame of a user's code, if there is one below."""
    trace = error.__traceback__
    while trace is not None and not _is_users(trace.tb_frame):
        trace = trace.tb_next
    return error.with_traceback(trace)


def users_level() -> int:
    """Return the `stacklevel` with which the caller's warning names the line of a user's code that led to it."""
    frame, level = sys._getframe(1), 1  # noqa: SLF001 - its documented name
    while not _is_users(frame) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level


def _is_users(frame: FrameType) -> bool:
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0] not in _NOT_THE_USERS
