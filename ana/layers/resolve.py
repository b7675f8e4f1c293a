"""Where a reference leads: to a live object, to a store that has its state, or to a ghost.

Stores that references lead to are opened here, and the last few stay open.
"""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ana import settings
from ana.errors import ANAError, StateNotFoundError
from ana.format import address
from ana.layers import current, kinds, path_map
from ana.layers.layer import DataLayer, by_home, checked_class, existing_layer, live_by_home
from ana.objects import class_names, ghost, identity
from ana.persist import bulk, class_lookup, inflight, loading

if TYPE_CHECKING:
    from ana.storable import Storable

__all__ = ["defer_loads", "home_of", "load", "load_now", "load_reference", "prefetch"]

MOST_MET = 16
"""How many layers that references or the environment led to are kept. The least recently used is let go."""

Thing = TypeVar("Thing")

_deferring = False
_lock = threading.RLock()
_met: OrderedDict[str, DataLayer] = OrderedDict()


def defer_loads(*, until_used: bool = True) -> None:
    """Have references unpickle, in this process, into objects that load when they are used first.

    For a process that only passes objects on: a scheduler unpickles a task, perhaps, and never looks into it.
    """
    global _deferring  # noqa: PLW0603 - what this process is there for
    _deferring = until_used


def load_reference(cls: type, uuid: str, home: str | None) -> Any:
    """Return the object that a reference stands for: alive, or loaded, or a ghost, which raises when it is used.

    Looked up in the layer whose state is being loaded, the current one, that of `ANA_PICKLE_DIR`, and
    the reference's home. Raises only where the current layer says `errors="raise"`.
    """
    layer = inflight.loading_from()
    if layer is None:
        layer = current._current  # noqa: SLF001 - a call of `chosen` is too much here, too
    elif cls.__module__ in class_names.MAIN:
        cls = class_lookup.inside(layer, cls, uuid)
    if layer is not None:
        live = layer.live.get(uuid)
        if live is not None and type(live) is cls:
            # As `note_live`, in place: a call would take as long as a third of the rest.
            counters = layer.store.counters
            counters.from_memory += 1
            mark = identity._marks.get(id(live))  # noqa: SLF001 - a call of `mark_of` is too much here
            if mark is not None:
                counters.from_memory_raw_bytes += mark.raw_bytes
            return live
    return _Search(uuid, home).resolve(cls)


def load_now(cls: type, uuid: object) -> Any:
    """Return the object of a UUID from the current layer or that of `ANA_PICKLE_DIR`; raise if it is not there.

    Raises TypeError and ValueError for what is no UUID, StateNotFoundError, CorruptedStateError,
    StateLoadError (also where it is no `cls`), StoreError.
    """
    key = address.check_key(uuid)
    layer = current.get_dl()
    if inflight.loading_from() is None and not settings.PICKLE_DIR.value():
        # One place to look in: what it says is the answer.
        return loading.load(layer, cls, key)
    return _Search(key, None).load(cls, None)


@overload
def load(uuid: str) -> Any: ...


@overload
def load(uuid: str, cls: type[Thing]) -> Thing: ...


def load(uuid: str, cls: type = object) -> Any:
    """Return the object with this UUID, whatever its class: the live one, or one loaded from the current layer.

    The class is the one that was stored with it. Those of a script or notebook (`__main__`) are found only where
    `cls` is one of its classes, as with `Model.ana_load(uuid)`.

    Args:
        uuid: The object's UUID.
        cls: What the object has to be; by default anything.

    Raises:
        TypeError: `uuid` is no string, or `cls` no class.
        ValueError: `uuid` is no UUID.
        StateNotFoundError: There is no such state.
        CorruptedStateError: It is damaged.
        StateLoadError: Its class is not to be found here, is no `cls`, or has changed.
        StoreError: The store cannot be read.

    """
    return load_now(checked_class(cls), uuid)


def prefetch(refs: "Iterable[Storable | str]") -> None:
    """Load the states of objects that are not loaded yet, many at a time, so that using them costs nothing later.

    `refs`: Refs and other Storables, loaded or not, and UUIDs of states in the current layer, which its `keep_bytes`
    keep alive. What cannot be had stays a ghost, and raises when it is used. Safe between threads; its
    own threads, on network filesystems only, are gone when it returns. Raises TypeError and ValueError for what
    is neither an object nor a UUID, before anything is loaded.
    """
    wanted: list[tuple[str, Any]] = []
    homes: dict[str | None, None] = {None: None}
    for ref in bulk.check_objects([refs] if isinstance(refs, str) else refs, or_uuids=True):
        if not hasattr(type(ref), "_ana_getstate"):
            wanted.append((address.check_key(ref), None))
            continue
        mark = identity.mark_of(ref)
        if mark is not None and mark.loader is not None:
            wanted.append((mark.uuid, ref))
            homes[getattr(mark.loader, "home", None)] = None
    layers = {layer.home: layer for home in homes for layer in _Search("", home).layers} if wanted else {}
    if layers:
        bulk.prefetch(list(layers.values()), wanted)


def home_of(mark: identity.Mark, target: DataLayer) -> str:
    """Return the home that the reference of an object without its state carries: where it was said to be."""
    home = getattr(mark.loader, "home", None)
    return target.home if home is None else str(home)


