"""Loading states into objects: once per object, whatever threads, cycles and depths are involved.

Whoever first wants a state claims it; other threads wait for that claim. Where waiting would close a
ring (two threads load a cycle from opposite ends), the later one borrows the unfinished object, as
Python's import system does with modules, and waits for it before it returns to its caller. Where a claim's
thread waits for something else (a lock, an import), whoever waits for it loads the state as well; the first one's
object becomes known.
"""

import logging
import math
import time
import weakref
from typing import TYPE_CHECKING, Any

from ana.errors import ANAError, StateLoadError
from ana.objects import ghost, identity, pickling, restricted
from ana.objects.class_names import class_name, find_class
from ana.persist import class_lookup, inflight, prefetching
from ana.runtime import cgroups, thread_progress
from ana.stores import base

if TYPE_CHECKING:
    from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["check_size", "load", "loading_from", "prefetcher", "reset_after_fork"]

MAX_NESTED = 20
"""So deep may loads nest in one another (each needs about ten Python frames); deeper ones are put off."""

WALKED_FROM = 16
"""Loads that are nested so deeply go through what a state refers to before it is unpickled.

That opens states whose classes are not known yet; so until then what is lazy (a Ref) is not even looked up.
"""

SURELY_FITS_BYTES = 1 << 20
"""So large a state is loaded without asking how much memory there is."""

_log = logging.getLogger("ana.loading")


def loading_from() -> inflight.Source | None:
    """Return the layer whose state this thread is unpickling, if any: references in it are looked up there first."""
    return inflight.local.session.layer


def load(layer: inflight.Source, cls: type, key: str, obj: Any = None, *, wait: bool = True) -> Any:
    """Return the one object of `key` in `layer`, loading its state (into `obj`, if given) where need be.

    Raises StateNotFoundError, CorruptedStateError, StateLoadError, StoreError ...; states that it refers to
    and that are missing come as ghosts.
    """
    session = inflight.local.session
    session.depth += 1
    try:
        return _obtain(session, layer, cls, key, obj, wait=wait)
    finally:
        try:
            if session.depth == 1:
                _end(session)
        finally:
            session.depth -= 1


@contextmanager
def prefetcher() -> "Iterator[prefetching.Prefetcher]":
    """Give what this thread's loads look into before they ask the store; what is left in it goes at the end."""
    session = inflight.local.session
    session.prefetcher_users += 1
    try:
        yield session.prefetcher
    finally:
        session.prefetcher_users -= 1
        if not session.prefetcher_users:
            session.prefetcher.clear()


def check_size(layer: inflight.Source, found: base.StoredState) -> None:
    """Refuse a state that is larger than is allowed, by what its verified header says, before memory is taken.

    Raises StateLoadError.
    """
    size, said = found.header.raw_bytes, layer.max_state_bytes
    if size <= SURELY_FITS_BYTES and said is None:
        return
    most = cgroups.memory_bytes() if said is None else said
    if size > most:
        whose = "max_state_bytes" if said is not None else "the memory of this machine or cgroup (see max_state_bytes)"
        reason = f"its {size} bytes are more than the {most} bytes of {whose}"
        raise StateLoadError(found.header.key, found.header.class_name, found.where, reason)


def too_deep() -> bool:
    """Say whether loads are nested so deeply that the next one has to be put off."""
    return inflight.local.session.depth >= MAX_NESTED


def put_off(obj: Any) -> None:
    """Have a ghost loaded when the outermost load of this thread is done."""
    inflight.local.session.put_off.append(obj)


def reset_after_fork() -> None:
    """In a forked child: give up the claims of threads that exist only in the parent."""
    inflight.renew_lock()
    mine = inflight.local.session
    for claim in list(inflight.by_key.values()):
        if claim.session is not mine:
            _abandon(claim)


def _obtain(session: inflight.Session, layer: inflight.Source, cls: type, key: str, obj: Any, *, wait: bool) -> Any:
    """Return the live object, or claim the state and build it, or wait for whoever does."""
    cls = class_lookup.to_find(layer, cls, key)
    with inflight.lock:
        while True:
            live = layer.live.find(key, cls)
            if live is not None and not ghost.is_ghost(live):
                layer.store.counters.note_live(identity.mark_of(live))
                return live
            place, claim = inflight.find(layer, key, cls)
            if claim is None:
                if obj is not None and not ghost.is_ghost(obj):
                    return obj
                # Counted first: a signal handler may raise in between.
                session.claims += 1
                claim = inflight.Claim(layer, cls, key, obj if live is None else live, session)
                inflight.enter(claim, place)
                break
            if claim.session is session or inflight.would_close_a_ring(claim, session):
                return inflight.borrow(claim, session)
            if inflight.stands_still(claim):
                if thread_progress.is_waiting_for_me(claim.session.thread.number):
                    return inflight.borrow(claim, session)
                claim = _contest(session, claim, cls, place)
                break
            inflight.wait(claim, session)
    return _build(session, claim, wait=wait)


