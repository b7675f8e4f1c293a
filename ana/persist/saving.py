"""Storing objects: pickle first, touch the store afterwards, and store the children of a state before the state.

So a stored state always has its children in the store, and an object with an address needs a single look-up.
"""

import functools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ana.errors import ANAError, StateChangedError
from ana.format import address, record
from ana.objects import identity, pickling
from ana.objects.class_names import class_name
from ana.objects.ghost import loaded_class
from ana.persist import addressing
from ana.persist.writing import Target, Write, note_stored
from ana.stores.base import ReplacedError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Batch",
    "Target",
    "Write",
    "batching",
    "foresee_address",
    "make_address",
    "serialise",
    "store",
    "store_in_batch",
    "storing_into",
]


class Batch(Protocol):
    """Collects the writes of one thread, to do many of them at once."""

    target: Any

    def add(self, write: "Write") -> None:
        """Add a state, which is put after those that it refers to. Raises if it could not be put."""

    def holds(self, obj: object, mark: identity.Mark) -> bool:
        """Return whether an object's state still waits to be put."""

    def seen(self, key: str) -> bool | None:
        """Return whether the store had a state when the batch looked; None if it did not look."""


class _Local(threading.local):
    def __init__(self) -> None:
        self.storing: dict[int, Any] = {}
        self.batch: Batch | None = None
        self.written: set[str] | None = None


_local = _Local()


class _Children:
    """Collects the objects with UUIDs that a state refers to. With `only`, objects with other UUIDs are part of it."""

    def __init__(self, only: tuple[str, ...] | None = None) -> None:
        self.objects: dict[str, Any] = {}
        self._only = only

    def meet(self, child: Any) -> bool:
        found = identity.mark_of(child)
        if found is not None and (self._only is None or found.uuid in self._only):
            self.objects[found.uuid] = child
            return True
        addressing.meet(child)
        return False

    def is_final(self, error: Exception) -> bool:
        return addressing.is_final(error)

    def find(self, uuid: str) -> Any:
        return self.objects.get(uuid)


class _Task:
    """One object on its way into the store."""

    def __init__(
        self,
        target: Target,
        obj: Any,
        only: tuple[str, ...] | None = None,
        scratch: record.Scratch | None = None,
    ) -> None:
        """`scratch`: see `record.content`."""
        self.obj = obj
        self.children = _Children(only)
        try:
            pickled = pickling.dump(obj._ana_getstate, self.children, stays=target.store.process_local)
        except Exception as error:
            # While an address is being foreseen, nobody reads the message.
            if not (addressing.is_final(error) or addressing.is_foreseeing() or isinstance(error, ANAError | OSError)):
                from ana.objects import unpicklable  # noqa: PLC0415 - after a failure only

                unpicklable.explain(error, obj)
            raise
        name = class_name(loaded_class(obj))
        content = record.content(name, pickled.views, pickled.sizes, pickled.bytes_segments, scratch)
        self.content = content.described_by(obj._ana_summary)
        # A class that would go by value into any other store has other bytes there.
        self.has_address = not (target.store.process_local and pickling.may_go_by_value(pickled))
        self.pending: Iterator[Any] = iter(self.children.objects.values())

    def child_keys(self) -> tuple[str, ...]:
        """Return the UUIDs of the states that it refers to."""
        return tuple(self.children.objects)


def _pickled_again(target: Target, obj: Any) -> _Task:
    """Pickle an object that may have a UUID already."""
    task = _Task(target, obj)
    mark = identity.mark_of(obj)
    if mark is not None and not address.is_right(mark.uuid, task.content.digest):
        # Objects in it may have got their UUIDs later: when it got its own, they were part of it.
        task = _Task(target, obj, mark.children)
    return task


def _batch_of(target: Target) -> Batch | None:
    batch = _local.batch
    return batch if batch is not None and batch.target is target else None


def _submit(write: Write) -> identity.Mark:
    batch = _local.batch
    if batch is None or batch.target is not write.target:
        try:
            written = write.put()
        except StateChangedError:
            write = _anew(write)
            written = write.put()
        if written and _local.written is not None:
            _local.written.add(write.key)
        return write.note()
    mark = write.announce()
    batch.add(write)
    return mark


