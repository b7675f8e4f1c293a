"""joblib: `Parallel` on an `ana.Executor`, and so on mpi4py, Dask or Parsl; `Memory` with its results in an ANA store.

```python
with ana.Executor(pool) as executor, joblib.parallel_config(ExecutorBackend(executor, workers=64), n_jobs=-1):
    GridSearchCV(model, parameters).fit(X, y)          # X and y are stored once, and loaded once per worker

memory = joblib.Memory("cache", backend="ana")         # arrays are stored once, and results are verified when read
```
"""

import concurrent.futures
import math
import operator
import os
import pickle
import re
import secrets
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from joblib import hashing, register_store_backend
from joblib._store_backends import CacheItemInfo, CacheWarning, FileSystemStoreBackend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from ana import arguments
from ana.errors import CorruptedStateError, StateNotFoundError
from ana.layers import current, kinds, path_map, resolve
from ana.layers.layer import DataLayer
from ana.storable import Ref
from ana.stores.base import Store
from ana.tasks.executor import Executor

__all__ = ["AnaStoreBackend", "ExecutorBackend", "load_result"]

BRIDGE_SECONDS = 86_400.0
"""How long what was left stays kept if a process is killed while it renews a root, in s."""


class ExecutorBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs `joblib.Parallel` on an executor. Safe between threads, like the executor.

    joblib's options for its own pool (`max_nbytes`, `mmap_mode`, `temp_folder`) have no effect. `Parallel` does not
    shut the executor down.
    """

    supports_retrieve_callback = True

    def __init__(self, executor: Executor, workers: int, **options: Any) -> None:
        """Use an executor.

        Args:
            executor: The executor.
            workers: How many workers the executor has; `n_jobs=-1` uses all.
            **options: What joblib passes to each backend.

        Raises:
            TypeError: `executor` is not an `ana.Executor`, or `workers` is not a whole number.
            ValueError: `workers` is not positive.

        """
        super().__init__(**options)
        given: object = executor
        if not isinstance(given, Executor):
            msg = f"ExecutorBackend takes an ana.Executor, not a {type(executor).__name__}: ana.Executor(pool)"
            raise TypeError(msg)
        self._executor = executor
        self._workers = arguments.at_least_one("workers", workers)
        self._pending: set[concurrent.futures.Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at a time. -1 is all workers, -2 all but one."""
        if n_jobs is None:
            return 1
        n_jobs = arguments.checked("n_jobs", operator.index, "a whole number", n_jobs)
        if n_jobs == 0:
            msg = "n_jobs must not be 0: use a positive number, or -1 for all workers"
            raise ValueError(msg)
        return max(1, self._workers + 1 + n_jobs) if n_jobs < 0 else n_jobs

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
    ) -> "concurrent.futures.Future[Any]":
        """Send a batch of calls."""
        future = self._executor.submit(func)
        self._pending.add(future)
        # Added before joblib's own callback, which may send the next batch.
        future.add_done_callback(self._pending.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: "concurrent.futures.Future[Any]") -> Any:
        """Return the result of a batch. Raises what its task raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001, FBT002, ARG002 - joblib's signature
        """Cancel the batches that have not begun. The executor stays usable."""
        for future in list(self._pending):
            future.cancel()

    def terminate(self) -> None:
        """Forget how long batches took: the next `Parallel` runs other tasks."""
        self.reset_batch_stats()


class AnaStoreBackend(FileSystemStoreBackend):
    """Keeps the results of `joblib.Memory(location, backend="ana")` as states. Safe between threads and processes.

    `location` holds joblib's own small files, and a reference for each result. The states are in the store of the
    current layer, or in `backend_options={"pickle_dir": PATH}`. So equal results, and arrays of `part_bytes` or more
    that several results share, are stored once. Each load is verified, and returns new objects, as joblib does. If a
    state is damaged or missing, joblib warns and calls the function again, which repairs it. This backend and joblib's
    own read each other's results.

    A root for each function (`ana roots`) keeps its results from collection. `clear` of the function or of the memory,
    and `reduce_size`, remove results from the root; `ana gc` then removes their states. A result that was cleared alone
    stays in the root until then. `reduce_size` counts raw sizes, and a shared array with each of its results.

    `mmap_mode` and `compress` have no effect: states are compressed, and a node cache (`docs/node-cache.md`) maps them.
    """

    def configure(self, location: str, verbose: int = 1, backend_options: dict[str, Any] | None = None) -> None:
        """Use a folder for joblib's files, and a store for the results. Both are made if they are missing.

        Raises ValueError if there is neither an option `pickle_dir` nor a current layer with a folder.
        """
        super().configure(location, verbose, {})
        chosen = (backend_options or {}).get("pickle_dir")
        self.pickle_dir: str = current.get_dl().home if chosen is None else DataLayer(chosen).home
        if kinds.is_process_local(self.pickle_dir):
            msg = 'results need a folder: ana.set_dl(pickle_dir=...), or backend_options={"pickle_dir": ...}'
            raise ValueError(msg)

    def dump_item(self, call_id: Any, item: Any, verbose: int = 1) -> None:
        """Store a result. Warns (CacheWarning) if it does not pickle, or if the store fails."""
        try:
            result = self._store(call_id, Ref(item))
            super().dump_item(call_id, result, verbose)
            # Last, so that a process that renews the root meanwhile has seen joblib's file, or loses to this.
            resolve.layer_at(self.pickle_dir).store.keep(self._root(call_id[0]), [result.uuid])
        except Exception as error:  # noqa: BLE001 - the caller of the function gets its result all the same
            warnings.warn(f"Unable to cache a result of {call_id[0]}: {error}", CacheWarning, stacklevel=2)

    def get_items(self) -> list[Any]:
        """Return the results, with the raw sizes of their states."""
        found = super().get_items()
        return [CacheItemInfo(path, size + _read(f"{path}/output.pkl").raw_bytes, used) for path, size, used in found]

    def clear_location(self, location: str) -> None:
        """Remove a result, the results of a function and its root, or all of them."""
        functions = self._functions(location)
        super().clear_location(location)
        self._renew_roots(functions)

    def enforce_store_limits(self, bytes_limit: Any, items_limit: Any = None, age_limit: Any = None) -> None:
        """Remove the results that were not used for longest, also from the roots."""
        super().enforce_store_limits(bytes_limit, items_limit, age_limit)
        self._renew_roots(self._functions(self.location))

    def _store(self, call_id: Any, ref: Ref[Any]) -> "_Result":
        layer = resolve.layer_at(self.pickle_dir)
        mark = layer.make_address(ref, None)
        if self.contains_item(call_id):  # It could not be loaded.
            layer.store_again(ref)
        return _Result(layer.home, mark.uuid, layer.store.hint(mark.uuid), mark.raw_bytes)

    def _functions(self, location: str) -> list[str]:
        # Not by func_code.py: joblib writes one per process and function, whatever the location.
        folders = [folder for folder, _, _ in os.walk(location) if not re.search("/[0-9a-f]{32}$", folder)]
        return [os.path.relpath(folder, self.location) for folder in folders]

    def _root(self, function: str) -> str:
        return f"joblib {function[-120:]} {hashing.hash(os.path.realpath(os.path.join(self.location, function)))}"

    def _renew_roots(self, functions: Iterable[str]) -> None:
        """Make the roots of functions keep the results that are left."""
        store = resolve.layer_at(self.pickle_dir).store
        for function in functions if store.supports_roots else ():
            root = self._root(function)
            # Without it, a collection, or a kill before the end, would find results that nothing keeps.
            bridge = f"{root} (renewed {secrets.token_hex(4)})"
            self._keep_left(store, function, bridge, BRIDGE_SECONDS)
            store.forget(root)
            self._keep_left(store, function, root)
            store.forget(bridge)

    def _keep_left(self, store: Store, function: str, root: str, ttl_seconds: float = math.inf) -> None:
        uuids = {_read(path).uuid for path in Path(self.location, function).glob("*/output.pkl")} - {""}
        try:
            if uuids:
                store.keep(root, sorted(uuids), ttl_seconds=ttl_seconds)
        except (StateNotFoundError, CorruptedStateError):
            for uuid in uuids:
                with suppress(StateNotFoundError, CorruptedStateError):
                    store.keep(root, [uuid], ttl_seconds=ttl_seconds)


class _Result(NamedTuple):
    """Stands for a result in joblib's file, which unpickles into the result."""

    home: str
    uuid: str
    hint: str
    raw_bytes: int

    def __reduce__(self) -> Any:
        return load_result, tuple(self)


