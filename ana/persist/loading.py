"""Loading states into objects: one object per state, whatever threads, cycles and depths are involved.

The first thread that wants a state begins to load it; other threads wait for that load. If waiting would close a ring
(two threads load a cycle from opposite ends), the later thread borrows the unfinished object, as Python's import system
does with modules, and waits for it before it returns to its caller. If the loading thread waits for something else (a
lock, an import), a waiting thread loads the state as well, and the first complete object becomes known. `inflight`
keeps track of all this; this module reads the states and fills the objects.
"""

import math
import time
from typing import Any

from ana.errors import ANAError, StateLoadError
from ana.format.parts import CLASS_NAME as PART_CLASS
from ana.objects import ghost, identity, restricted
from ana.objects.class_names import class_name, find_class
from ana.persist import class_lookup, inflight
from ana.runtime import cgroups
from ana.stores import base, parts

__all__ = ["check_size", "load", "put_off", "refuse_part", "reset_after_fork", "too_deep"]

MAX_NESTED = 20
"""How deep loads may nest (each needs about a dozen Python frames). Deeper ones are put off."""

WALKED_FROM = 16
"""From this depth on, the states that a state refers to are loaded before it is unpickled.

That opens states whose classes are not known yet. Above it, lazy objects (Refs) are not even looked up.
"""

SURELY_FITS_BYTES = 1 << 20
"""Smaller states are loaded without asking how much memory there is."""


def load(layer: inflight.Source, cls: type, key: str, obj: Any = None, *, wait: bool = True) -> Any:
    """Return the one object of `key` in `layer`, loading its state if necessary (into `obj`, if given).

    If that is another object than `obj`, and `obj` is a ghost, it gets the same state. `wait`: allow for a state that
    another host wrote a moment ago. States that it refers to and that are missing come as ghosts.

    Raises StateNotFoundError, CorruptedStateError, StateLoadError, StoreError and whatever the store raises.
    """
    session = inflight.session()
    found = session.run(_end, _obtain, layer, cls, key, obj, wait)
    if obj is not None and found is not obj and ghost.is_ghost(obj):
        session.run(_end, _copy, layer, cls, key, obj, found)
    return found


def check_size(layer: inflight.Source, stored: base.StoredState) -> None:
    """Check the size in a state's verified header before any memory is allocated.

    Raises StateLoadError if it is more than `max_state_bytes` or, without that, than the memory there is.
    """
    size, said = stored.header.raw_bytes, layer.max_state_bytes
    if size <= SURELY_FITS_BYTES and said is None:
        return
    most = cgroups.memory_bytes() if said is None else said
    if size > most:
        whose = "max_state_bytes" if said is not None else "the memory of this machine or cgroup (see max_state_bytes)"
        reason = f"its {size} bytes are more than the {most} bytes of {whose}"
        raise StateLoadError(stored.header.key, stored.header.class_name, stored.where, reason)


def refuse_part(stored: base.StoredState) -> None:
    """Raise StateLoadError if a state is a part: bytes that anybody may have chosen, and no pickle."""
    header = stored.header
    if header.class_name == PART_CLASS:
        reason = "it is a part: the bytes of a buffer that other states hold (ana cat gives them)"
        raise StateLoadError(header.key, header.class_name, stored.where, reason)


def too_deep() -> bool:
    """Return whether loads are nested so deeply that the next one has to be put off."""
    return inflight.session().depth >= MAX_NESTED


def put_off(obj: Any) -> None:
    """Have a ghost loaded at the end of this thread's outermost load."""
    inflight.session().defer(obj)


def reset_after_fork() -> None:
    """In a forked child, give up the loads of threads that exist only in the parent."""
    for one in inflight.renew_after_fork():
        inflight.fail(one, _reload)


def _obtain(session: inflight.Session, layer: inflight.Source, cls: type, key: str, obj: Any, wait: bool) -> Any:  # noqa: FBT001 - called by `Session.run`
    """Return the live object, or the one that another thread loads, or load the state here."""
    found, begun = inflight.begin(session, layer, class_lookup.to_find(layer, cls, key), key, obj)
    return found if begun is None else _build(session, begun, wait=wait)


def _end(session: inflight.Session) -> None:
    """End a thread's outermost load: load what was put off, wait for what was borrowed, make everything known."""
    missing = None
    try:
        if session.put_off:
            _load_deferred(session)
        missing = session.wait_for_borrowed() if session.entangled else None
        if missing is not None:
            for one in session.unpublished():
                inflight.fail(one, _reload)
            msg = "another thread loads it, for this one too, and waits for something else"
            raise missing.error(msg)
    finally:
        if missing is None and session.published < len(session.filled):
            session.publish()
        for one in session.unfinished():
            inflight.fail(one, _reload)
        session.reset()


def _load_deferred(session: inflight.Session) -> None:
    # On Python 3.13, what a signal handler raises at the end of a loop's body may miss the `try` that the loop is in.
    while (obj := session.next_deferred()) is not None:
        _use_if_possible(obj)


def _use_if_possible(obj: Any) -> None:
    try:
        ghost.use(obj)
    except ANAError:
        # It stays a ghost, and raises the reason when it is used.
        return