def _anew(write: Write) -> Write:
    """Pickle an object again that changed while it was being stored. This time it may stay the same."""
    task = _pickled_again(write.target, write.obj)
    for child in task.pending:
        _store_all(write.target, child)
    key = write.key
    if address.is_content_uuid(key) and identity.mark_of(write.obj) is None:
        key = address.content_uuid(task.content.digest)
    return Write(write.target, task, key, given=write.given, repair=write.repair)


@contextmanager
def batching(batch: Batch | None) -> "Iterator[None]":
    """Have the batch put this thread's states for its target, and make new addresses in that target."""
    before, _local.batch = _local.batch, batch
    try:
        yield
    finally:
        _local.batch = before


@contextmanager
def noting_written() -> "Iterator[set[str]]":
    """Yield a set that gets the UUIDs of the states that this thread writes meanwhile, but for those in a batch.

    Such a state was checked on its way, so nobody needs to read it to know that it is whole. A state with parts is not
    in the set: parts that were there already may be damaged.
    """
    before = _local.written
    found = _local.written = set()
    try:
        yield found
    finally:
        _local.written = before


def storing_into() -> Any:
    """Return the layer into which this thread is storing a batch, if any."""
    return None if _local.batch is None else _local.batch.target


def serialise(name: str, state: object) -> tuple[record.Content, tuple[str, ...]]:
    """Pickle a bare state. Return its content and the UUIDs of its children, which are not stored with it."""
    children = _Children()
    pickled = pickling.dump(lambda: state, children)
    return record.content(name, pickled.views, pickled.sizes, pickled.bytes_segments), tuple(children.objects)


def make_address(target: Target, obj: Any, *, expected: str | None = None) -> identity.Mark:
    """Give an object the address of its content, and store it with all that it refers to.

    An object in a cycle of addressed objects gets a random UUID instead, and is stored when it is first pickled. Raises
    what pickling or the store raises, and ValueError if the address is not the `expected` one. Then the object gets no
    address.
    """
    make = functools.partial(_address, target, obj, expected)

    def give(one: Any) -> identity.Mark:
        uuid = address.random_uuid()
        _check_expected(uuid, expected if one is obj else None)
        return give_address(target, one, uuid)

    try:
        return addressing.address(obj, make, give)
    except ReplacedError:
        forget(target)
        return addressing.address(obj, make, give)


def foresee_address(target: Target, obj: Any) -> None:
    """Note the address that `make_address` would give an object. Nothing is stored, and no object gets an address.

    The address is None if it would be random, or if pickling fails. All Refs that are met are noted as well.
    """

    def find(one: Any) -> str | None:
        task = _Task(target, one)
        return address.content_uuid(task.content.digest) if task.has_address else None

    addressing.foresee(obj, find, identity.note_address)


def _address(target: Target, top: Any, expected: str | None, obj: Any) -> identity.Mark:
    """Give an object an address on behalf of `top`, which must get the `expected` one, if any."""
    mark = identity.mark_of(obj)
    if mark is not None:
        return mark
    with record.Scratch() as scratch:
        # A batch writes later.
        task = _Task(target, obj, scratch=scratch if _batch_of(target) is None else None)
        key = address.content_uuid(task.content.digest) if task.has_address else address.random_uuid()
        if expected is not None and obj is top:
            _check_expected(key, expected)
        for child in task.pending:
            _store_all(target, child)
        write = Write(target, task, key, given=not task.has_address)
        write.is_right = True
        return _submit(write)


def _check_expected(key: str, expected: str | None) -> None:
    if expected not in (None, key):
        msg = (
            f"UUID {expected!r} is of version 8, which stands for content, and this object's is {key!r}: "
            "call make_uuid() without one, or with one of another version (uuid.uuid4())"
        )
        raise ValueError(msg)


def give_address(target: Target, obj: Any, uuid: str) -> identity.Mark:
    """Give an object a UUID that does not follow from its content. It is stored when it is first pickled."""
    mark = identity.mark(obj, uuid, given=True)
    target.live.add(mark.uuid, obj, type(obj))
    return mark


def is_known(target: Target, mark: identity.Mark) -> bool:
    """Return whether an object is known to be stored in a layer, and was seen there recently enough."""
    return mark.layer == target.uuid and time.monotonic() - mark.looked < target.recheck_seconds


