"""Workers that nobody configured: they take their parent's store, or send by value; no reference leads nowhere."""

import concurrent.futures
import multiprocessing
import os
import pickle
import warnings

import pytest
from support import classes
from support.extras import require

import ana
from ana.layers import inheritance

METHODS = pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
OTHERS = pytest.mark.parametrize("method", ["spawn", "forkserver"])


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(tmp_path / "store", durable=False)
    return tmp_path / "store"


def pool_of(method, **options):
    """Return an executor of one worker."""
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method), **options)


def ref_of(value):
    """Be a worker's task: a result by reference."""
    return ana.Ref(value)


def home_of_worker():
    """Be a worker's task: say where it stores, and whether what it pickles comes back as the same."""
    ref, named = ana.Ref([1]), classes.A([2])
    named.make_uuid("a name")
    same = [pickle.loads(pickle.dumps(obj)) is obj for obj in (ref, named)]
    return ana.get_dl().home.partition(":")[0], same


def ring():
    """Be a worker's task: objects that refer to each other in a circle, under names."""
    first, second = classes.Node(1), classes.Node(2)
    first.after, second.after = second, first
    first.make_uuid("first")
    second.make_uuid()
    return first


def choose(folder):
    """Be a worker's initializer or task: configure it."""
    ana.set_dl(folder, durable=False)


@METHODS
def test_results_go_into_the_parents_store(folder, method):
    """What a worker makes without having seen a reference is stored where the parent stores."""
    with pool_of(method) as pool:
        assert pool.submit(home_of_worker).result(60) == (str(folder), [True, True])
        refs = list(pool.map(ref_of, [[1] * 1000, [2] * 1000]))
        assert [sum(ref.value) for ref in refs] == [1000, 2000]
        assert pool.submit(classes.back, refs).result(60) == refs
        # Stored there already: nothing is stored in the parent.
        assert len(pickle.dumps(refs[0])) < 300
    assert ana.get_dl().stats().stored == 0
    assert {f"{ref.uuid}.pkl.zst" for ref in refs} <= set(classes.states(folder))


@pytest.mark.slow
@METHODS
def test_results_of_pool_process_and_queue(folder, method):
    """`multiprocessing.Pool`, a `Process` that puts into a queue, children of children."""
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        (ref,) = pool.map(ref_of, [[1] * 1000])
        assert sum(ref.value) == 1000
    queue = context.SimpleQueue()
    process = context.Process(target=put_by_a_child, args=(queue, method))
    process.start()
    assert queue.get().value == ["made below"]
    process.join()
    queue.close()
    assert len(classes.states(folder)) == 2


def put_by_a_child(queue, method):
    """Be a child: let a child of its own make a Ref."""
    process = multiprocessing.get_context(method).Process(target=put, args=(queue,))
    process.start()
    process.join()


def put(queue):
    """Be a child's child."""
    queue.put(ana.Ref(["made below"]))


@pytest.mark.slow
@OTHERS
def test_a_layer_of_a_with_block(tmp_path, method):
    """Workers take the layer that is current when they are started, also through a fork server that runs already."""
    with pool_of(method) as pool:
        assert pool.submit(home_of_worker).result(60)[0] == "memory"
        # Too late for a worker that is there; what it makes comes by value.
        with ana.using_dl(tmp_path / "late", durable=False):
            ref = pool.submit(ref_of, [1]).result(60)
            assert ref.value == [1]
            assert pickle.loads(pickle.dumps(ref)) is ref
    for name in ("one", "two"):
        with ana.using_dl(tmp_path / name, durable=False), pool_of(method) as pool:
            assert pool.submit(ref_of, [1]).result(60).value == [1]
            assert len(classes.states(tmp_path / name)) == 1


