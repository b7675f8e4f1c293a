"""Data layers: live objects and a store. `current` says which layer is the current one."""

import logging
import math
import os
import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, get_origin, overload

from ana import settings, units
from ana.compat.method_store import MethodStore
from ana.errors import ANAError
from ana.format import address
from ana.layers import inheritance, kinds, stats_file
from ana.objects import identity, pickling
from ana.objects.restricted import AllowedGlobals
from ana.persist import bulk, keeping, loading, saving, writing
from ana.runtime.tracebacks import shorten_for_caller, shortened
from ana.stores import parts
from ana.stores.base import Put, ReplacedError, Store
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
    """Live objects and the store of their states; by default a dict in this process.

    Safe to use from many threads. A forked child continues with its own copy. A dict is copied with it, a folder is
    not.
    """

    def __init__(
        self, pickle_dir: str | os.PathLike[str] | None = None, **options: Unpack[settings.DataLayerOptions]
    ) -> None:
        """Make a layer over a folder (see `DirDataLayer`), over `store`, or over a new dict.

        Args:
            pickle_dir: The folder. Default: none.
            **options: As `set_dl` describes them.

        Raises:
            TypeError: An option does not exist, has the wrong type, or needs a folder and none is given.
            ValueError: The value of an option is invalid.
            StoreError: The folder cannot be opened or made.
            UntrustedStoreError: The folder is neither empty nor a store, or others may write to it.
            UnsupportedFormatError: A newer version of ana has made the store.
        """
        said = settings.checked({"pickle_dir": pickle_dir, **options})
        stats_file.begin()
        self.allowed_globals: AllowedGlobals | None = None if said.allowed is None else AllowedGlobals(said.allowed)
        """What `allowed` said. None: states may name any global."""
        self.max_state_bytes: int | None = said.max_state_bytes
        """Size in bytes of the largest raw state that is loaded. None: the memory of this machine or cgroup."""
        self.level: int = said.level
        """zstd's compression level for new states, from -22 to 22. 0 does not compress."""
        self.uuid: str = os.urandom(16).hex()
        """A random id of this layer."""
        self.errors: str = said.errors
        """What unpickling a reference does if its state is missing or damaged: "defer" or "raise"."""
        self.strict: bool = said.strict
        """Whether an explicit UUID that already names other content raises UUIDConflictError."""
        self.recheck_seconds: float = said.recheck_seconds
        """How long to assume that a stored object is still in the store, in s."""
        self.part_bytes: int = settings.PART_BYTES.value() if said.part_bytes is None else said.part_bytes
        """The smallest buffer that is stored as a state of its own, in bytes. 0: none is."""
        self.shared_parts: parts.Shared = parts.Shared(all_parts=said.share_parts)
        """The parts whose memory the loaded objects of this process share."""
        self.live: identity.LiveObjects = identity.LiveObjects(said.keep_bytes)
        """The live objects."""
        # Released with the layer, and before the interpreter shuts down: destructors need their modules.
        weakref.finalize(self, self.live.forget_kept)
        self.store: Store = self._open(said)
        """The store."""
        by_home[self.home] = self
        live_by_home[self.home] = self.live

    def __repr__(self) -> str:
        return f"<ana.{type(self).__name__} {self.home}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: where the states are, and what this process has done there."""
        from ana.layers import statistics  # noqa: PLC0415 - in notebooks only
        from ana.objects import html_repr  # noqa: PLC0415 - as above

        rows = [("store", self.home), *statistics.rows_of(self.stats())]
        return html_repr.table(f"ana.{type(self).__name__}", rows)

    @property
    def home(self) -> str:
        """Where the store is, as references say it: a folder's absolute path, or a scheme, ":" and the rest."""
        return self.store.home

    def stats(self) -> "Stats":
        """Return what this process has done with the layer's store: states stored, found and loaded, and from where.

        Counts since the layer was made or the process forked, exactly across threads. Takes about 20 µs.

        Returns:
            The counts, as `ana.Stats`.
        """
        from ana.layers import statistics  # noqa: PLC0415 - dataclasses take longer to import than all of ana

        return statistics.stats_of(self.store.counters)

    def _open(self, said: settings.Options) -> Store:
        """Return the store that the options name."""
        if said.store is None and said.pickle_dir is not None and not kinds.is_home(said.pickle_dir):
            from ana.layers import opening  # noqa: PLC0415 - imports all of the directory store

            return opening.store(said)
        settings.refuse_folder_options(said)
        if said.store is not None:
            return _checked_store(said)
        return self._memory_store() if said.pickle_dir is None else kinds.open_home(said.pickle_dir)

    def _memory_store(self) -> Store:
        """Return the store of a layer without a folder."""
        home = f"{SCHEME}:{self.uuid}"
        if type(self).load_state is not DataLayer.load_state:
            # A backend that an old program defines.
            return MethodStore(home, self.store_state, self.load_state)
        return MemoryStore({}, home, self.level)

    def make_address(self, obj: "Storable", expected: str | None) -> identity.Mark:
        """Give an object the UUID of its content, and store it. Raises what `make_uuid` does.

        Args:
            obj: An object without a UUID.
            expected: The UUID that its content must have; None for any.
        """
        return saving.make_address(self, obj, expected=expected)

    def foresee_address(self, obj: "Storable") -> None:
        """Note the UUID that `make_address` would give an object, if it can be foreseen. Store nothing."""
        saving.foresee_address(self, obj)

    def store_again(self, obj: "Storable") -> None:
        """Store an object that has a UUID, unless its state is in the store and undamaged. Raises as `ana_store`."""
        saving.store(self, obj, repair=True)

    def sends_by_value(self, mark: identity.Mark) -> bool:
        """Return whether an object takes its state along, because nobody could follow a reference to it."""
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
        """The mapping of a layer in memory, which old programs save and restore as a whole. None over a folder."""
        return self.store.mapping if isinstance(self.store, MemoryStore) else None

    @_state_store.setter
    def _state_store(self, mapping: MutableMapping[str, Any]) -> None:
        self.store = MemoryStore(mapping, self.home, self.level)

    def store_many(self, objects: "Iterable[Storable]") -> list[str]:
        """Give each object an address in this layer, and store it with all that it refers to.

        As `make_uuid` for each, but 4 to 10 times faster on a network filesystem or a durable disk: up to 16 states are
        written at the same time, in threads that end before it returns. Up to 1,024 states, or 32 MiB of raw state,
        wait in memory. An object that has a UUID already is stored, too.

        Args:
            objects: Storables.

        Returns:
            The UUIDs, in order.

        Raises:
            TypeError: An item is not a Storable. Nothing is stored then.
            StoreError: The store failed. Writes under way finish, the rest is given up. The error's note says which
                object it is about. If an object does not pickle, its error is raised after all others are stored. An
                object that was not stored gets no UUID.
        """
        found = bulk.check_objects(objects)
        try:
            return bulk.store(self, found)
        except Exception as error:
            shorten_for_caller(error)
            raise

    @overload
    def load_many(self, uuids: Iterable[str]) -> list[Any]: ...

    @overload
    def load_many(self, uuids: Iterable[str], cls: type[Thing]) -> list[Thing]: ...

    def load_many(self, uuids: Iterable[str], cls: type = object) -> list[Any]:
        """Return the objects of the UUIDs: the live ones, or loaded from this layer.

        As `ana.load` for each, but on a network filesystem up to 16 states are read at the same time, in threads that
        end before it returns. Up to 512 small states (256 KiB) and 64 MiB of larger ones wait in memory. Unpickling
        runs in the caller's thread.

        Args:
            uuids: The UUIDs.
            cls: The class that every object must be an instance of. The classes of a script (`__main__`) are found
                only with it. Default: any.

        Returns:
            The objects, in order.

        Raises:
            TypeError: A UUID is not a string, or `cls` is not a class. Nothing is loaded then.
            ValueError: A string is not a UUID. Nothing is loaded then.
            ANAError: The first error of a state, as `ana.load` raises it.
        """
        if isinstance(uuids, str):
            msg = f"load_many takes many UUIDs, not one string: {uuids!r:.100}"
            raise TypeError(msg)
        keys = [address.check_key(uuid) for uuid in uuids]
        try:
            return bulk.load(self, checked_class(cls), keys)
        except ANAError as error:
            raise shortened(error)  # noqa: B904 - the same error

    def keep(self, name: str, *objects: "Storable", ttl: float | str | None = None) -> list[str]:
        """Store objects, and keep them and all that they refer to under a name: `ana gc` does not remove them.

        A name keeps what it kept before, until it ends or `ana forget NAME`. A layer in memory only stores the objects,
        because nothing is collected there. Safe to call from many threads, processes and hosts.

        Args:
            name: 1 to 200 characters.
            *objects: Storables.
            ttl: How long to keep them, in s, or as in "14d". All that a name keeps ends together: each call extends it
                to its own `ttl` from now, and one without `ttl` for ever. Default: for ever.

        Returns:
            The objects' UUIDs, in order.

        Raises:
            TypeError: An item is not a Storable. Nothing is stored then.
            ValueError: The name is empty or too long, or `ttl` is invalid. Nothing is stored then.
            StoreError: The store cannot be read or written.
        """
        address.check_key(name)
        ttl_seconds = math.inf if ttl is None else units.ttl_seconds(ttl)
        try:
            uuids = self.store_many(objects)
            if self.store.supports_roots:
                bulk.keep(self, name, objects, uuids, ttl_seconds)
        except Exception as error:
            shorten_for_caller(error)
            raise
        return uuids

    @contextmanager
    def keeping(self, name: str, ttl: float | str | None = None) -> Iterator[None]:
        """Keep all that is stored or sent in a `with` block under a name, also by workers started in it.

        Each state is kept as soon as it is stored, in any thread, and in tasks that an `ana.Executor` sends in the
        block. The name ends `ttl` after the block, or after a kill. During the block, a thread gives signs of life.

        Args:
            name: 1 to 200 characters. Blocks of many processes may share it.
            ttl: As for `keep`.

        Raises:
            ValueError: An argument is invalid.
            StoreError: The store cannot be written.
        """
        address.check_key(name)
        ttl_seconds = math.inf if ttl is None else units.ttl_seconds(ttl)
        with keeping.block(self.store, name, ttl_seconds):
            saving.forget(self)  # What was stored before is looked up when it is sent, and kept then.
            yield

    def store_state(self, uuid: str, state: object) -> None:
        """Store a bare state under a UUID. The first writer wins.

        Args:
            uuid: 1 to 200 characters.
            state: Anything that pickles.

        Raises:
            ValueError: The UUID is empty or too long.
            StoreError: The store cannot be written. Pickling raises its own errors.
        """
        key = address.check_key(uuid)
        try:
            content, children = saving.serialise("", state)
        except Exception as error:
            shorten_for_caller(error)
            raise
        one = Put(key, content, children, repair=False)
        try:
            parts.put(self.store, one, self.part_bytes)
        except ReplacedError:
            saving.forget(self)
            parts.put(self.store, one, self.part_bytes)
        keeping.note(self.store, key)

    def load_state(self, uuid: str) -> Any:
        """Load a bare state, anew on each call. Raises StateNotFoundError, CorruptedStateError, StoreError."""
        found = self.store.get(address.check_key(uuid))
        loading.refuse_part(found)
        loading.check_size(self, found)
        return pickling.load(parts.segments(self.store, found, self.shared_parts), self.allowed_globals)


