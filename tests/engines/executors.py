"""What `ana.Executor` promises on every engine's executor, tried on one of them.

`python executors.py ENGINE FOLDER [METHOD]` prints what happened, as JSON. The tasks are this script's own, and know
nothing of ANA.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import ana
from ana import maintenance

SIZE_BYTES = 2_000_000
TASKS = 8


class Point:
    """Something small of the script's own."""

    def __init__(self, x):
        self.x = x


class OwnError(Exception):
    """An error of the script's own."""


class Model:
    """Something with a large array."""

    def __init__(self):
        self.weights = np.arange(SIZE_BYTES // 8, dtype=float)

    def at(self, number):
        return float(self.weights[number])


def where(data):
    """Be a task: say where the array is, in which process."""
    return os.getpid(), data.ctypes.data, data.flags.writeable, float(data.sum())


def double(data):
    """Be a task with a large result."""
    return data * 2


def text(length):
    """Be a task with a large text."""
    return "é" * length


def move(point):
    """Be a task that takes and returns an object of the script's own class."""
    return Point(point.x + 1)


def refuse(data):
    """Be a task that fails."""
    raise OwnError("too large", data.nbytes)


def attempt(task):
    """Return what a call raises, in words."""
    try:
        return ["no error", repr(task())]
    except Exception as error:
        trace = "".join(str(link) for link in (error.__cause__, error) if link is not None)
        return [type(error).__name__, trace]


async def awaited(future):
    """Wait for a future in asyncio."""
    return await asyncio.wrap_future(future)


def try_all(executor, folder):
    """Do everything that is promised, once; return what happened."""
    data = np.arange(SIZE_BYTES // 8, dtype=float)
    # More than one at a time, so that both workers have some.
    seen = [future.result() for future in [executor.submit(where, data) for _ in range(TASKS)]]
    found = {
        "right": all(sum_ == float(data.sum()) for *_, sum_ in seen),
        "read-only": not any(writeable for _, _, writeable, _ in seen),
        "elsewhere": os.getpid() not in {pid for pid, *_ in seen},
        "copies": len({(pid, place) for pid, place, *_ in seen}),
        "workers": len({pid for pid, *_ in seen}),
    }
    result = executor.submit(double, data).result()
    found["result"] = bool(np.array_equal(result, data * 2)) and result.flags.writeable
    found["map"] = list(executor.map(Model().at, range(5), chunksize=2)) == [0, 1, 2, 3, 4]
    found["partial"] = executor.submit(functools.partial(where, data)).result()[3] == float(data.sum())
    found["closure"] = executor.submit(lambda: float(data[7])).result()
    found["text"] = executor.submit(text, SIZE_BYTES).result() == "é" * SIZE_BYTES
    found["class"] = type(executor.submit(move, Point(1)).result()) is Point
    found["ref"] = executor.submit(where, ana.Ref(data)).result()[3] == float(data.sum())

    futures = [executor.submit(double, data) for _ in range(3)]
    found["futures"] = all(isinstance(future, concurrent.futures.Future) for future in futures)
    found["completed"] = len([future.result() for future in concurrent.futures.as_completed(futures)])
    called = []
    futures[0].add_done_callback(lambda future: called.append(float(future.result()[1])))
    found["callback"] = called
    found["awaited"] = float(asyncio.run(awaited(executor.submit(double, data)))[1])
    found["error"] = attempt(executor.submit(refuse, data).result)

    other = np.random.default_rng(0).random(SIZE_BYTES // 8)
    packed = executor._begin().packer.pack((where, (other,), {}))
    newest = max(folder.rglob("*.pkl.zst"), key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()
    missing = executor._send(executor._begin(), None, packed, 0)
    found["missing"] = attempt(missing.result)
    found["uuid"] = newest.name.split(".")[0]
    found["after"] = executor.submit(where, data).result()[3] == float(data.sum())
    return found


@contextlib.contextmanager
def futures_pool(folder):
    """concurrent.futures, with the start method that is asked for."""
    import multiprocessing

    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[3])) as pool:
        yield pool


@contextlib.contextmanager
def loky_pool(folder):
    """Loky."""
    import loky

    with loky.ProcessPoolExecutor(2) as pool:
        yield pool


@contextlib.contextmanager
def mpi_pool(folder):
    """mpi4py.futures, under `mpiexec -n 3 python -m mpi4py.futures`."""
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as pool:
        yield pool


@contextlib.contextmanager
def dask_pool(folder):
    """Dask's client."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(folder / "dask")
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def executorlib_pool(folder):
    """Executorlib on one node."""
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=2, block_allocation=True, hostname_localhost=True) as executor:
        yield executor


@contextlib.contextmanager
def parsl_pool(folder):
    """Parsl's HighThroughputExecutor."""
    import parsl
    from parsl.concurrent import ParslPoolExecutor

    executor = parsl.HighThroughputExecutor(
        max_workers_per_node=2,
        address="127.0.0.1",
        cores_per_worker=0.5,
        encrypted=False,
        provider=parsl.providers.LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = parsl.Config(executors=[executor], run_dir=str(folder / "runinfo"), usage_tracking=0, strategy="none")
    with ParslPoolExecutor(config) as pool:
        yield pool


POOLS = {
    "futures": futures_pool,
    "loky": loky_pool,
    "mpi": mpi_pool,
    "dask": dask_pool,
    "executorlib": executorlib_pool,
    "parsl": parsl_pool,
}


def main():
    """Try one engine."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    store = folder / "store"
    ana.set_dl(pickle_dir=store)
    began = time.monotonic()
    with POOLS[name](folder) as pool, ana.Executor(pool) as executor:
        found = try_all(executor, store)
    found["problems"] = [str(problem) for problem in maintenance.verify(str(store)).problems]
    found["seconds"] = time.monotonic() - began
    print(json.dumps(found))


if __name__ == "__main__":
    main()
