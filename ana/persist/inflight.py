"""The loads that are in flight: which thread loads which state, who waits for whom, and who borrows what.

The state machine: `begin` enters a load, its thread fills the object, and the thread's session publishes it, or `fail`
gives it up. Nothing outside this module changes the table, a `Load` or a `Session`.

Waiting for another thread's load may deadlock. A ring of loads alone (two threads load a cycle from opposite ends) is
detected before waiting. A ring through the code of users (a lock, an import, a pool that `_ana_setstate` waits for)
shows only as a thread that makes no progress. The waiting thread then loads the state a second time, into an object of
its own. Nobody fills an object that another thread is filling: a hook of users may not be idempotent.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeVar

from ana.errors import StateLoadError
from ana.objects import ghost, identity, pickling
from ana.objects.class_names import class_name
from ana.persist import deadlock, prefetching
from ana.runtime import thread_progress
from ana.stores import base

__all__ = ["Load", "Session", "Source", "begin", "begin_child", "fail", "loading_from", "renew_after_fork", "session"]

PATIENCE_SECONDS = 1.0
"""How long a thread may use no processor time in the code of users before another thread loads the state as well.
Doubled for each load of the state that stands still already."""
POLL_SECONDS = 0.1
MOST_LOADS = 4
"""How many threads may load one state at once."""
LAST_PATIENCE_SECONDS = 60.0
"""How long the last of them may stand still."""

_log = logging.getLogger("ana.loading")


class Source(prefetching.Source, Protocol):
    """What a load needs of a layer."""

    max_state_bytes: int | None


Place = tuple[object, ...]
Result = TypeVar("Result")
Reload = Callable[[Source, type, str, Any], None]
"""Loads the state of a layer, class and key into an object."""


class Load:
    """One thread's load of one state, from `begin` until its session publishes it or `fail` gives it up."""

    __slots__ = (
        *("before", "children", "cls", "contested", "is_open", "key", "layer", "loads", "obj"),
        *("over", "place", "prefetched_to", "session", "shared", "stored"),
    )

    stored: base.StoredState
    """The state, whose header has been read. Set by `open`."""

    def __init__(self, layer: Source, cls: type, key: str, obj: Any, session: "Session") -> None:
        self.layer = layer
        self.cls = cls
        self.key = key
        self.obj: Any = obj
        self.session = session
        self.is_open: bool = False
        self.children: Iterator[tuple[int, str]] = iter(())
        self.prefetched_to: int = 0
        self.shared = False
        """Another load holds the object, which may be incomplete."""
        self.over = False
        self.loads = 1
        """Which load of this state it is, counted from 1."""
        self.contested = False
        """More than one thread loads this state."""
        self.before: Load | None = None
        """The load that stood still when this one of the same state began."""
        self.place: Place = ()

    def open(self, stored: base.StoredState) -> None:
        """Take the state that was found in the store."""
        self.stored = stored
        self.is_open = True
        self.children = enumerate(stored.header.objects)

    def set_object(self, obj: Any) -> None:
        """Set the object that the state goes into."""
        self.obj = obj

    def remaining_children(self) -> Iterator[str]:
        """Yield the UUIDs of the children that were not yielded yet, prefetching on the way."""
        for number, key in self.children:
            if number >= self.prefetched_to:
                self.prefetch(number)
            yield key

    def prefetch(self, at: int) -> None:
        """Prefetch the state's children from number `at` on."""
        children = self.stored.header.objects
        self.prefetched_to = self.session.prefetcher.fetch_children(self.layer, children, at, self.cls)

    def make_ghost(self, reload: Reload) -> None:
        """Make the object a ghost: others hold it, and its state did not come."""
        layer, cls, key = self.layer, self.cls, self.key
        obj = weakref.ref(self.obj)
        ghost.ghostify(self.obj, key, lambda: reload(layer, cls, key, obj()))

    def error(self, reason: str) -> StateLoadError:
        """Return the error that says why the state cannot be loaded."""
        name = self.stored.header.class_name if self.is_open else class_name(self.cls)
        where = self.stored.where if self.is_open else self.layer.store.home
        return StateLoadError(self.key, name, where, reason)