def _build(session: inflight.Session, top: inflight.Load, *, wait: bool) -> Any:
    """Load a state. At great depth, load first what it refers to, without recursion, as the headers say."""
    stack = [top]
    is_deep = session.depth > WALKED_FROM
    try:
        if session.unpickling is not None:
            session.prefetch_siblings(top)
        _open(session, top, wait=wait)
        while stack:
            current = stack[-1]
            child = _next_child(session, current) if is_deep else None
            if child is not None:
                current.stored.release()
                stack.append(child)
            elif _fill(session, current, optional=current is not top):
                stack.pop()
                if not session.entangled:
                    # It is complete, and so is all that it refers to: threads that users start meanwhile may need it.
                    session.publish()
            else:
                inflight.fail(stack.pop(), _reload)
    finally:
        for one in stack:
            inflight.fail(one, _reload)
    return top.obj


def _open(session: inflight.Session, top: inflight.Load, *, wait: bool) -> None:
    """Find the state in the store, and make the object that it goes into."""
    top.open(session.read(session.prefetcher.take, top.layer, top.key, wait))
    if top.obj is None:
        cls = class_lookup.to_make(top.cls, top.stored.header.class_name, top)
        try:
            top.set_object(ghost.make(cls))
        except TypeError as error:
            msg = f"no instance of {class_name(cls)} can be made: {error}"
            raise top.error(msg) from error


def _next_child(session: inflight.Session, parent: inflight.Load) -> inflight.Load | None:
    """Begin to load the next state that has to be there before `parent`'s own; None if none is left.

    Only an optimisation against depth. Whatever is unclear here is left to the reference itself, which is met when the
    state is unpickled.
    """
    for key in parent.remaining_children():
        live = parent.layer.live.get(key)
        if live is not None:
            # Alive until the state that refers to it has been unpickled.
            session.hold(live)
            session.prefetcher.drop(parent.layer, key)
            continue
        child = _begin_child(session, parent, key)
        if child is not None:
            return child
    return None


def _begin_child(session: inflight.Session, parent: inflight.Load, key: str) -> inflight.Load | None:
    try:
        stored = session.read(session.prefetcher.take, parent.layer, key, False)  # noqa: FBT003 - does not wait
    except ANAError:
        return None
    cls = find_class(stored.header.class_name, parent.cls, restricted.allows(parent.layer.allowed_globals))
    is_eager = cls is not None and not getattr(cls, "_ana_lazy", True)
    child = inflight.begin_child(parent, cls, key, stored) if cls is not None and is_eager else None
    if child is None:
        stored.release()
    return child


def _fill(session: inflight.Session, current: inflight.Load, *, optional: bool) -> bool:
    """Unpickle a state into its object. False if the load is optional and fails."""
    try:
        state = _unpickle(session, current)
        if not (current.contested and _is_loaded(current.obj)):
            _set_state(current, state)
    except ANAError:
        if not optional:
            raise
        return False
    stored = current.stored
    # Where the parts were found is not known here.
    looked = -math.inf if stored.may_be_lost or stored.header.parts else time.monotonic()
    mark = identity.mark(current.obj, current.key, given=True)
    mark.note_loaded(current.layer.uuid, stored.header.children, stored.header.raw_bytes, looked)
    session.note_filled(current)
    return True


def _is_loaded(obj: Any) -> bool:
    """Return whether another thread, which loaded the same state, has already put it into this very object."""
    mark = identity.mark_of(obj)
    return mark is not None and mark.loader is None


def _unpickle(session: inflight.Session, current: inflight.Load) -> Any:
    refuse_part(current.stored)
    check_size(current.layer, current.stored)
    try:
        layer = current.layer
        segments = session.read(parts.segments, layer.store, current.stored, layer.shared_parts)
    except MemoryError as error:
        size = current.stored.header.raw_bytes
        msg = f"there is no memory for its {size} bytes"
        raise current.error(msg) from error
    try:
        return session.unpickle(current, segments)
    except ANAError:
        raise
    except restricted.ForbiddenGlobalError as error:
        raise current.error(str(error)) from error
    except Exception as error:
        msg = f"{type(error).__name__}: {error}"
        raise current.error(msg) from error


def _set_state(current: inflight.Load, state: Any) -> None:
    obj = current.obj
    if ghost.is_ghost(obj) and (current.session.entangled or not _is_single_step(obj)):
        # Other threads hold it. They wait until `Session.publish`, because what it holds may not be complete either.
        ghost.admit(obj)
        ghost.empty(obj)
    try:
        obj._ana_setstate(state)
        member = ghost.member(obj)
        if member is not obj:
            current.set_object(member)
    except ANAError:
        raise
    except Exception as error:
        reason = f"{class_name(ghost.loaded_class(obj))}._ana_setstate raised {type(error).__name__}: {error}"
        raise current.error(reason) from error


def _is_single_step(obj: Any) -> bool:
    """Return whether other threads see an object without its state or whole: a Ref gets its value and no more."""
    if ghost.has_ghost_class(obj) or not getattr(type(obj), "_ana_lazy", False):
        return False
    return bool(type(obj)._ana_setstate.__module__ == "ana.storable")


def _copy(session: inflight.Session, layer: inflight.Source, cls: type, key: str, obj: Any, found: Any) -> None:
    """Fill a ghost with the state of the object that has its UUID now."""
    begun = inflight.begin_copy(session, layer, cls, key, obj)
    if begun is None:
        return
    try:
        _set_state(begun, found._ana_getstate())
        inflight.end_copy(begun, obj)
    finally:
        if not begun.over:
            inflight.fail(begun, _reload)


def _reload(layer: inflight.Source, cls: type, key: str, obj: Any) -> None:
    load(layer, cls, key, obj)
