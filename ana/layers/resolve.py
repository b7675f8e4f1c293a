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
from ana.errors import ANAError, StateNotFoundError, StoreError
from ana.format import address
from ana.layers import current, kinds, path_map
from ana.layers.layer import DataLayer, by_home, checked_class, existing_layer, live_by_home
from ana.objects import class_names, ghost, identity
from ana.persist import bulk, class_lookup, inflight, loading
from ana.runtime.tracebacks import shortened

if TYPE_CHECKING:
    from ana.storable import Storable

__all__ = ["defer_loads", "home_of", "layer_at", "load", "load_now", "load_reference", "prefetch"]

MOST_MET = 16
"""How many layers that references or the environment led to are kept. The least recently used is let go."""

Thing = TypeVar("Thing")

_deferring = False
_lock = threading.RLock()
_met: OrderedDict[str, DataLayer] = OrderedDict()


def defer_loads(*, until_used: bool = True) -> None:
    """Have references unpickle into ghosts in this process, which load on first use.

    For a process that only passes objects on, such as a scheduler that unpickles tasks but never runs them.
    """
    global _deferring  # noqa: PLW0603 - what this process is there for
    _deferring = until_used


def load_reference(cls: type, uuid: str, home: str | None, hint: str = "") -> Any:
    """Return the object that a reference stands for: live, loaded, or a ghost that raises when it is used.

    Searches the layer whose state is being loaded, the current layer, the layer of `ANA_PICKLE_DIR`, and the
    reference's home. Raises only if the current layer says `errors="raise"`.
    """
    layer = inflight.loading_from()
    if layer is None:
        layer = current._current  # noqa: SLF001 - a call of `chosen` costs too much here
    elif cls.__module__ in class_names.MAIN:
        cls = class_lookup.inside(layer, cls, uuid)
    if layer is not None:
        live = layer.live.get(uuid)
        if live is not None and type(live) is cls:
            # `note_live`, inlined: a call would take a third as long as the rest.
            counters = layer.store.counters
            counters.from_memory += 1
            mark = identity._marks.get(id(live))  # noqa: SLF001 - a call of `mark_of` costs too much here
            if mark is not None:
                counters.from_memory_raw_bytes += mark.raw_bytes
            return live
    return _Search(uuid, home).resolve(cls, hint)


def load_now(cls: type, uuid: object) -> Any:
    """Return the object of a UUID from the current layer or the layer of `ANA_PICKLE_DIR`. Raises as `load`."""
    key = address.check_key(uuid)
    layer = current.get_dl()
    try:
        if inflight.loading_from() is None and not settings.PICKLE_DIR.value():
            # The only place to search: its answer is final.
            return loading.load(layer, cls, key)
        return _Search(key, None).load(cls, None)
    except ANAError as error:
        # How ANA found out is of no use to the caller.
        raise shortened(error)  # noqa: B904 - the same error


@overload
def load(uuid: str) -> Any: ...


@overload
def load(uuid: str, cls: type[Thing]) -> Thing: ...


def load(uuid: str, cls: type = object) -> Any:
    """Return the object with this UUID, whatever its class: the live one, or one loaded from the current layer.

    The object is of the class that was stored with it. A class of a script or notebook (`__main__`) is found only if
    `cls` comes from there, too, as in `Model.ana_load(uuid)`.

    Args:
        uuid: The object's UUID.
        cls: The class that the object must be an instance of. Default: any.

    Returns:
        The object. There is only one for a UUID.

    Raises:
        TypeError: `uuid` is not a string, or `cls` is not a class.
        ValueError: `uuid` is not a UUID.
        StateNotFoundError: There is no such state.
        CorruptedStateError: The state is damaged.
        StateLoadError: The object's class cannot be found here, is not a `cls`, or has changed.
        StoreError: The store cannot be read.
    """
    return load_now(checked_class(cls), uuid)


