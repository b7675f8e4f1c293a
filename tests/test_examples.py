"""The examples that users copy, run for real.

RECORD_OUTPUTS=1 records what they print, for docs/gallery.md: `python docs/generate.py` makes it.
"""

import ast
import importlib.util
import os
import re
import sys

import pytest
from support import processes
from support.engines import LAB, on_ranks, require, run

EXAMPLES = processes.ROOT / "examples"
OUTPUTS = processes.ROOT / "docs" / "outputs"
SUM = sum(range(100_000)) * sum(range(100))
"""What the examples compute of their model, in 100 tasks."""
SUM_OF_ARRAY = sum(range(100_000)) * sum(range(8))

EXAMPLE = {
    "multiprocessing_pool.py fork": {},
    "multiprocessing_pool.py spawn": {},
    "multiprocessing_pool.py forkserver": {},
    "futures_pool.py": {},
    "executor_array.py": {"needs": ["numpy"]},
    "executor_dask.py": {"needs": ["distributed", "pandas"], "slow": True},
    "executor_gridsearch.py": {"needs": ["joblib", "sklearn"], "slow": True, "prints": "fits: 20 best: {'C': 0.01}"},
    "executor_results.py": {
        "needs": ["numpy"],
        "prints": "means: [0.798, 0.796, 0.798, 0.798]\nloaded here: 84 of 32,000,000 bytes\n",
    },
    "executor_samplers.py": {
        "needs": ["dynesty", "emcee"],
        "slow": True,
        "prints": "emcee: (100, 16, 2)\ndynesty: 2\n",
    },
    "executor_torch.py": {"needs": ["torch"], "slow": True, "prints": "sum of results: 2800000.0"},
    "ref_unwrap.py": {"needs": ["emcee", "schwimmbad"], "slow": True, "prints": "chain: (20, 16, 2)"},
    "sweep_shared_array.py": {"needs": ["numpy"], "prints": "sum of results: 3062500000.0\nstored: 20 MB\n"},
    "joblib_loky.py": {"needs": ["joblib"], "more": "in the cache: True"},
    "dask_workers.py": {"needs": ["distributed"], "more": f"of a half: {sum(range(100_000)) / 2}", "slow": True},
    "dask_slurm.py": {"needs": ["dask_jobqueue"], "slurm": True},
    "slurm_array.py": {"slurm": True, "total": SUM_OF_ARRAY, "more": "of the same model: True"},
    "staged_array.py": {
        "slurm": True,
        "total": sum(range(100_000)) * sum(range(200)),
        "more": "loaded from the nodes: 200, from the store: 0",
        "timeout": 900,
    },
    "submitit_slurm.py": {"needs": ["submitit"], "slurm": True, "total": SUM_OF_ARRAY},
    "mpi_ranks.py": {"needs": ["mpi4py"], "ranks": 4},
    "mpi_futures.py": {"needs": ["mpi4py"], "ranks": 3, "module": ["-m", "mpi4py.futures"]},
    "parsl_htex.py": {"needs": ["parsl"], "slow": True},
    "ray_tasks.py": {"needs": ["ray"], "slow": True},
    "executorlib_pool.py": {"needs": ["executorlib"], "slow": True},
}


def example_parameters():
    """Return each example; those that need more than a second or two are not for every day."""
    not_for_every_day = {"slow", "slurm", "ranks"}
    return [
        pytest.param(command, how, id=command, marks=[pytest.mark.slow] if not_for_every_day & how.keys() else [])
        for command, how in EXAMPLE.items()
        if "torch" not in how.get("needs", []) or importlib.util.find_spec("torch")  # see tests/conftest.py
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "how"), example_parameters())
def test_example(command, how, short_folder):
    """An example, run as its first line says, prints what it should, and leaves its model in the store."""
    script, *arguments = command.split()
    require(*how.get("needs", []), slurm="slurm" in how, mpi="ranks" in how)
    starter = on_ranks(how["ranks"]) if "ranks" in how else [sys.executable]
    starter = [LAB, *starter] if "slurm" in how else starter
    timeout = how.get("timeout", processes.PATIENCE_SECONDS)
    printed = run(*starter, *how.get("module", []), EXAMPLES / script, *arguments, folder=short_folder, timeout=timeout)
    assert how.get("prints", f"sum of results: {how.get('total', SUM)}") in printed
    assert how.get("more", "") in printed
    recorded = OUTPUTS / f"{script.removesuffix('.py')}.txt"
    if "RECORD_OUTPUTS" in os.environ:
        recorded.write_text(stable(printed), encoding="utf-8")
    assert stable(printed) == recorded.read_text(encoding="utf-8")
    assert list((short_folder / "pickles").rglob("*.pkl.zst")) or list((short_folder / "pickles").rglob("*.pack.zst"))


def stable(printed):
    """Return what an example prints without submitit's warnings: the lab has no sacct, so there are more or fewer."""
    return "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("submitit WARNING"))


def test_each_example_is_run():
    """No example is without its test, and each is named by a page."""
    scripts_here = {path.name for path in EXAMPLES.glob("*.py")}
    assert {command.split()[0] for command in EXAMPLE} == scripts_here
    pages = [path.read_text(encoding="utf-8") for path in (processes.ROOT / "docs").glob("*.md")]
    assert set(re.findall(r"examples/(\w+\.py)", "".join(pages))) == scripts_here


@pytest.mark.once
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_begins_with_its_use(path):
    """At most 40 lines. First a line that says what it shows, then the command that starts it."""
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 40
    summary, _, start, *_ = ast.get_docstring(ast.parse(source), clean=False).split("\n")
    assert summary.endswith(".")
    assert re.match(rf"(mpiexec -n \d+ )?python (-m [\w.]+ )?examples/{path.name}( \[[\w |]+\])?$", start)
