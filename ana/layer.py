"""Data layers: live objects plus one store; and which layer is the current one (the only global state).

`ANA_PICKLE_DIR` is read when the first layer is needed, not at import.
"""

import logging
import os
import threading
import uuid as uuid_module
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ana import address, identity, loading, pickling, record, saving, unloaded
from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.stores.directory import DirectoryStore
from ana.stores.memory import MemoryStore

if TYPE_CHECKING:
    from ana.stores import Store

__all__ = [
    "DataLayer",
    "DictDataLayer",
    "DirDataLayer",
    "SimpleDataLayer",
    "get_dl",
    "load_reference",
    "set_dl",
    "using_dl",
]

KEEP_BYTES = 256 << 20
RECHECK_SECONDS = 300.0
ENVIRONMENT = "ANA_PICKLE_DIR"
WAIT = "ANA_WAIT"
WAIT_SECONDS = 2.0

_log = logging.getLogger("ana.layer")
_lock = threading.RLock()


class _Claim:
    """Loads the state of an object that waits for it; holds the object weakly, as its mark does."""

    __slots__ = ("cls", "home", "shell", "uuid")

    def __init__(self, shell: object, cls: type, uuid: str, home: str) -> None:
        self.shell = weakref.ref(shell)
        self.cls = cls
        self.uuid = uuid
        self.home = home

    def __call__(self) -> None:
        shell = self.shell()
        if shell is not None:
            load_into(shell, self.cls, self.uuid, self.home)


