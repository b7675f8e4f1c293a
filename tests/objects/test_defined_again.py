"""Classes that are defined again (a notebook's cell, `importlib.reload`): an object counts for its own class alone."""

import concurrent.futures
import importlib
import pickle
import sys
import threading
import types

import pytest
from support import classes
from support.engines import import_tokenize, require

import ana

CELL = """
import ana

class Model(ana.Storable):
    def __init__(self, x): self.x = x
    def predict(self): return self.x * {factor}

class Fine(Model):
    pass

class Mapping(dict, ana.Storable):
    def factor(self): return {factor}
"""


@pytest.fixture
def cell():
    """Return a module, and what runs its text again with another factor in it."""
    module = types.ModuleType("a_cell")
    sys.modules["a_cell"] = module

    def run(factor):
        exec(CELL.format(factor=factor), module.__dict__)
        return module

    run(1)
    yield module, run
    del sys.modules["a_cell"]


@pytest.fixture(params=["folder", "memory"])
def layer(request, tmp_path):
    """Return a layer of each kind."""
    return ana.set_dl(tmp_path / "s", durable=False) if request.param == "folder" else ana.set_dl()


def test_a_round_trip_keeps_the_new_class(layer, cell):
    """Of two live objects of one UUID, old class and new, each reference gives the one of its class."""
    module, run = cell
    first = module.Model(5)
    first.make_uuid()
    old = type(first)
    run(100)
    second = module.Model(5)
    assert second.make_uuid() == first.uuid
    for _ in range(2):
        assert pickle.loads(pickle.dumps(second)) is second
        assert module.Model.ana_load(second.uuid) is second
        assert old.ana_load(first.uuid) is first
    assert (first.predict(), second.predict()) == (5, 500)
    assert layer.stats().from_store == 0


def test_an_old_reference_makes_an_object_of_the_new_class(layer, cell):
    """Its class is named, and that is the new one by then; the old object stays as it is."""
    module, run = cell
    first = module.Model(5)
    first.make_uuid()
    data = pickle.dumps(first)
    run(100)
    found = pickle.loads(data)
    assert (type(found) is module.Model, found.predict(), found.uuid) == (True, 500, first.uuid)
    assert pickle.loads(data) is found
    assert (first.predict(), type(first) is module.Model) == (5, False)
    assert layer.stats().from_store == 1


def test_kept_objects_of_the_old_class_do_not_count(layer, cell):
    """What a worker keeps between its tasks is loaded anew for the new class, once, and then kept instead."""
    module, run = cell
    data = pickle.dumps(stored(module.Model(5)))
    assert pickle.loads(data).predict() == 5
    assert layer.stats().from_store == 1
    run(100)
    for _ in range(3):
        assert pickle.loads(data).predict() == 500
    assert layer.stats().from_store == 2


def stored(obj):
    """Give an object its address."""
    obj.make_uuid()
    return obj


def uuid_in(data):
    """Return the UUID of a reference."""
    return pickle.loads(data).uuid


@pytest.mark.parametrize("as_base", ["Model", "Storable", "object"])
def test_a_base_class_is_asked_for(layer, cell, as_base):
    """Of a live object's class the latest definition counts, where that is a subclass of what is asked for."""
    module, run = cell
    first = stored(module.Fine(5))
    old_base = module.Model
    run(100)
    asked = {"Model": module.Model, "Storable": ana.Storable, "object": object}[as_base]
    (found,) = layer.load_many([first.uuid], asked)
    assert (type(found) is module.Fine, found.predict()) == (True, 500)
    assert layer.load_many([first.uuid], asked) == [found]
    assert old_base.ana_load(first.uuid) is first


def test_a_live_object_of_a_subclass_counts(layer):
    """A base class is asked for, nothing was defined again: the live object it is."""
    first = stored(classes.SetStateRaises(5))
    assert classes.A.ana_load(first.uuid) is first
    assert layer.load_many([first.uuid]) == [first]


def test_a_class_of_another_name_is_an_error(layer, cell):
    """Whether the object is alive or not."""
    module, run = cell
    uuid = stored(module.Model(5)).uuid
    alive = stored(module.Model(6))
    for asked in (module.Fine, module.Mapping):
        for key in (uuid, alive.uuid):
            with pytest.raises(ana.StateLoadError, match=f"(not a|no) a_cell:{asked.__name__}"):
                asked.ana_load(key)
    run(100)
    with pytest.raises(ana.StateLoadError, match="a_cell:Mapping"):
        module.Mapping.ana_load(alive.uuid)


def test_ghosts_of_the_old_class(tmp_path, cell):
    """They load into what they are; the new class has an object of its own."""
    module, run = cell
    layer = ana.set_dl(tmp_path / "s", durable=False)
    for make in (lambda: module.Model(5), lambda: module.Mapping(a=1)):
        data = pickle.dumps(stored(make()))
        file = classes.file_of(tmp_path / "s", uuid_in(data))
        layer.live.forget_kept()
        away = file.rename(tmp_path / "away")
        ghost = pickle.loads(data)
        old = ghost.__class__
        run(100)
        waiting = pickle.loads(data)
        away.rename(file)
        found = pickle.loads(data)
        assert found is waiting
        assert found == make() if isinstance(found, dict) else found.predict() == 500
        assert isinstance(found, old) is False
        assert ghost == make() if isinstance(ghost, dict) else ghost.predict() == 5
        assert isinstance(ghost, old)
        assert pickle.loads(data) is found
        run(1)