def _contest(session: inflight.Session, claim: inflight.Claim, cls: type, place: tuple[object, ...]) -> inflight.Claim:
    """Claim a state that another thread is loading, and does not get on with. Raises StateLoadError."""
    session.claims += 1
    made = inflight.contest(claim, cls, session)
    if made is None:
        session.claims -= 1
        raise class_lookup.load_error(
            claim, f"{inflight.MOST_LOADS} threads are loading it, and all wait for something else"
        )
    _log.warning("state %r is loaded once more: the thread that loads it waits for something else", claim.key)
    inflight.enter(made, place)
    return made


def _end(session: inflight.Session) -> None:
    """End a thread's outermost load: load what was put off, wait for what was borrowed, make all known."""
    missing = None
    try:
        while session.put_off:
            _use_if_possible(session.put_off.pop())
        missing = inflight.wait_for_borrowed(session) if session.entangled else None
        if missing is not None:
            for claim in session.filled[session.published :]:
                _abandon(claim)
            raise class_lookup.load_error(
                missing, "another thread loads it, for this one too, and waits for something else"
            )
    finally:
        if missing is None and session.published < len(session.filled):
            _publish(session)
        if session.claims or session.entangled:
            _disentangle(session)
        if session.thread.asked:
            session.thread.forget()
        session.filled.clear()
        session.published = 0
        session.held.clear()
        session.put_off.clear()
        if not session.prefetcher_users:
            session.prefetcher.clear()


def _disentangle(session: inflight.Session) -> None:
    """Give up what a session still claims, and what it has of others."""
    with inflight.lock:
        # A signal handler raised where nobody had taken care of it yet.
        for claim in [claim for claim in inflight.by_key.values() if claim.session is session]:
            _abandon(claim)
        session.claims = 0
        session.ended = session.entangled = False
        session.borrowed.clear()
        inflight.changed.notify_all()


def _publish(session: inflight.Session) -> None:
    """Make known what a session has loaded; it stays alive until the session's end."""
    ready = session.filled[session.published :]
    if not ready:
        return
    with inflight.lock:
        session.published = len(session.filled)
        for claim in ready:
            first = claim.layer.live.find(claim.key, claim.cls) if claim.contested else None
            if first is None or ghost.is_ghost(first):
                claim.layer.live.put(claim.key, claim.obj)
            else:
                # Another thread's load of the same state was faster.
                claim.obj = first
            inflight.release(claim)
        inflight.changed.notify_all()
    for claim in ready:
        claim.layer.live.keep(claim.key, claim.obj, _state_of(claim).header.raw_bytes)


def _use_if_possible(obj: Any) -> None:
    try:
        ghost.use(obj)
    except ANAError:
        # It stays a ghost, and says why when it is used.
        return


def _build(session: inflight.Session, top: inflight.Claim, *, wait: bool) -> Any:
    """Load a state; deep down, those that it refers to first, without recursion: its headers say which they are."""
    stack = [top]
    is_deep = session.depth > WALKED_FROM
    try:
        if session.unpickling is not None:
            _prefetch_siblings(session, top, session.unpickling)
        _open(session, top, wait=wait)
        while stack:
            claim = stack[-1]
            child = _next_child(session, claim) if is_deep else None
            if child is not None:
                _state_of(claim).release()
                stack.append(child)
            elif _fill(session, claim, optional=claim is not top):
                stack.pop()
                if not session.entangled:
                    # Complete, and so is all that it refers to: threads that users start while we load may need it.
                    _publish(session)
            else:
                _abandon(stack.pop())
    finally:
        for claim in stack:
            _abandon(claim)
    return top.obj


def _prefetch_siblings(session: inflight.Session, claim: inflight.Claim, parent: inflight.Claim) -> None:
    """Find what the state that is being unpickled refers to next: `claim` shows that not all of that is lazy."""
    if parent.layer is not claim.layer:
        return
    children = _state_of(parent).header.children
    with suppress(ValueError):
        at = children.index(claim.key, parent.prefetched_to)
        parent.prefetched_to = session.prefetcher.fetch_children(claim.layer, children, at, parent.cls)


def _open(session: inflight.Session, claim: inflight.Claim, *, wait: bool) -> None:
    """Find a claim's state, and make the object that it will fill."""
    session.reading = True
    try:
        claim.found = session.prefetcher.take(claim.layer, claim.key, wait=wait)
    finally:
        session.reading = False
    claim.children = enumerate(claim.found.header.children)
    if claim.obj is None:
        cls = class_lookup.to_make(claim.cls, claim.found.header.class_name, claim)
        try:
            claim.obj = ghost.make(cls)
        except TypeError as error:
            raise class_lookup.load_error(claim, f"no instance of {class_name(cls)} can be made: {error}") from error