class DirDataLayer(DataLayer):
    """A layer over a folder on a (shared) filesystem. Without `pickle_dir`, the folder is `$PWD/pickles`."""

    def __init__(
        self, pickle_dir: str | os.PathLike[str] | None = None, **options: Unpack[settings.DataLayerOptions]
    ) -> None:
        """Open the store in a folder, or make it if it is missing. Raises what `DataLayer` does.

        Args:
            pickle_dir: The folder. Default: `$PWD/pickles`.
            **options: As `set_dl` describes them.
        """
        super().__init__("pickles" if pickle_dir is None else pickle_dir, **options)


class DictDataLayer(DataLayer):
    """A layer over any mapping from strings to bytes: a dict, or a mapping over redis, fsspec, zict ..."""

    def __init__(
        self, the_dict: MutableMapping[str, bytes] | None = None, **options: Unpack[settings.MemoryOptions]
    ) -> None:
        """Use a mapping. Raises what `DataLayer` does.

        Args:
            the_dict: The mapping. Default: a new dict.
            **options: As `set_dl` describes them, without those of folders.
        """
        if the_dict is not None and not hasattr(the_dict, "__setitem__"):
            msg = f"the_dict is a mapping from strings to bytes, not {type(the_dict).__name__}"
            raise TypeError(msg)
        super().__init__(**options)
        if the_dict is not None:
            self.store: Store = MemoryStore(the_dict, self.home, self.level)


