"""Fork servers: states are loaded once, in the server, and all of its workers share their memory.

    ana.integrations.multiprocessing.preload([model])      # before the first process is started
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("forkserver")) as pool: ...

`fork` shares what the parent has loaded. A fork server starts empty, so that each worker would load for itself.
"""

import base64
import gc
import os
import pickle
from collections.abc import Iterable
from multiprocessing import forkserver, process, spawn
from typing import Any

from ana.layers import current, resolve
from ana.storable import Ref, Storable

__all__ = ["preload"]

_VARIABLE = "_ANA_PRELOAD"
_MAX_BYTES = 96 << 10
"""Linux refuses a longer environment variable than 128 KiB."""

_preloaded: object = None
"""In a fork server: what it keeps alive for its workers."""


def preload(objects: Iterable[Storable]) -> None:
    """Start the fork server, and have it load objects before it forks its first worker.

    Workers then find the objects loaded, and share the memory of their buffers with the server. Objects without a UUID
    get one, and are stored. The values of Refs are loaded, too. If a state cannot be loaded, the object raises in the
    worker that uses it, as without `preload`.

    Call it in the main process, once, before the first process is started by "forkserver" (Linux's default from Python
    3.14 on), and not while a module is imported that workers import, too.

    Args:
        objects: What the workers will be sent.

    Raises:
        RuntimeError: The fork server runs already, so that nothing can be loaded into it.
        TypeError: One is not a Storable.
        ValueError: The current layer keeps its states in this process's memory, or there are too many objects.
        StoreError: A state could not be stored.
    """
    wanted: list[Any] = list(objects)
    for obj in wanted:
        if not isinstance(obj, Storable):
            msg = f"{type(obj).__name__} is no Storable: wrap it in ana.Ref"
            raise TypeError(msg)
    if current.get_dl().store.process_local:
        msg = "the fork server could not reach this process's memory: use set_dl(pickle_dir=...)"
        raise ValueError(msg)
    server: Any = forkserver._forkserver  # noqa: SLF001 - multiprocessing's one server; only it knows whether it runs
    if server._forkserver_pid is not None:  # noqa: SLF001 - see above
        msg = "the fork server runs already: call preload() before the first process is started"
        raise RuntimeError(msg)
    for obj in wanted:
        obj.make_uuid()
    said = base64.b64encode(pickle.dumps((_main(), pickle.dumps(wanted, 5)), 5)).decode("ascii")
    if len(said) > _MAX_BYTES:
        msg = f"the references to {len(wanted):,} objects are too large: put the objects into one Ref"
        raise ValueError(msg)
    forkserver.set_forkserver_preload([*server._preload_modules, __name__])  # noqa: SLF001 - there is no way to ask
    os.environ[_VARIABLE] = said
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[_VARIABLE]


def _main() -> dict[str, Any]:
    """Return how a child process finds this program's modules and its main module."""
    wanted = ("sys_path", "init_main_from_name", "init_main_from_path")
    return {name: said for name, said in spawn.get_preparation_data("").items() if name in wanted}


def _load() -> Any:
    """Load what `preload` asked for, in the fork server, which imports this module for that."""
    said = os.environ.pop(_VARIABLE, "")
    if not said:
        return None
    try:
        found = _loaded(base64.b64decode(said))
    except Exception:  # noqa: BLE001 - the server has to run; whoever uses the objects gets the error
        return None
    # Counting references to other objects, and collecting, then writes to fewer of the pages that workers share.
    gc.collect()
    gc.freeze()
    return found


def _loaded(said: bytes) -> Any:
    main, wanted = pickle.loads(said)  # noqa: S301 - from this program
    # Classes of the main module need it. Before 3.14 the server does not import it by itself.
    own: Any = process.current_process()
    own._inheriting = True  # noqa: SLF001 - as multiprocessing does: it then refuses to start processes
    try:
        spawn.prepare(main)
    finally:
        del own._inheriting  # noqa: SLF001 - see above
    found = pickle.loads(wanted)  # noqa: S301 - as above
    resolve.prefetch([obj for obj in found if isinstance(obj, Ref)])
    return found


_preloaded = _load()
