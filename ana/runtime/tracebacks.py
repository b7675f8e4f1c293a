"""Tracebacks without the frames in which ANA found an error out."""

import sys
from types import TracebackType
from typing import TypeVar

__all__ = ["shortened"]

Error = TypeVar("Error", bound=BaseException)

_NOT_THE_USERS = sys.stdlib_module_names | {"ana"}


def shortened(error: Error) -> Error:
    """Return an error whose traceback begins with the first frame of a user's code, if there is one below."""
    trace = error.__traceback__
    while trace is not None and _module(trace) in _NOT_THE_USERS:
        trace = trace.tb_next
    return error.with_traceback(trace)


def _module(trace: TracebackType) -> str:
    name: str = trace.tb_frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]
