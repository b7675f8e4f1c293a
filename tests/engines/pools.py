"""Each engine as a pool of two workers: set up as its users do, with what it sends and gets back counted.

A pool maps a function over arguments, one task each. `sent` and `returned` say how many bytes of pickles the
engine has sent from this process, and got back (None where that cannot be seen here).
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

WORKERS = 2
PATIENCE_SECONDS = 120


class Pool:
    """A function that maps over arguments, and the engine's counters."""

    def __init__(self, run, sent, returned=None):
        self.map = run
        self.sent = sent
        self.returned = returned


class Meter:
    """Counts the bytes that go through a function."""

    def __init__(self):
        self.total = 0

    def __call__(self):
        return self.total

    def before(self, owner, name, size):
        """Have what goes into a function counted, before it does: an answer may come before it returns."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def counting(*arguments, **options):
            self.total += size(*arguments)
            return function(*arguments, **options)

        setattr(owner, name, counting)
        return self

    def after(self, owner, name, size):
        """Have what comes out of a function counted."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def counting(*arguments, **options):
            result = function(*arguments, **options)
            self.total += size(result)
            return result

        setattr(owner, name, counting)
        return self


def connections():
    """Count what goes over the pipes of multiprocessing, which loky uses as well."""
    connection = multiprocessing.connection.Connection
    sent = Meter().before(connection, "_send_bytes", lambda _, data: len(data))
    returned = Meter().after(connection, "_recv_bytes", lambda data: len(data.getbuffer()))
    return sent, returned


@contextlib.contextmanager
def multiprocessing_pool(folder, method):
    """multiprocessing.Pool."""
    counters = connections()
    with multiprocessing.get_context(method).Pool(WORKERS) as pool:
        yield Pool(lambda function, arguments: pool.map_async(function, arguments, 1).get(PATIENCE_SECONDS), *counters)
        pool.close()
        pool.join()


@contextlib.contextmanager
def futures(folder, method):
    """concurrent.futures.ProcessPoolExecutor."""
    import concurrent.futures

    counters = connections()
    with concurrent.futures.ProcessPoolExecutor(WORKERS, multiprocessing.get_context(method)) as pool:
        yield Pool(lambda function, arguments: list(pool.map(function, arguments, timeout=PATIENCE_SECONDS)), *counters)


