"""Many states at once: what waits for a disk or a server is done for many states at the same time, in threads.

Only stores in folders gain: where a server answers after a millisecond, or each state waits for the disk. What
runs code of users (pickling, unpickling) stays in the caller's thread and in the order of one by one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ana.errors import ANAError, StoreError, UUIDConflictError
from ana.format import address
from ana.objects import ghost, identity
from ana.persist import inflight, loading, prefetching, saving
from ana.runtime import threads
from ana.stores import base

__all__ = ["check_objects", "load", "prefetch", "store"]

Item = TypeVar("Item")

WINDOW_STATES = 1024
WINDOW_BYTES = 32 << 20
"""So many pickled states, or bytes of raw state, wait at the most to be put."""


def store(target: saving.Target, objects: Sequence[Any]) -> list[str]:
    """Give each object an address, and store it with all it refers to; return the UUIDs in order.

    An object that does not pickle leaves the others as they are; a store that fails is given up after what is
    under way. The first error is raised at the end; an object that was not stored has no UUID that it had not before.
    """
    try:
        return _store(target, objects)
    except base.ReplacedError:
        saving.forget(target)
        return _store(target, objects)


def _store(target: saving.Target, objects: Sequence[Any]) -> list[str]:
    batch = _Batch(target, _threads_to_write(target.store))
    uuids: list[str] = []
    with saving.batching(batch):
        batch.look_for(objects)
        try:
            for number, obj in enumerate(objects):
                batch.number = number
                try:
                    uuids.append(_store_one(target, obj))
                except Exception as error:  # noqa: BLE001 - whatever the object's own code raises; raised again below
                    batch.fail(number, error)
                if batch.broken:
                    break
            batch.flush()
        except BaseException:
            batch.abandon()
            raise
    batch.raise_first(len(objects))
    return uuids


def check_objects(objects: Iterable[Any], *, or_uuids: bool = False) -> list[Any]:
    """Return the objects as a list. Raises TypeError for one that is no Storable (nor a UUID); nothing is touched."""
    found = list(objects)
    for number, obj in enumerate(found):
        if or_uuids and (isinstance(obj, str) or address.is_uuid_object(obj)):
            continue
        if not hasattr(type(obj), "_ana_getstate"):
            what = "a Storable or a UUID" if or_uuids else "a Storable"
            msg = f"item {number} is not {what}, but a {type(obj).__name__}"
            raise TypeError(msg)
    return found


def load(layer: inflight.Source, cls: type, keys: Sequence[str]) -> list[Any]:
    """Return the objects of the keys, in order: as `loading.load`, with the reading done ahead."""
    found = []
    for window in _windows(keys):
        with inflight.session().prefetcher as prefetcher:
            prefetcher.fetch(layer, window, cls)
            found += [loading.load(layer, cls, key) for key in window]
    return found


def prefetch(layers: Sequence[inflight.Source], wanted: Sequence[tuple[str, Any]]) -> None:
    """Load ghosts, given with their keys; for None, the first layer's own. What cannot be had stays so."""
    for window in _windows(wanted):
        with inflight.session().prefetcher as prefetcher:
            missing = [key for key, _ in window]
            for layer in layers:
                prefetcher.fetch(layer, missing, object)
                # Only what one place has not is looked for in the next.
                missing = [key for key in missing if not prefetcher.has(layer, key)]
            for key, obj in window:
                _use(layers[0], key, obj)


def _windows(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), prefetching.WINDOW_STATES):
        yield items[at : at + prefetching.WINDOW_STATES]


def _use(layer: inflight.Source, key: str, obj: Any) -> None:
    try:
        if obj is None:
            loading.load(layer, object, key)
        else:
            ghost.use(obj)
    except ANAError:
        # It stays a ghost, and says why when it is used.
        return


def _threads_to_write(store: base.Store) -> int:
    # Each state waits for the disk, which serves many at once (a journal's group commit) as soon as many ask.
    return prefetching.THREADS if store.durable or store.high_latency else 1


def _store_one(target: saving.Target, obj: Any) -> str:
    mark = identity.mark_of(obj)
    if mark is None:
        uuid: str = obj.make_uuid()
        mark = identity.mark_of(obj)
        if mark is None or not mark.given:
            return uuid
    if mark.loader is not None and not target.store.has(mark.uuid):
        ghost.use(obj)
    saving.store_in_batch(target, obj)
    return mark.uuid