class SimpleDataLayer(DataLayer):
    """Plain pickling with identity: states travel in the pickle, and nothing is stored."""

    def _memory_store(self) -> Store:
        return MemoryStore({}, f"{SCHEME}:{self.uuid}", self.level)

    def make_address(self, obj: "Storable", expected: str | None) -> identity.Mark:
        """Give an object the UUID `expected`, or a random one. Store nothing."""
        return saving.give_address(self, obj, expected or address.random_uuid())

    def foresee_address(self, obj: "Storable") -> None:
        """Note that the UUID cannot be foreseen."""
        identity.note_address(obj, None)

    def store_again(self, obj: "Storable") -> None:
        """Do nothing."""

    def sends_by_value(self, mark: identity.Mark) -> bool:  # noqa: ARG002 - all of them
        """Return True: nothing is stored."""
        return True

    def store_many(self, objects: "Iterable[Storable]") -> list[str]:
        """Give each object a random UUID, if it has none, and return the UUIDs. Store nothing."""
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
    """Return the class whose instances are asked for. Raises TypeError if `cls` is not a class."""
    # The instances of a generic alias such as Ref[int] are those of Ref.
    given: object = get_origin(cls) or cls
    if not isinstance(given, type):
        msg = f"cls is a class, not {cls!r:.100}"
        raise TypeError(msg)
    return given


