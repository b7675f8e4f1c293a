"""`ana.Executor`: tasks are untouched, and what is large travels by reference, wherever it hides."""

import asyncio
import concurrent.futures
import functools
import gc
import multiprocessing
import operator
import os
import pickle
import queue
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest
from support import classes, processes, tasks
from support.engines import require
from support.tasks import Model, Recording, double, fail, grow, is_same, kill, make, say, total, whoami

import ana
from ana import maintenance
from ana.tasks import depot, worker

LARGE = 1_000_000
"""In bytes."""
METHODS = ("fork", "spawn", "forkserver")


def states(folder):
    """Return how many states lie below a folder."""
    return sum(1 for _ in maintenance.ls(str(folder)))


def array(number=0):
    """Return a large array, another one for each number."""
    return np.arange(LARGE // 8, dtype=float) + number


HIDING = {
    "an argument": lambda data: (total, data),
    "a keyword": lambda data: (functools.partial(total, data=data),),
    "a partial": lambda data: (functools.partial(total, data),),
    "a partial of a partial": lambda data: (functools.partial(functools.partial(total, data)),),
    "a closure": lambda data: (lambda: total(data),),
    "a bound method": lambda data: (Model(data).total,),
    "a nested list": lambda data: (total, [1, [data], {"x": (data,)}]),
    "a dict of arrays": lambda data: (total, {"a": data, "b": data * 2}),
    "a state of one's own": lambda data: (total, Model(data)),
}


@pytest.mark.parametrize("where", HIDING)
def test_what_is_large_goes_by_reference_wherever_it_hides(where, recording, tmp_path):
    """A task with a large array sends less than 2 kB, and computes what it would without ANA."""
    ana.set_dl(tmp_path)
    function, *arguments = HIDING[where](array())
    with ana.Executor(recording) as executor:
        assert executor.submit(function, *arguments).result() == function(*arguments)
    assert 0 < recording.sent < 2500
    assert recording.returned < 200
    assert states(tmp_path) in (1, 2)


LARGE_VALUES = {
    "bytes": b"x" * LARGE,
    "bytearray": bytearray(LARGE),
    "str": "é" * LARGE,
    "list": list(range(LARGE // 4)),
    "dict": {f"key {number}": number for number in range(LARGE // 20)},
    "int": 1 << (8 * LARGE),
    "nested": [{"text": "x" * LARGE}],
}


@pytest.mark.parametrize("kind", LARGE_VALUES)
def test_large_values_go_by_reference_both_ways(kind, recording, tmp_path):
    """Whatever their type, as arguments and as results; equal to what was sent, and of the same type."""
    ana.set_dl(tmp_path)
    value = LARGE_VALUES[kind]
    with ana.Executor(recording) as executor:
        result = executor.submit(say, value).result()
    assert result == value
    assert type(result) is type(value)
    assert recording.sent < 1000
    assert recording.returned < 1000


def test_small_things_touch_no_store(recording, tmp_path):
    """They travel with the task, and nothing is written."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording) as executor:
        assert executor.submit(say, {"a": np.arange(10), "b": "text"}).result()["a"][3] == 3
        assert list(executor.map(operator.add, range(3), range(3))) == [0, 2, 4]
    assert states(tmp_path) == 0


def test_min_bytes_says_what_is_large(recording, tmp_path):
    """As a number or as a size; below it, arrays and bytes go by value."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording, min_bytes="1MB") as executor:
        executor.submit(total, np.zeros(999_000, "u1")).result()
        assert states(tmp_path) == 0
        executor.submit(total, np.zeros(1_000_000, "u1")).result()
        assert states(tmp_path) == 1


def test_what_is_the_same_object_stays_so(recording, tmp_path):
    """Also where a large argument is in another one, or in a partial."""
    ana.set_dl(tmp_path)
    large = list(range(LARGE // 4))
    with ana.Executor(recording) as executor:
        assert executor.submit(is_same, large, [large]).result()
        assert executor.submit(functools.partial(is_same, large), [large]).result()
        assert executor.submit(functools.partial(is_same, [large][0]), other=[large]).result()
        data = array()
        assert executor.submit(is_same, data, [data]).result()


def test_a_value_is_stored_once(recording, tmp_path):
    """However often it is sent, by `submit` or `map`, also by another executor and again as a new object."""
    ana.set_dl(tmp_path)
    for _ in range(2):
        with Recording(2) as pool, ana.Executor(pool) as executor:
            assert list(executor.map(total, [array()] * 5)) == [total(array())] * 5
            for _ in range(3):
                executor.submit(total, array()).result()
    assert states(tmp_path) == 1


@pytest.mark.parametrize("kind", [np.asarray, bytes], ids=["array", "bytes"])
def test_what_is_shipped_is_the_part_of_an_object(kind, recording, tmp_path):
    """An array that an object holds, too, is stored once; whichever comes first."""
    ana.set_dl(tmp_path, part_bytes="256KiB")
    first, second = kind(array()), kind(array(1))
    ana.Ref([first, "of an object"]).make_uuid()
    with ana.Executor(recording) as executor:
        executor.submit(len, first).result()
        assert states(tmp_path) == 2
        executor.submit(len, second).result()
        assert states(tmp_path) == 3
    ana.Ref([second, "of an object"]).make_uuid()
    assert states(tmp_path) == 4


def test_small_states_share_a_pack(recording, tmp_path):
    """What is smaller than 1 MiB is appended to a pack of the process; what is larger has its own file."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording) as executor:
        list(executor.map(total, [array(number) for number in range(10)]))
        executor.submit(total, np.zeros(1 << 18)).result()
    assert len(list((tmp_path / "packs").iterdir())) == 1
    assert len(list(tmp_path.rglob("*.pkl.zst"))) == 1
    assert ana.get_dl().store.packs.pack_bytes == 0, "the user's own layer stays as it is"


def test_arrays_are_read_only_and_shared(recording, tmp_path):
    """All tasks of a process see the same memory, which none can write to; with `writable`, each has its own."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording) as executor:
        first, second = (executor.submit(whoami, array()).result() for _ in range(2))
        assert first == second
        assert first[1] is False
        with pytest.raises(ValueError, match="read-only") as raised:
            executor.submit(grow, array()).result()
        assert "writable=True" in raised.value.__notes__[0]
    with Recording(2) as pool, ana.Executor(pool, writable=True) as executor:
        assert executor.submit(grow, array()).result() == total(array() + 1)
        assert executor.submit(grow, array()).result() == total(array() + 1)


def test_a_store_that_is_not_mounted_on_a_workers_host(tmp_path):
    """The task's error says what to do there."""
    with pytest.raises(ana.StoreError, match="mount its filesystem here, or set ANA_PATH_MAP") as raised:
        depot.of_home(str(tmp_path / "elsewhere"), 1 << 20, durable=False, made_on="")
    assert raised.value.path == str(tmp_path / "elsewhere")


def test_results_are_the_callers_own(recording, tmp_path):
    """A large result can be written to, is loaded once, and is the same object each time."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording) as executor:
        future = executor.submit(double, array())
        result = future.result()
        result += 1
        assert future.result() is result
        assert executor.submit(double, array()).result()[1] == 2


def test_results_can_stay_by_reference(recording, tmp_path):
    """Each is a Ref, whose value is loaded on first access; the next task takes it as a value."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording, results="ref") as executor:
        found = executor.submit(double, array()).result()
        assert "not loaded" in repr(found) or found.value is not None
        assert recording.returned < 300
        assert executor.submit(total, found).result().value == total(array() * 2)
        assert executor.submit(total, data=found).result().value == total(array() * 2)
        assert list(executor.map(total, [found] * 3, chunksize=2))[2].value == total(array() * 2)
    assert np.array_equal(found.value, array() * 2)


def test_results_by_reference_need_a_folder(recording):
    """In memory nothing could stay: an error that names the cure."""
    with pytest.raises(ValueError, match=r"set_dl\(pickle_dir="):
        ana.Executor(recording, results="ref")


def test_refs_and_storables_are_not_pickled_again(recording, tmp_path):
    """A Ref arrives as its value, a Storable as itself, each sent as a UUID and loaded once."""
    ana.set_dl(tmp_path)
    ref, model = ana.Ref(list(range(LARGE))), classes.Node(array())
    model.make_uuid()
    with ana.Executor(recording) as executor:
        assert executor.submit(len, ref).result() == LARGE
        assert executor.submit(is_same, model, [model]).result()
    assert recording.sent < 2000


@pytest.mark.parametrize("method", METHODS)
def test_process_pools(method, tmp_path):
    """ProcessPoolExecutor: nobody sets a worker up; one copy of an array for all tasks of a process."""
    ana.set_dl(tmp_path)
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool,
        ana.Executor(pool) as executor,
    ):
        seen = {executor.submit(whoami, array()).result() for _ in range(6)}
        assert len(seen) == len({pid for *_, pid in seen}) <= 2
        assert os.getpid() not in {pid for *_, pid in seen}
        assert list(executor.map(total, [array()] * 5, chunksize=2)) == [total(array())] * 5
        assert np.array_equal(executor.submit(double, array()).result(), array() * 2)
    assert maintenance.verify(str(tmp_path)).problems == []


def test_without_a_folder_a_temporary_one_serves():
    """It is there until the executor is shut down and its results are loaded, and gone then."""
    with ProcessPoolExecutor(2) as pool, ana.Executor(pool) as executor:
        assert list(executor.map(total, [array()] * 3)) == [total(array())] * 3
        late = executor.submit(double, array())
        folder = Path(executor._sending.depot.store.home)
        assert folder.exists()
        del executor
    assert folder.exists()
    assert np.array_equal(late.result(), array() * 2)
    del late
    gc.collect()
    assert not folder.exists()


def test_futures_are_those_of_the_wrapped_executor(tmp_path):
    """Of its class; callbacks, as_completed, wait, cancel and asyncio work, and see the result itself."""
    ana.set_dl(tmp_path)
    with ThreadPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        future = executor.submit(double, array())
        assert isinstance(future, concurrent.futures.Future)
        seen = queue.SimpleQueue()
        future.add_done_callback(lambda done: seen.put(done.result()[1]))
        assert [done.result()[1] for done in as_completed([future])] == [2]
        assert seen.get(timeout=processes.PATIENCE_SECONDS) == 2
        assert future.exception() is None
        assert concurrent.futures.wait([future]).done == {future}

        async def ask():
            return await asyncio.wrap_future(executor.submit(double, array()))

        assert asyncio.run(ask())[1] == 2
        begun, goes_on = threading.Event(), threading.Event()
        blocking = pool.submit(lambda: (begun.set(), goes_on.wait(processes.PATIENCE_SECONDS)))
        begun.wait(processes.PATIENCE_SECONDS)
        waiting = executor.submit(double, array())
        assert waiting.cancel()
        assert waiting.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()
        goes_on.set()
        assert blocking.result()


def test_map_is_as_the_standard_one(recording, tmp_path):
    """In order, over several iterables, with chunks and a timeout; what is no option is an error."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording) as executor:
        assert list(executor.map(operator.add, range(10), iter(range(5)))) == [0, 2, 4, 6, 8]
        assert list(executor.map(operator.add, range(10), range(10), chunksize=3)) == list(range(0, 20, 2))
        assert list(executor.map(total, [], chunksize=3)) == []
        results = executor.map(say, range(100), chunksize=10)
        assert next(results) == 0
        results.close()
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(say, [1], chunksize=0)
        with pytest.raises(TypeError, match="sizebuffer"):
            executor.map(say, [1], sizebuffer=1)
        try:
            with pytest.raises(TimeoutError):
                list(executor.map(tasks.wait, [1], timeout=0))
        finally:
            tasks.let_go.set()


if sys.version_info >= (3, 14):

    def test_map_with_a_buffersize(recording):
        """Items are taken as results are: from Python 3.14 on."""
        taken = []
        with ana.Executor(recording) as executor:
            results = executor.map(say, (taken.append(number) or number for number in range(10)), buffersize=2)
            assert next(results) == 0
            assert len(taken) <= 3
            assert list(results) == list(range(1, 10))


def test_map_pickles_the_function_once(recording, tmp_path):
    """A large model that is a function's own is not hashed for each item."""
    ana.set_dl(tmp_path)
    model = Model(array())
    Model.pickled = 0
    with ana.Executor(recording) as executor:
        assert list(executor.map(model.at, range(20))) == list(range(20))
    assert Model.pickled == 1


def test_errors_are_the_tasks_own(tmp_path):
    """With their type, arguments and the worker's traceback; the pool goes on."""
    ana.set_dl(tmp_path)
    with ProcessPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        with pytest.raises(KeyError, match="no such thing") as caught:
            executor.submit(fail, array(), KeyError("no such thing")).result()
        assert "in fail" in str(caught.value.__cause__)
        with pytest.raises(ana.StateNotFoundError):
            executor.submit(fail, array(), ana.StateNotFoundError("x", "y")).result()
        with pytest.raises((TypeError, pickle.PicklingError)):
            executor.submit(make, "lock").result()
        assert executor.submit(total, array()).result() == total(array())


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_state_that_cannot_be_had_fails_its_task_alone(damage, tmp_path):
    """The error is raised in the task and names the state; sending the value again stores it again."""
    ana.set_dl(tmp_path, recheck_seconds=0)
    data = np.random.default_rng(0).random(1 << 18)
    error = {"missing": ana.StateNotFoundError, "damaged": ana.CorruptedStateError}[damage]
    with ProcessPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        packed = executor._begin().packer.pack((total, (data,), {}))
        (file,) = tmp_path.rglob("*.pkl.zst")
        if damage == "missing":
            file.unlink()
        else:
            raw = bytearray(file.read_bytes())
            raw[len(raw) // 2] ^= 1
            file.write_bytes(raw)
        with pytest.raises(error, match=file.name.split(".")[0]):
            executor._send(executor._begin(), None, packed, worker.ONE).result()
        assert executor.submit(total, [1, 2]).result() == 3


def test_a_result_that_cannot_be_loaded_is_an_error_of_its_future(recording, tmp_path):
    """From `result`, `exception` and in asyncio."""
    ana.set_dl(tmp_path)
    with ana.Executor(recording) as executor:
        future = executor.submit(make, 1 << 21)
        concurrent.futures.wait([future])
        (file,) = tmp_path.rglob("*.pkl.zst")
        file.unlink()
        assert isinstance(future.exception(), ana.StateNotFoundError)
        with pytest.raises(ana.StateNotFoundError):
            future.result()

        async def ask():
            return await asyncio.wrap_future(future)

        with pytest.raises(ana.StateNotFoundError):
            asyncio.run(ask())


def test_a_killed_worker_breaks_what_it_breaks_without_ana(tmp_path):
    """ProcessPoolExecutor's own error; what is stored stays whole, and a new pool works."""
    ana.set_dl(tmp_path)
    with ProcessPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        broken = executor.submit(kill, array())
        with pytest.raises(concurrent.futures.process.BrokenProcessPool):
            broken.result()
    with ProcessPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        assert executor.submit(total, array()).result() == total(array())
    assert maintenance.verify(str(tmp_path)).problems == []


def test_what_is_shipped_is_kept_while_the_executor_runs(tmp_path):
    """Also a result on its way. Once it is shut down, gc takes it all."""
    ana.set_dl(tmp_path)
    folder = str(tmp_path)

    def collect():
        maintenance.gc(folder, maintenance.Scope(unreachable=True), grace_seconds=0, without_roots=True)

    with Recording(1) as pool, ana.Executor(pool) as executor:
        packed = executor._begin().packer.pack((np.negative, (array(1),), {}))
        (root,) = maintenance.roots(folder)
        assert root.name.startswith("tasks of ")
        assert (len(root.uuids), root.until is not None) == (1, True)
        collect()
        future = executor._send(executor._begin(), None, packed, worker.ONE)
        concurrent.futures.wait([future])
        assert len(maintenance.roots(folder)[0].uuids) == 2
        collect()
        assert (future.result() == -array(1)).all()
    assert maintenance.roots(folder) == []
    collect()
    collect()
    assert states(tmp_path) == 0


def test_after_shutdown_nothing_is_sent(recording, tmp_path):
    """The wrapped executor is shut down, too, once or twice."""
    ana.set_dl(tmp_path)
    executor = ana.Executor(recording)
    executor.submit(total, array()).result()
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(total, array())
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(total, [array()])


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"executor": 3}, TypeError, "not int"),
        ({"executor": total}, TypeError, r"ana\.unwrap"),
        ({"min_bytes": "many"}, ValueError, "min_bytes"),
        ({"min_bytes": -1}, ValueError, "min_bytes"),
        ({"min_bytes": None}, TypeError, "min_bytes"),
        ({"results": "refs"}, ValueError, '"value" or "ref"'),
    ],
)
def test_wrong_options_are_refused(wrong, error, words, recording):
    """With their names and what is allowed, before anything is made."""
    options = {"executor": recording, **wrong}
    with pytest.raises(error, match=words):
        ana.Executor(options.pop("executor"), **options)


def test_what_does_not_pickle_is_an_error_of_submit(recording):
    """Before anything is sent; without cloudpickle the message says how a lambda could be sent."""
    with ana.Executor(recording) as executor:
        with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
            executor.submit(say, threading.Lock())
        assert recording.sent == 0


WITHOUT_CLOUDPICKLE = """
import sys
sys.modules["cloudpickle"] = None
import ana, multiprocessing
from concurrent.futures import ProcessPoolExecutor, Executor, Future
def f(x): return x + 1
class Far(Executor):
    "Workers that have another __main__."
    def submit(self, function, *arguments): raise AssertionError
context = multiprocessing.get_context("fork")
with ProcessPoolExecutor(1, context) as pool, ana.Executor(pool) as executor:
    print(executor.submit(f, 1).result())
    try:
        executor.submit(lambda: 1)
    except Exception as error:
        print(type(error).__name__, error)
try:
    ana.Executor(Far()).submit(f, 1)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_cloudpickle_the_message_names_it():
    """Functions of modules, and of the script in a process pool, need none."""
    works, refused, far = processes.run_program(WITHOUT_CLOUDPICKLE).splitlines()
    assert works == "2"
    for said in (refused, far):
        assert said.startswith("PicklingError")
        assert "pip install cloudpickle" in said


BY_VALUE = """
import ana
import pickle
from concurrent.futures import Executor, Future
import subprocess, sys

class Far(Executor):
    "A worker that knows nothing of this program."
    def submit(self, function, *arguments):
        code = (
            "import sys, pickle; function, arguments = pickle.load(sys.stdin.buffer)\\n"
            "try: result = True, function(*arguments)\\n"
            "except Exception as error: result = False, error\\n"
            "sys.stdout.buffer.write(pickle.dumps(result))"
        )
        data = pickle.dumps((function, arguments))
        done = subprocess.run([sys.executable, "-c", code], input=data, check=True, stdout=subprocess.PIPE)
        future = Future()
        worked, result = pickle.loads(done.stdout)
        (future.set_result if worked else future.set_exception)(result)
        return future

class Point:
    def __init__(self, x):
        self.x = x

class OwnError(Exception):
    pass

def move(point):
    return Point(point.x + 1)

def refuse(point):
    raise OwnError("too far", point.x)

with ana.Executor(Far()) as executor:
    made = executor.submit(move, Point(1)).result()
    print(type(made) is Point, made.x)
    print(executor.submit(lambda: Point(3)).result().x)
    try:
        executor.submit(refuse, Point(5)).result()
    except OwnError as error:
        print(error.args)
"""


def test_functions_and_classes_of_main_go_by_value():
    """Where workers do not run the same script: arguments, results and errors are of the script's own classes."""
    require("cloudpickle")
    assert processes.run_program(BY_VALUE).splitlines() == ["True 2", "3", "('too far', 5)"]


INITIALIZER = """
import multiprocessing, sys
import ana
from concurrent.futures import ProcessPoolExecutor
setting = "none"
def begin(said):
    global setting
    setting = said
def ask(_):
    return setting
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(1, context, begin, ("set",)) as pool, ana.Executor(pool) as executor:
        print(executor.submit(ask, bytes(1_000_000)).result())
"""


@pytest.mark.parametrize("method", METHODS)
def test_tasks_see_what_an_initializer_has_set(method, tmp_path):
    """The script's functions go by name to workers that run the same script, as without ANA."""
    script = tmp_path / "script.py"
    script.write_text(INITIALIZER, encoding="utf-8")
    assert processes.run(sys.executable, script, method) == "set\n"


def test_threads_load_a_buffer_once(recording, tmp_path):
    """Tasks in several threads of one process that want the same array at the same time share one load."""
    ana.set_dl(tmp_path)
    with ThreadPoolExecutor(8) as pool, ana.Executor(pool) as executor:
        places = {executor.submit(whoami, array()) for _ in range(16)}
        assert len({future.result() for future in places}) == 1


def test_a_worker_lets_go_of_what_exceeds_its_budget(tmp_path):
    """Loaded arrays stay for the next task within `keep_bytes`, and go when others need the room."""
    ana.set_dl(tmp_path, keep_bytes=2 * LARGE)
    with ThreadPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        for number in range(6):
            executor.submit(total, array(number)).result()
        assert executor.submit(count_kept, str(tmp_path)).result() <= 2


def count_kept(home):
    """Be a task: say how many buffers this process keeps."""
    return len(depot.of_home(home, 0, durable=False, made_on="")._live.kept)


def test_workers_adopt_the_folder(tmp_path):
    """What a task stores itself goes into the program's folder, in a worker that nobody set up."""
    ana.set_dl(tmp_path)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, ana.Executor(pool) as executor:
        (made,) = executor.submit(tasks.make_ref, [1, 2, 3]).result()
    assert made.value == [1, 2, 3]
    assert states(tmp_path) == 1