def prefetch(refs: "Iterable[Storable | str]") -> None:
    """Load the states of objects that are not loaded yet, many at a time, so that their first use does not wait.

    An object whose state cannot be loaded stays a ghost, and raises when it is used. Safe to call from many threads. On
    network filesystems it uses threads of its own, which end before it returns.

    Args:
        refs: Refs and other Storables, loaded or not, and UUIDs of states in the current layer. Objects loaded by UUID
            are kept alive within the layer's `keep_bytes`.

    Raises:
        TypeError: An item is neither a Storable nor a UUID. Nothing is loaded then.
        ValueError: A string is not a UUID. Nothing is loaded then.
    """
    wanted: list[tuple[str, Any]] = []
    homes: dict[str | None, None] = {None: None}
    for ref in bulk.check_objects([refs] if isinstance(refs, str) else refs, or_uuids=True):
        if not identity.is_storable(ref):
            wanted.append((address.check_key(ref), None))
            continue
        mark = identity.mark_of(ref)
        if mark is not None and mark.loader is not None:
            wanted.append((mark.uuid, ref))
            homes[getattr(mark.loader, "home", None)] = None
    layers = {layer.home: layer for home in homes for layer in _Search("", home).layers()} if wanted else {}
    if layers:
        bulk.prefetch(list(layers.values()), wanted)


def home_of(mark: identity.Mark, target: DataLayer) -> str:
    """Return the home for the reference of a ghost: the home of the reference that it came from."""
    home = getattr(mark.loader, "home", None)
    return target.home if home is None else str(home)