def existing_layer(home: str, preferred: DataLayer | None = None) -> DataLayer:
    """Return a layer over the existing store at `home`. Never makes a store.

    If a layer in use has the same store by another path, return that one (`preferred` first): there must be one object
    for a UUID. Raises StoreError, UntrustedStoreError, UnsupportedFormatError.
    """
    store = kinds.open_home(home)
    for known in (preferred, *list(by_home.values())):
        if known is not None and known.store.is_same(store):
            by_home[home] = known
            return known
    layer = DataLayer()
    from ana.layers import opening  # noqa: PLC0415 - as above

    layer.store = opening.node_cache()(store)
    # The objects of an earlier layer may still be alive, and there must be one object for a UUID.
    layer.live = live_by_home.get(layer.home, layer.live)
    weakref.finalize(layer, layer.live.forget_kept)
    by_home[layer.home] = layer
    live_by_home[layer.home] = layer.live
    return layer


def parents_layer() -> DataLayer | None:
    """Return a layer over the folder that was current where this process was started, if any."""
    home = inheritance.inherited_home()
    if not home:
        return None
    try:
        return existing_layer(home)
    except (ANAError, ValueError) as error:
        said = "the parent's store cannot be opened here, states are stored in memory: %s"
        _log.warning(said, error, extra={"event": "not inherited", "store": home})
        return None
