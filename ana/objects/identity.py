"""Which object has which UUID, where it is known to be stored, and which objects of a layer are alive.

The marks are kept in a table beside the objects, not in them. So a class may derive from `dict` (slots of our own would
conflict with its layout), and `vars(obj)`, `__eq__` over `__dict__` and states stay clean.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ana.format import address
from ana.objects.class_names import class_name

__all__ = ["LiveObjects", "Mark", "address_of", "is_storable", "mark", "mark_of", "note_address"]


class Mark(weakref.ref[Any]):
    """What is known about one object that has a UUID. It dies with the object.

    Any module may read the fields. Only the methods change them.
    """

    __slots__ = (
        *("admitted", "children", "given", "layer", "live_objects"),
        *("loader", "looked", "number", "raw_bytes", "uuid"),
    )

    uuid: str
    number: int
    given: bool
    """The UUID was given, not derived from the content. The state is stored when the object is first pickled."""
    layer: str
    """The id of the layer that is known to have the state, or ""."""
    looked: float
    """When the state was last seen there (time.monotonic, s)."""
    loader: Callable[[], None] | None
    """Loads the state of a ghost into the object. None if the object is whole, so that any thread may use it."""
    admitted: tuple[object, ...]
    """The threads that may use the object while it is being filled."""
    live_objects: "LiveObjects | None"
    """The table that the object was last put into. Kept alive here even if its layer is no longer in use."""
    children: tuple[str, ...]
    """What the stored state is known to refer to."""
    raw_bytes: int
    """Size of the stored state before compression; 0 if unknown."""

    @property
    def short_uuid(self) -> str:
        """The first eight characters of the UUID, escaped if a log could not print them."""
        return repr(self.uuid[:8])[1:-1]

    def defer(self, loader: Callable[[], None]) -> None:
        """Note that the object has no state yet, and what loads it."""
        self.loader = loader

    def admit(self, thread: object) -> None:
        """Note a thread that may use the object while it is being filled. One that gets lost is admitted again."""
        self.admitted += (thread,)

    def dismiss(self) -> None:
        """Note that no thread is filling the object any more."""
        self.admitted = ()

    def note_state_set(self) -> None:
        """Note that the object is whole. From now on other threads may use it."""
        self.loader = None
        self.admitted = ()

    def note_loaded(self, layer: str, children: tuple[str, ...], raw_bytes: int, looked: float) -> None:
        """Note that the object has its state, and from which layer."""
        # The object may have been marked before its state was there.
        self.given = not address.is_content_uuid(self.uuid)
        # Not by calls of the methods below: this is the path of every load.
        self.children = children
        self.raw_bytes = raw_bytes
        self.layer = layer
        self.looked = looked

    def note_content(self, children: tuple[str, ...], raw_bytes: int) -> None:
        """Note what the stored state refers to, and its size."""
        self.children = children
        self.raw_bytes = raw_bytes

    def note_stored(self, layer: str, looked: float) -> None:
        """Note that a layer has the state, and when that was seen."""
        self.layer = layer
        self.looked = looked

    def forget_stored(self) -> None:
        """Note that no layer is known to have the state any more."""
        self.layer = ""


_marks: dict[int, Mark] = {}


def _forget(dead: Mark, marks: dict[int, Mark] = _marks) -> None:
    # As a default: at the interpreter's end the module's own names are gone.
    if marks.get(dead.number) is dead:
        del marks[dead.number]


def mark_of(obj: object) -> Mark | None:
    """Return the mark of an object that has a UUID, otherwise None."""
    found = _marks.get(id(obj))
    return found if found is not None and found() is obj else None


def is_storable(obj: object) -> bool:
    """Return whether an object may have a UUID: whether its class speaks a Storable's protocol."""
    return hasattr(type(obj), "_ana_getstate")