def store(target: Target, obj: Any, *, repair: bool = False) -> None:
    """Store an object that has a UUID, unless its state is in the store.

    With `repair`, read and verify the stored state, and replace it if it is damaged. Raises what pickling or the store
    raises. Then the object does not count as stored.
    """
    mark = identity.mark_of(obj)
    if mark is not None and mark.loader is None:
        # Not in the batch: the caller relies on this state at once.
        with batching(None):
            try:
                _store_all(target, obj, repair=repair)
            except ReplacedError:
                forget(target)
                _store_all(target, obj, repair=repair)


def forget(target: Target) -> None:
    """Take nothing for stored in a layer any more: its store was replaced by another."""
    target.uuid = address.random_uuid()


def store_in_batch(target: Target, obj: Any) -> None:
    """As `store`, but through this thread's batch."""
    _store_all(target, obj)


def _store_all(target: Target, top: Any, *, repair: bool = False) -> None:
    """Store an object and all that it refers to, deepest first. No recursion: chains may be long."""
    mark = identity.mark_of(top)
    # A stored state is gone, or may be. Then nothing else is taken for stored either, until it is looked up.
    wary = repair or (mark is not None and mark.layer == target.uuid and not is_known(target, mark))
    look = _Look(target, wary=wary)
    if look.finds(top, whole=repair):
        return
    seen = {id(top)}
    stack: list[_Task] = []
    try:
        stack.append(_begin(target, top))
        while stack:
            task = stack[-1]
            for child in task.pending:
                if id(child) not in seen and not look.finds(child):
                    seen.add(id(child))
                    stack.append(_begin(target, child))
                    break
            else:
                _put(target, task, repair=repair and task.obj is top)
                del _local.storing[id(task.obj)]
                stack.pop()
    finally:
        for task in stack:
            _local.storing.pop(id(task.obj), None)


def _begin(target: Target, obj: Any) -> _Task:
    """Pickle an object to store it. States that are stored meanwhile may refer to it."""
    _local.storing[id(obj)] = obj
    try:
        return _pickled_again(target, obj)
    except BaseException:
        del _local.storing[id(obj)]
        raise


class _Look:
    """Looks up which states a layer has, each at most once."""

    def __init__(self, target: Target, *, wary: bool) -> None:
        self.target = target
        self.wary = wary
        self.there: set[str] = set()
        self.batch = _batch_of(target)

    def finds(self, obj: Any, *, whole: bool = False) -> bool:
        """Return whether an object's state is stored with all that it refers to, so that there is nothing to do.

        That takes at most one look-up, and none if the state was seen recently, unless `wary`.
        """
        mark = identity.mark_of(obj)
        if mark is None or mark.loader is not None or self._is_pending(obj, mark) or id(obj) in _local.storing:
            return True
        if not self.wary and is_known(self.target, mark):
            return True
        if mark.given and mark.layer != self.target.uuid:
            # Other content may be stored under a given UUID. Only comparing the two shows that.
            return False
        # Whatever goes wrong from here on, the state no longer counts as stored.
        mark.forget_stored()
        if whole and not self.target.store.is_whole(mark.uuid):
            return False
        began = time.perf_counter()
        if not self._has(mark.uuid) or (self.wary and not self._has_descendants(mark)):
            return False
        self.target.store.counters.note_found(mark.uuid, mark.raw_bytes, began)
        note_stored(self.target, obj, mark)
        return True

    def _is_pending(self, obj: Any, mark: identity.Mark) -> bool:
        return self.batch is not None and self.batch.holds(obj, mark)

    def _has(self, key: str) -> bool:
        if key not in self.there:
            seen = None if self.batch is None else self.batch.seen(key)
            if not (self.target.store.has(key) if seen is None else seen):
                return False
            self.there.add(key)
        return True

    def _has_descendants(self, mark: identity.Mark) -> bool:
        """Look up all that an object is known to refer to. Scratch filesystems purge by age: parents or children."""
        todo = [key for key in mark.children if key not in self.there]
        while todo:
            key = todo.pop()
            if key in self.there:
                continue
            if not self._has(key):
                return False
            child = identity.mark_of(self.target.live.get(key))
            if child is not None:
                todo += child.children
        return True


def _put(target: Target, task: _Task, *, repair: bool) -> None:
    mark = identity.mark_of(task.obj)
    if mark is not None:
        _submit(Write(target, task, mark.uuid, given=mark.given, repair=repair))
