"""Detects threads that wait for one another's loads: rings of waits and loans, and threads that make no progress."""

from collections.abc import Sequence
from typing import Protocol

from ana.runtime import thread_progress

__all__ = ["reachable", "stands_still", "would_close_a_ring"]


class Load(Protocol):
    """What is asked of a load in flight."""

    over: bool

    @property
    def session(self) -> "Session":
        """The session of its thread."""


class Session(Protocol):
    """What is asked of a thread's session."""

    ended: bool
    """It only waits for what it has borrowed."""
    reading: bool
    thread: thread_progress.Thread

    @property
    def awaits(self) -> Load | None:
        """The load that its thread waits for."""

    @property
    def borrowed(self) -> Sequence[Load]:
        """The loads of other sessions whose objects it holds."""


def would_close_a_ring(load: Load, mine: Session) -> bool:
    """Return whether the thread of `load` waits, perhaps through others, for this very session."""
    seen: list[Session] = []
    todo = [load.session]
    while todo:
        owner = todo.pop()
        if owner is mine:
            return True
        if owner in seen:
            continue
        seen.append(owner)
        if owner.awaits is not None:
            todo.append(owner.awaits.session)
        elif owner.ended:
            todo += reachable(owner)
    return False


def reachable(start: Session) -> list[Session]:
    """Return the other sessions whose unfinished objects this one has borrowed, directly or through others."""
    found: list[Session] = []
    todo = [start]
    while todo:
        for load in todo.pop().borrowed:
            other = load.session
            if not load.over and other is not start and other not in found:
                found.append(other)
                todo.append(other)
    return found


def stands_still(other: Session, seconds: float) -> bool:
    """Return whether a thread runs the code of users, and has used no processor time in it for so long."""
    if other.reading or other.awaits is not None or other.ended:
        other.thread.forget()
        return False
    if other.thread.idle_seconds() < seconds:
        return False
    if other.thread.wants_to_run():
        other.thread.forget()
        return False
    return True
