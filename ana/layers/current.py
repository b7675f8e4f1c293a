"""Which layer is the current one.

`ANA_PICKLE_DIR` is read when the first layer is needed, not at import. The current layer is per process: all threads
share it.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

from ana import settings
from ana.errors import ANAError
from ana.format import codec
from ana.layers import inheritance, kinds
from ana.layers.layer import DataLayer, DirDataLayer, by_home, parents_layer
from ana.objects import identity
from ana.persist import keeping, loading
from ana.runtime.tracebacks import shortened

__all__ = ["adopt", "chosen", "get_dl", "set_dl", "using_dl"]

_log = logging.getLogger("ana.current")
_lock = threading.RLock()
_current: DataLayer | None = None
_unasked: DataLayer | None = None
"""The layer in memory that was made because nobody had chosen one."""


def get_dl() -> DataLayer:
    """Return the current layer.

    The first call chooses one: the folder in `ANA_PICKLE_DIR`, else the folder that was current in the parent process
    (in a worker of multiprocessing, loky or joblib that nobody configured), else a dict in memory.

    Returns:
        The layer.

    Raises:
        StoreError: The folder cannot be opened or made.
        UntrustedStoreError: The folder is neither empty nor a store, or others may write to it.
        UnsupportedFormatError: A newer version of ana has made the store.
    """
    global _current, _unasked  # noqa: PLW0603 - the one current layer
    if _current is None:
        with _lock:
            if _current is None:
                pickle_dir = settings.PICKLE_DIR.value()
                _current = DirDataLayer(pickle_dir) if pickle_dir else parents_layer()
                if _current is None:
                    _current = _unasked = DataLayer()
                inheritance.hand_down(_home_to_hand_down, _roots_to_hand_down)
    return _current


def set_dl(
    layer: DataLayer | str | os.PathLike[str] | None = None, /, **options: Unpack[settings.CurrentLayerOptions]
) -> DataLayer:
    """Make a layer the current one of this process, and return it.

    `set_dl()` makes a layer over a new dict in memory, `set_dl(PATH)` or `set_dl(pickle_dir=PATH)` one over a folder.
    `set_dl(store=STORE)` takes a store of another kind (docs/writing-a-store.md); if that kind is registered,
    `set_dl("SCHEME:/...")` opens one. `set_dl(layer)` takes a layer, such as `DictDataLayer(mapping)`.

    A size is a number of bytes, or a text: "2G" is 2 * 10^9, "2GiB" is 2 * 2^30 (k, M, G, T, P; Ki, Mi, Gi, Ti, Pi).
    A duration is a number of seconds, or a text: "10s", "30m", "24h", "14d".

    Args:
        layer: A layer, or what `pickle_dir` may be.
        **options: The options of a new layer, see below.

    Which store:
        pickle_dir: The folder. It is made if it is missing. May also be the home of a store of a registered kind
            ("sqlite:/shared/states.db"). Default: none, states are in memory.
        store: A store of any kind. Default: none.

    Options of every layer:
        keep_bytes: How much loaded objects to keep alive for reuse, by the size of their raw states. The last object is
            always kept. All layers of a process share one limit, the largest that was given. Default: 256 MiB.
        errors: What unpickling a reference does if its state is missing or damaged. "defer" makes an object that raises
            when it is used; "raise" raises at once. Default: "defer".
        strict: Whether to raise UUIDConflictError if an explicit UUID already names other content. Default: False.
        recheck_seconds: How long to assume that a stored object is still in the store before checking. Default: 300 s.
        level: zstd's compression level, from -22 (fastest) to 22 (smallest). 0 does not compress. Each chunk of 4 MiB
            is sampled first, and is not compressed if that would save less than an eighth. UUIDs do not depend on the
            level. Default: 1.
        allowed: Modules whose classes and functions a state may name when it is loaded. Includes their submodules.
            Globals that only hold data are always allowed; see SECURITY.md. Default: any module.
        max_state_bytes: Size of the largest raw state that is loaded. Default: the memory of this machine or cgroup.
        part_bytes: Buffers (arrays, `bytes`) of at least this size are stored once, as states of their own that many
            states can share; at least 256 KiB. 0 stores them with each state. UUIDs do not depend on it, and every
            layer reads both. Default: `ANA_PART_BYTES`, else 8 MiB.
        share_parts: Whether objects that hold the same part share its memory in this process. Their arrays are then
            read-only. With a node cache, they share it anyway. Default: False.

    Options of a layer over a folder:
        durable: Whether to wait for the disk before a state counts as stored. Default: True.
        key: 32 bytes, or the path of a key file. A new store is made with this key, and then accepts only what the key
            has signed. Default: the store's own key file, else `ANA_KEY_FILE`.
        shared: Whether members of the store's group are trusted and may write to the store. A new store gets mode 2770.
            Default: `ANA_SHARED`, else False.
        trusted_uids: User ids whose files are trusted, besides this user's and root's. "unmapped" means the users that
            this user namespace has no id for; see SECURITY.md. Default: `ANA_TRUSTED_UIDS`, else none.
        node_cache: A folder on this node's own disk that keeps large states for all processes of the node. They map the
            states, so arrays are read-only and in memory once. "auto" is the first of `$SLURM_TMPDIR`,
            `$LOCAL_SCRATCH` and `$TMPDIR` that is local; "" is none. If the cache fails, states are loaded without it.
            Default: `ANA_NODE_CACHE`, else none.
        node_cache_bytes: Limit for everything that this user has in the node cache. Default: `ANA_NODE_CACHE_BYTES`,
            else half of the free space there.
        pack_bytes: States of at most this raw size share files, the packs; at most 1 MiB. 0 gives each state a file of
            its own. Default: `ANA_PACK_BYTES`, else what `ana init --pack-bytes` said, else 0.

    Returns:
        The layer.

    Raises:
        TypeError: An option does not exist, has the wrong type, or contradicts another. The current layer stays.
        ValueError: The value of an option is invalid. The current layer stays.
        StoreError: The folder cannot be opened or made.
        UntrustedStoreError: The folder is neither empty nor a store, or others may write to it.
        UnsupportedFormatError: A newer version of ana has made the store.
    """
    global _current  # noqa: PLW0603 - the one current layer
    try:
        made = _make(layer, options)
    except ANAError as error:
        # How ANA found out is of no use to the caller.
        raise shortened(error)  # noqa: B904 - the same error
    _current = made
    inheritance.hand_down(_home_to_hand_down, _roots_to_hand_down)
    return made


@contextmanager
def using_dl(
    layer: DataLayer | str | os.PathLike[str] | None = None, /, **options: Unpack[settings.CurrentLayerOptions]
) -> Iterator[DataLayer]:
    """Make a layer the current one within a `with` block, in all threads of the process. Raises what `set_dl` does.

    Args:
        layer: A layer, the path of a folder, or the home of a store of a registered kind. Default: a new dict.
        **options: The options of a new layer, as `set_dl` describes them.
    """
    global _current  # noqa: PLW0603 - the one current layer
    before = _current
    made = set_dl(layer, **options)
    try:
        yield made
    finally:
        _current = before


def chosen() -> DataLayer | None:
    """Return the current layer, or None before anything has needed one."""
    return _current


def adopt(layer: DataLayer) -> None:
    """Adopt the store of the first reference that this process loads, if nobody configured a layer.

    Results are then stored there, too.
    """
    global _current  # noqa: PLW0603 - the one current layer
    if _current is not None and _current is _unasked:
        fields = {"event": "adopted", "store": layer.home}
        said = "no layer was chosen: states are stored in %s from now on, where a reference led to"
        _log.info(said, layer.home, extra=fields)
        _current = layer


def _home_to_hand_down() -> str:
    """Return the home of the store that child processes inherit; "" if there is none that they can open."""
    home = settings.PICKLE_DIR.value() or inheritance.inherited_home() if _current is None else _current.home
    return "" if kinds.is_process_local(home) else home


def _roots_to_hand_down() -> str:
    """Return the roots that keep what child processes store, too, as JSON."""
    return json.dumps([one for one in keeping.told() if not kinds.is_process_local(one[0])])


def _inherited_roots() -> list[tuple[str, str, float]]:
    said = inheritance.inherited_roots()
    return [(home, name, float(ttl_seconds)) for home, name, ttl_seconds in json.loads(said)] if said else []


def _make(layer: object, options: Mapping[str, Any]) -> DataLayer:
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


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - one per process, replaced after fork
    _lock = threading.RLock()
    codec.reset()
    identity.after_fork()
    for layer in list(by_home.values()):
        layer.live.renew_lock()
    loading.reset_after_fork()


os.register_at_fork(before=identity.before_fork, after_in_parent=identity.after_fork, after_in_child=_after_fork)

keeping.find_inherited(_inherited_roots)
# At import: a `Process` object may be older than the first layer, and start later.
inheritance.hand_down(_home_to_hand_down, _roots_to_hand_down)
