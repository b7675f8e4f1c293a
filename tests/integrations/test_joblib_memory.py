"""`joblib.Memory` with its results in an ANA store."""

import importlib.resources
import itertools
import json
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
from support import care, extras, processes

import ana
from ana.stores.directory.store import DirectoryStore

joblib = pytest.importorskip("joblib", reason="pip install joblib")
np = pytest.importorskip("numpy", reason="pip install numpy")
integration = pytest.importorskip("ana.integrations.joblib")
FileSystemStoreBackend = pytest.importorskip("joblib._store_backends").FileSystemStoreBackend


@pytest.fixture
def tree(tmp_path):
    """The folder of the current layer."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    return tmp_path / "store"


@pytest.fixture
def memory(tree, tmp_path):
    """A memory over it."""
    return joblib.Memory(str(tmp_path / "cache"), backend="ana", verbose=0)


class Counted:
    """A function, and how often it was called."""

    calls = 0


def squares(count):
    """A large result."""
    Counted.calls += 1
    return np.arange(count) ** 2


def with_name(name, count):
    """A result that holds a large array."""
    Counted.calls += 1
    return {"name": name, "array": np.arange(count) ** 2}


def states(tree):
    """Return the UUIDs of the states that are not in the trash."""
    return {path.name.split(".")[0] for path in tree.rglob("*.pkl.zst") if not path.name.startswith(".")}


def roots(capfd, tree):
    """Return what `ana roots` says, by name."""
    lines = care.ran(capfd, "roots", "-d", tree, "--json").out.splitlines()
    return {one["name"]: one for one in map(json.loads, lines)}


def collect(capfd, tree):
    """Collect what no root keeps and is old enough: all of it."""
    for path in tree.rglob("*.pkl.zst"):
        care.make_older(path, 3)
    ran = care.ran(capfd, "gc", "-d", tree, "--unreachable", "--without-roots")
    assert ran.code == 0, ran.err


def damage(tree):
    """Flip a byte in each state."""
    for path in tree.rglob("*.pkl.zst"):
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)


def test_a_result_is_computed_once(memory, tree):
    """A second call, also of another Memory over the same folders, loads the state."""
    Counted.calls = 0
    for one in (memory, pickle.loads(pickle.dumps(memory))):
        cached = one.cache(squares)
        for _ in range(2):
            assert (cached(1000) == np.arange(1000) ** 2).all()
        assert cached.check_call_in_cache(1000)
    assert Counted.calls == 1
    assert len(states(tree)) == 1


def test_each_load_returns_an_object_of_its_own(memory):
    """As in joblib, a caller may change what it gets: the next caller gets the result as it was."""
    cached = memory.cache(squares)
    for _ in range(3):
        found = cached(1000)
        assert found[999] == 999**2
        found[:] = 0


def test_results_share_arrays(memory, tree):
    """Results that hold an equal array store it once, and equal results are one state."""
    count = 2 << 20
    cached = memory.cache(with_name)
    for name in ("one", "two", "three"):
        assert cached(name, count)["name"] == name
        assert (cached(name, count)["array"] == np.arange(count) ** 2).all()
    sizes = sorted(path.stat().st_size for path in tree.rglob("*.pkl.zst"))
    assert len(sizes) == 4
    assert sum(sizes[:3]) < 3000
    memory.cache(squares)(100)
    before = states(tree)
    memory.cache(lambda: np.arange(100) ** 2)()
    assert states(tree) == before


@pytest.mark.parametrize("harm", [damage, lambda tree: [path.unlink() for path in tree.rglob("*.pkl.zst")]])
def test_a_damaged_or_missing_state_is_computed_again_and_repaired(memory, tree, harm, caplog):
    """The function is called again, with a warning; its result is whole in the store afterwards."""
    Counted.calls = 0
    cached = memory.cache(squares)
    cached(1000)
    harm(tree)
    assert cached(1000)[999] == 999**2
    assert "Exception while loading results" in caplog.text
    assert cached(1000)[999] == 999**2
    assert Counted.calls == 2


def test_joblibs_own_backend_returns_wrong_data(tmp_path):
    """Why: joblib does not verify what it reads."""
    cached = joblib.Memory(str(tmp_path), verbose=0).cache(squares)
    cached(1000)
    (path,) = tmp_path.rglob("output.pkl")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert not (cached(1000) == np.arange(1000) ** 2).all()


def test_shelved_results(memory, tree):
    """A shelved result travels by pickle, loads where it is used, and raises if its state is damaged or cleared."""
    shelved = memory.cache(squares).call_and_shelve(1000)
    again = pickle.loads(pickle.dumps(shelved))
    assert again.get()[999] == 999**2
    damage(tree)
    with pytest.raises(ana.CorruptedStateError):
        again.get()
    shelved.clear()
    with pytest.raises(KeyError):
        again.get()


def test_validation_callback(memory):
    """A result that the callback refuses is cleared and computed again; the callback gets joblib's metadata."""
    Counted.calls = 0
    seen = []

    def is_valid(metadata):
        seen.append(metadata["input_args"])
        return len(seen) != 2

    cached = memory.cache(squares, cache_validation_callback=is_valid)
    for _ in range(4):
        assert cached(10)[9] == 81
    assert Counted.calls == 2
    assert seen[0] == {"count": "10"}