def test_children_are_of_the_new_class(tmp_path, cell):
    """An object that is loaded after its class was defined again refers to new objects only; cycles, too."""
    module, run = cell
    ana.set_dl(tmp_path / "s", durable=False)
    ring = module.Model(None)
    ring.x = [module.Model(1), ring]
    ring.make_uuid()
    data = pickle.dumps(ring)
    run(100)
    found = pickle.loads(data)
    assert found.x[1] is found
    assert [type(found), type(found.x[0])] == [module.Model] * 2
    assert found.x[0].predict() == 100
    assert ring.x[0].predict() == 1


def test_a_long_chain_of_the_new_class(layer, cell):
    """While all of the old one is alive, too."""
    module, run = cell
    last = None
    kept = []
    for _ in range(200):
        last = stored(module.Model(last))
        kept.append(last)
    data = pickle.dumps(last)
    run(100)
    found = pickle.loads(data)
    length = 0
    while found is not None:
        assert isinstance(found, module.Model)
        found, length = found.x, length + 1
    assert length == 200


SLOW = """
class Slow(ana.Storable):
    def __init__(self, x): self.x = x
    def _ana_setstate(self, s):
        entered.set()
        go_on.wait(120)
        super()._ana_setstate(s)
"""


def test_a_load_of_the_old_class_that_is_under_way(layer, cell):
    """Who wants the new class waits for nobody, and gets an object of it; each thread the one of its class."""
    module, _ = cell
    module.entered, module.go_on = threading.Event(), threading.Event()
    exec(SLOW, module.__dict__)
    old = module.Slow
    uuid = stored(old([1])).uuid
    layer.live.forget_kept()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(old.ana_load, uuid)
        assert module.entered.wait(120)
        exec(SLOW.replace("go_on.wait(120)", "pass"), module.__dict__)
        second = module.Slow.ana_load(uuid)
        again = module.Slow.ana_load(uuid)
        module.go_on.set()
        found = first.result(60)
    assert (type(found), type(second), again is second) == (old, module.Slow, True)
    assert (found.x, second.x) == ([1], [1])
    assert old.ana_load(uuid) is found
    assert module.Slow.ana_load(uuid) is second


def test_the_old_object_travels_by_cloudpickle(tmp_path, cell):
    """Its class goes by value; here it comes back as the very object."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    module, run = cell
    ana.set_dl(tmp_path / "s", durable=False)
    first = stored(module.Model(5))
    run(100)
    second = stored(module.Model(5))
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(first)
    assert pickle.loads(cloudpickle.dumps(first)) is first
    assert pickle.loads(cloudpickle.dumps([second, first])) == [second, first]


def test_a_module_that_is_loaded_again(tmp_path, monkeypatch):
    """`importlib.reload`, with objects of the old class alive and kept."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "reloaded_by_a_test.py"
    file.write_text(CELL.format(factor=1))
    module = importlib.import_module("reloaded_by_a_test")
    try:
        ana.set_dl(tmp_path / "s", durable=False)
        first = stored(module.Fine(5))
        data = pickle.dumps([first, ana.Ref(first)])
        file.write_text(CELL.format(factor=1000))
        importlib.reload(module)
        found, ref = pickle.loads(data)
        assert (found.predict(), isinstance(found, module.Fine)) == (5000, True)
        assert pickle.loads(data)[0] is found
        assert pickle.loads(pickle.dumps(ref)) is ref
    finally:
        del sys.modules["reloaded_by_a_test"]


def test_the_simple_layer(cell):
    """States travel in the pickle there; what is alive counts for its own class only."""
    module, run = cell
    ana.set_dl(ana.SimpleDataLayer())
    first = stored(module.Model(5))
    data = pickle.dumps(first)
    assert pickle.loads(data) is first
    run(100)
    found = pickle.loads(data)
    assert (found.predict(), found.uuid) == (500, first.uuid)
    assert pickle.loads(data) is found


def test_what_a_ref_holds_is_of_the_new_class(layer, cell):
    """Two Refs of equal content, one of them with an object of the old class: each round trip keeps the new one."""
    module, _ = cell
    exec("class Plain:\n    def __init__(self, x): self.x = x", module.__dict__)
    first = ana.Ref(module.Plain(5))
    assert pickle.loads(pickle.dumps(first)) is first
    exec("class Plain:\n    def __init__(self, x): self.x = x", module.__dict__)
    second = ana.Ref(module.Plain(5))
    assert pickle.loads(pickle.dumps(second)) is second
    assert second.uuid == first.uuid


