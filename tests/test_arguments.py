"""Wrong arguments of public classes: each is refused at once, with an error that names it and what it may be."""

import concurrent.futures
import importlib
import multiprocessing

import numpy as np
import pytest

import ana

pytestmark = pytest.mark.once


@pytest.fixture
def executor(tmp_path):
    """An executor over a thread pool, with a layer over a folder."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, ana.Executor(pool) as made:
        yield made


A_NUMBER = "must be a whole number, at least 1, not"
A_BOOL = "must be True or False, not 'no'"
EXECUTOR = {
    "writable": ({"writable": "no"}, TypeError, f"writable {A_BOOL}"),
    "durable": ({"durable": "no"}, TypeError, f"durable {A_BOOL}"),
    "half a byte": ({"min_bytes": 1.5}, TypeError, "min_bytes must be a number of bytes, or a size such as"),
    "a class": ({"executor": concurrent.futures.ThreadPoolExecutor}, TypeError, "not the class ThreadPoolExecutor"),
}


@pytest.mark.parametrize("case", EXECUTOR)
def test_an_executor(executor, case):
    """A word for a truth value would be true, and a class has no workers."""
    options, kind, message = EXECUTOR[case]
    with pytest.raises(kind) as found:
        ana.Executor(**{"executor": executor, **options})
    assert message in str(found.value)


NUMBERS = [(1.5, TypeError), ("2", TypeError), (None, TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)]


@pytest.mark.parametrize(("number", "kind"), NUMBERS)
@pytest.mark.parametrize("what", ["chunksize", "workers"])
def test_numbers_of_things(executor, what, number, kind):
    """Neither parts of a thing, nor none, nor a word for a number."""
    with pytest.raises(kind) as found:
        numbered(executor, what, number)
    assert str(found.value) == f"{what} {A_NUMBER} {number!r}"
    numbered(executor, what, np.int64(2))


def numbered(executor, what, number):
    """Give an executor, or a backend over it, a number of things."""
    if what == "chunksize":
        assert list(executor.map(str, [1, 2, 3], chunksize=number)) == ["1", "2", "3"]
    else:
        backend = integration("joblib").ExecutorBackend(executor, number)
        assert backend.effective_n_jobs(-1) == 2
        with pytest.raises(TypeError, match=r"n_jobs must be a whole number, not 1\.5"):
            backend.effective_n_jobs(1.5)


def integration(name):
    """Return a module of ana.integrations, if its engine is installed."""
    pytest.importorskip({"dask": "distributed"}.get(name, name))
    return importlib.import_module(f"ana.integrations.{name}")


FOLDERS = [(1, TypeError), ("", ValueError), (["a"], TypeError)]


@pytest.mark.parametrize(("given", "kind"), [*FOLDERS, (None, TypeError)])
def test_the_folder_of_a_connector(given, kind):
    """It has to be one."""
    with pytest.raises(kind, match="pickle_dir") as found:
        integration("proxystore").AnaConnector(given)
    assert str(found.value).count(f"not {given!r}") == 1


def test_a_connector_takes_no_store(tmp_path):
    """It would be passed over without a word."""
    with pytest.raises(TypeError, match="the path of a folder, pickle_dir, not store="):
        integration("proxystore").AnaConnector(str(tmp_path / "c"), store=3)


PLUGIN = [*(({"pickle_dir": given}, kind, "pickle_dir must be") for given, kind in FOLDERS)]
PLUGIN += [
    ({"durabel": True}, TypeError, "is it durable"),
    ({"durable": "no"}, TypeError, "durable must be"),
    ({"keep_bytes": "x"}, ValueError, "keep_bytes must be"),
]


@pytest.mark.parametrize(("options", "kind", "message"), PLUGIN)
def test_a_plugin_for_dask(tmp_path, options, kind, message):
    """An invalid option is an error where it is written, before any worker gets it."""
    with pytest.raises(kind, match=message):
        integration("dask").AnaPlugin(**{"pickle_dir": str(tmp_path), **options})


def test_the_hook_of_rays_workers():
    """A hook of the user would be passed over without a word."""
    module = integration("ray")
    with pytest.raises(TypeError, match=r"call ana\.integrations\.ray\.share_classes\(\)"):
        module.runtime_env(worker_process_setup_hook=print)


@pytest.mark.parametrize("given", [ana.Ref(1), 1, None])
def test_what_a_fork_server_loads(executor, given):
    """A list of objects, not an object."""
    with pytest.raises(TypeError, match=rf"preload takes a list of objects, not .*{type(given).__name__}"):
        integration("multiprocessing").preload(given)
    assert multiprocessing.active_children() == []