def test_roots_keep_what_joblib_refers_to(memory, tree, capfd):
    """Collection takes no result that is in the cache, and all that was cleared: of a function, or of the memory."""
    first, second = memory.cache(squares), memory.cache(with_name)
    first(10)
    first(11)
    second("name", 12)
    ana.Ref(b"of nobody").make_uuid()
    assert sorted(name.split()[1].split("/")[-1] for name in roots(capfd, tree)) == ["squares", "with_name"]
    collect(capfd, tree)
    assert len(states(tree)) == 3
    first.clear(warn=False)
    collect(capfd, tree)
    assert len(states(tree)) == 1
    # Right after the clear: into a root of its own again.
    first(10)
    collect(capfd, tree)
    assert len(states(tree)) == 2
    memory.clear(warn=False)
    assert roots(capfd, tree) == {}
    collect(capfd, tree)
    assert states(tree) == set()


def test_reduce_size(memory, tree, capfd):
    """Limits count the states' raw sizes, take the results that were not used for longest, and free their states."""
    cached = memory.cache(squares)
    for number in range(5):
        cached(10_000 + number)
    items = memory.store_backend.get_items()
    assert all(80_000 < item.size < 82_000 for item in items)
    used = {item.path: item.last_access for item in items}
    assert {item.path: item.last_access for item in memory.store_backend.get_items()} == used
    memory.reduce_size(bytes_limit="170K")
    assert len(memory.store_backend.get_items()) == 2
    collect(capfd, tree)
    assert len(states(tree)) == 2
    memory.reduce_size(items_limit=0)
    collect(capfd, tree)
    assert states(tree) == set()


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_lost_result_takes_no_other_with_it(memory, tree, capfd, harm):
    """Where a state is damaged or missing, the root keeps the others when it is renewed."""
    cached = memory.cache(squares)
    cached(9)
    lost = states_of(memory)
    damage(tree)
    if harm == "missing":
        next(tree.rglob(f"{min(lost)}.pkl.zst")).unlink()
    cached(10)
    cached(11)
    memory.reduce_size(items_limit=100)
    collect(capfd, tree)
    assert states(tree) - lost == states_of(memory) - lost
    assert len(states_of(memory)) == 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_result_that_is_written_meanwhile_stays_kept(memory, tree, capfd, monkeypatch, when):
    """Another process reduces the cache while a result is written, before or after joblib's file: it is kept."""
    write = FileSystemStoreBackend.dump_item

    def beside_another(self, *arguments):
        if when == "before":
            memory.reduce_size(items_limit=100)
        write(self, *arguments)
        if when == "after":
            memory.reduce_size(items_limit=100)

    monkeypatch.setattr(FileSystemStoreBackend, "dump_item", beside_another)
    memory.cache(squares)(10)
    collect(capfd, tree)
    assert len(states(tree)) == 1
    assert len(roots(capfd, tree)) == 1


