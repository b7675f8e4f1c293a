"""Loads that wait for each other through what nobody sees (pools, users' locks, imports): they end, and end right."""

import pickle
import sys
import threading
import time

import pytest
from support import rings
from support.processes import ask_python, environment

import ana
from ana.runtime import thread_progress


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "s", durable=False)
    return tmp_path / "s"


MESH = """
import json, pickle, sys
from support import rings
rings.how = sys.argv[2]
mesh = pickle.loads(bytes.fromhex(sys.argv[1]))
print(json.dumps([mesh.total, all(r.value.mesh in (None, mesh) for r in mesh.parts), mesh.config.x]))
"""


def reference_of_mesh(*, knows_whole):
    """Store a mesh of three parts, which know the config and, perhaps, the mesh; return a reference."""
    config = rings.Config(2)
    config.make_uuid()
    parts = [rings.Part(number, config, None) for number in range(3)]
    mesh = rings.Mesh(config, [ana.Ref(part) for part in parts])
    if knows_whole:
        mesh.make_uuid("mesh")
        for part in parts:
            part.mesh = mesh
    else:
        mesh.make_uuid()
    return pickle.dumps(mesh).hex()


HOW = ["by_executor", "by_shared_executor", "by_threads", "by_thread_pool", "by_asyncio"]


@pytest.mark.parametrize("how", [*HOW, "by_queue"])
def test_helper_threads_of_setstate_have_what_the_load_has(folder, how):
    """`_ana_setstate` loads parts in threads, and they refer to what the load has completed already."""
    assert ask_python(MESH, reference_of_mesh(knows_whole=False), how) == [6, True, 2]


@pytest.mark.slow
@pytest.mark.parametrize("how", [how for how in HOW if how != "by_asyncio"])
def test_helper_threads_of_setstate_get_the_unfinished_object(folder, how):
    """As the loading thread itself would, where parts know the whole: it is one object afterwards."""
    assert ask_python(MESH, reference_of_mesh(knows_whole=True), how) == [6, True, 2]


@pytest.mark.slow
def test_helper_threads_of_an_event_loop_are_no_hang(folder):
    """A loop wakes when the first helper is done. Another that looks just then may load an object of its own."""
    total, _, x = ask_python(MESH, reference_of_mesh(knows_whole=True), "by_asyncio")
    assert [total, x] == [6, 2]


@pytest.mark.slow
def test_helper_threads_that_nobody_sees_are_no_hang(folder):
    """A thread that answers by a queue, and needs the object that waits for it: the sum is right, in the end."""
    total, _, x = ask_python(MESH, reference_of_mesh(knows_whole=True), "by_queue")
    assert [total, x] == [6, 2]


LOCKED = """
import json, pickle, sys
from support import rings

def load():
    return pickle.loads(bytes.fromhex(sys.argv[1]))

def load_under_lock():
    with rings.LOCK:
        rings.locked.set()
        return load()

first, second = rings.at_once(load, load_under_lock)
model = getattr(second, "model", second)
print(json.dumps([model.factor, first is second, load() is first, len(rings.loaded)]))
"""


def test_a_load_under_a_lock_that_the_same_load_wants(folder):
    """One thread loads and wants the lock, the other has the lock and wants the load: both get the one object."""
    model = rings.Model([1, 2])
    model.make_uuid()
    assert ask_python(LOCKED, pickle.dumps(model).hex()) == [7, True, True, 2]


def test_a_load_under_a_lock_that_a_part_of_it_wants(folder):
    """The same, of an object within another one: whoever has the lock gets it whole."""
    model = rings.Model([1, 2])
    holder = rings.Holder(model)
    model.make_uuid()
    holder.make_uuid()
    program = LOCKED.replace("at_once(load,", "at_once(lambda: rings.Model.ana_load(sys.argv[2]),")
    program = program.replace("from support", "import ana; ana.set_dl(pickle_dir=sys.argv[3])\nfrom support")
    program = program.replace("first is second", "first.factor == 7").replace("load() is first", "load() is second")
    assert ask_python(program, pickle.dumps(holder).hex(), model.uuid, folder) == [7, True, True, 2]