class _Search:
    """One look for a state in all the places where it may be; remembers what stood in the way."""

    def __init__(self, uuid: str, home: str | None) -> None:
        self.uuid = uuid
        self.home = home
        self.places: list[str] = []
        self.error: ANAError | None = None
        self.layers = list(self._layers())

    def resolve(self, cls: type) -> Any:
        """Return the live object, or load it, or make one that raises when it is used."""
        for layer in self.layers:
            live = layer.live.find(self.uuid, cls)
            if live is not None:
                layer.store.counters.note_live(identity.mark_of(live))
                return live
        if _deferring or getattr(cls, "_ana_lazy", False):
            return self._make_waiting(cls)
        if loading.too_deep():
            obj = self._make_waiting(cls)
            loading.put_off(obj)
            return obj
        try:
            return self.load(cls, None)
        except ANAError as error:
            orphan = self._orphan(cls) if isinstance(error, StateNotFoundError) else None
            if orphan is not None:
                return orphan
            chosen = current.chosen()
            if chosen is not None and chosen.errors == "raise":
                raise
            return self._make_waiting(cls)

    def _orphan(self, cls: type) -> Any:
        """Return the object if it is still alive though its layer in memory, and with it the state, is gone."""
        home = self.home or ""
        table = live_by_home.get(home) if kinds.is_process_local(home) else None
        return table.find(self.uuid, cls) if table is not None else None

    def load(self, cls: type, obj: Any) -> Any:
        """Load the state, from the first place that has it (into `obj`, if given). Raises the gravest problem."""
        for layer in self.layers:
            try:
                # Only the last place is worth waiting for: a file may show up late on a network filesystem.
                return loading.load(layer, cls, self.uuid, obj, wait=layer is self.layers[-1])
            except ANAError as error:
                self._note(error)
        raise self.error or StateNotFoundError(self.uuid, ", ".join(self.places), _hint(self.home))

    def _note(self, error: ANAError) -> None:
        missing = isinstance(error, StateNotFoundError) and error.uuid == self.uuid
        if not missing:
            self.error = self.error or error
        elif len(self.places) == 1 and not kinds.is_process_local(self.home or ""):
            # The one store's own words, which may hold a hint.
            self.error = error

    def _layers(self) -> Iterator[DataLayer]:
        """Yield the layers to look in, each once, opening them as they are needed."""
        seen = set()
        said = settings.PICKLE_DIR.value()
        for where in (inflight.loading_from(), current.chosen() or self._first(), said, self._home_here()):
            layer = where if where is None or isinstance(where, DataLayer) else self._layer_at(str(where))
            if layer is not None and layer.home not in seen:
                seen.add(layer.home)
                self.places.append(layer.home)
                yield layer

    def _home_here(self) -> str | None:
        """Return the reference's home as it is called on this host; None where the map of paths makes no sense."""
        try:
            return self.home and path_map.here(self.home)
        except ANAError as error:
            self._unreachable(error)
            # To be raised as it is, where no other place has the state.
            self.error = error
            return None

    def _first(self) -> DataLayer | None:
        """Return the current layer; a folder that cannot be opened is no reason to raise while unpickling."""
        try:
            return current.get_dl()
        except ANAError as error:
            self._unreachable(error)
            return None

    def _layer_at(self, home: str) -> DataLayer | None:
        """Return the layer of a home, opened for what is there; None if it is not to be had here."""
        if not home:
            return None
        layer = by_home.get(home)
        if layer is not None:
            with suppress(KeyError):
                _met.move_to_end(home)
            return layer
        if kinds.is_process_local(home):
            self.places.append("the memory of the process that made the reference")
            return None
        with _lock:
            try:
                layer = _met.get(home) or existing_layer(home, current.chosen())
            except (ANAError, ValueError) as error:
                self._unreachable(error)
                return None
            _met[home] = layer
            dropped = [_met.popitem(last=False) for _ in range(len(_met) - MOST_MET)]
        # What it held for reuse is let go of here, outside the lock.
        del dropped
        current.adopt(layer)
        return layer

    def _unreachable(self, error: Exception) -> None:
        self.places.append(str(error))

    def _make_waiting(self, cls: type) -> Any:
        """Make an object that loads its state when it is used."""
        obj = ghost.make(cls)
        last = self.layers[-1] if self.layers else None
        # A bare reference is inside of a state: it means the store of that.
        inside = inflight.loading_from() or last
        home = self.home or (inside.store.home if inside is not None else "")
        loader = _Loader(obj, cls, self.uuid, home)
        if getattr(cls, "_ana_lazy", False):
            identity.mark(obj, self.uuid, given=True).defer(loader)
        else:
            ghost.ghostify(obj, self.uuid, loader)
        known = obj if last is None else last.live.add(self.uuid, obj, cls)
        return known if isinstance(known, cls) else obj


class _Loader:
    """Loads the state of an object that waits for it; holds the object weakly, as its mark does."""

    __slots__ = ("cls", "home", "obj", "uuid")

    def __init__(self, obj: Any, cls: type, uuid: str, home: str) -> None:
        self.obj: weakref.ref[Any] = weakref.ref(obj)
        self.cls = cls
        self.uuid = uuid
        self.home = home

    def __call__(self) -> None:
        obj = self.obj()
        if obj is None:
            return
        found = _Search(self.uuid, self.home or None).load(self.cls, obj)
        if found is not obj:
            # Another object of the UUID became known meanwhile: this one becomes its equal.
            ghost.restore_class(obj)
            obj._ana_setstate(found._ana_getstate())
            mark = identity.mark_of(obj)
            if mark is not None:
                mark.note_state_set()


def _hint(home: str | None) -> str:
    if home is not None and kinds.is_process_local(home):
        return "it was stored in memory, which other processes do not see: use set_dl(pickle_dir=...) or ANA_PICKLE_DIR"
    return "it was never stored there, was removed or purged, or this host mounts another filesystem at that path"


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - one per process, replaced after fork
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
