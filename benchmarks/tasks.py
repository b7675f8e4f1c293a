"""One large array for many tasks of a process pool: tasks per second, and what goes through the pipe."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ana
from ana.demo.workers import PipeMeter, pool
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS, size_text

__all__ = ["run", "task_array", "task_joblib", "task_proxy", "task_ref"]

SUM_LENGTH = 1000
BY_VALUE_SHARE = 25
"""Tasks by value are slow, so this many times fewer are measured."""


def run(options: Options) -> Result:
    """Send the array in each way, each to a pool of its own."""
    size_bytes = options.pick(1 << 18, 16 << 20, 64 << 20)
    tasks = options.tasks or options.pick(50, 200, 1000)
    array = WORKLOADS["noise"].make(0, size_bytes)
    here = [name for name, (needs, _) in WAYS.items() if not needs or importlib.util.find_spec(needs) is not None]
    counts = {name: max(1, tasks // BY_VALUE_SHARE) if name == BY_VALUE else tasks for name in here}
    found: dict[str, list[_Sent]] = {name: [] for name in here}
    rounds = options.round_count(3)
    for _ in range(rounds):
        for name in here:
            with measure.emptied(options.folder / "tasks") as folder:
                found[name].append(WAYS[name][1](array, counts[name], options.workers, folder))
    rows = [_row(name, sent, counts[name]) for name, sent in found.items()]
    _compare(rows)
    rows += [{"way": f"{name}: not installed, `pip install -e '.[bench]'`"} for name in WAYS if name not in here]
    title = f"An array of {size_text(size_bytes)} for the tasks of a pool of {options.workers} processes"
    note = (
        "A task sums 1000 numbers of the array. The workers are started first. The time includes storing the array, "
        "if it is stored, and ends with the last result. ANA waits for the disk, as by default; the others do not. "
        "Fewer tasks are sent by value. Bytes are those of the pickles in both directions. They cannot be counted for "
        "joblib's own pool, which sends tasks in batches."
    )
    return Result("tasks", options.size, [Table("tasks", title, rows, note)], machine(options.folder))


class _Sent:
    """The cost of running all tasks."""

    def __init__(self, seconds: float, pipe_bytes: int | None, total: float) -> None:
        self.seconds = seconds
        self.pipe_bytes = pipe_bytes
        self.total = total


def _row(name: str, sent: Sequence[_Sent], tasks: int) -> Row:
    """Make a row of the medians of all rounds; bytes are the same in each."""
    seconds, pipe_bytes = measure.median(found.seconds for found in sent), sent[0].pipe_bytes
    return {
        "way": name,
        "tasks": tasks,
        "rounds": len(sent),
        "seconds": seconds,
        "tasks/s": tasks / seconds,
        "bytes through the pipe per task": None if pipe_bytes is None else pipe_bytes / tasks,
    }


def _compare(rows: list[Row]) -> None:
    """Add each way's speed relative to sending by value."""
    base = rows[0]["tasks/s"]
    for row in rows:
        speed = row.get("tasks/s")
        if isinstance(speed, float) and isinstance(base, float):
            row["times as fast as by value"] = speed / base


def _collect(
    executor: ProcessPoolExecutor, prepare: Callable[[], Any], task: Callable[[Any, int], float], count: int
) -> _Sent:
    meter = PipeMeter()
    with meter.counting():
        begin = time.perf_counter()
        sent = prepare()
        futures = [executor.submit(task, sent, number) for number in range(count)]
        total = sum(future.result() for future in futures)
        seconds = time.perf_counter() - begin
    return _Sent(seconds, meter.sent_bytes + meter.received_bytes, total)


def task_array(array: Any, number: int) -> float:
    """Sum some numbers of the array: what each task does."""
    start = number * SUM_LENGTH % (len(array) - SUM_LENGTH)
    return float(array[start : start + SUM_LENGTH].sum())


def task_joblib(path: str, number: int) -> float:
    """Map the file that joblib dumped, as its own workers do."""
    return task_array(importlib.import_module("joblib").load(path, mmap_mode="r"), number)


def task_proxy(proxy: Any, number: int) -> float:
    """Use a proxy, which loads its target; ProxyStore keeps the target for the next task."""
    return task_array(np.asarray(proxy), number)


def task_ref(ref: ana.Ref[Any], number: int) -> float:
    """Use a reference, which loads its value; ANA keeps the value for the next task."""
    return task_array(ref.value, number)


def _by_value(array: Any, count: int, workers: int, _folder: Path) -> _Sent:
    with pool(workers) as executor:
        return _collect(executor, lambda: array, task_array, count)


def _by_joblib_file(array: Any, count: int, workers: int, folder: Path) -> _Sent:
    joblib = importlib.import_module("joblib")
    path = str(folder / "array.joblib")

    def prepare() -> str:
        joblib.dump(array, path)
        return path

    with pool(workers) as executor:
        return _collect(executor, prepare, task_joblib, count)


def _by_joblib(array: Any, count: int, workers: int, folder: Path) -> _Sent:
    joblib = importlib.import_module("joblib")
    with joblib.Parallel(n_jobs=workers, temp_folder=str(folder), max_nbytes="100K") as parallel:
        # The workers start here, outside the measured time.
        parallel(joblib.delayed(task_array)(np.zeros(2 * SUM_LENGTH), number) for number in range(workers))
        begin = time.perf_counter()
        total = sum(parallel(joblib.delayed(task_array)(array, number) for number in range(count)))
        seconds = time.perf_counter() - begin
    importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)
    return _Sent(seconds, None, total)


def _by_proxy(array: Any, count: int, workers: int, folder: Path) -> _Sent:
    connector = importlib.import_module("proxystore.connectors.file").FileConnector(str(folder / "proxystore"))
    with (
        importlib.import_module("proxystore.store").Store("tasks", connector, register=True) as store,
        pool(workers) as executor,
    ):
        return _collect(executor, partial(store.proxy, array), task_proxy, count)


def _by_ana(array: Any, count: int, workers: int, folder: Path) -> _Sent:
    with ana.using_dl(pickle_dir=folder / "tree"), pool(workers) as executor:
        return _collect(executor, lambda: ana.Ref(array), task_ref, count)


BY_VALUE = "by value"
WAYS: dict[str, tuple[str, Callable[[Any, int, int, Path], _Sent]]] = {
    BY_VALUE: ("", _by_value),
    "joblib file, mapped": ("joblib", _by_joblib_file),
    "joblib.Parallel, its own pool": ("joblib", _by_joblib),
    "ProxyStore file": ("proxystore", _by_proxy),
    "ANA": ("", _by_ana),
}
