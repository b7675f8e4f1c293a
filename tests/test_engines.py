"""Engines, for real: what ANA promises in each of them.

`tests/engines/contract.py` tries everything once in one engine and says what happened; each promise is a test of
that. Those on Slurm run in `tests/slurm/lab`.
"""

import functools
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from support import processes
from support.engines import LAB, on_ranks, require, run

ENGINES = Path(__file__).parent / "engines"
TASKS = 8
SIZE_BYTES = 2_000_000
REFERENCE_BYTES = 12_000
"""What a task may send: dask pickles the task's class and functions, by value, for each."""

EVERY_DAY = [
    *(f"multiprocessing-{method}" for method in ("fork", "spawn", "forkserver")),
    "futures-spawn",
    "joblib",
]
NEEDS = {
    "joblib": ["joblib"],
    "dask-plugin": ["distributed"],
    "dask-preload": ["distributed"],
    "dask-jobqueue": ["dask_jobqueue"],
    "slurm-array": ["cloudpickle"],
    "submitit": ["submitit"],
    "mpi-futures": ["mpi4py"],
    "parsl": ["parsl"],
    "ray": ["ray"],
    "executorlib": ["executorlib"],
}
ON_SLURM = {"dask-jobqueue", "slurm-array", "submitit"}
ONE_PROCESS_PER_TASK = {"slurm-array", "submitit"}
WORDS_ONLY = {"slurm-array", "submitit"}
"""Engines that hand a task's error on as text."""

ERRORS = {"missing": "StateNotFoundError", "damaged": "CorruptedStateError", "method": "StateNotFoundError"}
"""What a task raises whose argument's state is missing or damaged; or that is a method of such an object."""

OTHERS = ["futures-fork", "futures-forkserver", *(name for name in NEEDS if name not in EVERY_DAY)]
PARAMETERS = [*EVERY_DAY, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
EACH = pytest.mark.parametrize("engine", PARAMETERS)


@functools.cache
def tried(engine):
    """Run the contract in an engine, once for all tests of it; return what happened."""
    require(*NEEDS.get(engine, []), slurm=engine in ON_SLURM, mpi=engine == "mpi-futures")
    starter = [sys.executable]
    if engine in ON_SLURM:
        starter = [LAB, sys.executable]
    if engine == "mpi-futures":
        starter = [*on_ranks(3), "-m", "mpi4py.futures"]
    with tempfile.TemporaryDirectory(prefix="ana-") as folder:
        printed = run(*starter, ENGINES / "contract.py", engine, folder, folder=folder, PYTHONPATH=python_path())
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


def python_path():
    """Return a PYTHONPATH with ana and the contract's own modules on it."""
    return os.pathsep.join([str(processes.ROOT), str(ENGINES)])


@pytest.mark.slow
@EACH
def test_nothing_but_references_travels(engine):
    """The engine's own pickles of 8 tasks are a few kB each, the state being 2 MB; the counter does see states."""
    found = tried(engine)
    assert found["copy"] == ["by value", SIZE_BYTES, found["copy"][2], "part of by value"]
    assert found["bytes by value"] > SIZE_BYTES
    assert 0 < found["bytes by reference"] < TASKS * REFERENCE_BYTES
    assert found["right"] == [True] * TASKS
    assert found["as a method"] == [3 * SIZE_BYTES]


@EACH
def test_a_worker_loads_once_and_not_once_per_task(engine):
    """Of 8 tasks on one object, in workers that were there before it; other processes load it not at all."""
    found = tried(engine)
    assert found["loads"] == dict.fromkeys(found["workers"], 1)
    assert 0 < len(found["workers"]) <= (TASKS if engine in ONE_PROCESS_PER_TASK else 2)


@EACH
def test_classes_of_main_are_the_same_in_tasks_and_in_states(engine):
    """What an object refers to is of the class that the task knows, and the very object that came with the task."""
    assert tried(engine)["same"] == [True]


@EACH
@pytest.mark.parametrize(("problem", "error"), ERRORS.items())
def test_a_state_that_cannot_be_had_fails_its_task_alone(engine, problem, error):
    """With an error that names its type and the UUID; the next task of the same pool works."""
    found = tried(engine)
    names, words = found[problem]
    assert error in (words if engine in WORDS_ONLY else names.split())
    assert found["uuids"][problem] in words
    assert found["after"] is True


@EACH
def test_results_come_back_by_reference(engine):
    """What a task has stored arrives whole, under its UUID, of the script's class, loaded once; its pickle is small."""
    result = tried(engine)["result"]
    size = result.pop("bytes")
    assert result.pop("loads") == 1
    assert result == dict.fromkeys(["by reference", "same address", "elsewhere", "right", "class"], True)
    assert size is None or 0 < size < 20_000
