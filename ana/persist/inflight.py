"""Who is loading which state: claims, the sessions of threads, and what they lend each other.

Waiting for a claim may close a ring. One of claims alone (two threads load a cycle from opposite ends) is found out
before. One that goes through the code of users (a lock, the import of a module, a pool that `_ana_setstate` waits for)
shows in that a thread does not get on: then the state is loaded once more, by who waits for it.
"""

import threading
from typing import TYPE_CHECKING, Any, Protocol

from ana.objects import identity
from ana.objects.restricted import AllowedGlobals
from ana.persist import prefetching
from ana.runtime import thread_progress
from ana.stores import base

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Claim",
    "Session",
    "Source",
    "borrow",
    "contest",
    "enter",
    "find",
    "local",
    "release",
    "stands_still",
    "wait",
    "wait_for_borrowed",
    "would_close_a_ring",
]

PATIENCE_SECONDS = 1.0
"""So long may a thread that runs the code of users, while it loads, use no processor time; twice that where another
load of the state stands still already, and so on."""
POLL_SECONDS = 0.1
MOST_LOADS = 4
"""So many threads load a state at once, at the most."""
LAST_PATIENCE_SECONDS = 60.0
"""So long may the last of them stand still."""


class Source(Protocol):
    """What a load needs of a layer."""

    uuid: str
    live: identity.LiveObjects
    store: base.Store
    allowed_globals: AllowedGlobals | None
    max_state_bytes: int | None


class Claim:
    """One state that one thread is loading, until its whole session is over."""

    __slots__ = (
        "children",
        "cls",
        "contested",
        "found",
        "key",
        "layer",
        "loads",
        "obj",
        "over",
        "place",
        "prefetched_to",
        "session",
        "shared",
    )

    def __init__(self, layer: Source, cls: type, key: str, obj: Any, session: "Session") -> None:
        self.layer = layer
        self.cls = cls
        self.key = key
        self.obj = obj
        self.session = session
        self.found: base.StoredState | None = None
        self.children: Iterator[tuple[int, str]] = iter(())
        self.prefetched_to = 0
        self.shared = False
        self.over = False
        self.loads = 1
        self.contested = False
        self.place: tuple[object, ...] = ()


class Session:
    """One thread's loads that are under way, nested in one another. Their objects become known together."""

    def __init__(self) -> None:
        self.depth = 0
        self.layer: Source | None = None
        self.unpickling: Claim | None = None
        self.held: list[Any] = []
        self.put_off: list[Any] = []
        self.filled: list[Claim] = []
        self.borrowed: list[Claim] = []
        self.awaits: Claim | None = None
        self.claims = 0
        self.ended = False
        self.entangled = False
        self.reading = False
        self.published = 0
        self.thread = thread_progress.Thread()
        self.prefetcher = prefetching.Prefetcher()
        self.prefetcher_users = 0


class _Local(threading.local):
    def __init__(self) -> None:
        self.session = Session()


# Re-entrant: a destructor may run, and unpickle, while it is held. No user code is called under it.
lock = threading.RLock()
changed = threading.Condition(lock)
by_key: dict[tuple[object, ...], Claim] = {}
"""By layer and UUID; and by class, where another one of the same name is being loaded at that time."""
local = _Local()


def find(layer: Source, key: str, cls: type) -> tuple[tuple[object, ...], Claim | None]:
    """Return where a claim on a state belongs that is to become an object of `cls`, and the one that is there."""
    claim = by_key.get((layer.uuid, key))
    aside = (layer.uuid, key, cls)
    if aside in by_key or (claim is not None and claim.obj is not None and not isinstance(claim.obj, cls)):
        return aside, by_key.get(aside)
    return (layer.uuid, key), claim


def enter(claim: Claim, place: tuple[object, ...]) -> None:
    """Make a claim known to other threads, under the lock."""
    claim.place = place
    by_key[place] = claim


def would_close_a_ring(claim: Claim, session: Session) -> bool:
    """Say whether whoever loads `claim` waits, perhaps through others, for this very session."""
    seen: list[Session] = []
    todo = [claim.session]
    while todo:
        owner = todo.pop()
        if owner is session:
            return True
        if owner in seen:
            continue
        seen.append(owner)
        if owner.awaits is not None:
            todo.append(owner.awaits.session)
        elif owner.ended:
            todo += _reachable(owner)
    return False


def _reachable(session: Session) -> list[Session]:
    """Return the other sessions whose unfinished objects are among this one's, directly or through others."""
    found: list[Session] = []
    todo = [session]
    while todo:
        for claim in todo.pop().borrowed:
            other = claim.session
            if not claim.over and other is not session and other not in found:
                found.append(other)
                todo.append(other)
    return found


def borrow(claim: Claim, session: Session) -> Any:
    """Take an object before it is complete: a state refers to itself, perhaps across threads."""
    claim.shared = True
    claim.session.entangled = session.entangled = True
    if claim.session is not session:
        session.borrowed.append(claim)
    return claim.obj


def stands_still(claim: Claim) -> bool:
    """Say whether whoever loads `claim` runs the code of users, and that waits for something, and has for long."""
    last = claim.loads >= MOST_LOADS
    return _stands_still(claim.session, LAST_PATIENCE_SECONDS if last else PATIENCE_SECONDS * 2 ** (claim.loads - 1))


def _stands_still(session: Session, seconds: float) -> bool:
    if session.reading or session.awaits is not None or session.ended:
        session.thread.forget()
        return False
    return session.thread.idle_seconds() >= seconds


def contest(claim: Claim, cls: type, session: Session) -> Claim | None:
    """Return another claim on the same state, for an object of its own; None where there are enough of them."""
    if claim.loads >= MOST_LOADS:
        return None
    made = Claim(claim.layer, cls, claim.key, None, session)
    made.loads = claim.loads + 1
    claim.contested = made.contested = True
    return made


def wait(claim: Claim, session: Session) -> None:
    """Wait, under the lock, until something has changed; not for ever."""
    session.awaits = claim
    try:
        changed.wait(POLL_SECONDS)
    finally:
        session.awaits = None


def wait_for_borrowed(session: Session) -> Claim | None:
    """Wait until all that a session has borrowed is complete, where others may wait for its own in the same way.

    Return what is not going to be, as far as one can see: its loader waits, and not for this thread's sake.
    """
    if not session.borrowed and not any(claim.shared for claim in session.filled):
        return None
    with lock:
        session.ended = True
        changed.notify_all()
        while others := [other for other in _reachable(session) if not other.ended]:
            still = [other for other in others if _stands_still(other, PATIENCE_SECONDS)]
            if any(thread_progress.is_waiting_for_me(other.thread.number) for other in still):
                return None
            if still:
                return next(claim for claim in session.borrowed if not claim.over)
            changed.wait(POLL_SECONDS)
    return None


def release(claim: Claim) -> None:
    """End a claim, under the lock: whoever wants the state may claim it again."""
    if claim.over:
        return
    claim.over = True
    claim.session.claims -= 1
    if by_key.get(claim.place) is claim:
        del by_key[claim.place]


def renew_lock() -> None:
    """Replace the lock, in a forked child: another thread of the parent may have held it."""
    global lock, changed  # noqa: PLW0603 - one per process, replaced after fork
    lock = threading.RLock()
    changed = threading.Condition(lock)
