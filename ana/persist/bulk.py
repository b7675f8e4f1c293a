"""Many states at once: whatever waits for a disk or a server runs in threads, for many states at the same time.

Only stores in folders gain: a server takes a millisecond to answer, or each state waits for the disk. The code of users
(pickling, unpickling) runs in the caller's thread, in the same order as one at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError, UUIDConflictError
from ana.format import address, record
from ana.objects import ghost, identity
from ana.persist import inflight, loading, prefetching, saving
from ana.runtime import threads
from ana.stores import base, parts

__all__ = ["check_objects", "keep", "load", "prefetch", "store"]

Item = TypeVar("Item")

WINDOW_STATES = 1024
WINDOW_BYTES = 32 << 20
"""How many pickled states, and bytes of raw state, may wait to be put."""


def store(target: saving.Target, objects: Sequence[Any]) -> list[str]:
    """Give each object an address, store it with all that it refers to, and return the UUIDs in order.

    If an object does not pickle, the others are stored all the same. If the store fails, the writes under way finish
    and the rest is given up. The first error is raised at the end. An object that was not stored gets no UUID.
    """
    try:
        return _store(target, objects)
    except base.ReplacedError:
        saving.forget(target)
        return _store(target, objects)


def keep(target: saving.Target, name: str, objects: Sequence[Any], uuids: Sequence[str], ttl_seconds: float) -> None:
    """Keep objects that were just stored, and their UUIDs, under a root's name. Raises what keeps them from it."""
    try:
        problems = target.store.keep(name, uuids, ttl_seconds=ttl_seconds)
    except (StateNotFoundError, CorruptedStateError) as error:
        problems = [error]
    if problems:
        # A state that counted as stored is gone, perhaps purged.
        for obj in objects:
            saving.store(target, obj, repair=True)
        for problem in target.store.keep(name, uuids, ttl_seconds=ttl_seconds):
            raise problem


def _store(target: saving.Target, objects: Sequence[Any]) -> list[str]:
    batch = _Batch(target)
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
    """Return the objects as a list. Raises TypeError if one is not a Storable (nor a UUID), and touches nothing."""
    found = list(objects)
    for number, obj in enumerate(found):
        if or_uuids and (isinstance(obj, str) or address.is_uuid_object(obj)):
            continue
        if not identity.is_storable(obj):
            what = "a Storable or a UUID" if or_uuids else "a Storable"
            msg = f"item {number} is not {what}, but a {type(obj).__name__}"
            raise TypeError(msg)
    return found


def load(layer: inflight.Source, cls: type, keys: Sequence[str]) -> list[Any]:
    """Return the objects of the keys, in order. As `loading.load` for each, with prefetching."""
    found = []
    for window in _windows(keys):
        with inflight.session().prefetcher as prefetcher:
            prefetcher.fetch(layer, window, cls)
            found += [loading.load(layer, cls, key) for key in window]
    return found


def prefetch(layers: Sequence[inflight.Source], wanted: Sequence[tuple[str, Any]]) -> None:
    """Load ghosts, given with their keys. For None, load the first layer's object. What fails stays a ghost."""
    for window in _windows(wanted):
        with inflight.session().prefetcher as prefetcher:
            missing = [key for key, _ in window]
            for layer in layers:
                prefetcher.fetch(layer, missing, object)
                # The next place is asked only for what this one does not have.
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
        # It stays a ghost, and raises the reason when it is used.
        return


def _store_one(target: saving.Target, obj: Any) -> str:
    mark = identity.mark_of(obj)
    if mark is None:
        uuid: str = obj.make_uuid()
        if address.is_content_uuid(uuid) or (mark := identity.mark_of(obj)) is None:
            return uuid
    if mark.loader is not None and not target.store.has(mark.uuid):
        ghost.use(obj)
    saving.store_in_batch(target, obj)
    return mark.uuid