@contextlib.contextmanager
def joblib_loky(folder):
    """Joblib with its default backend, whose workers are used again by the next Parallel."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    def run(function, arguments):
        tasks = [joblib.delayed(function)(argument) for argument in arguments]
        return joblib.Parallel(n_jobs=WORKERS, batch_size=1, timeout=PATIENCE_SECONDS)(tasks)

    try:
        yield Pool(run, *connections())
    finally:
        get_reusable_executor().shutdown()


def dask_pool(client):
    """Return a pool for a Dask client, counting what this process writes to its sockets."""
    from distributed.comm import tcp

    sent = Meter().after(tcp, "_add_frames_header", lambda framed: framed[2])

    def run(function, arguments):
        return client.gather([client.submit(function, argument, pure=False) for argument in arguments])

    return Pool(run, sent)


@contextlib.contextmanager
def dask_local(folder):
    """Workers of a LocalCluster, with the plugin."""
    import distributed

    from ana.integrations.dask import AnaPlugin

    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=str(folder / "dask")
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_plugin(AnaPlugin())
        yield dask_pool(client)


@contextlib.contextmanager
def dask_preload(folder):
    """A scheduler and workers of their own, started by commands, with `--preload`."""
    import distributed

    contact, dask = str(folder / "scheduler.json"), str(Path(sys.executable).with_name("dask"))
    environment = {**os.environ, "ANA_PICKLE_DIR": str(folder / "store")}
    preload = ("--preload", "ana.integrations.dask")
    quiet = {"env": environment, "cwd": folder, "stdout": subprocess.DEVNULL}
    scheduler = ("scheduler", "--scheduler-file", contact, "--no-dashboard", "--host", "127.0.0.1", "--port", "0")
    worker = ("worker", "--scheduler-file", contact, "--nworkers", str(WORKERS), "--nthreads", "1", "--no-dashboard")
    with contextlib.ExitStack() as stack:
        for words in (scheduler, worker):
            with open(folder / f"{words[0]}.log", "wb") as log:
                process = subprocess.Popen([dask, *words, *preload], stderr=log, **quiet)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        while not os.path.exists(contact):
            time.sleep(0.05)
        client = stack.enter_context(distributed.Client(scheduler_file=contact))
        client.wait_for_workers(WORKERS, timeout=PATIENCE_SECONDS)
        yield dask_pool(client)


@contextlib.contextmanager
def dask_jobqueue(folder):
    """Workers that are Slurm jobs."""
    import distributed
    from dask_jobqueue.slurm import SLURMCluster

    with (
        SLURMCluster(
            cores=1,
            processes=1,
            memory="400MB",
            python=sys.executable,
            interface="lo",
            log_directory=str(folder / "jobs"),
            local_directory=str(folder / "dask"),
            scheduler_options={"dashboard_address": None},
            job_extra_directives=["--export=NONE"],
            job_script_prologue=prologue(),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        cluster.scale(jobs=WORKERS)
        client.wait_for_workers(WORKERS, timeout=PATIENCE_SECONDS)
        yield dask_pool(client)


def prologue():
    """Return what a job's script begins with: with --export=NONE its environment is a login's."""
    names = ("PYTHONPATH", "SLURM_CONF")
    # Slurm hands NONE down to the srun within a job, too, where submitit says which task it is.
    return [
        "export SLURM_EXPORT_ENV=ALL",
        *(f"export {name}='{os.environ[name]}'" for name in names if name in os.environ),
    ]


@contextlib.contextmanager
def slurm_array(folder):
    """A job array: its tasks are pickled to a file each, by us, for no library does that."""
    import cloudpickle

    count, sizes = Meter(), Meter()

    def run(function, arguments):
        tasks = folder / f"array-{count.total}"
        count.total += 1
        tasks.mkdir()
        for number, argument in enumerate(arguments):
            data = cloudpickle.dumps((function, argument))
            sizes.total += len(data)
            (tasks / f"{number}.task").write_bytes(data)
        return in_array(tasks, number + 1)

    yield Pool(run, sizes, lambda: sum(file.stat().st_size for file in folder.glob("array-*/*.result")))


ARRAY_TASK = """\
import os, pickle, sys
name = sys.argv[1] + "/" + os.environ["SLURM_ARRAY_TASK_ID"]
with open(name + ".task", "rb") as file:
    function, argument = pickle.load(file)
import cloudpickle
result = function(argument)
with open(name + ".part", "wb") as file:
    cloudpickle.dump(result, file)
os.rename(name + ".part", name + ".result")
"""


def in_array(tasks, count):
    """Run the tasks of a folder as a job array of four-way width; return what they returned, raise what one raised."""
    script = tasks / "job.sh"
    words = f"'{sys.executable}' -c '{ARRAY_TASK}' '{tasks}'"
    script.write_text("\n".join(["#!/bin/bash", *prologue(), words, ""]), encoding="utf-8")
    submit = [
        "sbatch",
        "--parsable",
        "--export=NONE",
        f"--array=0-{count - 1}",
        f"--output={tasks}/%a.log",
        str(script),
    ]
    job = subprocess.run(submit, check=True, capture_output=True, text=True).stdout.strip()
    while subprocess.run(["squeue", "-h", "-j", job], check=True, capture_output=True).stdout:
        time.sleep(0.1)
    results = [tasks / f"{number}.result" for number in range(count)]
    for number, result in enumerate(results):
        if not result.exists():
            raise RuntimeError((tasks / f"{number}.log").read_text())
    return [pickle.loads(result.read_bytes()) for result in results]


@contextlib.contextmanager
def submitit_slurm(folder):
    """Submitit's executor for Slurm."""
    import submitit

    executor = submitit.SlurmExecutor(folder=str(folder / "jobs"), max_num_timeout=0)
    executor.update_parameters(
        time=5, cpus_per_task=1, array_parallelism=4, additional_parameters={"export": "NONE"}, setup=prologue()
    )

    def run(function, arguments):
        jobs = executor.map_array(function, list(arguments))
        return [job.result() for job in jobs]

    def total(pattern):
        return [file.stat().st_size for file in (folder / "jobs").rglob(pattern)]

    yield Pool(run, lambda: sum(total("*_submitted.pkl")), lambda: sum(total("*_result.pkl")))