class Session:
    """One thread's nested loads. Their objects become known to other threads together."""

    def __init__(self) -> None:
        self.depth: int = 0
        self.layer: Source | None = None
        """The layer whose state is being unpickled."""
        self.unpickling: Load | None = None
        self.entangled: bool = False
        """An incomplete object was borrowed from this session, or by it."""
        self.prefetcher: prefetching.Prefetcher = prefetching.Prefetcher()
        self.held: list[Any] = []
        self.put_off: list[Any] = []
        self.filled: list[Load] = []
        self.published: int = 0
        """How many of `filled` other threads know."""
        self.borrowed: list[Load] = []
        self.awaits: Load | None = None
        self.open_loads: int = 0
        self.ended: bool = False
        self.reading: bool = False
        self.thread: thread_progress.Thread = thread_progress.Thread()

    def run(self, end: Callable[["Session"], None], load: Callable[..., Any], *arguments: Any) -> Any:
        """Call `load` with this session and the arguments, one level deeper; after the outermost level, call `end`."""
        # Plain statements, not calls: a signal handler could raise on the way into one.
        self.depth += 1
        try:
            return load(self, *arguments)
        finally:
            try:
                if self.depth == 1:
                    end(self)
            finally:
                self.depth -= 1

    def read(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that reads from the store. Meanwhile the thread does not count as standing still."""
        self.reading = True
        try:
            return function(*arguments)
        finally:
            self.reading = False

    def unpickle(self, load: Load, segments: Sequence[bytes | memoryview]) -> Any:
        """Unpickle a state. References in it are looked up in its layer first. Raises what unpickling raises."""
        outer = self.layer, self.unpickling
        self.layer, self.unpickling = load.layer, load
        try:
            return pickling.load(segments, load.layer.allowed_globals)
        finally:
            self.layer, self.unpickling = outer

    def prefetch_siblings(self, load: Load) -> None:
        """Prefetch what follows `load` in the state that is being unpickled: `load` shows that not all is lazy."""
        parent = self.unpickling
        if parent is not None and parent.layer is load.layer:
            with suppress(ValueError):
                parent.prefetch(parent.stored.header.objects.index(load.key, parent.prefetched_to))

    def hold(self, obj: Any) -> None:
        """Keep an object alive until the session ends."""
        self.held.append(obj)

    def defer(self, obj: Any) -> None:
        """Have a ghost loaded at the end of the outermost load."""
        self.put_off.append(obj)

    def next_deferred(self) -> Any:
        """Return a ghost that was deferred, once; None if none is left."""
        return self.put_off.pop() if self.put_off else None

    def note_filled(self, load: Load) -> None:
        """Note that an object has its state. `publish` makes it known."""
        self.filled.append(load)

    def publish(self) -> None:
        """Make known to other threads what was filled. The objects stay alive until the session ends."""
        if self.published == len(self.filled):
            return
        ready = self.filled[self.published :]
        with _lock:
            self.published = len(self.filled)
            for load in ready:
                first = load.layer.live.find(load.key, load.cls) if load.contested else None
                ghost.complete(load.obj)
                if first is None or ghost.is_ghost(first):
                    load.layer.live.put(load.key, load.obj)
                else:
                    # Another thread's load of the same state was faster.
                    load.obj = first
                _release(load)
            _tell()
        for load in ready:
            load.layer.live.keep(load.key, load.obj, load.stored.header.raw_bytes)

    def unpublished(self) -> list[Load]:
        """Return the loads that were filled and are not known to other threads."""
        return self.filled[self.published :]

    def wait_for_borrowed(self) -> Load | None:
        """Wait until every borrowed object is complete. Other sessions may wait for this one's in the same way.

        Return a load that is not expected to complete: its thread waits for something else, and not for this thread.
        """
        if not self.borrowed and not any(load.shared for load in self.filled):
            return None
        with _lock:
            self.ended = True
            _tell()
            while others := [other for other in deadlock.reachable(self) if not other.ended]:
                still = [other for other in others if deadlock.stands_still(other, PATIENCE_SECONDS)]
                if any(thread_progress.is_waiting_for_me(other.thread.number) for other in still):
                    return None
                if still:
                    return next(load for load in self.borrowed if not load.over)
                _await_change()
        return None

    def unfinished(self) -> list[Load]:
        """Return the loads that nobody has finished: a signal handler raised before anybody could."""
        if not self.open_loads:
            return []
        with _lock:
            return [load for load in _in_flight() if load.session is self]

    def reset(self) -> None:
        """End the session: nothing of it is in flight any more."""
        if self.open_loads or self.entangled:
            with _lock:
                self.open_loads, self.ended, self.entangled = 0, False, False
                self.borrowed.clear()
                _tell()
        if self.thread.asked:
            self.thread.forget()
        self.filled.clear()
        self.published = 0
        if self.held or self.put_off:
            self.held.clear()
            self.put_off.clear()
        self.prefetcher.clear_unless_in_use()


class _Local(threading.local):
    def __init__(self) -> None:
        self.session = Session()


# Re-entrant: a destructor may run, and unpickle, while it is held. No user code is called under it.
_lock = threading.RLock()
_changed = threading.Condition(_lock)
_waiting = 0
"""How many threads wait for a change. Too high after a signal handler has raised, which does no harm."""
_by_key: dict[Place, Load] = {}
"""By layer and UUID; also by class, if another class of the same name is being loaded at that time."""
_local = _Local()


def session() -> Session:
    """Return this thread's session."""
    return _local.session


def loading_from() -> Source | None:
    """Return the layer whose state this thread is unpickling, if any. References in it are looked up there first."""
    return _local.session.layer


def begin(mine: Session, layer: Source, cls: type, key: str, obj: Any) -> tuple[Any, Load | None]:
    """Return the object of a key, if this thread has nothing to load for it; else None and the load that has begun.

    Waits for another thread's load of the state. Raises StateLoadError if too many of those stand still.
    """
    with _lock:
        while True:
            live = layer.live.find(key, cls)
            if live is not None and not ghost.is_ghost(live):
                layer.store.counters.note_live(identity.mark_of(live))
                return live, None
            place, load = _find(layer, key, cls)
            if load is None:
                if obj is not None and obj is not live and not ghost.is_ghost(obj):
                    return obj, None
                return None, _enter(Load(layer, cls, key, obj if live is None else live, mine), place)
            way = _way_out(load, mine)
            if way == "borrow":
                return _borrow(load, mine), None
            if way == "contest":
                return None, _contest(load, cls, mine, place)
            _wait(load, mine)


def begin_copy(mine: Session, layer: Source, cls: type, key: str, obj: Any) -> Load | None:
    """Begin to fill a ghost whose UUID another object got meanwhile; None if this thread need not or must not.

    Waits for another thread that fills it. Raises StateLoadError if that one stands still.
    """
    place = (layer.uuid, key, id(obj))
    with _lock:
        while ghost.is_ghost(obj):
            load = _by_key.get(place) or _filling(obj, _find(layer, key, cls)[1])
            if load is None:
                return _enter(Load(layer, cls, key, obj, mine), place)
            way = _way_out(load, mine)
            if way == "borrow":
                _borrow(load, mine)
                return None
            if way == "contest" and deadlock.stands_still(load.session, LAST_PATIENCE_SECONDS):
                reason = "another thread is setting its state, but stands still: perhaps it wants a lock of this thread"
                raise load.error(reason)
            _wait(load, mine)
    return None


def end_copy(load: Load, obj: Any) -> None:
    """Have all threads use a ghost that was filled from another object."""
    with _lock:
        ghost.complete(obj)
        _release(load)
        _tell()


def begin_child(parent: Load, cls: type, key: str, stored: base.StoredState) -> Load | None:
    """Begin to load a state that `parent` refers to; None if it is alive, in flight, or no object can be made."""
    place = (parent.layer.uuid, key)
    with suppress(TypeError), _lock:
        if place not in _by_key and parent.layer.live.get(key) is None:
            load = Load(parent.layer, cls, key, ghost.make(cls), parent.session)
            load.open(stored)
            return _enter(load, place)
    return None


def fail(load: Load, reload: Reload) -> None:
    """Give a load up. Threads that wait for it try for themselves; threads that borrowed its object find a ghost."""
    if load.is_open:
        load.stored.release()
    # An object without its state has nothing to undo, so its destructor must not run. That of a ghost does nothing.
    has_destructor = hasattr(type(load.obj), "__del__") and not ghost.is_ghost(load.obj)
    with _lock:
        # Under the lock: between the look and the release another thread could borrow the object.
        if ghost.is_ghost(load.obj):
            ghost.revert(load.obj)
        elif load.shared or has_destructor:
            load.make_ghost(reload)
        _release(load)
        _tell()


def renew_after_fork() -> list[Load]:
    """In a forked child: renew the lock, and return the loads of threads that exist only in the parent."""
    global _lock, _changed, _waiting  # noqa: PLW0603 - one per process, replaced after fork
    # Another thread of the parent may have held it.
    _lock = threading.RLock()
    _changed = threading.Condition(_lock)
    _waiting = 0
    return [load for load in _in_flight() if load.session is not _local.session]


def _in_flight() -> Iterator[Load]:
    for latest in _by_key.values():
        load: Load | None = latest
        while load is not None:
            if not load.over:
                yield load
            load = load.before


def _find(layer: Source, key: str, cls: type) -> tuple[Place, Load | None]:
    """Return the place in the table for a load of `cls`, and the load that is there."""
    load = _by_key.get((layer.uuid, key))
    aside = (layer.uuid, key, cls)
    if aside in _by_key or (load is not None and load.obj is not None and not isinstance(load.obj, cls)):
        return aside, _by_key.get(aside)
    return (layer.uuid, key), load


def _enter(load: Load, place: Place) -> Load:
    """Make a load known to other threads, under the lock."""
    # Counted first: a signal handler may raise in between.
    load.session.open_loads += 1
    load.place = place
    _by_key[place] = load
    return load


def _release(load: Load) -> None:
    """Take a load out of the table, under the lock: another thread may load the state again."""
    if load.over:
        return
    load.over = True
    load.session.open_loads -= 1
    if _by_key.get(load.place) is load:
        older = load.before
        while older is not None and older.over:
            older = older.before
        if older is None:
            del _by_key[load.place]
        else:
            _by_key[load.place] = older


def _filling(obj: Any, load: Load | None) -> Load | None:
    """Return the load that fills an object, among one and those before it."""
    while load is not None and (load.over or load.obj is not obj):
        load = load.before
    return load


def _way_out(load: Load, mine: Session) -> Literal["borrow", "contest", "wait"]:
    """Return what to do about a load in flight: its thread may be, or wait for, the calling one, or stand still."""
    if load.session is mine or deadlock.would_close_a_ring(load, mine):
        return "borrow"
    if not deadlock.stands_still(load.session, _patience_seconds(load.loads)):
        return "wait"
    return "borrow" if thread_progress.is_waiting_for_me(load.session.thread.number) else "contest"


def _borrow(load: Load, mine: Session) -> Any:
    """Take an object before it is complete: a state refers to itself, perhaps across threads."""
    load.shared = True
    load.session.entangled = mine.entangled = True
    if load.session is not mine:
        mine.borrowed.append(load)
    if ghost.has_ghost_class(load.obj):
        # Under the lock: after the load has failed, nobody may use the object as it is.
        ghost.admit(load.obj)
    return load.obj


def _contest(load: Load, cls: type, mine: Session, place: Place) -> Load:
    """Begin another load of the same state, into an object of its own. Raises StateLoadError."""
    if load.loads >= MOST_LOADS:
        reason = f"{MOST_LOADS} threads are loading it, and all wait for something else"
        raise Load(load.layer, cls, load.key, None, mine).error(reason)
    _log.warning("state %r is loaded once more: the thread that loads it waits for something else", load.key)
    made = Load(load.layer, cls, load.key, None, mine)
    made.before, made.loads = load, load.loads + 1
    load.contested = made.contested = True
    return _enter(made, place)


def _wait(load: Load, mine: Session) -> None:
    """Wait, under the lock, until something has changed, at most `POLL_SECONDS`."""
    mine.awaits = load
    try:
        _await_change()
    finally:
        mine.awaits = None


def _await_change() -> None:
    """Wait, under the lock, for `_tell`, at most `POLL_SECONDS`."""
    global _waiting  # noqa: PLW0603 - guarded by the lock
    _waiting += 1
    try:
        _changed.wait(POLL_SECONDS)
    finally:
        _waiting -= 1


def _tell() -> None:
    """Wake the threads that wait for a change, under the lock."""
    # Hardly ever is there one, and `notify_all` takes as long as the rest of `publish`.
    if _waiting:
        _changed.notify_all()


def _patience_seconds(loads: int) -> float:
    return LAST_PATIENCE_SECONDS if loads >= MOST_LOADS else PATIENCE_SECONDS * 2 ** (loads - 1)
