"""Data layers: live objects plus one store. Which of them is the current one is `current`'s business."""

import logging
import math
import os
import weakref
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, get_origin, overload

from ana import settings
from ana.compat.method_store import MethodStore
from ana.errors import ANAError, CorruptedStateError, StateNotFoundError
from ana.format import address
from ana.layers import inheritance, kinds, opening, stats_file
from ana.objects import identity, pickling
from ana.objects.restricted import AllowedGlobals
from ana.persist import bulk, loading, saving, writing
from ana.stores.base import ReplacedError, Store
from ana.stores.memory import SCHEME, MemoryStore

if TYPE_CHECKING:
    from ana.layers.statistics import Stats
    from ana.storable import Storable

__all__ = [
    "DataLayer",
    "DictDataLayer",
    "DirDataLayer",
    "SimpleDataLayer",
    "by_home",
    "checked_class",
    "existing_layer",
    "live_by_home",
    "parents_layer",
]

_log = logging.getLogger("ana.layer")

KEEP_BYTES = 256 << 20
RECHECK_SECONDS = 300.0

Thing = TypeVar("Thing")

by_home: "weakref.WeakValueDictionary[str, DataLayer]" = writing.by_home
"""The latest layer of each home, for references that name it."""
live_by_home: "weakref.WeakValueDictionary[str, identity.LiveObjects]" = weakref.WeakValueDictionary()
"""The live objects of each home, which outlive its layer."""


