"""`ana.Executor` on every engine that has an executor; `tests/engines/executors.py` tries everything in one."""

import functools
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from support import processes
from support.engines import on_ranks, require, run

ENGINES = Path(__file__).parents[1] / "engines"
NEEDS = {
    "futures fork": [],
    "futures spawn": [],
    "futures forkserver": [],
    "loky": ["loky", "cloudpickle"],
    "mpi": ["mpi4py", "cloudpickle"],
    "dask": ["distributed"],
    "executorlib": ["executorlib"],
    "parsl": ["parsl", "cloudpickle"],
}
SLOW = {"futures forkserver", "mpi", "dask", "executorlib", "parsl"}
EACH = pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NEEDS]
)


@functools.cache
def tried(engine):
    """Try everything on an engine, once for all tests of it; return what happened."""
    require("numpy", *NEEDS[engine], mpi=engine == "mpi")
    name, *method = engine.split()
    starter = [*on_ranks(3), "-m", "mpi4py.futures"] if engine == "mpi" else [sys.executable]
    path = os.pathsep.join([str(processes.ROOT), str(ENGINES)])
    with tempfile.TemporaryDirectory(prefix="ana-") as folder:
        printed = run(*starter, ENGINES / "executors.py", name, folder, *method, folder=folder, PYTHONPATH=path)
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


@EACH
def test_tasks_see_plain_values(engine):
    """Whatever hides a large array, and whatever is large by itself; classes and functions of the script included."""
    found = tried(engine)
    assert {
        name: found[name] for name in ("right", "result", "map", "partial", "text", "class", "ref")
    } == dict.fromkeys(("right", "result", "map", "partial", "text", "class", "ref"), True)
    assert found["closure"] == 7


@EACH
def test_a_worker_has_one_copy(engine):
    """All tasks of a process see the same memory, which none can write to."""
    found = tried(engine)
    assert found["elsewhere"]
    assert found["read-only"]
    assert 1 <= found["copies"] == found["workers"] <= 2


@EACH
def test_futures_work(engine):
    """Callbacks, as_completed and asyncio see results."""
    found = tried(engine)
    assert found["futures"]
    assert (found["completed"], found["callback"], found["awaited"]) == (3, [2.0], 2.0)


@EACH
def test_errors_are_the_tasks_own(engine):
    """Of the script's class; a missing state is named by its own task, and the next task works."""
    found = tried(engine)
    assert found["error"][0] == "OwnError"
    assert found["missing"][0] == "StateNotFoundError"
    assert found["uuid"] in found["missing"][1]
    assert found["after"]
    assert found["problems"] == []
