"""One state on its way into a store: what may be put under its key, and what its object's mark notes afterwards."""

import logging
import time
import weakref
from functools import partial
from typing import Any, Protocol

from ana.errors import ANAError, CorruptedStateError, StateChangedError, StateNotFoundError, UUIDConflictError
from ana.format import address, record
from ana.objects import identity
from ana.persist import keeping
from ana.stores import base, parts

__all__ = ["Target", "Write", "by_home", "note_stored"]

_log = logging.getLogger("ana.saving")

by_home: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
"""The latest layer of each home."""


class Target(Protocol):
    """What storing needs of a layer."""

    uuid: str
    live: identity.LiveObjects
    store: base.Store
    strict: bool
    recheck_seconds: float
    part_bytes: int
    """The least size of buffers that are states of their own; 0: none."""


class PickledObject(Protocol):
    """An object and its pickled state."""

    obj: Any
    content: record.Content

    def child_keys(self) -> tuple[str, ...]:
        """Return the UUIDs of the states that the state refers to."""


class Write:
    """One state on its way into a store. Only the thread that pickled it calls `announce`, `note` and `withdraw`."""

    def __init__(
        self,
        target: Target,
        pickled: PickledObject,
        key: str,
        *,
        given: bool,
        repair: bool = False,
    ) -> None:
        self.target = target
        self.obj: Any = pickled.obj
        self.content: record.Content = pickled.content
        self.children: tuple[str, ...] = pickled.child_keys()
        self.key = key
        self.given = given
        self.repair = repair
        self.is_right = False
        """Whether the key is known to fit the content."""
        mark = identity.mark_of(pickled.obj)
        self._stored_children = self.children
        self._had_parts = mark is not None and not set(mark.children) <= set(self.children)
        self._made: identity.Mark | None = None

    def announce(self) -> identity.Mark:
        """Give the object its UUID now, so that states pickled next can refer to it. Return its mark."""
        found = identity.mark_of(self.obj)
        if found is None:
            found = self._made = identity.mark(self.obj, self.key, given=self.given)
        return found

    def put(self) -> bool:
        """Put the state into the store; return whether it and all of its parts were written now, not found.

        Runs in any thread: it touches no objects and no code of users.
        """
        one, first = self.to_put()
        error = parts.error_of(one, parts.put_all(self.target.store, first)) if first else None
        if error is not None:
            raise error
        written = self.target.store.put(one.key, one.state, one.children, repair=one.repair)
        self.check(one, written=written)
        # Of parts that were there nobody knows whether they are whole.
        return written and not one.state.parts

    def to_put(self) -> tuple[base.Put, list[base.Put]]:
        """Return what to put into the store, and the parts to put before it. Raises StateChangedError."""
        content, children = self.content, self.children
        if not self.is_right and not address.is_right(self.key, content.digest):
            content, children = self._original()
        one = base.Put(self.key, content, children, self.repair)
        found = parts.with_parts(self.target.store, one, self.target.part_bytes, look=self._had_parts)
        self._stored_children = found[0].children
        return found

    def check(self, one: base.Put, *, written: bool) -> None:
        """Report other content under an explicit UUID that was there already. Runs in any thread, as `put`."""
        if written or not self.given:
            return
        try:
            _compare(self.target, self.key, one.state)
        except (CorruptedStateError, StateNotFoundError):
            # Nobody can tell any more what was there: this content takes the UUID.
            self.target.store.put(one.key, one.state, one.children, repair=True)

    def _original(self) -> tuple[record.Content, tuple[str, ...]]:
        """Return the content that the key is the address of, from a store of this process. Raises StateChangedError.

        The object pickles into other bytes now, perhaps through nobody's fault: arrays that the node cache maps are
        read-only, and a set of strings has another order in each process.
        """
        for layer in (self.target, *by_home.values()):
            try:
                found = layer.store.get(self.key, wait=False)
                views = [memoryview(segment) for segment in parts.segments(layer.store, found)]
            except ANAError:
                continue
            header = found.header
            content = record.content(header.class_name, views, bytes_segments=header.bytes_segments)
            content = content.described_by(partial(str, header.summary))
            if address.is_right(self.key, content.digest) and all(map(self.target.store.has, header.objects)):
                return content, header.objects
        what = "it is not what it was when it got its UUID, which is the address of that content"
        raise StateChangedError(self.key, self.content.class_name, what)

    def note(self) -> identity.Mark:
        """Note that the object is stored."""
        mark = identity.mark(self.obj, self.key, given=self.given)
        mark.note_content(self._stored_children, self.content.raw_bytes)
        note_stored(self.target, self.obj, mark)
        return mark

    def withdraw(self) -> None:
        """Undo `announce`: the state could not be put."""
        if self._made is not None and identity.mark_of(self.obj) is self._made:
            identity.unmark(self.obj)


def _compare(target: Target, uuid: str, content: record.Content) -> None:
    """Report other content under an explicit UUID, where the first writer wins."""
    found = target.store.get(uuid)
    found.release()
    if found.header.content == content.digest:
        return
    if target.strict:
        raise UUIDConflictError(uuid, found.where)
    _log.warning("UUID %r already names a state with other content in %s: the first writer wins", uuid, found.where)


def note_stored(target: Target, obj: Any, mark: identity.Mark) -> None:
    """Note that an object is stored in a layer."""
    holder = target.live.add(mark.uuid, obj, type(obj))
    if holder is not obj and _holds_another_class(holder, obj):
        target.live.put(mark.uuid, obj)
    mark.note_stored(target.uuid, time.monotonic())
    if keeping.watch:
        keeping.note(target.store, mark.uuid)


def _holds_another_class(holder: Any, ref: Any) -> bool:
    """Return whether, of two Refs with equal content, the class of the value was redefined after the first."""
    return (
        getattr(type(ref), "_ana_lazy", False)
        and type(holder) is type(ref)
        and type(getattr(holder, "_value", None)) is not type(getattr(ref, "_value", None))
    )