class DataLayer:
    """Live objects and the store where states are; by default a dict in this process.

    Safe to use from many threads; a forked child goes on with its own copy (of a dict: its own dict).
    """

    def __init__(
        self, pickle_dir: str | os.PathLike[str] | None = None, **options: Unpack[settings.DataLayerOptions]
    ) -> None:
        """Make a layer over a folder (see `DirDataLayer`), over `store`, or over a new dict.

        Args:
            pickle_dir: The folder; by default none.
            **options: As `set_dl` describes them.

        Raises:
            TypeError: An option does not exist, is of the wrong type, or is for a folder where none is given.
            ValueError: An option has a value that makes no sense.
            StoreError: The folder cannot be opened or made.
            UntrustedStoreError: It is not empty, and no store; or others may write to it.
            UnsupportedFormatError: A newer version of ana has made it.
        """
        said = settings.checked({"pickle_dir": pickle_dir, **options})
        stats_file.begin()
        self.allowed_globals = None if said.allowed is None else AllowedGlobals(said.allowed)
        self.max_state_bytes = said.max_state_bytes
        self.level = said.level
        self.uuid = os.urandom(16).hex()
        self.errors = said.errors
        self.strict = said.strict
        self.recheck_seconds = said.recheck_seconds
        self.live = identity.LiveObjects(said.keep_bytes)
        # With the layer, and before the interpreter takes itself apart: destructors need their modules.
        weakref.finalize(self, self.live.forget_kept)
        self.store: Store = self._open(said)
        by_home[self.home] = self
        live_by_home[self.home] = self.live

    def __repr__(self) -> str:
        return f"<ana.{type(self).__name__} {self.home}>"

    @property
    def home(self) -> str:
        """Where the store is, as references carry it: a folder's absolute path, or "memory:" and an id."""
        return self.store.home

    def stats(self) -> "Stats":
        """Return what this process has done with the layer's store: states stored, found there, loaded, from where.

        Since the layer was made or the process forked. Exact between threads; costs some 20 µs.
        """
        from ana.layers import statistics  # noqa: PLC0415 - dataclasses take longer to import than all of ana

        return statistics.stats_of(self.store.counters)

    def _open(self, said: settings.Options) -> Store:
        """Return the store that the options name."""
        if said.store is None and said.pickle_dir is not None and not kinds.is_home(said.pickle_dir):
            return opening.store(said)
        settings.refuse_folder_options(said)
        if said.store is not None:
            return _checked_store(said)
        return self._memory_store() if said.pickle_dir is None else kinds.open_home(said.pickle_dir)

    def _memory_store(self) -> Store:
        """Return the store of a layer without a folder."""
        home = f"{SCHEME}:{self.uuid}"
        if type(self).load_state is not DataLayer.load_state:
            # An old program's own backend.
            return MethodStore(home, self.store_state, self.load_state)
        return MemoryStore({}, home, self.level)

    def make_address(self, obj: "Storable", expected: str | None) -> identity.Mark:
        """Give an object the UUID of its content, which has to be `expected`, and store it. Raises as `make_uuid`."""
        return saving.make_address(self, obj, expected=expected)

    def foresee_address(self, obj: "Storable") -> None:
        """Note which UUID `make_address` would give an object, where that can be said. Nothing is stored."""
        saving.foresee_address(self, obj)

    def store_again(self, obj: "Storable") -> None:
        """Store an object that has a UUID, unless its whole, undamaged state is there. Raises what storing raises."""
        saving.store(self, obj, repair=True)

    def sends_by_value(self, mark: identity.Mark) -> bool:
        """Return whether an object takes its state along, as nobody could follow a reference into a private store."""
        if not inheritance.leaves(mark.looked if mark.layer == self.uuid else math.inf):
            return False
        inheritance.tell_by_value(f"the object with the UUID {mark.uuid!r}")
        return True

    @property
    def uuid_cache(self) -> MutableMapping[str, Any]:
        """The live objects by UUID, held weakly."""
        return self.live.table

    @property
    def _state_store(self) -> MutableMapping[str, Any] | None:
        """The mapping of a layer in memory, which old programs save and restore as a whole; None over a folder."""
        return self.store.mapping if isinstance(self.store, MemoryStore) else None

    @_state_store.setter
    def _state_store(self, mapping: MutableMapping[str, Any]) -> None:
        self.store = MemoryStore(mapping, self.home, self.level)

    def store_many(self, objects: "Iterable[Storable]") -> list[str]:
        """Give each object an address in this layer, store it with all it refers to, and return the UUIDs in order.

        As `make_uuid` on each (and storing what has a UUID already), but up to 32 states are written at the same
        time, in threads that are gone when it returns; up to 1,024 of them, or 32 MiB of raw state, wait for that in
        memory. In memory, and in a folder on a local disk without `durable`, where threads bring nothing, one by one.

        Raises TypeError for what is no Storable, before anything is done. Where states cannot be pickled, all
        others are stored; where the store fails, what is under way is finished; the first error is raised
        then, with a note of which object it is. An object that was not stored has no UUID, unless it had one before.
        """
        return bulk.store(self, bulk.check_objects(objects))

    @overload
    def load_many(self, uuids: Iterable[str]) -> list[Any]: ...

    @overload
    def load_many(self, uuids: Iterable[str], cls: type[Thing]) -> list[Thing]: ...

    def load_many(self, uuids: Iterable[str], cls: type = object) -> list[Any]:
        """Return the objects of the UUIDs, in order: the live ones, or loaded from this layer.

        `cls`: what all of them are; the classes of a script (`__main__`) are found only with it. As `ana_load` for
        each, but on a network filesystem up to 32 states are read at the same time, in threads that are gone
        when it returns; up to 512 small ones (of 256 KiB) and 64 MiB of larger ones wait in memory. Unpickling is
        done in the caller's thread.

        Raises TypeError and ValueError for what is no UUID or class, before anything is loaded; StateNotFoundError,
        CorruptedStateError, StateLoadError (also where it is no `cls`), StoreError for the first that has one.
        """
        if isinstance(uuids, str):
            msg = f"load_many takes many UUIDs, not one string: {uuids!r:.100}"
            raise TypeError(msg)
        return bulk.load(self, checked_class(cls), [address.check_key(uuid) for uuid in uuids])

    def keep(self, name: str, *objects: "Storable") -> list[str]:
        """Store objects, keep them under a name with all that they refer to (`ana gc` spares them), return the UUIDs.

        What the name keeps already, it goes on keeping; `ana forget NAME` lets go of it. In memory nothing is ever
        collected, so that the objects are stored, and that is all. Raises TypeError for what is no Storable,
        ValueError for a name that is empty or longer than 200 characters, before anything is done; and what storing
        raises. Safe between threads, processes and hosts.
        """
        address.check_key(name)
        uuids = self.store_many(objects)
        if self.store.supports_roots:
            try:
                problems = self.store.keep(name, uuids)
            except (StateNotFoundError, CorruptedStateError) as error:
                problems = [error]
            if problems:
                # It was believed to be there, and is not: purged, say.
                for obj in objects:
                    saving.store(self, obj, repair=True)
                for problem in self.store.keep(name, uuids):
                    raise problem
        return uuids

    def store_state(self, uuid: str, state: object) -> None:
        """Store a bare state under a UUID; the first writer wins. Raises what pickling or the store raises."""
        key = address.check_key(uuid)
        content, children = saving.serialise("", state)
        try:
            self.store.put(key, content, children, repair=False)
        except ReplacedError:
            saving.forget(self)
            self.store.put(key, content, children, repair=False)

    def load_state(self, uuid: str) -> Any:
        """Load a bare state, anew at each call. Raises StateNotFoundError, CorruptedStateError, StoreError."""
        found = self.store.get(address.check_key(uuid))
        loading.check_size(self, found)
        return pickling.load(found.segments(), self.allowed_globals)