class DataLayer:
    """Live objects and the store where states are; by default a dict in this process.

    Safe to use from many threads; a forked child goes on with its own copy (of a dict: its own dict).
    """

    _store_type = "dict"

    def __init__(
        self,
        pickle_dir: str | os.PathLike[str] | None = None,
        *,
        keep_bytes: int = KEEP_BYTES,
        errors: str = "defer",
        strict: bool = False,
        durable: bool | None = None,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        """Make a layer over a folder (see `DirDataLayer`) or, without `pickle_dir`, over a new dict.

        `keep_bytes`: how much raw state of loaded objects is kept alive for reuse; the last one always is.
        `errors`: what a reference does while it is unpickled and its state is missing or damaged: "defer"
        makes an object that raises when it is used, "raise" raises at once. `strict`: raise
        UUIDConflictError where an explicit UUID already names other content. `durable` (folders only):
        wait for the disk before a state counts as stored (default: yes). `recheck_seconds`: how long an
        object that was stored is believed to be there still.

        Raises TypeError or ValueError for options that make no sense, and what opening the store raises.
        """
        _check_options(keep_bytes, errors, recheck_seconds)
        self.uuid = str(uuid_module.uuid4())
        self.errors = errors
        self.strict = strict
        self.recheck_seconds = recheck_seconds
        self.live = identity.LiveObjects(keep_bytes)
        if pickle_dir is not None:
            self._store_type = "pickle"
            self.store: Store = _open_folder(pickle_dir, durable=durable is not False, create=True)
        else:
            if durable is not None:
                msg = "durable= is for a folder: give pickle_dir= too"
                raise TypeError(msg)
            self.store = MemoryStore({}, f"memory:{self.uuid}")
        _layers[self.home] = self

    def __repr__(self) -> str:
        return f"<ana.{type(self).__name__} {self.home}>"

    @property
    def home(self) -> str:
        """Where the store is, as references carry it: a folder's absolute path, or "memory:" and an id."""
        return self.store.home

    @property
    def uuid_cache(self) -> MutableMapping[str, Any]:
        """The live objects by UUID, held weakly."""
        return self.live.table

    def store_state(self, uuid: str, state: object) -> None:
        """Store a bare state under a UUID; the first writer wins. Raises what pickling or the store raises."""
        key = address.check_key(uuid)
        content, children = saving.serialise("", state)
        self.store.put(key, content, children, heal=False)

    def load_state(self, uuid: str) -> Any:
        """Load a bare state, anew at each call. Raises StateNotFoundError, CorruptedStateError, StoreError."""
        return pickling.load(self.store.get(address.check_key(uuid)).segments())


class DirDataLayer(DataLayer):
    """A layer over a folder on a (shared) filesystem; without `pickle_dir`, over `$PWD/pickles`."""

    def __init__(self, pickle_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        """Open the store in a folder, making it where it is missing; options as for `DataLayer`.

        Raises StoreError, UntrustedStoreError (not empty, and no store), UnsupportedFormatError.
        """
        super().__init__(os.path.join(os.getcwd(), "pickles") if pickle_dir is None else pickle_dir, **options)


class DictDataLayer(DataLayer):
    """A layer over any mapping from strings to bytes: a dict, or a user's redis, fsspec, zict ..."""

    def __init__(self, the_dict: MutableMapping[str, bytes] | None = None, **options: Any) -> None:
        """Use the given mapping, or a new dict; options as for `DataLayer`, without those of folders."""
        if the_dict is not None and not hasattr(the_dict, "__setitem__"):
            msg = f"the_dict is a mapping from strings to bytes, not {type(the_dict).__name__}"
            raise TypeError(msg)
        super().__init__(**options)
        if the_dict is not None:
            self.store = MemoryStore(the_dict, self.home)


class SimpleDataLayer(DataLayer):
    """Plain pickling with identity: states travel in the pickle, and nothing is stored."""

    _store_type = "simple"

    def store_state(self, uuid: str, state: object) -> None:
        """Do nothing."""

    def load_state(self, uuid: str) -> Any:
        """Raise ANAError: there is nothing to load from."""
        msg = f"SimpleDataLayer stores no states, so {uuid!r} cannot be loaded: use set_dl(pickle_dir=...)"
        raise ANAError(msg)


_layers: "weakref.WeakValueDictionary[str, DataLayer]" = weakref.WeakValueDictionary()
"""The latest layer of each home, for references that name it."""
_found: dict[str, DataLayer] = {}
"""Layers that references or the environment brought us to; held for good."""
_current: DataLayer | None = None


def get_dl() -> DataLayer:
    """Return the current layer; the first time, the one that `ANA_PICKLE_DIR` names, or a dict in memory.

    Raises what opening the folder raises.
    """
    global _current  # noqa: PLW0603 - the one current layer
    if _current is None:
        with _lock:
            if _current is None:
                pickle_dir = os.environ.get(ENVIRONMENT)
                _current = DirDataLayer(pickle_dir) if pickle_dir else DataLayer()
    return _current


def set_dl(layer: DataLayer | str | os.PathLike[str] | None = None, /, **options: Any) -> DataLayer:
    """Make a layer the current one of this process, and return it.

    `set_dl()`: a new dict in memory; `set_dl(pickle_dir=PATH)` or `set_dl(PATH)`: a folder;
    `set_dl(layer)`: that layer, for instance `DictDataLayer(mapping)`. Options as for `DataLayer`.
    Raises TypeError for options that contradict each other; the layer stays as it was then.
    """
    global _current  # noqa: PLW0603 - the one current layer
    made = _make(layer, options)
    _current = made
    return made


@contextmanager
def using_dl(layer: DataLayer | str | os.PathLike[str] | None = None, /, **options: Any) -> Iterator[DataLayer]:
    """Make a layer the current one for a `with` block, in all threads of the process; arguments as `set_dl`."""
    global _current  # noqa: PLW0603 - the one current layer
    before = _current
    made = set_dl(layer, **options)
    try:
        yield made
    finally:
        _current = before


def load_reference(cls: type, uuid: str, home: str | None) -> Any:
    """Return the object that a reference stands for: alive, or loaded, or (its layer defers errors) unloaded.

    Looked up in the layer whose state is being loaded, the current one, that of `ANA_PICKLE_DIR`, and
    the reference's home. Raises only where the current layer says `errors="raise"`.
    """
    layer = loading.loading_from() or _current or get_dl()
    live = layer.live.get(uuid)
    if live is not None and type(live) is cls:
        return live
    return _resolve(cls, uuid, home)


def load_into(obj: Any, cls: type, uuid: str, home: str | None) -> None:
    """Load the state of an object that waits for it. Raises what stands in the way, and names all places."""
    places: list[str] = []
    serious: ANAError | None = None
    for layer in _candidates(home, places):
        try:
            found = loading.load(layer, cls, uuid, obj)
        except StateNotFoundError as error:
            if error.uuid != uuid:
                raise
        except (CorruptedStateError, StoreError) as error:
            serious = serious or error
        else:
            if found is not obj:
                _take_over(obj, found)
            return
    raise serious or StateNotFoundError(uuid, ", ".join(places), _hint(home))


def load_now(cls: type, uuid: object) -> Any:
    """Return the object of a UUID from the current layer or that of `ANA_PICKLE_DIR`; raise at once if it is not there.

    Raises TypeError and ValueError for what is no UUID, StateNotFoundError, CorruptedStateError,
    StateLoadError (also where it is no `cls`), StoreError.
    """
    key = address.check_key(uuid)
    if get_dl()._store_type == "simple" and get_dl().live.get(key) is None:  # noqa: SLF001 - an old program's word
        return get_dl().load_state(key)
    places: list[str] = []
    for layer in _candidates(None, places):
        try:
            return loading.load(layer, cls, key)
        except StateNotFoundError as error:
            if error.uuid != key:
                raise
            missing = error
    if len(places) == 1:
        raise missing
    raise StateNotFoundError(key, ", ".join(places))


def home_of(mark: identity.Mark, target: DataLayer) -> str:
    """Return the home that the reference of an object without its state carries: where it was said to be."""
    home = getattr(mark.claim, "home", None)
    return target.home if home is None else str(home)


def _resolve(cls: type, uuid: str, home: str | None) -> Any:
    places: list[str] = []
    layers = list(_candidates(home, places))
    for layer in layers:
        live = layer.live.get(uuid)
        if live is not None and (isinstance(live, cls) or unloaded.loaded_class(live) is cls):
            return live
    lazy = getattr(cls, "_ana_lazy", False)
    if lazy or loading.too_deep():
        shell = _make_waiting(cls, uuid, home, layers)
        if not lazy:
            loading.put_off(shell)
        return shell
    return _load_or_defer(cls, uuid, home, layers, places)


def _load_or_defer(cls: type, uuid: str, home: str | None, layers: list[DataLayer], places: list[str]) -> Any:
    error: ANAError | None = None
    for layer in layers:
        try:
            return loading.load(layer, cls, uuid)
        except StateNotFoundError as missing:
            error = error or (None if missing.uuid == uuid else missing)
        except ANAError as failed:
            error = error or failed
    if get_dl().errors == "raise":
        raise error or StateNotFoundError(uuid, ", ".join(places), _hint(home))
    return _make_waiting(cls, uuid, home, layers)


def _make_waiting(cls: type, uuid: str, home: str | None, layers: list[DataLayer]) -> Any:
    """Make an object that loads its state when it is used."""
    shell = unloaded.make_shell(cls)
    claim = _Claim(shell, cls, uuid, home if home is not None else layers[-1].home)
    if getattr(cls, "_ana_lazy", False):
        identity.mark(shell, uuid, given=True).claim = claim
    else:
        unloaded.unload(shell, uuid, claim)
    return layers[-1].live.add(uuid, shell)


def _take_over(obj: Any, found: Any) -> None:
    """Fill an object from another of the same UUID that became known in the meantime."""
    unloaded.reload(obj)
    obj._ana_setstate(found._ana_getstate())
    mark = identity.mark_of(obj)
    if mark is not None:
        mark.claim = None


def _candidates(home: str | None, places: list[str]) -> Iterator[DataLayer]:
    """Yield the layers to look in, each once, opening them as they are needed; note all places that were tried."""
    seen = set()
    for where in (loading.loading_from(), get_dl(), os.environ.get(ENVIRONMENT), home):
        if not where:
            continue
        layer = where if isinstance(where, DataLayer) else _layer_at(str(where), places)
        if layer is not None and layer.home not in seen:
            seen.add(layer.home)
            places.append(layer.home)
            yield layer


def _layer_at(home: str, places: list[str]) -> DataLayer | None:
    """Return the layer of a home, opened for reading if it is a folder's; None if it is not to be had here."""
    layer = _layers.get(home)
    if layer is not None:
        return layer
    if home.startswith("memory:"):
        places.append("the memory of the process that made the reference")
        return None
    with _lock:
        try:
            layer = _found.get(home) or _open_existing(home)
        except ANAError as error:
            places.append(str(error))
            return None
        _found[home] = layer
    return layer


def _open_existing(home: str) -> DataLayer:
    store = _open_folder(home, durable=True, create=False)
    layer = DataLayer()
    layer.store = store
    layer.errors = get_dl().errors
    _layers[layer.home] = layer
    return layer


def _open_folder(pickle_dir: str | os.PathLike[str], *, durable: bool, create: bool) -> DirectoryStore:
    said = os.environ.get(WAIT, "") or WAIT_SECONDS
    try:
        wait_seconds = max(0.0, float(said))
    except ValueError:
        msg = f"{WAIT} is a number of seconds, not {said!r}"
        raise ValueError(msg) from None
    return DirectoryStore(_absolute(pickle_dir), durable=durable, create=create, wait_seconds=wait_seconds)


def _hint(home: str | None) -> str:
    if home is not None and home.startswith("memory:"):
        return "it was stored in memory, which other processes do not see: use set_dl(pickle_dir=...) or ANA_PICKLE_DIR"
    return "it was never stored there, was removed or purged, or this host mounts another filesystem at that path"


def _make(layer: object, options: dict[str, Any]) -> DataLayer:
    if isinstance(layer, DataLayer):
        if options:
            msg = f"a layer is given, so its options are its own: {', '.join(options)} contradict it"
            raise TypeError(msg)
        return layer
    if "mongo_args" in options:
        msg = "there is no MongoDB backend any more: use set_dl(pickle_dir=...), or DictDataLayer(mapping) over it"
        raise TypeError(msg)
    if isinstance(layer, str | os.PathLike):
        if "pickle_dir" in options:
            msg = f"two folders are given: {layer!r} and pickle_dir={options['pickle_dir']!r}"
            raise TypeError(msg)
        options = {"pickle_dir": layer, **options}
    elif layer is not None:
        msg = f"set_dl takes a layer or a path, not {type(layer).__name__}; a mapping goes into DictDataLayer(mapping)"
        raise TypeError(msg)
    return DirDataLayer(**options) if options.get("pickle_dir") is not None else DataLayer(**options)


def _check_options(keep_bytes: int, errors: str, recheck_seconds: float) -> None:
    if errors not in ("defer", "raise"):
        msg = f'errors is "defer" or "raise", not {errors!r}'
        raise ValueError(msg)
    if keep_bytes < 0 or recheck_seconds < 0:
        msg = f"keep_bytes ({keep_bytes}) and recheck_seconds ({recheck_seconds}) are not negative"
        raise ValueError(msg)


def _absolute(pickle_dir: str | os.PathLike[str]) -> str:
    path = os.fsdecode(pickle_dir)
    if not path:
        msg = "pickle_dir is empty: give a folder's path"
        raise ValueError(msg)
    return os.path.abspath(os.path.expanduser(path))


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - one per process, replaced after fork
    _lock = threading.RLock()
    record.reset_codecs()
    for layer in list(_layers.values()):
        layer.live.renew_lock()
    loading.reset_after_fork()


os.register_at_fork(after_in_child=_after_fork)
