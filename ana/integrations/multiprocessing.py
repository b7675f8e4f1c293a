"""Fork servers: states are loaded once, in the server, and all of its workers share their memory.

    ana.integrations.multiprocessing.preload([model])      # before the first process is started
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("forkserver")) as pool: ...

`fork` shares what the parent has loaded. A fork server starts empty, so without this each worker loads for itself.
"""

import base64
import os
import pickle
from collections.abc import Iterable
from multiprocessing import forkserver, spawn
from typing import Any

from ana.layers import current
from ana.storable import Storable

__all__ = ["VARIABLE", "preload"]

VARIABLE = "_ANA_PRELOAD"
"""The environment variable in which the fork server finds what to load."""
_MODULE = "ana.integrations.fork_server"
"""Imported by the fork server alone, to load it."""
_MAX_BYTES = 96 << 10
"""Linux refuses a longer environment variable than 128 KiB."""


def preload(objects: Iterable[Storable]) -> None:
    """Start the fork server, and have it load objects before it forks its first worker.

    Workers then find the objects loaded, and share the memory of their buffers with the server. Objects without a UUID
    get one, and are stored. The values of Refs are loaded, too. If a state cannot be loaded, the object raises in the
    worker that uses it, as without `preload`.

    Call it in the main process, once, before the first process is started by "forkserver" (Linux's default from Python
    3.14 on), and not while a module is imported that workers import, too.

    Args:
        objects: The objects that workers will be sent.

    Raises:
        RuntimeError: The fork server is running already, so nothing can be loaded into it.
        TypeError: `objects` is not a list, or an object is not a Storable.
        ValueError: The current layer keeps its states in this process's memory, or there are too many objects.
        StoreError: A state could not be stored.
    """
    given: object = objects
    if isinstance(given, Storable) or not isinstance(given, Iterable):
        msg = f"preload takes a list of objects, not a single {type(given).__name__}"
        raise TypeError(msg)
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
    forkserver.set_forkserver_preload([*server._preload_modules, _MODULE])  # noqa: SLF001 - there is no way to ask
    os.environ[VARIABLE] = said
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[VARIABLE]


def _main() -> dict[str, Any]:
    """Return how a child process finds this program's modules and its main module."""
    wanted = ("sys_path", "init_main_from_name", "init_main_from_path")
    return {name: said for name, said in spawn.get_preparation_data("").items() if name in wanted}