IMPORTED = """
import json, sys, threading, time
import ana
from support import rings
ana.set_dl(pickle_dir=sys.argv[1])

def load():
    return rings.Config.ana_load(sys.argv[2])

def imported():
    import loads_when_imported
    return loads_when_imported.CONFIG

works = [imported, load]
found = rings.at_once(*works)
print(json.dumps([found[0].x.x, found[1].x.x]))
"""


@pytest.mark.slow
def test_an_import_that_loads_what_needs_the_import(folder, tmp_path):
    """A module loads an object when it is imported, while another thread loads it and imports the module for that."""
    module = tmp_path / "loads_when_imported.py"
    module.write_text("class Helper:\n    def __init__(self, x):\n        self.x = x\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import loads_when_imported

        uuid = rings.Config(loads_when_imported.Helper(3)).make_uuid()
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("loads_when_imported", None)
    source = module.read_text()
    module.write_text(
        "import time\nfrom support import rings\n"
        f"{source}rings.began.set()\ntime.sleep(0.3)\nCONFIG = rings.Config.ana_load({uuid!r})\n"
    )
    paths = environment()["PYTHONPATH"]
    assert ask_python(IMPORTED, folder, uuid, env=environment(PYTHONPATH=f"{tmp_path}:{paths}")) == [3, 3]


WAITED_FOR = """
import json, pickle, sys
from support import rings
import ana

def load():
    return pickle.loads(bytes.fromhex(sys.argv[1]))

found = rings.at_once(*[load] * 4)
print(json.dumps([len(rings.loaded), len(set(map(id, found)))]))
"""


@pytest.mark.slow
def test_who_computes_is_waited_for(folder):
    """A load that takes long, because it computes, is not done twice."""
    busy = rings.Busy(1.0)
    busy.make_uuid()
    assert ask_python(WAITED_FOR, pickle.dumps(busy).hex()) == [1, 1]


@pytest.mark.slow
def test_who_reads_is_waited_for(folder):
    """A store that takes long to answer is not asked twice."""
    config = rings.Config(2)
    config.make_uuid()
    slow = """
from ana.stores.directory.store import DirectoryStore
get, gets = DirectoryStore.get, []
def slowly(*arguments, **options):
    rings.began.set(); gets.append(1)
    __import__("time").sleep(1.0)
    return get(*arguments, **options)
DirectoryStore.get, rings.loaded = slowly, gets
"""
    program = WAITED_FOR.replace("import ana\n", f"import ana\n{slow}")
    assert ask_python(program, pickle.dumps(config).hex()) == [1, 1]


@pytest.mark.slow
def test_whoever_waits_in_vain_loads_an_object_of_the_same_uuid(folder):
    """A load that sleeps is done once more by who waits for it; nobody gets half an object, and all get one."""
    sleeper = rings.Sleeper()
    sleeper.make_uuid()
    loads, objects = ask_python(WAITED_FOR, pickle.dumps(sleeper).hex())
    assert 2 <= loads <= 4
    assert objects == 1


def test_a_thread_that_computes_gets_on():
    """And one that waits for a lock does not: it uses no processor time, and wants none."""
    lock, stop, seen = threading.Lock(), threading.Event(), []

    def work(wait):
        seen.append(thread_progress.Thread())
        if wait:
            with lock:
                return
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=work, args=(wait,)) for wait in (False, True)]
    try:
        with lock:
            for thread in threads:
                thread.start()
            while len(seen) < 2:
                time.sleep(0.01)
            busy, idle = seen if threads[0].ident == seen[0].number else reversed(seen)
            busy.idle_seconds(), idle.idle_seconds()
            deadline = time.monotonic() + 60
            wanted, at_rest = False, 0
            # The idle one has to get as far as the lock first, and may wait for the interpreter or a processor until
            # then. Once it is there, it wants nothing any more.
            while (idle.idle_seconds() < 0.3 or not wanted or at_rest < 6) and time.monotonic() < deadline:
                assert busy.idle_seconds() < 0.3 or busy.wants_to_run()
                at_rest = 0 if idle.wants_to_run() else at_rest + 1
                wanted = wanted or busy.wants_to_run()
                time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert time.monotonic() < deadline
