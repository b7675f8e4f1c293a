"""`ana.unwrap`: Refs among a function's arguments become their values inside it."""

import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

import ana


@ana.unwrap
def weigh(mesh, factor=1, *, extra=0):
    """Be a task."""
    return sum(mesh) * factor + extra


@ana.unwrap
def kinds(*arguments):
    """Return the types of the arguments."""
    return [type(argument).__name__ for argument in arguments]


class Tool:
    @ana.unwrap
    def weigh(self, mesh):
        return sum(mesh)


def test_refs_become_values():
    """Positional and named ones; plain values stay as they are, and so do Refs inside of other arguments."""
    ref = ana.Ref([1, 2])
    assert weigh(ref) == weigh([1, 2]) == weigh(mesh=ref) == 3
    assert weigh(ref, ana.Ref(2), extra=ana.Ref(1)) == 7
    assert kinds(ref, [ref], 1) == ["list", "list", "int"]
    assert Tool().weigh(ref) == 3


def test_the_function_keeps_its_name_and_signature():
    """As tools see it."""
    assert weigh.__name__ == "weigh"
    assert weigh.__doc__ == "Be a task."
    assert list(inspect.signature(weigh).parameters) == ["mesh", "factor", "extra"]
    assert pickle.loads(pickle.dumps(weigh)) is weigh


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_other_processes(method, tmp_path):
    """A reference travels; a missing state is the error of its own task."""
    ana.set_dl(tmp_path)
    ref, missing = ana.Ref([1, 2]), ana.Ref(["missing"])
    ref.make_uuid()
    uuid = missing.make_uuid()
    next(tmp_path.rglob(f"{uuid}.pkl.zst")).unlink()
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        pool.submit(kinds).result()
        if method == "spawn":
            with pytest.raises(ana.StateNotFoundError, match=uuid):
                pool.submit(kinds, missing).result()
        assert list(pool.map(weigh, [ref] * 3)) == [3] * 3


def test_only_functions_are_wrapped():
    """Anything else is a TypeError that shows it."""
    with pytest.raises(TypeError, match="unwrap takes a function, not 3"):
        ana.unwrap(3)
