"""`joblib.Parallel` on an `ana.Executor`."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from support.engines import require
from support.tasks import double, fail, total, whoami

import ana
from ana import maintenance

joblib = pytest.importorskip("joblib", reason="pip install joblib")
ExecutorBackend = pytest.importorskip("ana.integrations.joblib").ExecutorBackend

LARGE = np.arange(125_000.0)


def test_an_array_that_all_calls_take_is_stored_once_and_not_sent(recording, tmp_path):
    """Five batches carry no array, and the store holds one."""
    with (
        ana.using_dl(pickle_dir=tmp_path / "store"),
        ana.Executor(recording) as executor,
        joblib.parallel_config(ExecutorBackend(executor, 2), n_jobs=-1),
    ):
        sums = joblib.Parallel(batch_size=2)(joblib.delayed(total)(LARGE) for _ in range(10))
    assert sums == [LARGE.sum()] * 10
    assert recording.sent < 5 * 3000
    assert sum(1 for _ in maintenance.ls(str(tmp_path / "store"))) == 1


def test_calls_run_in_the_processes_of_the_pool(tmp_path):
    """The pool is used as it is, again and again, and is open afterwards."""
    with ana.using_dl(pickle_dir=tmp_path / "store"), ProcessPoolExecutor(2) as pool, ana.Executor(pool) as executor:
        workers = set()
        for _ in range(2):
            with joblib.parallel_config(ExecutorBackend(executor, 2), n_jobs=2):
                found = joblib.Parallel(return_as="generator")(joblib.delayed(whoami)(LARGE) for _ in range(8))
                workers |= {process for _, _, process in found}
        assert workers <= set(pool._processes)
        assert executor.submit(double, 2).result() == 4


def test_an_error_is_raised_what_waits_is_cancelled_and_the_executor_goes_on(recording):
    """The error is the task's own."""
    error = ArithmeticError("the task's own")
    with ana.Executor(recording) as executor, joblib.parallel_config(ExecutorBackend(executor, 2), n_jobs=2):
        with pytest.raises(ArithmeticError, match="the task's own"):
            joblib.Parallel(pre_dispatch="all")(joblib.delayed(fail)(0, error) for _ in range(9))
        assert joblib.Parallel()(joblib.delayed(double)(x) for x in range(3)) == [0, 2, 4]


@pytest.mark.parametrize(("n_jobs", "meant"), [(None, 1), (1, 1), (3, 3), (-1, 4), (-2, 3), (-9, 1)])
def test_n_jobs_counts_from_the_workers(recording, n_jobs, meant):
    """Negative numbers count back from all workers, as everywhere in joblib."""
    with ana.Executor(recording) as executor:
        assert ExecutorBackend(executor, 4).effective_n_jobs(n_jobs) == meant


def test_what_is_no_executor_of_ana_is_refused(recording):
    """Before any task: the error names what to write."""
    with pytest.raises(TypeError, match=r"ana\.Executor\(pool\)"):
        ExecutorBackend(recording, 2)
    with ana.Executor(recording) as executor, pytest.raises(ValueError, match="at least 1, not 0"):
        ExecutorBackend(executor, 0)
    with ana.Executor(recording) as executor, pytest.raises(ValueError, match="n_jobs must not be 0"):
        joblib.Parallel(0, backend=ExecutorBackend(executor, 2))(joblib.delayed(double)(x) for x in range(3))


@pytest.mark.slow
def test_a_grid_search_finds_what_it_finds_without(tmp_path):
    """The scores of a grid search are those of one process, and its data is stored once for all fits."""
    require("sklearn")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    x = np.random.default_rng(0).normal(size=(5000, 40))
    y = x.sum(1) + np.random.default_rng(1).normal(size=5000)
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0]}, cv=3)
    expected = search.fit(x, y).cv_results_["mean_test_score"]
    with (
        ana.using_dl(pickle_dir=tmp_path / "store"),
        ProcessPoolExecutor(2) as pool,
        ana.Executor(pool) as executor,
        joblib.parallel_config(ExecutorBackend(executor, 2), n_jobs=-1),
    ):
        found = search.fit(x, y).cv_results_["mean_test_score"]
    assert list(found) == list(expected)
    assert [entry.raw_bytes for entry in maintenance.ls(str(tmp_path / "store"))].count(x.nbytes) == 1