class _Batch:
    """The states that one `store` has pickled and not yet put, by level: each after those that it refers to."""

    def __init__(self, target: saving.Target, threads: int) -> None:
        self.target = target
        self.number = 0
        self.broken = False
        self._threads = threads
        self._levels: list[list[_Pending]] = []
        self._level_of: dict[str, int] = {}
        self._held: set[int] = set()
        self._waiting = 0
        self._waiting_bytes = 0
        self._seen: dict[str, bool] = {}
        self._lost: dict[str, Exception] = {}
        self._errors: dict[int, Exception] = {}

    def look_for(self, objects: Sequence[Any]) -> None:
        """Look up those that have an address already, many at a time."""
        if self._threads == 1:
            return
        marks = [mark for obj in objects if (mark := identity.mark_of(obj)) is not None]
        keys = [
            mark.uuid
            for mark in marks
            if not mark.given and mark.loader is None and not saving.is_known(self.target, mark)
        ]

        def look(key: str) -> None:
            try:
                self._seen[key] = self.target.store.has(key)
            except ANAError:
                # Who needs it asks again, and is told.
                return

        threads.run(look, list(dict.fromkeys(keys)), self._threads)

    def add(self, write: saving.Write) -> None:
        """Take a state over; put all where it is enough. Raises where this one could not be put."""
        level = 1 + max((self._level_of.get(child, -1) for child in write.children if child != write.key), default=-1)
        if write.key in self._level_of:
            # One after the other: under a given UUID the first wins, and of equal states one is written.
            level = max(level, self._level_of[write.key] + 1)
        if write.given or write.key not in self._level_of:
            self._level_of[write.key] = level
        pending = _Pending(write, self.number)
        self._levels += [[] for _ in range(len(self._levels), level + 1)]
        self._levels[level].append(pending)
        self._held.add(id(write.obj))
        self._waiting += 1
        self._waiting_bytes += write.size_bytes
        if self._threads == 1 or self._waiting >= WINDOW_STATES or self._waiting_bytes >= WINDOW_BYTES:
            self.flush()
            if pending.error is not None:
                raise pending.error

    def holds(self, obj: object, mark: identity.Mark) -> bool:
        """Say whether an object's state is among those that are still to be put."""
        return id(obj) in self._held or (not mark.given and mark.uuid in self._level_of)

    def seen(self, key: str) -> bool | None:
        """Say whether a state was there when the batch looked; None where it did not."""
        return self._seen.get(key)

    def flush(self) -> None:
        """Put all that waits. What could not be put loses the address that it was given here."""
        levels, self._levels = self._levels, []
        try:
            for level in levels:
                threads.run(self._put, level, self._threads)
                self._settle(level)
        finally:
            # Also after a signal handler's exception: what is in the store then is taken for stored.
            for level in levels:
                self._settle(level)
            self._level_of.clear()
            self._held.clear()
            self._waiting = self._waiting_bytes = 0

    def abandon(self) -> None:
        """Give up what waits, after a signal handler's exception."""
        levels, self._levels = self._levels, []
        for level in levels:
            self._settle(level)

    def fail(self, number: int, error: Exception) -> None:
        """Note an error of one of the objects; the first of each counts."""
        self._errors.setdefault(number, error)
        if isinstance(error, StoreError) and not isinstance(error, UUIDConflictError):
            self.broken = True

    def raise_first(self, total: int) -> None:
        """Raise the error of the first object that has one."""
        if self._errors:
            number = min(self._errors)
            error = self._errors[number]
            error.add_note(f"(object {number} of {total}; {len(self._errors)} of them could not be stored)")
            raise error

    def _put(self, pending: "_Pending") -> None:
        write = pending.write
        lost = [self._lost[child] for child in write.children if child in self._lost]
        try:
            if lost:
                # What it refers to is not there: a reader would find a hole.
                pending.error = lost[0]
                return
            write.put()
            pending.done = True
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread, when the others are done
            pending.error = error

    def _settle(self, level: "list[_Pending]") -> None:
        for pending in level:
            if pending.settled:
                continue
            key = pending.write.key
            if pending.done:
                pending.write.note()
                self._seen[key] = True
                self._lost.pop(key, None)
            else:
                pending.write.withdraw()
            if pending.error is not None:
                self._lost[key] = pending.error
                self.fail(pending.number, pending.error)
            pending.settled = True


class _Pending:
    """One state that is to be put, for the object of that number, and what became of it."""

    __slots__ = ("done", "error", "number", "settled", "write")

    def __init__(self, write: saving.Write, number: int) -> None:
        self.write = write
        self.number = number
        self.done = False
        self.settled = False
        self.error: Exception | None = None