@pytest.mark.parametrize("library", ["dask", "joblib"])
def test_hashes_tell_the_new_class_from_the_old(layer, cell, library):
    """Dask would take a task with the new object for the one that it did with the old, whose UUID is the same."""
    require(library)
    digest = import_tokenize() if library == "dask" else importlib.import_module(library).hash
    module, run = cell
    first = stored(module.Model(5))
    before = digest(first), digest([first]), digest(classes.A(first))
    run(100)
    second = stored(module.Model(5))
    after = digest(second), digest([second]), digest(classes.A(second))
    assert not set(before) & set(after)
    assert (digest(first), digest([first]), digest(classes.A(first))) == before
    assert (digest(second), digest([second]), digest(classes.A(second))) == after


STATE_BY_VALUE = """
import pickle, sys, ana; from support import classes
cell = '''class Model(ana.Storable):
    def __init__(self, x): self.x = x
    def predict(self): return self.x * {}
'''
ana.set_dl(sys.argv[1], durable=False)
exec(cell.format(1))
child = Model(5)
child.make_uuid()
data = pickle.dumps(ana.Ref([child]))
for factor in (100, 1000):
    exec(cell.format(factor))
    ana.get_dl().live.forget_kept()
    (found,) = pickle.loads(data).value
    print(found.predict(), isinstance(found, Model), child.predict(), Model.ana_load(child.uuid) is found)
"""


def test_a_state_that_holds_the_old_class_by_value(tmp_path):
    """The class of a notebook is in the states that refer to its objects: what they load is of the latest one."""
    answer = classes.run(STATE_BY_VALUE, str(tmp_path / "s"), cwd=tmp_path).splitlines()
    assert answer == ["500 True 5 True", "5000 True 5 True"]


POOLS = {
    "joblib": """
import contextlib
from joblib.externals.loky import get_reusable_executor
@contextlib.contextmanager
def make_pool():
    with get_reusable_executor(max_workers=1) as executor:
        yield lambda task, model: executor.submit(task, model).result(60)
""",
    "early fork": """
import contextlib, multiprocessing
@contextlib.contextmanager
def make_pool():
    def run(task, model):
        return early.map(task, [model])[0]
    with multiprocessing.get_context("fork").Pool(1) as early:
        yield run
""",
    "fork": """
import contextlib, multiprocessing
@contextlib.contextmanager
def make_pool():
    def run(task, model):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.map(task, [model])[0]
    yield run
""",
    "dask": """
import contextlib, distributed
@contextlib.contextmanager
def make_pool():
    with distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            yield lambda task, model: client.submit(task, model, pure=False).result(60)
""",
}
SAME = """
import sys, ana
class Part(ana.Storable):
    def __init__(self, x): self.x = x
    def double(self): return self.x * 2
def task(triple):
    part, ref, holder = triple
    return [ref.value[0] is part, holder.x is part, isinstance(part, Part), type(holder) is type(part), part.double()]
if __name__ == "__main__":
    with make_pool() as pool:
        ana.set_dl(sys.argv[1], durable=False)
        part = Part(5)
        part.make_uuid()
        holder = Part(part)
        holder.make_uuid()
        print(*pool(task, (part, ana.Ref([part]), holder)))
"""


@pytest.mark.parametrize("pool", ["joblib", "early fork", pytest.param("dask", marks=pytest.mark.slow)])
def test_classes_of_a_script_are_the_same_in_tasks_and_in_states(tmp_path, pool):
    """Workers with the script's own classes, by fork, and those that get them by value: one object for a UUID."""
    if "fork" not in pool:
        require({"joblib": "joblib", "dask": "distributed"}[pool])
    answer = classes.run(POOLS[pool] + SAME, str(tmp_path / "s"), cwd=tmp_path)
    assert answer == "True True True True 10"


NOTEBOOK = """
import sys, ana
cell = '''class Model(ana.Storable):
    def __init__(self, x): self.x = x
    def predict(self): return self.x * {}
'''
def task(model): return model.predict(), isinstance(model, Model)
ana.set_dl(pickle_dir=sys.argv[1], durable=False)
with make_pool() as pool:
    for factor in (1, 100, 1000):
        exec(cell.format(factor))
        model = Model(5)
        model.make_uuid()
        kept = [*globals().get("kept", []), model]
        print(*pool(task, model))
print([model.predict() for model in kept])
"""


@pytest.mark.parametrize("pool", ["joblib", "fork", pytest.param("dask", marks=pytest.mark.slow)])
def test_workers_that_live_on(tmp_path, pool):
    """A notebook's class is corrected twice; the workers keep objects of the old ones, and run the new code."""
    if pool != "fork":
        require({"joblib": "joblib", "dask": "distributed"}[pool])
    code = POOLS[pool] + "\nif __name__ == '__main__':\n    exec(" + repr(NOTEBOOK) + ", globals())\n"
    answer = classes.run(code, str(tmp_path / "s"), cwd=tmp_path).splitlines()
    assert answer == ["5 True", "500 True", "5000 True", "[5, 500, 5000]"]