def _next_child(session: inflight.Session, claim: inflight.Claim) -> inflight.Claim | None:
    """Claim the next state that has to be loaded before `claim`'s own; None when there is none left.

    Only an optimisation against depth: whatever is unclear here is left to the reference itself, which
    is met when the state is unpickled.
    """
    for number, key in claim.children:
        if number >= claim.prefetched_to:
            children = _state_of(claim).header.children
            claim.prefetched_to = session.prefetcher.fetch_children(claim.layer, children, number, claim.cls)
        live = claim.layer.live.get(key)
        if live is not None:
            # Alive until the state that refers to it has been unpickled.
            session.held.append(live)
            session.prefetcher.drop(claim.layer, key)
            continue
        child = _claim_child(session, claim, key)
        if child is not None:
            return child
    return None


def _claim_child(session: inflight.Session, parent: inflight.Claim, key: str) -> inflight.Claim | None:
    session.reading = True
    try:
        found = session.prefetcher.take(parent.layer, key, wait=False)
    except ANAError:
        return None
    finally:
        session.reading = False
    cls = find_class(found.header.class_name, parent.cls, restricted.allows(parent.layer.allowed_globals))
    if cls is not None and not getattr(cls, "_ana_lazy", True):
        with suppress(TypeError), inflight.lock:
            if (parent.layer.uuid, key) not in inflight.by_key and parent.layer.live.get(key) is None:
                claim = inflight.Claim(parent.layer, cls, key, ghost.make(cls), session)
                claim.found = found
                claim.children = enumerate(found.header.children)
                session.claims += 1
                inflight.enter(claim, (parent.layer.uuid, key))
                return claim
    found.release()
    return None


def _fill(session: inflight.Session, claim: inflight.Claim, *, optional: bool) -> bool:
    """Unpickle a state into its object, and make that known. False where it is optional and cannot be done."""
    try:
        state = _unpickle(session, claim)
        if not (claim.contested and _is_loaded(claim.obj)):
            _set_state(claim, state)
    except ANAError:
        if not optional:
            raise
        return False
    found = _state_of(claim)
    looked = -math.inf if found.may_be_lost else time.monotonic()
    mark = identity.mark(claim.obj, claim.key, given=True)
    mark.note_loaded(claim.layer.uuid, found.header.children, found.header.raw_bytes, looked)
    session.filled.append(claim)
    return True


def _is_loaded(obj: Any) -> bool:
    """Say whether another thread, which loaded the same state, has given it to this very object meanwhile."""
    mark = identity.mark_of(obj)
    return mark is not None and mark.loader is None


def _unpickle(session: inflight.Session, claim: inflight.Claim) -> Any:
    found = _state_of(claim)
    check_size(claim.layer, found)
    session.reading = True
    try:
        segments = found.segments()
    except MemoryError as error:
        size = found.header.raw_bytes
        raise class_lookup.load_error(claim, f"there is no memory for its {size} bytes") from error
    finally:
        session.reading = False
    outer = session.layer, session.unpickling
    session.layer, session.unpickling = claim.layer, claim
    try:
        return pickling.load(segments, claim.layer.allowed_globals)
    except ANAError:
        raise
    except restricted.ForbiddenGlobalError as error:
        raise class_lookup.load_error(claim, str(error)) from error
    except Exception as error:
        raise class_lookup.load_error(claim, f"{type(error).__name__}: {error}") from error
    finally:
        session.layer, session.unpickling = outer


def _set_state(claim: inflight.Claim, state: Any) -> None:
    obj = claim.obj
    was_ghost = ghost.has_ghost_class(obj)
    if was_ghost:
        ghost.restore_class(obj)
    try:
        obj._ana_setstate(state)
        claim.obj = ghost.member(obj)
    except Exception as error:
        if was_ghost:
            _ghostify(claim)
        if isinstance(error, ANAError):
            raise
        reason = f"{class_name(type(obj))}._ana_setstate raised {type(error).__name__}: {error}"
        raise class_lookup.load_error(claim, reason) from error


def _abandon(claim: inflight.Claim) -> None:
    """Give a claim up: who waits tries for themselves, and who borrowed the object will find a ghost."""
    if claim.found is not None:
        claim.found.release()
    # A destructor is not called on an object that has nothing to be undone: that of a ghost does nothing.
    has_destructor = hasattr(type(claim.obj), "__del__") and not ghost.is_ghost(claim.obj)
    if (claim.shared or has_destructor) and not ghost.has_ghost_class(claim.obj):
        _ghostify(claim)
    with inflight.lock:
        inflight.release(claim)
        inflight.changed.notify_all()


def _ghostify(claim: inflight.Claim) -> None:
    """Have an object that was shared before it was complete load its state when it is used."""
    layer, cls, key = claim.layer, claim.cls, claim.key
    obj = weakref.ref(claim.obj)
    ghost.ghostify(claim.obj, key, lambda: _load_into(layer, cls, key, obj()))


def _load_into(layer: inflight.Source, cls: type, key: str, obj: Any) -> None:
    load(layer, cls, key, obj)


def _state_of(claim: inflight.Claim) -> base.StoredState:
    """Return what `_open` or `_claim_child` found; a claim is on the stack only after that."""
    assert claim.found is not None  # noqa: S101 - for the type checker
    return claim.found