class DirDataLayer(DataLayer):
    """A layer over a folder on a (shared) filesystem; without `pickle_dir`, over `$PWD/pickles`."""

    def __init__(
        self, pickle_dir: str | os.PathLike[str] | None = None, **options: Unpack[settings.DataLayerOptions]
    ) -> None:
        """Open the store in a folder, making it where it is missing; options as for `DataLayer`.

        Raises StoreError, UntrustedStoreError (not empty, and no store), UnsupportedFormatError.
        """
        super().__init__("pickles" if pickle_dir is None else pickle_dir, **options)


class DictDataLayer(DataLayer):
    """A layer over any mapping from strings to bytes: a dict, or a user's redis, fsspec, zict ..."""

    def __init__(
        self, the_dict: MutableMapping[str, bytes] | None = None, **options: Unpack[settings.MemoryOptions]
    ) -> None:
        """Use the given mapping, or a new dict; options as for `DataLayer`, without those of folders."""
        if the_dict is not None and not hasattr(the_dict, "__setitem__"):
            msg = f"the_dict is a mapping from strings to bytes, not {type(the_dict).__name__}"
            raise TypeError(msg)
        super().__init__(**options)
        if the_dict is not None:
            self.store = MemoryStore(the_dict, self.home, self.level)


class SimpleDataLayer(DataLayer):
    """Plain pickling with identity: states travel in the pickle, and nothing is stored."""

    def _memory_store(self) -> Store:
        return MemoryStore({}, f"{SCHEME}:{self.uuid}", self.level)

    def make_address(self, obj: "Storable", expected: str | None) -> identity.Mark:
        """Give an object the UUID `expected` or a random one; nothing is stored."""
        return saving.give_address(self, obj, expected or address.random_uuid())

    def foresee_address(self, obj: "Storable") -> None:
        """Note that nobody can say which UUID an object will get."""
        identity.note_address(obj, None)

    def store_again(self, obj: "Storable") -> None:
        """Do nothing."""

    def sends_by_value(self, mark: identity.Mark) -> bool:  # noqa: ARG002 - all of them
        """Say yes: nothing is stored."""
        return True

    def store_many(self, objects: "Iterable[Storable]") -> list[str]:
        """Give each object a random UUID, if it has none, and return the UUIDs; nothing is stored."""
        found = bulk.check_objects(objects)
        return [(identity.mark_of(obj) or saving.give_address(self, obj, address.random_uuid())).uuid for obj in found]

    def store_state(self, uuid: str, state: object) -> None:
        """Do nothing."""

    def load_state(self, uuid: str) -> Any:
        """Raise ANAError: there is nothing to load from."""
        msg = f"SimpleDataLayer stores no states, so {uuid!r} cannot be loaded: use set_dl(pickle_dir=...)"
        raise ANAError(msg)


def _checked_store(said: settings.Options) -> Store:
    store = said.store
    if not isinstance(store, Store):
        msg = f"store= is a store (ana.stores.Store), not a {type(store).__name__}; a mapping goes into DictDataLayer"
        raise TypeError(msg)
    if said.pickle_dir is not None:
        msg = f"two stores are given: pickle_dir={said.pickle_dir!r} and store={store!r}"
        raise TypeError(msg)
    return store


def checked_class(cls: object) -> type:
    """Return the class whose instances are asked for. Raises TypeError for what is none."""
    # Of Ref[int], say, instances are those of Ref.
    given: object = get_origin(cls) or cls
    if not isinstance(given, type):
        msg = f"cls is a class, not {cls!r:.100}"
        raise TypeError(msg)
    return given


def existing_layer(home: str, preferred: DataLayer | None = None) -> DataLayer:
    """Return a layer over the store that is at `home`; nothing is made there.

    That may be a layer in use, `preferred` first, which has come to the same store by another path: so that there is
    one object for a UUID. Raises StoreError, UntrustedStoreError, UnsupportedFormatError.
    """
    store = kinds.open_home(home)
    for known in (preferred, *list(by_home.values())):
        if known is not None and known.store.is_same(store):
            by_home[home] = known
            return known
    layer = DataLayer()
    layer.store = opening.node_cache()(store)
    # An earlier layer's objects may still be alive: one object for a UUID.
    layer.live = live_by_home.get(layer.home, layer.live)
    weakref.finalize(layer, layer.live.forget_kept)
    by_home[layer.home] = layer
    live_by_home[layer.home] = layer.live
    return layer


def parents_layer() -> DataLayer | None:
    """Return a layer over the folder that was current where this process was started, if there was one."""
    home = inheritance.inherited_home()
    if not home:
        return None
    try:
        return existing_layer(home)
    except (ANAError, ValueError) as error:
        said = "the parent's store cannot be opened here, states are stored in memory: %s"
        _log.warning(said, error, extra={"event": "not inherited", "store": home})
        return None
