"""Which object has which UUID, and where it is known to be stored; which objects of a layer are alive.

The marks live in a table beside the objects, not in them: then a class may derive from `dict` (slots
of our own would make the layouts conflict), and `vars(obj)`, `__eq__` over `__dict__` and states stay clean.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ana.format import address
from ana.objects.class_names import class_name

__all__ = ["LiveObjects", "Mark", "address_of", "mark", "mark_of", "note_address"]


class Mark(weakref.ref[Any]):
    """What is known about one object that has a UUID. It dies with the object.

    Any module may read the fields. Only the methods change them.
    """

    __slots__ = ("children", "given", "layer", "live_objects", "loader", "looked", "number", "raw_bytes", "uuid")

    uuid: str
    number: int
    given: bool
    """The UUID was given, not derived: the state is stored when the object is first pickled."""
    layer: str
    """The id of the layer that is known to have the state, or ""."""
    looked: float
    """When that was last seen to be true (time.monotonic, s)."""
    loader: Callable[[], None] | None
    """Loads the state of a ghost into the object. None if the object has its state."""
    live_objects: "LiveObjects | None"
    """The table that the object was last put into. Kept alive here even if its layer is no longer in use."""
    children: tuple[str, ...]
    """What the stored state is known to refer to."""
    raw_bytes: int
    """How large the stored state is before compression, where that is known, else 0."""

    @property
    def short_uuid(self) -> str:
        """The UUID's first eight characters, escaped where a log could not print them."""
        return repr(self.uuid[:8])[1:-1]

    def defer(self, loader: Callable[[], None]) -> None:
        """Note that the object has no state yet, and what loads it."""
        self.loader = loader

    def note_state_set(self) -> None:
        """Note that the object has its state. From now on other threads may use it."""
        self.loader = None

    def note_loaded(self, layer: str, children: tuple[str, ...], raw_bytes: int, looked: float) -> None:
        """Note that the object has its state, and from which layer."""
        # Even if the object was marked before its state was there.
        self.given = not address.is_content_uuid(self.uuid)
        self.note_content(children, raw_bytes)
        self.note_stored(layer, looked)
        # Last: other threads take the object for complete from here on.
        self.loader = None

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
    """Return the mark of an object that has a UUID, else None."""
    found = _marks.get(id(obj))
    return found if found is not None and found() is obj else None


def mark(obj: object, uuid: str, *, given: bool) -> Mark:
    """Give an object its UUID; the mark that it has already, if another thread was first."""
    found = mark_of(obj)
    if found is not None:
        return found
    made = Mark(obj, _forget)
    made.number = id(obj)
    made.uuid = uuid
    made.given = given
    made.layer = ""
    made.looked = 0.0
    made.loader = None
    made.children = ()
    made.live_objects = None
    made.raw_bytes = 0
    # Atomic under the GIL; a mark of a dead object under the same id has been removed with it.
    return _marks.setdefault(made.number, made)


class _Address(weakref.ref[Any]):
    """The address that an object would be given, or that there is none; it goes with the object."""

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
    """Return what was noted about the address that an object without a UUID would be given, if anything."""
    known = _addresses.get(id(obj))
    return known if known is not None and known() is obj else None


def note_address(obj: object, uuid: str | None) -> None:
    """Note the address that an object would be given. Where there is none, its token is a random one, its own."""
    made = _Address(obj, _forget_address)
    made.number = id(obj)
    made.uuid = uuid
    made.token = uuid or f"random-{address.random_uuid()}"
    _addresses[made.number] = made


def unmark(obj: object) -> None:
    """Take an object's UUID away, for old programs that assign None to it."""
    _marks.pop(id(obj), None)


class _Keeper:
    """The loaded objects of all layers that are held for reuse, by when they were used last; one per process."""

    def __init__(self) -> None:
        # Re-entrant: a destructor may run, and unpickle, while it is held.
        self.lock = threading.RLock()
        self.kept: OrderedDict[tuple[int, str], tuple[LiveObjects, Any, int]] = OrderedDict()
        self._layers: dict[int, LiveObjects] = {}
        self._bytes = 0

    def keep(self, live: "LiveObjects", uuid: str, obj: object, size_bytes: int) -> None:
        """Keep an object alive; let go of what its layer, and then the process, has beyond its budget."""
        dropped = []
        with self.lock:
            if uuid in live.kept:
                dropped.append(self._drop(live.kept[uuid]))
            key = live.kept[uuid] = (id(live), uuid)
            self.kept[key] = (live, obj, size_bytes)
            self._layers[id(live)] = live
            self._bytes += size_bytes
            live.kept_bytes += size_bytes
            while live.kept_bytes > live.keep_bytes and len(live.kept) > 1:
                dropped.append(self._drop(next(iter(live.kept.values()))))
            if self._bytes > live.keep_bytes:
                most = max(one.keep_bytes for one in self._layers.values())
                while self._bytes > most and len(self.kept) > 1:
                    dropped.append(self._drop(next(iter(self.kept))))
        # Destructors run here, outside the lock.
        del dropped

    def forget(self, live: "LiveObjects") -> None:
        """Let go of all that a layer has here."""
        with self.lock:
            dropped = [self._drop(key) for key in list(live.kept.values())]
        del dropped

    def _drop(self, key: tuple[int, str] | None) -> Any:
        """Take an object out, and return what has to be let go of outside the lock."""
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
    """The objects of one layer by UUID, held weakly; and, within the process's budget, the loaded ones, held for reuse.

    Safe between threads. After a fork the child has its own copy, as of everything else.
    """

    def __init__(self, keep_bytes: int) -> None:
        self.table: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self.keep_bytes = keep_bytes
        self.displaced: weakref.WeakValueDictionary[tuple[str, int], Any] | None = None
        """Those that gave way to others under their UUID, if there ever were any."""
        self.kept: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self.kept_bytes = 0
        # Re-entrant: a destructor may run, and unpickle, while it is held.
        self._lock = threading.RLock()

    def get(self, uuid: str) -> Any | None:
        """Return the object that is alive under `uuid`, or None."""
        found = self.table.get(uuid)
        key = None if found is None else self.kept.get(uuid)
        if key is not None:
            # The most recently used one; in place, as each reference to a live object comes by here.
            with _keeper.lock:
                if uuid in self.kept:
                    self.kept.move_to_end(uuid)
                    _keeper.kept.move_to_end(key)
        return found

    def find(self, uuid: str, cls: type) -> Any | None:
        """Return the object of class `cls`, or of a subclass, that is alive under `uuid`, or None.

        Objects of a class that was defined again stay alive under their UUID beside those of the new class.
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
        """Return the object that holds `uuid` from now on: the one that already does, else `obj`, which is of `cls`.

        An object of an older class of that name gives way.
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
        """Have `obj` hold `uuid`, whatever did before."""
        with self._lock:
            before = self.table.setdefault(uuid, obj)
            if before is not obj:
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
        """Keep a loaded object alive, and let the least recently used go beyond `keep_bytes` of raw state.

        Each layer's budget counts for its own objects, and the largest of them for those of all layers together.
        The last one always stays: a pool's next task wants just that.
        """
        _keeper.keep(self, uuid, obj, size_bytes)

    def forget_kept(self) -> None:
        """Let go of all objects that are held for reuse."""
        _keeper.forget(self)

    def renew_lock(self) -> None:
        """Replace the locks, in a forked child: another thread of the parent may have held them."""
        self._lock = threading.RLock()
        _keeper.lock = threading.RLock()