def mark(obj: object, uuid: str, *, given: bool) -> Mark:
    """Give an object a UUID and return its mark: the one that it has already, if another thread was first."""
    number = id(obj)
    # `mark_of`, inlined: every state that is stored or loaded passes here.
    found = _marks.get(number)
    if found is not None and found() is obj:
        return found
    made = Mark(obj, _forget)
    made.number = number
    made.uuid = uuid
    made.given = given
    made.layer = ""
    made.looked = 0.0
    made.loader = None
    made.admitted = ()
    made.children = ()
    made.live_objects = None
    made.raw_bytes = 0
    # Atomic under the GIL. The mark of a dead object with the same id was removed when that object died.
    return _marks.setdefault(number, made)


class _Address(weakref.ref[Any]):
    """The address that an object would get, or that it would get none. It dies with the object."""

    __slots__ = ("number", "token", "uuid")

    number: int
    uuid: str | None
    token: str


_addresses: dict[int, _Address] = {}


def _forget_address(dead: _Address, addresses: dict[int, _Address] = _addresses) -> None:
    # As a default: at the interpreter's end the module's own names are gone.
    if addresses.get(dead.number) is dead:
        del addresses[dead.number]


def address_of(obj: object) -> _Address | None:
    """Return what was noted about the address that an object without a UUID would get, if anything."""
    known = _addresses.get(id(obj))
    return known if known is not None and known() is obj else None


def note_address(obj: object, uuid: str | None) -> None:
    """Note the address that an object would get. Without one, its token is random."""
    made = _Address(obj, _forget_address)
    made.number = id(obj)
    made.uuid = uuid
    made.token = uuid or f"random-{address.random_uuid()}"
    _addresses[made.number] = made


def unmark(obj: object) -> None:
    """Remove an object's UUID, for old programs that assign None to it."""
    _marks.pop(id(obj), None)


class _Keeper:
    """The loaded objects of all layers that are kept alive for reuse, least recently used first. One per process."""

    def __init__(self) -> None:
        # Re-entrant: a destructor may run, and unpickle, while it is held.
        self.lock = threading.RLock()
        self.kept: OrderedDict[tuple[int, str], tuple[LiveObjects, Any, int]] = OrderedDict()
        self._layers: dict[int, LiveObjects] = {}
        self._bytes = 0

    def _drop_excess(self, live: "LiveObjects", dropped: list[Any]) -> None:
        while live.kept_bytes > live.keep_bytes and len(live.kept) > 1:
            dropped.append(self._drop(next(iter(live.kept.values()))))
        if self._bytes > live.keep_bytes and len(self.kept) > 1:
            most = max(one.keep_bytes for one in self._layers.values())
            while self._bytes > most and len(self.kept) > 1:
                dropped.append(self._drop(next(iter(self.kept))))

    def keep(self, live: "LiveObjects", uuid: str, obj: object, size_bytes: int) -> None:
        """Keep an object alive. Release what exceeds its layer's budget, then what exceeds the process's."""
        dropped: list[Any] = []
        with self.lock:
            if uuid in live.kept:
                dropped.append(self._drop(live.kept[uuid]))
            key = live.kept[uuid] = (id(live), uuid)
            self.kept[key] = (live, obj, size_bytes)
            self._layers[id(live)] = live
            self._bytes += size_bytes
            live.kept_bytes += size_bytes
            self._drop_excess(live, dropped)
        # Destructors run here, outside the lock.
        del dropped

    def forget(self, live: "LiveObjects") -> None:
        """Release all objects of a layer."""
        with self.lock:
            dropped = [self._drop(key) for key in list(live.kept.values())]
        del dropped

    def _drop(self, key: tuple[int, str] | None) -> Any:
        """Remove an object, and return what must be released outside the lock."""
        if key is None:
            return None
        live, obj, size_bytes = self.kept.pop(key)
        del live.kept[key[1]]
        self._bytes -= size_bytes
        live.kept_bytes -= size_bytes
        if not live.kept:
            del self._layers[id(live)]
        return live, obj


_keeper = _Keeper()


