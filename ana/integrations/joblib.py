"""joblib: a backend whose tasks run on an `ana.Executor`, and so on mpi4py, Dask, Parsl or any pool that it wraps.

```python
with ana.Executor(pool) as executor, joblib.parallel_config(ExecutorBackend(executor, workers=64), n_jobs=-1):
    GridSearchCV(model, parameters).fit(X, y)          # X and y are stored once, and loaded once per worker
```
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from ana.tasks.executor import Executor

__all__ = ["ExecutorBackend"]


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
            TypeError: `executor` is not an `ana.Executor`.
            ValueError: `workers` is not positive.

        """
        super().__init__(**options)
        given: object = executor
        if not isinstance(given, Executor):
            msg = f"ExecutorBackend takes an ana.Executor, not a {type(executor).__name__}: ana.Executor(pool)"
            raise TypeError(msg)
        if workers < 1:
            msg = f"workers must be at least 1, not {workers}"
            raise ValueError(msg)
        self._executor = executor
        self._workers = workers
        self._pending: set[concurrent.futures.Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at a time. -1 is all workers, -2 all but one."""
        if n_jobs is None:
            return 1
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