class _Search:
    """One search for a state in all the places where it may be. Remembers what went wrong."""

    def __init__(self, uuid: str, home: str | None) -> None:
        self.uuid = uuid
        self.home = home
        self.inside = inflight.loading_from()
        """The layer of the state that is being loaded, if any."""
        self.leads_to = home or ("" if self.inside is None else self.inside.store.home)
        """The home of the store that has the state: a reference without a home is inside a state, and means its store.
        "" if only a UUID is known."""
        self.places: list[str] = []
        self.error: ANAError | None = None
        self.missing: StateNotFoundError | None = None

    def resolve(self, cls: type, hint: str) -> Any:
        """Return the live object, or load it, or make a ghost that raises when it is used."""
        live, last = self._find_live(cls)
        if live is not None:
            return live
        if hint and last is not None:
            last.store.note_hint(self.uuid, hint)
        if _deferring or getattr(cls, "_ana_lazy", False):
            return self._make_ghost(cls, last)
        if loading.too_deep():
            obj = self._make_ghost(cls, last)
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
            return self._make_ghost(cls, last)

    def _find_live(self, cls: type) -> tuple[Any, DataLayer | None]:
        """Return the live object, if any, and the layer where the search ended: the reference's own, or the last."""
        layer = None
        for layer in self.layers():
            live = layer.live.find(self.uuid, cls)
            if live is not None:
                layer.store.counters.note_live(identity.mark_of(live))
                return live, layer
            if layer.store.home == self.leads_to:
                break
        return None, layer

    def _orphan(self, cls: type) -> Any:
        """Return the object if it is still alive, although its layer in memory is gone, and the state with it."""
        home = self.home or ""
        table = live_by_home.get(home) if kinds.is_process_local(home) else None
        return table.find(self.uuid, cls) if table is not None else None

    def load(self, cls: type, obj: Any) -> Any:
        """Load the state from the first place that has it, into `obj`, if given. Raises the most serious error."""
        layers = self.layers()
        layer = next(layers, None)
        while layer is not None:
            # Wait only where the reference leads, or else in the last place: on a network filesystem a file may show up
            # late. Other places are opened only if the state is not there.
            is_there = layer.store.home == self.leads_to
            following = None if is_there else next(layers, None)
            try:
                return loading.load(layer, cls, self.uuid, obj, wait=is_there or following is None)
            except ANAError as error:
                self._note(error)
            layer = next(layers, None) if is_there else following
        if self.error is None and self.missing is not None and len(self.places) == 1:
            # The message of the only store may hold a hint.
            raise self.missing
        # This process's own memory is of no interest if there are other places.
        places = [place for place in self.places if not kinds.is_process_local(place)] or self.places
        raise self.error or StateNotFoundError(self.uuid, ", ".join(places), _hint(self.home))

    def _note(self, error: ANAError) -> None:
        if not isinstance(error, StateNotFoundError) or error.uuid != self.uuid:
            self.error = self.error or error
        elif not kinds.is_process_local(self.home or ""):
            self.missing = error

    def layers(self) -> Iterator[DataLayer]:
        """Yield the layers to search, each once, opening them on demand."""
        self.places.clear()
        first = self.inside or current.chosen()
        if isinstance(first, DataLayer):
            self.places.append(first.store.home)
            yield first
        for where in (current.chosen() or self._first(), settings.PICKLE_DIR.value(), self._home_here()):
            layer = where if where is None or isinstance(where, DataLayer) else self._layer_at(str(where))
            if layer is not None and layer.home not in self.places:
                self.places.append(layer.home)
                yield layer

    def _home_here(self) -> str | None:
        """Return the reference's home as it is called on this host; None if ANA_PATH_MAP is invalid."""
        try:
            return self.home and path_map.here(self.home)
        except ANAError as error:
            self._unreachable(error)
            # Raised as it is, if no other place has the state.
            self.error = error
            return None

    def _first(self) -> DataLayer | None:
        """Return the current layer; None if its folder cannot be opened, because unpickling must not raise."""
        try:
            return current.get_dl()
        except ANAError as error:
            self._unreachable(error)
            return None

    def _layer_at(self, home: str) -> DataLayer | None:
        """Return the layer of a home, and open the store if necessary; None if it cannot be opened here."""
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
        # The objects that it kept alive are released here, outside the lock.
        del dropped
        current.adopt(layer)
        return layer

    def _unreachable(self, error: Exception) -> None:
        # Without the host and the process, which the message of StateNotFoundError names.
        said = str(error)
        if isinstance(error, StoreError) and error.hint:
            said = f"{error.path} ({error.hint})"
        self.places.append(said)

    def _make_ghost(self, cls: type, layer: DataLayer | None) -> Any:
        """Make a ghost, which loads its state when it is used."""
        obj = ghost.make(cls)
        loader = _Loader(obj, cls, self.uuid, self.leads_to or ("" if layer is None else layer.store.home))
        if getattr(cls, "_ana_lazy", False):
            identity.mark(obj, self.uuid, given=True).defer(loader)
        else:
            ghost.ghostify(obj, self.uuid, loader)
        known = obj if layer is None else layer.live.add(self.uuid, obj, cls)
        return known if isinstance(known, cls) else obj


class _Loader:
    """Loads the state of a ghost. Holds the ghost weakly, as its mark does."""

    __slots__ = ("cls", "home", "obj", "uuid")

    def __init__(self, obj: Any, cls: type, uuid: str, home: str) -> None:
        self.obj: weakref.ref[Any] = weakref.ref(obj)
        self.cls = cls
        self.uuid = uuid
        self.home = home

    def __call__(self) -> None:
        obj = self.obj()
        if obj is not None:
            _Search(self.uuid, self.home or None).load(self.cls, obj)


def layer_at(home: str) -> DataLayer:
    """Return the layer of an existing store, which a process without a layer adopts. Raises what opening raises."""
    search = _Search("", home)
    return next((layer for layer in search.layers() if layer.home == home), None) or existing_layer(home)


def _hint(home: str | None) -> str:
    if home is not None and kinds.is_process_local(home):
        return "it was stored in memory, which other processes do not see: use set_dl(pickle_dir=...) or ANA_PICKLE_DIR"
    return (
        "it was never stored there, was removed, or the store is elsewhere on this host: then set ANA_PICKLE_DIR to "
        "its folder, or ANA_PATH_MAP"
    )


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - one per process, replaced after fork
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