@contextlib.contextmanager
def mpi_futures(folder):
    """mpi4py.futures, under `mpiexec -n 3 python -m mpi4py.futures`."""
    from mpi4py import MPI
    from mpi4py.futures import MPIPoolExecutor

    sent, returned = Meter(), Meter()

    def dumps(*arguments):
        data = pickle.dumps(*arguments)
        sent.total += len(data)
        return data

    def loads(data, *arguments):
        returned.total += memoryview(data).nbytes
        return pickle.loads(data, *arguments)

    MPI.pickle.__init__(dumps, loads)
    with MPIPoolExecutor() as pool:
        yield Pool(lambda function, arguments: list(pool.map(function, arguments)), sent, returned)


def zmq_messages():
    """Count what goes over sockets of ZeroMQ, as Parsl and executorlib use them."""
    import zmq

    sent = Meter().before(zmq.Socket, "send", lambda _, data, *more: len(data))
    returned = Meter().after(zmq.Socket, "recv", len)
    return sent, returned


@contextlib.contextmanager
def parsl_htex(folder):
    """Parsl's HighThroughputExecutor."""
    import parsl

    import ana.integrations.parsl

    assert ana.integrations.parsl
    executor = parsl.HighThroughputExecutor(
        max_workers_per_node=WORKERS,
        address="127.0.0.1",
        cores_per_worker=0.5,
        encrypted=False,
        provider=parsl.providers.LocalProvider(init_blocks=1, max_blocks=1),
    )
    counters = zmq_messages()
    config = parsl.Config(executors=[executor], run_dir=str(folder / "runinfo"), usage_tracking=0, strategy="none")
    with parsl.load(config) as kernel:
        yield Pool(
            lambda function, arguments: finish(parsl.python_app(function, data_flow_kernel=kernel), arguments),
            *counters,
        )


def finish(submit, arguments):
    """Submit a task for each argument, then wait for all."""
    return [future.result(PATIENCE_SECONDS) for future in [submit(argument) for argument in arguments]]


def call(function, argument):
    """Be a task of Ray, which takes functions alone, not methods."""
    return function(argument)


@contextlib.contextmanager
def ray_tasks(folder):
    """Ray's worker processes."""
    import ray
    from ray._private.serialization import SerializationContext

    import ana.integrations.ray

    sent = Meter().after(SerializationContext, "serialize", lambda made: made.total_bytes)
    environment = ana.integrations.ray.runtime_env()
    ray.init(
        runtime_env=environment,
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
    )
    try:
        task = ray.remote(call)
        yield Pool(lambda function, arguments: ray.get([task.remote(function, one) for one in arguments]), sent)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def executorlib_pool(folder):
    """Executorlib's executor on one node: its workers stay (`block_allocation`)."""
    from executorlib import SingleNodeExecutor

    counters = zmq_messages()
    with SingleNodeExecutor(max_workers=WORKERS, block_allocation=True, hostname_localhost=True) as executor:
        yield Pool(
            lambda function, arguments: finish(functools.partial(executor.submit, function), arguments), *counters
        )


ENGINES = {
    **{
        f"{name}-{method}": functools.partial(pool, method=method)
        for name, pool in (("multiprocessing", multiprocessing_pool), ("futures", futures))
        for method in ("fork", "spawn", "forkserver")
    },
    "joblib": joblib_loky,
    "dask-plugin": dask_local,
    "dask-preload": dask_preload,
    "dask-jobqueue": dask_jobqueue,
    "slurm-array": slurm_array,
    "submitit": submitit_slurm,
    "mpi-futures": mpi_futures,
    "parsl": parsl_htex,
    "ray": ray_tasks,
    "executorlib": executorlib_pool,
}