class _Batch:
    """The states that one `store` has pickled and not put yet, by level: each comes after those that it refers to."""

    def __init__(self, target: saving.Target) -> None:
        self.target = target
        self.number = 0
        self.broken = False
        self._gathers = target.store.gathers
        self._levels: list[list[_Pending]] = []
        self._level_of: dict[str, int] = {}
        self._held: set[int] = set()
        self._waiting = 0
        self._waiting_bytes = 0
        self._buffers: set[int] = set()
        self._parts: set[str] = set()
        self._seen: dict[str, bool] = {}
        self._lost: dict[str, Exception] = {}
        self._errors: dict[int, Exception] = {}

    def look_for(self, objects: Sequence[Any]) -> None:
        """Look up the objects that have an address already, many at a time."""
        if not (self.target.store.durable or self.target.store.high_latency):
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
                # The caller that needs the state asks again, and gets the error.
                return

        threads.run(look, list(dict.fromkeys(keys)), threads.WAITING)

    def add(self, write: saving.Write) -> None:
        """Add a state. If enough states wait, put them all. Raises if this one could not be put."""
        level_of, key = self._level_of, write.key
        level = 0
        for child in write.children:
            if child != key:
                level = max(level, level_of.get(child, -1) + 1)
        before = level_of.get(key)
        if before is not None:
            # One after the other: the first writer of a given UUID wins, and equal states are written once.
            level = max(level, before + 1)
        if write.given or before is None:
            level_of[key] = level
        pending = _Pending(write, self.number)
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(pending)
        self._held.add(id(write.obj))
        self._waiting += 1
        raw_bytes = write.content.raw_bytes
        self._waiting_bytes += raw_bytes if raw_bytes < record.LARGE_BYTES else self._new_bytes(write)
        if not self._gathers or self._waiting >= WINDOW_STATES or self._waiting_bytes >= WINDOW_BYTES:
            self.flush()
            if pending.error is not None:
                raise pending.error

    def _new_bytes(self, write: saving.Write) -> int:
        """Return the size of what a state adds to what waits: a buffer that others hold as well is in memory once."""
        size = write.content.raw_bytes
        for view in write.content.views:
            if len(view) >= record.LARGE_BYTES:
                if id(view.obj) in self._buffers:
                    size -= len(view)
                # What waits keeps it alive, so no other object gets its id.
                self._buffers.add(id(view.obj))
        return size

    def holds(self, obj: object, mark: identity.Mark) -> bool:
        """Return whether an object's state still waits to be put."""
        return id(obj) in self._held or (not mark.given and mark.uuid in self._level_of)

    def seen(self, key: str) -> bool | None:
        """Return whether the store had a state when the batch looked; None if it did not look."""
        return self._seen.get(key)

    def flush(self) -> None:
        """Put all that waits. An object whose state could not be put loses the UUID that it got here."""
        levels, self._levels = self._levels, []
        try:
            for level in levels:
                self._put(level)
                self._settle(level)
        finally:
            # Also after an exception from a signal handler: what reached the store counts as stored.
            for level in levels:
                self._settle(level)
            self._level_of.clear()
            self._held.clear()
            self._buffers.clear()
            self._waiting = self._waiting_bytes = 0

    def abandon(self) -> None:
        """Give up what waits, after an exception from a signal handler."""
        levels, self._levels = self._levels, []
        for level in levels:
            self._settle(level)

    def fail(self, number: int, error: Exception) -> None:
        """Note an error of one of the objects. The first error of each object counts."""
        self._errors.setdefault(number, error)
        if isinstance(error, StoreError) and not isinstance(error, UUIDConflictError):
            self.broken = True

    def raise_first(self, total: int) -> None:
        """Raise the error of the first object that failed."""
        if self._errors:
            number = min(self._errors)
            error = self._errors[number]
            error.add_note(f"(object {number} of {total}; {len(self._errors)} of them could not be stored)")
            raise error

    def _put(self, level: "list[_Pending]") -> None:
        """Put the states of one level. What goes wrong is raised in the caller's thread once the others are done."""
        ready = self._ready(level)

        def note(number: int, *, written: bool = False, error: Exception | None = None) -> None:
            pending, one = ready[number]
            try:
                if error is None:
                    pending.write.check(one, written=written)
            except Exception as other:  # noqa: BLE001 - raised later
                error = other
            pending.error, pending.done = error, error is None

        self.target.store.put_many([one for _, one in ready], note)

    def _ready(self, level: "list[_Pending]") -> "list[tuple[_Pending, base.Put]]":
        """Return the states of a level that can be put, after their parts have been."""
        ready: list[tuple[_Pending, base.Put]] = []
        first: list[base.Put] = []
        for pending in level:
            write = pending.write
            # If a state that it refers to is missing, a reader would find a hole.
            if self._lost:
                pending.error = next((self._lost[child] for child in write.children if child in self._lost), None)
            try:
                if pending.error is None:
                    one, its_parts = write.to_put()
                    ready.append((pending, one))
                    first += [part for part in its_parts if part.key not in self._parts]
            except Exception as error:  # noqa: BLE001 - raised later
                pending.error = error
        if not first:
            return ready
        errors = parts.put_all(self.target.store, first)
        self._parts.update(part.key for part in first if part.key not in errors)
        for pending, one in ready:
            pending.error = parts.error_of(one, errors)
        return [item for item in ready if item[0].error is None]

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
    """One state that waits to be put, the number of its object, and what became of it."""

    __slots__ = ("done", "error", "number", "settled", "write")

    def __init__(self, write: saving.Write, number: int) -> None:
        self.write = write
        self.number = number
        self.done = False
        self.settled = False
        self.error: Exception | None = None