class LiveObjects:
    """The objects of one layer by UUID, held weakly. Loaded ones are also kept alive for reuse, within a budget.

    Safe to use from many threads. After a fork, the child has its own copy.
    """

    def __init__(self, keep_bytes: int) -> None:
        table: Any = weakref.WeakValueDictionary()
        self.table: weakref.WeakValueDictionary[str, Any] = table
        # The table's own dict: a look-up there is no Python call.
        self._references: dict[str, weakref.ref[Any]] = table.data
        self.keep_bytes = keep_bytes
        self.displaced: weakref.WeakValueDictionary[tuple[str, int], Any] | None = None
        """Objects that were replaced by others under their UUID; None if there never were any."""
        self.kept: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self.kept_bytes = 0
        # Re-entrant: a destructor may run, and unpickle, while it is held.
        self._lock = threading.RLock()

    def get(self, uuid: str) -> Any | None:
        """Return the object that is alive under `uuid`, or None."""
        reference = self._references.get(uuid)
        found = None if reference is None else reference()
        key = None if found is None else self.kept.get(uuid)
        if key is not None:
            # Now the most recently used. Inlined, because every reference to a live object passes here.
            with _keeper.lock:
                if uuid in self.kept:
                    self.kept.move_to_end(uuid)
                    _keeper.kept.move_to_end(key)
        return found

    def find(self, uuid: str, cls: type) -> Any | None:
        """Return the object of class `cls`, or of a subclass, that is alive under `uuid`, or None.

        If the class was redefined, objects of the old class stay alive under their UUID beside those of the new one.
        """
        found = self.get(uuid)
        if self.displaced is None:
            return found if isinstance(found, cls) else None
        if isinstance(found, cls):
            return found
        with self._lock:
            displaced = [obj for (key, _), obj in self.displaced.items() if key == uuid]
        return next((obj for obj in displaced if isinstance(obj, cls)), None)

    def add(self, uuid: str, obj: object, cls: type) -> Any:
        """Return the object that holds `uuid` from now on: the one that holds it already, or else `obj` of class `cls`.

        An object of an older class of the same name is replaced.
        """
        with self._lock:
            holder = self.table.setdefault(uuid, obj)
            if holder is not obj and not isinstance(holder, cls) and class_name(type(holder)) == class_name(cls):
                self._displace(uuid, holder)
                self.table[uuid] = holder = obj
        found = mark_of(holder)
        if found is not None:
            found.live_objects = self
        return holder

    def put(self, uuid: str, obj: object) -> None:
        """Have `obj` hold `uuid`, whatever object held it before."""
        with self._lock:
            reference = self._references.get(uuid)
            before = None if reference is None else reference()
            if before is not obj:
                if before is not None:
                    self._displace(uuid, before)
                self.table[uuid] = obj
        found = mark_of(obj)
        if found is not None:
            found.live_objects = self

    def _displace(self, uuid: str, holder: object) -> None:
        if self.displaced is None:
            self.displaced = weakref.WeakValueDictionary()
        self.displaced[uuid, id(holder)] = holder

    def keep(self, uuid: str, obj: object, size_bytes: int) -> None:
        """Keep a loaded object alive. Release the least recently used objects beyond `keep_bytes` of raw state.

        Each layer's budget limits its own objects, and the largest budget limits those of all layers together. The last
        object is always kept: a pool's next task wants just that one.
        """
        _keeper.keep(self, uuid, obj, size_bytes)

    def forget_kept(self) -> None:
        """Release all objects that are kept alive for reuse."""
        _keeper.forget(self)

    def renew_lock(self) -> None:
        """Replace the lock, in a forked child: another thread of the parent may have held it."""
        self._lock = threading.RLock()


def before_fork() -> None:
    """Wait until no thread is changing what is kept alive: a child would inherit the half of a change for good."""
    _keeper.lock.acquire()


def after_fork() -> None:
    """Let threads change again what is kept alive, in the parent and in the child."""
    _keeper.lock.release()