@OTHERS
def test_a_worker_that_was_configured_keeps_its_layer(folder, tmp_path, method):
    """By `set_dl` in its initializer, or by ANA_PICKLE_DIR in its environment."""
    with pool_of(method, initializer=choose, initargs=(tmp_path / "own",)) as pool:
        assert pool.submit(home_of_worker).result(60)[0] == str(tmp_path / "own")
        assert pool.submit(ref_of, [1]).result(60).value == [1]
    assert len(classes.states(tmp_path / "own")) == 2
    assert classes.states(folder) == []


def test_the_environment_configures_a_worker(folder, tmp_path, monkeypatch):
    """ANA_PICKLE_DIR comes before the parent's layer."""
    monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "said"))
    with pool_of("spawn") as pool:
        assert pool.submit(ref_of, [1]).result(60).value == [1]
    assert len(classes.states(tmp_path / "said")) == 1


def test_a_parents_store_that_is_gone(folder):
    """The worker starts, works, and sends by value."""
    home = folder.rename(folder.parent / "elsewhere")
    with pool_of("spawn") as pool:
        assert pool.submit(home_of_worker).result(60)[0] == "memory"
        assert pool.submit(ref_of, [1]).result(60).value == [1]
    home.rename(folder)


@METHODS
def test_without_any_store_values_travel(method, monkeypatch):
    """The default layer: arguments and results work, names and identity are kept; one warning names the cure."""
    monkeypatch.setattr(inheritance, "_told", False)
    before = ana.Ref(["before"])
    before.make_uuid()
    with warnings.catch_warnings(record=True) as caught, pool_of(method) as pool:
        warnings.simplefilter("always")
        # Python's own, which depends on how the tests are started: under `nice` and xdist, it comes at each fork.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        refs = list(pool.map(ref_of, [[1] * 1000, [2] * 1000]))
        assert [sum(ref.value) for ref in refs] == [1000, 2000]
        for obj in (before, ana.Ref(["after"]), refs[0]):
            assert pool.submit(classes.value_of_ref, obj).result(60) == obj.value
            assert pool.submit(classes.back, obj).result(60) is obj
            assert pool.submit(classes.back, [obj, {"k": obj}]).result(60) == [obj, {"k": obj}]
        first = pool.submit(ring).result(60)
        assert (first.uuid, first.after.after is first) == ("first", True)
        assert pool.submit(home_of_worker).result(60) == ("memory", [True, True])
        assert pool.submit(classes.back, classes.A([before])).result(60).x == [before]
    (warning,) = caught
    assert "set_dl(pickle_dir=...)" in str(warning.message)


def test_without_any_store_forks_have_what_was_stored_before(monkeypatch):
    """That goes by reference, both ways, as ever; what was stored later goes by value."""
    from multiprocessing import reduction

    before = ana.Ref(bytes(100_000))
    before.make_uuid()
    sizes = []
    dumps = reduction.ForkingPickler.dumps

    def measured(obj, *arguments):
        pickled = dumps(obj, *arguments)
        sizes.append(len(pickled))
        return pickled

    monkeypatch.setattr(reduction.ForkingPickler, "dumps", measured)
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert pool.apply(classes.back, [before]) is before
        assert max(sizes) < 1000
        after = ana.Ref(bytes(200_000))
        assert pool.apply(classes.back, [after]) is after
        assert max(sizes) > 200_000
        sizes.clear()
        assert len(pool.apply(pickle.dumps, [before])) < 300
    assert len(pickle.dumps(after)) < 300