@pytest.mark.parametrize("step", range(1, 9))
def test_a_kill_while_the_cache_is_reduced_takes_no_kept_result(memory, tree, capfd, monkeypatch, step):
    """At each step of it, some root keeps all results that are left."""
    cached = memory.cache(squares)
    for number in range(3):
        cached(10 + number)
    memory.reduce_size(items_limit=2)
    left = states_of(memory)
    steps = itertools.count(1)

    def killed(work):
        def call(*arguments, **options):
            if next(steps) == step:
                raise KeyboardInterrupt
            return work(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("keep", "forget"):
            patch.setattr(DirectoryStore, name, killed(getattr(DirectoryStore, name)))
        with pytest.raises(KeyboardInterrupt):
            memory.reduce_size(items_limit=2)
    collect(capfd, tree)
    assert len(left) == 2
    assert left <= states(tree)


def states_of(memory):
    """Return the UUIDs of the states that joblib's files refer to."""
    paths = [f"{item.path}/output.pkl" for item in memory.store_backend.get_items()]
    return {integration._read(path).uuid for path in paths}


def test_both_backends_read_each_others_results(memory, tmp_path):
    """A cache of joblib's own backend goes on with ANA's, and the other way round."""
    Counted.calls = 0
    plain = joblib.Memory(str(tmp_path / "cache"), verbose=0)
    plain.cache(squares)(10)
    assert memory.cache(squares)(10)[9] == 81
    memory.cache(squares)(11)
    assert plain.cache(squares)(11)[9] == 81
    assert Counted.calls == 2
    assert len(memory.store_backend.get_items()) == 2
    memory.reduce_size(items_limit=1)
    assert len(memory.store_backend.get_items()) == 1


def test_it_needs_a_folder(tmp_path):
    """In memory, no other process would find the results: an error says what to do. An option names a folder, too."""
    with pytest.raises(ValueError, match="pickle_dir"):
        joblib.Memory(str(tmp_path / "cache"), backend="ana", verbose=0)
    options = {"pickle_dir": tmp_path / "store"}
    memory = joblib.Memory(str(tmp_path / "cache"), backend="ana", verbose=0, backend_options=options)
    memory.cache(squares)(10)
    assert len(states(tmp_path / "store")) == 1


def test_what_does_not_pickle_is_returned(memory):
    """A result that cannot be stored is a warning, and the caller gets it."""
    with pytest.warns(joblib.memory.CacheWarning, match="lock"):
        assert memory.cache(threading.Lock)().acquire()


def write(folder, store):
    """Fill a cache in a process of its own, or find it filled."""
    ana.set_dl(pickle_dir=store, durable=False)
    cached = joblib.Memory(folder, backend="ana", verbose=0).cache(squares)
    return [int(cached(count)[-1]) for count in range(1, 30)]


def test_many_processes_write_at_once(memory, tree, tmp_path, capfd):
    """Four processes fill one cache. All results are right, and one root keeps them."""
    with ProcessPoolExecutor(4) as pool:
        found = list(pool.map(write, [str(tmp_path / "cache")] * 4, [tree] * 4))
    assert found == [[(count - 1) ** 2 for count in range(1, 30)]] * 4
    assert len(roots(capfd, tree)) == 1
    collect(capfd, tree)
    assert len(states(tree)) == 29
    assert len(memory.store_backend.get_items()) == 29


JOBLIBS_TESTS = """
import sys, joblib.memory, pytest
from ana.integrations.joblib import AnaStoreBackend
joblib.memory._STORE_BACKENDS["local"] = AnaStoreBackend
sys.exit(pytest.main(sys.argv[1:]))
"""
NOT_FOR_US = "not mmap_mode and not test__get_items"
"""Results are not memory maps of joblib's files, and an item's size counts its state."""


@pytest.mark.slow
@pytest.mark.once
def test_joblibs_own_tests_pass(tmp_path):
    """Those of Memory, but for three, pass with this backend in place of its own."""
    extras.require("joblib.test")
    tests = importlib.resources.files("joblib.test") / "test_memory.py"
    # Not with the settings of ours, above the environment that joblib is in.
    alone = ("-c", os.devnull, "--rootdir", tmp_path, "-p", "no:cacheprovider")
    options = (*alone, "-q", "-W", "ignore", "-k", NOT_FOR_US)
    said = processes.run_program(
        JOBLIBS_TESTS, tests, *options, cwd=tmp_path, env=processes.environment(ANA_PICKLE_DIR=str(tmp_path / "store"))
    )
    assert int(said.split(" passed")[0].split()[-1]) > 50
    assert states(tmp_path / "store")