def load_result(home: str, uuid: str, hint: str, raw_bytes: int) -> Any:  # noqa: ARG001 - `reduce_size` reads it
    """Load a result. joblib's files name this function: it never moves, and its arguments never change.

    Args:
        home: The home of the store.
        uuid: The state's UUID.
        hint: Where the state lies in the store, or "".
        raw_bytes: The result's raw size, in bytes, for `reduce_size`.

    Raises:
        StateNotFoundError: The state is not in the store.
        CorruptedStateError: The state is damaged.
        StoreError: The store cannot be read.
    """
    layer = resolve.layer_at(path_map.here(home))
    layer.store.note_hint(uuid, hint)
    return layer.load_state(uuid)


class _Unpickler(pickle.Unpickler):
    """Finds out what `load_result` would be called with."""

    def find_class(self, module: str, name: str) -> Any:
        return _Result if (module, name) == (__name__, "load_result") else super().find_class(module, name)


def _read(path: str | os.PathLike[str]) -> _Result:
    found = None
    with suppress(Exception):  # One of joblib's own results, or another process has just removed it.
        used = os.stat(path)
        with open(path, "rb") as file:
            found = _Unpickler(file).load()
        # To look at it is not to use it.
        os.utime(path, ns=(used.st_atime_ns, used.st_mtime_ns))
    return found if isinstance(found, _Result) else _Result("", "", "", 0)


register_store_backend("ana", AnaStoreBackend)