def test_pickles_of_one_process_stay_references():
    """In memory, and with no other process about, an object comes back as itself, and its pickle is small."""
    obj = ana.Ref(bytes(100_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = pickle.dumps(obj)
    assert len(data) < 300
    assert pickle.loads(data) is obj


def test_a_forked_childs_own_objects_go_by_value():
    """Also where no engine is at work: a child that was made by `os.fork`, and a pipe."""
    before = ana.Ref([1])
    before.make_uuid()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                os.write(writer, pickle.dumps([before, ana.Ref([2]), classes.make_result(3)]))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        found = pickle.loads(file.read())
    os.waitpid(child, 0)
    assert found[0] is before
    assert (found[1].value, found[2].x) == ([2], 3)


def test_values_come_into_a_shared_store_under_its_own_addresses(folder):
    """What a worker sent by value has no address in the parent until it is stored there; a name stays."""
    with ana.using_dl():
        named, ref = classes.A([1]), ana.Ref([2])
        named.make_uuid("a name")
        ref.make_uuid()
        data = multiprocessing.reduction.ForkingPickler.dumps([named, ref])
    del named, ref
    named, ref = pickle.loads(data)
    assert (named.uuid, ref.uuid) == ("a name", None)
    again = pickle.loads(pickle.dumps([named, ref]))
    assert (again[0] is named, again[1] is ref) == (True, True)
    assert len(classes.states(folder)) == 2


LATE_IMPORT = """
import sys, ana
def make(x): return ana.Ref([x])
if __name__ == "__main__":
    ana.set_dl(sys.argv[1])
    assert "multiprocessing" not in sys.modules
    import concurrent.futures, multiprocessing
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        ref = pool.submit(make, 3).result(60)
    ours = [one for one in sys.meta_path if "ana.layers.inheritance" in str(one)]
    print(ref.value, ana.get_dl().stats().stored, ours)
"""


def test_multiprocessing_may_be_imported_after_the_layer_was_chosen(tmp_path):
    """Ana does without it, and yet its workers take the layer over."""
    assert classes.run(LATE_IMPORT, str(tmp_path / "s"), cwd=tmp_path) == "[3] 0 []"
    assert len(classes.states(tmp_path / "s")) == 1


REUSED = """
import sys, joblib, ana
from joblib.externals.loky import get_reusable_executor
def make(x): return ana.Ref([x] * 1000)
def home(): return ana.get_dl().home.partition(":")[0]
if __name__ == "__main__":
    print(joblib.Parallel(2)([joblib.delayed(home)()]))
    refs = joblib.Parallel(2)(joblib.delayed(make)(x) for x in range(3))
    print([sum(ref.value) for ref in refs])
    ana.set_dl(sys.argv[1])                         # the workers are there already
    refs = joblib.Parallel(2)(joblib.delayed(make)(x) for x in range(3))
    print([sum(ref.value) for ref in refs])
    get_reusable_executor().shutdown()
    print(joblib.Parallel(2)([joblib.delayed(home)()]) == [sys.argv[1]])
    refs = joblib.Parallel(2)(joblib.delayed(make)(x + 10) for x in range(3))
    print([sum(ref.value) for ref in refs], ana.get_dl().stats().stored)
    get_reusable_executor().shutdown()
"""


@pytest.mark.slow
def test_workers_of_loky(tmp_path):
    """Those that were there before the layer send by value; the next ones take the layer over."""
    require("joblib")
    answer = classes.run(REUSED, str(tmp_path / "s"), cwd=tmp_path).splitlines()
    right = "[0, 1000, 2000]"
    assert answer == ["['memory']", right, right, "True", "[10000, 11000, 12000] 0"]


DASK = """
import sys, warnings, ana
from distributed import Client, LocalCluster
def make(x): return ana.Ref([x] * 1000)
def use(ref): return sum(ref.value)
def home(): return ana.get_dl().home.partition(":")[0]
if __name__ == "__main__":
    if sys.argv[1]:
        ana.set_dl(sys.argv[1])
    with LocalCluster(1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        print(client.submit(home).result(60))
        refs = client.gather(client.map(make, range(3)))
        print([sum(ref.value) for ref in refs], client.gather(client.map(use, refs)))
        print(client.gather(client.map(use, [ana.Ref([x]) for x in range(3)])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", ""])
def test_workers_of_dask(tmp_path, where):
    """They take the layer of the process that started them; without one, values travel, both ways."""
    require("distributed")
    place = str(tmp_path / where) if where else ""
    answer = classes.run(DASK, place, cwd=tmp_path).splitlines()
    assert answer == [place or "memory", "[0, 1000, 2000] [0, 1000, 2000]", "[0, 1, 2]"]
