"""Tracebacks without ANA's own frames, and warnings that name the user's line."""

import sys
from types import FrameType, TracebackType
from typing import TypeVar

from ana.errors import ANAError

__all__ = ["shorten_for_caller", "shortened", "users_frame", "users_level"]

Error = TypeVar("Error", bound=BaseException)

_NOT_THE_USERS = sys.stdlib_module_names | {"ana", "cloudpickle"}
_PICKLES = "ana.objects.pickling"


def shortened(error: Error) -> Error:
    """Return an error whose traceback begins with the first frame of a user's code, if there is one below."""
    return error.with_traceback(_users_part(error))


def shorten_for_caller(error: BaseException) -> None:
    """Shorten the traceback of an error of storing that a public function raises again.

    The error stays as it is if ANA itself called that function, or if it may be ANA's own mistake: neither an ANAError,
    nor of pickling, nor out of a user's code.
    """
    caller = sys._getframe(1).f_back  # noqa: SLF001 - its documented name
    if caller is not None and _root(caller) == "ana":
        return
    if isinstance(error, ANAError) or _is_of_pickling(error) or users_frame(error) is not None:
        shortened(error)


def users_frame(error: BaseException) -> FrameType | None:
    """Return the first frame of a user's code in an error's traceback, if there is one."""
    trace = _users_part(error)
    return None if trace is None else trace.tb_frame


def _users_part(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None and not _is_users(trace.tb_frame):
        trace = trace.tb_next
    return trace


def _is_of_pickling(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") != _PICKLES:
        trace = trace.tb_next
    return trace is not None


def users_level() -> int:
    """Return the `stacklevel` with which the caller's warning names the line of a user's code that led to it."""
    frame, level = sys._getframe(1), 1  # noqa: SLF001 - its documented name
    while not _is_users(frame) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level


def _is_users(frame: FrameType) -> bool:
    return _root(frame) not in _NOT_THE_USERS


def _root(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]
