"""Real processes, in folders of their own, that nobody configured: references alone are enough."""

import concurrent.futures
import multiprocessing
import pickle

import pytest
from support import classes

import ana

METHODS = pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "store")
    return tmp_path / "store"


def machine(tmp_path, name):
    """Return a folder for a process to work in."""
    place = tmp_path / name
    place.mkdir(exist_ok=True)
    return place


MAKER = """
import pickle, sys, ana; from support import classes
ana.set_dl(pickle_dir="../store")
child = classes.A(["child of", sys.argv[1]])
child.make_uuid()
obj = classes.A([child, ana.Ref(sys.argv[1] * 3)])
obj.make_uuid()
with open("../from-" + sys.argv[1], "wb") as file:
    pickle.dump(obj, file)
"""

USER = """
import os, pickle, sys
with open("../from-" + sys.argv[1], "rb") as file:
    obj = pickle.load(file)
print(obj.x[0].x, os.path.basename(os.getcwd()))
with open("../back-" + sys.argv[1], "wb") as file:
    pickle.dump(obj, file)
"""


def test_processes_with_no_configuration_load_each_others_objects(tmp_path):
    """Two folders, no environment: each loads what the other made, from references; passed on, they still work."""
    for name in ("one", "two"):
        classes.run(MAKER, name, cwd=machine(tmp_path, name))
    for maker, user in (("one", "two"), ("two", "one")):
        assert classes.run(USER, maker, cwd=machine(tmp_path, user)) == f"['child of', '{maker}'] {user}"
        # The layer of a process that nobody configured is in memory: no folder appears beside its scripts.
        assert {path.suffix for path in (tmp_path / user).iterdir()} == {".py"}
    for name in ("one", "two"):
        found = pickle.loads((tmp_path / f"back-{name}").read_bytes())
        assert found.x[0].x == ["child of", name]


def test_a_passed_on_reference_is_as_small_as_the_first(tmp_path):
    """What an unconfigured process pickles again is a reference to the same store, or at least one that works."""
    classes.run(MAKER, "one", cwd=machine(tmp_path, "one"))
    classes.run(USER, "one", cwd=machine(tmp_path, "two"))
    assert (tmp_path / "back-one").read_bytes() == (tmp_path / "from-one").read_bytes()


def test_refs_in_processes_with_no_configuration(tmp_path):
    """Lazy Refs that came within a loaded state, too."""
    classes.run(MAKER, "one", cwd=machine(tmp_path, "one"))
    code = "import pickle; print(pickle.load(open('../from-one', 'rb')).x[1].value)"
    assert classes.run(code, cwd=machine(tmp_path, "two")) == "oneoneone"


@METHODS
def test_results_come_back_by_reference(folder, method):
    """A worker without configuration hands back the very object that it was sent."""
    obj = classes.A([1])
    obj.make_uuid()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(classes.value_of, obj).result(60) == [1]
        assert pool.submit(classes.back, obj).result(60) is obj
        assert pool.submit(classes.back, [obj, {"k": obj}]).result(60) == [obj, {"k": obj}]


@METHODS
def test_results_made_by_workers(folder, method, monkeypatch):
    """With ANA_PICKLE_DIR in their environment workers store what they make, and send references."""
    monkeypatch.setenv("ANA_PICKLE_DIR", str(folder))
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=use_environment) as pool:
        made = pool.submit(classes.make_result, "made there").result(60)
        assert made.x == "made there"
        assert pool.submit(classes.back, made).result(60) is made
    assert classes.states(folder) == [f"{made.uuid}.pkl.zst"]


def use_environment():
    """Be a worker's initializer: forget what the parent set, as processes of another machine would."""
    from ana.layers import layer

    layer._current = None


@METHODS
def test_workers_load_once_and_not_once_per_task(folder, method):
    """8 tasks with the same object in 2 workers: at most one load in each."""
    # A forked worker inherits the count, as it inherits the object.
    classes.Counted.loads = 0
    obj = classes.Counted(list(range(1000)))
    obj.make_uuid()
    reference = pickle.dumps(obj)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        answers = [future.result(60) for future in [pool.submit(load_and_count, reference) for _ in range(8)]]
        answers += [future.result(60) for future in [pool.submit(classes.loads_here, obj) for _ in range(8)]]
    expected = 0 if method == "fork" else 1
    assert {loads for _, loads in answers} == {expected}


def load_and_count(data):
    """Be a worker's task: unpickle a reference; say how often a state was set in this process."""
    return classes.loads_here(pickle.loads(data))


@METHODS
def test_a_multiprocessing_pool_loads_once(folder, method):
    """The same for `multiprocessing.Pool`."""
    # A forked worker inherits the count, as it inherits the object.
    classes.Counted.loads = 0
    obj = classes.Counted(list(range(1000)))
    obj.make_uuid()
    with multiprocessing.get_context(method).Pool(2) as pool:
        try:
            answers = pool.map_async(classes.loads_here, [obj] * 8, chunksize=1).get(60)
        finally:
            pool.close()
            pool.join()
    assert {loads for _, loads in answers} == {0 if method == "fork" else 1}


@METHODS
def test_objects_within_arguments_keep_their_identity(folder, method):
    """In one worker, every task sees the same object."""
    obj = classes.A([1])
    obj.make_uuid()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        ids = {pool.submit(identity, {"a": [obj, obj]}).result(60) for _ in range(4)}
    assert len(ids) == 1


def identity(holder):
    """Be a worker's task: say which object it was, in a process that lives on."""
    first, second = holder["a"]
    assert first is second
    return id(first)


def test_many_processes_store_the_same_objects(folder, tmp_path):
    """Four processes store equal objects at once: each state once, and no temporary file is left."""
    code = (
        "import sys, ana; from support import classes\n"
        "ana.set_dl(pickle_dir=sys.argv[1])\n"
        "print([classes.A([number] * 50).make_uuid() for number in range(50)])\n"
    )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        places = [machine(tmp_path, f"m{number}") for number in range(4)]
        answers = list(pool.map(lambda place: classes.run(code, str(folder), cwd=place), places))
    assert len(set(answers)) == 1
    assert len(classes.tree(folder)) == 51


def test_an_object_that_an_unconfigured_worker_loaded_can_be_stored_elsewhere(folder, tmp_path):
    """A worker that sets a layer of its own stores there what it loaded from a reference's home."""
    obj = classes.A([classes.A("child")])
    obj.x[0].make_uuid()
    obj.make_uuid()
    (tmp_path / "handed").write_bytes(pickle.dumps(obj))
    code = (
        "import pickle, sys, ana\n"
        "found = pickle.load(open(sys.argv[1], 'rb'))\n"
        "ana.set_dl(pickle_dir=sys.argv[2])\n"
        "found.ana_store()\n"
    )
    classes.run(code, str(tmp_path / "handed"), str(tmp_path / "second"), cwd=tmp_path)
    assert classes.states(tmp_path / "second") == classes.states(folder)
