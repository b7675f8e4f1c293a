"""One object per UUID and process: with threads, forks, deaths, a keep-alive budget, and very deep chains."""

import gc
import os
import pickle
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import classes

import ana

THREADS = 32
DEEP = 10_000


def fresh(folder, **options):
    """Forget all live objects, as in another process."""
    return ana.set_dl(pickle_dir=folder, durable=False, **options)


def in_threads(count, task):
    """Run `task(number)` in so many threads that start together; return the results, raise what one raised."""
    start = threading.Barrier(count)

    def run(number):
        start.wait()
        return task(number)

    with ThreadPoolExecutor(count) as pool:
        return [future.result(timeout=60) for future in [pool.submit(run, number) for number in range(count)]]


@pytest.fixture
def switching():
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def found_and_measured(data):
    """Unpickle an object, and touch its state at once."""
    found = pickle.loads(data)
    return found, len(found.x)


def test_threads_that_unpickle_the_same_reference_get_one_object(tmp_path, switching):
    """32 threads, one reference: one object, complete for each of them, its state set once."""
    fresh(tmp_path / "s")
    obj = classes.Counted(list(range(1000)))
    obj.make_uuid()
    data = pickle.dumps(obj)
    del obj
    for _ in range(10):
        fresh(tmp_path / "s")
        classes.Counted.loads = 0
        seen = in_threads(THREADS, lambda _: found_and_measured(data))
        assert {id(found) for found, _ in seen} == {id(seen[0][0])}
        assert {length for _, length in seen} == {1000}
        assert classes.Counted.loads == 1


def ring(size):
    """Make a ring of addressed objects; return a reference to each."""
    nodes = [classes.Node(number) for number in range(size)]
    for number, node in enumerate(nodes):
        node.after = nodes[(number + 1) % size]
        node.make_uuid(uuid=f"ring-{number}")
    return [pickle.dumps(node) for node in nodes]


def walked(node, size):
    """Walk round a ring at once, touching all states; return the numbers and the objects met."""
    numbers, met = [], []
    for _ in range(size + 1):
        numbers.append(node.number)
        met.append(node)
        node = node.after
    return numbers, met


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_threads_that_enter_a_ring_at_different_places(tmp_path, switching, size):
    """32 threads load a ring from all ends: no deadlock, one object each, and no thread sees an unfinished one."""
    fresh(tmp_path / "s")
    references = ring(size)
    for _ in range(8):
        fresh(tmp_path / "s")

        def enter(number):
            start = number % size
            return start, *walked(pickle.loads(references[start]), size)

        by_number = {}
        for start, numbers, met in in_threads(THREADS, enter):
            assert numbers == [(start + step) % size for step in range(size + 1)]
            for node in met:
                assert type(node) is classes.Node
                assert by_number.setdefault(node.number, node) is node


def walked_to_the_hole(node):
    """Walk along a ring until a link cannot be loaded; return the numbers before, and what is said of it."""
    numbers = []
    while True:
        try:
            numbers.append(node.number)
        except ana.CorruptedStateError as error:
            return numbers, error.uuid
        node = node.after


def test_threads_that_enter_a_ring_with_a_damaged_link(tmp_path, switching):
    """Nobody waits for ever; each thread walks up to the damaged link, which says so, and no link is half loaded."""
    fresh(tmp_path / "s")
    references = ring(5)
    classes.damage(classes.file_of(tmp_path / "s", "ring-2"))
    for _ in range(8):
        fresh(tmp_path / "s")
        answers = in_threads(THREADS, lambda number: walked_to_the_hole(pickle.loads(references[number % 5])))
        for number, (numbers, uuid) in enumerate(answers):
            assert uuid == "ring-2"
            assert numbers == [(number + step) % 5 for step in range((2 - number) % 5)]


class Reviving(ana.Storable):
    """Unpickles something when it dies."""

    last_words = []  # noqa: RUF012 - shared by all on purpose

    def __init__(self, reference):
        self.reference = reference

    def __del__(self):
        Reviving.last_words.append(pickle.loads(self.reference).number)


def test_destructors_that_unpickle(tmp_path, switching):
    """Objects that load others when they die, in the middle of other loads, do not block or break them."""
    fresh(tmp_path / "s", keep_bytes=0)
    references = ring(3)
    objects = [Reviving(references[number % 3]) for number in range(6)]
    Reviving.last_words.clear()
    dying = [[obj.make_uuid(), pickle.dumps(obj)][1] for obj in objects]
    del objects

    def churn(thread):
        for step in range(30):
            pickle.loads(dying[(thread + step) % 6])
            assert walked(pickle.loads(references[(thread + step) % 3]), 3)[0][0] == (thread + step) % 3
        return True

    assert all(in_threads(8, churn))
    assert set(Reviving.last_words) == {0, 1, 2}


class Sum(ana.Storable):
    """Uses its children as soon as it has them, as states may."""

    def __init__(self, children):
        self.children = children
        self.total = 1 + sum(child.total for child in children)

    def _ana_setstate(self, s):
        self.children = s["children"]
        self.total = 1 + sum(child.total for child in self.children)


def test_children_are_complete_when_a_state_is_set(tmp_path, switching):
    """Without circles, a state always finds its children finished, also while other threads load them."""
    fresh(tmp_path / "s")
    levels = [[Sum([])]]
    levels[0][0].make_uuid()
    for _ in range(6):
        level = [Sum(levels[-1] * (1 + copy)) for copy in range(2)]
        for obj in level:
            obj.make_uuid()
        levels.append(level)
    expected = [obj.total for level in levels for obj in level]
    references = [pickle.dumps(obj) for level in levels for obj in level]
    del levels, level, obj
    for _ in range(5):
        fresh(tmp_path / "s")

        def load(number):
            order = references if number % 2 else references[::-1]
            totals = [found.total for found in [pickle.loads(data) for data in order]]
            return totals if number % 2 else totals[::-1]

        assert in_threads(THREADS, load) == [expected] * THREADS


@pytest.mark.parametrize("order", [1, -1])
def test_threads_make_the_same_addresses(tmp_path, switching, order):
    """32 threads give one object its UUID at once: one UUID, one state."""
    fresh(tmp_path / "s")
    shared = [classes.A([number]) for number in range(5)][::order]
    seen = in_threads(THREADS, lambda _: [obj.make_uuid() for obj in shared])
    assert all(uuids == seen[0] for uuids in seen)
    assert len(classes.states(tmp_path / "s")) == 5


def test_objects_die_and_come_back(tmp_path, switching):
    """While threads drop and load the same objects, each always gets a whole one of the right content."""
    fresh(tmp_path / "s", keep_bytes=0)
    references = []
    for number in range(4):
        obj = classes.A([number] * 100)
        obj.make_uuid()
        references.append(pickle.dumps(obj))
    del obj

    def churn(thread):
        for step in range(100):
            number = (thread + step) % 4
            assert pickle.loads(references[number]).x == [number] * 100
        return True

    assert all(in_threads(8, churn))


def test_a_dead_object_is_forgotten(tmp_path):
    """An object that nobody holds is gone, and comes back as another one under its UUID."""
    layer = fresh(tmp_path / "s", keep_bytes=0)
    obj = classes.A(1)
    uuid = obj.make_uuid()
    watch = weakref.ref(obj)
    data = pickle.dumps(obj)
    assert uuid in layer.uuid_cache
    del obj
    assert watch() is None
    assert uuid not in layer.uuid_cache
    again = pickle.loads(data)
    assert again.uuid == uuid
    assert layer.uuid_cache[uuid] is again


def kept(uuids, layer):
    """Return the positions of the UUIDs that are alive in a layer."""
    gc.collect()
    return [position for position, uuid in enumerate(uuids) if uuid in layer.uuid_cache]


def stored(folder, count, size_bytes):
    """Store so many objects of a size; return references and UUIDs, with nothing kept alive."""
    fresh(folder)
    objects = [classes.A(os.urandom(size_bytes)) for _ in range(count)]
    uuids = [obj.make_uuid() for obj in objects]
    return [pickle.dumps(obj) for obj in objects], uuids


def test_the_least_recently_used_goes_first(tmp_path):
    """Loaded objects stay alive within the budget, those most recently asked for longest."""
    references, uuids = stored(tmp_path / "s", 4, 1000)
    layer = fresh(tmp_path / "s", keep_bytes=3500)
    for data in references[:3]:
        pickle.loads(data)
    assert kept(uuids, layer) == [0, 1, 2]
    pickle.loads(references[0])
    pickle.loads(references[3])
    assert kept(uuids, layer) == [0, 2, 3]


@pytest.mark.slow
def test_the_last_one_always_stays(tmp_path):
    """Larger than the budget, and with a budget of 0, the last loaded object stays for the next task."""
    references, uuids = stored(tmp_path / "s", 3, 1000)
    for keep_bytes in (0, 10):
        layer = fresh(tmp_path / "s", keep_bytes=keep_bytes)
        for position, data in enumerate(references):
            pickle.loads(data)
            assert kept(uuids, layer) == [position]


def test_the_default_keeps_what_a_pool_needs_again(tmp_path):
    """Without options a loaded object is not loaded again by the next task."""
    fresh(tmp_path / "s")
    obj = classes.Counted(1)
    obj.make_uuid()
    data = pickle.dumps(obj)
    del obj
    ana.set_dl(pickle_dir=tmp_path / "s")
    classes.Counted.loads = 0
    for _ in range(4):
        assert pickle.loads(data).x == 1
        gc.collect()
    assert classes.Counted.loads == 1


def chain(uuids, links=DEEP):
    """Make a chain of so many objects that have UUIDs, each holding the next; return the first."""
    node = None
    for number in range(links):
        node = classes.Node(number, node)
        node.make_uuid(**({"uuid": f"link-{number}"} if uuids == "given" else {}))
    return node


def length(node, links=DEEP):
    """Count a chain, checking each link."""
    count = 0
    while node is not None:
        count += 1
        assert node.number == links - count
        node = node.after
    return count


SLOW = pytest.mark.slow  # 10,000 files are made, and removed
EVERY_DEEP = [
    ("memory", "content"),
    pytest.param("memory", "given", marks=SLOW),
    pytest.param("folder", "content", marks=SLOW),
    pytest.param("folder", "given", marks=SLOW),
]


@pytest.mark.slow
@pytest.mark.parametrize("uuids", ["content", "given"])
def test_chains_deeper_than_the_recursion_limit_in_a_folder(tmp_path, uuids):
    """As below, with as many links as an everyday run can afford to make files for."""
    fresh(tmp_path / "s")
    limit = sys.getrecursionlimit()
    top = chain(uuids, limit + 200)
    data = pickle.dumps(top)
    del top
    fresh(tmp_path / "s")
    assert length(pickle.loads(data), limit + 200) == limit + 200
    assert sys.getrecursionlimit() == limit


@pytest.mark.slow
@pytest.mark.parametrize(("where", "uuids"), EVERY_DEEP)
def test_deep_chains(tmp_path, uuids, where):
    """10,000 addressed objects in a chain store and load; the recursion limit is as it was."""
    limit = sys.getrecursionlimit()
    mapping = {}

    def layer():
        return fresh(tmp_path / "s") if where == "folder" else ana.set_dl(ana.DictDataLayer(mapping))

    layer()
    top = chain(uuids)
    data = pickle.dumps(top)
    del top
    layer()
    assert length(pickle.loads(data)) == DEEP
    assert sys.getrecursionlimit() == limit


@SLOW
@pytest.mark.parametrize("uuids", ["content", "given"])
def test_deep_chains_into_another_layer(tmp_path, uuids):
    """A chain of 10,000 objects is stored in the next layer when its first link is pickled or stored there."""
    ana.set_dl()
    top = chain(uuids)
    fresh(tmp_path / "s")
    top.ana_store()
    assert len(classes.states(tmp_path / "s")) == DEEP


@pytest.mark.parametrize("links", [2000, pytest.param(DEEP, marks=SLOW)])
def test_a_deep_ring(links):
    """A ring that is longer than Python's stack stores and loads."""
    mapping = {}
    ana.set_dl(ana.DictDataLayer(mapping))
    first = node = classes.Node(-1)
    first.make_uuid("first")
    for number in range(links - 1):
        node = classes.Node(number, node)
        node.make_uuid(f"n{number}")
    first.after = node
    data = pickle.dumps(first)
    del node
    first.after = None
    del first
    ana.set_dl(ana.DictDataLayer(mapping))
    found = pickle.loads(data)
    node, count = found.after, 1
    while node is not found:
        assert node.number == links - 1 - count
        node, count = node.after, count + 1
    assert count == links
    found.after = None


def test_a_deep_chain_whose_middle_is_missing():
    """What is above the hole loads; the hole itself raises when it is used, and names its own UUID."""
    mapping = {}
    ana.set_dl(ana.DictDataLayer(mapping))
    top = chain("given", 2000)
    data = pickle.dumps(top)
    del top
    del mapping["link-500"]
    ana.set_dl(ana.DictDataLayer(mapping))
    node = pickle.loads(data)
    for _ in range(2000 - 502):
        node = node.after
    assert node.number == 501
    with pytest.raises(ana.StateNotFoundError, match="link-500"):
        _ = node.after.number


DEEP_MAIN = """
import pickle, sys, ana

class Link(ana.Storable):
    def __init__(self, number, after):
        self.number, self.after = number, after

limit = sys.getrecursionlimit()
ana.set_dl(pickle_dir=sys.argv[1], durable=False)
node = None
for number in range(int(sys.argv[2])):
    node = Link(number, node)
    node.make_uuid(*([f"link-{number}"] if sys.argv[3] == "given" else []))
data = pickle.dumps(node)
del node
ana.set_dl(pickle_dir=sys.argv[1], durable=False)
node = pickle.loads(data)
count = 0
while node is not None:
    count += 1
    assert node.number == int(sys.argv[2]) - count
    node = node.after
assert sys.getrecursionlimit() == limit
if len(sys.argv) > 4:
    import cloudpickle
    top = pickle.loads(data)
    with open(sys.argv[4], "wb") as file:
        cloudpickle.dump(top, file)
print(count)
"""

DEEP_WORKER = """
import pickle, sys, ana
if len(sys.argv) > 2:
    ana.set_dl(pickle_dir=sys.argv[2])
with open(sys.argv[1], "rb") as file:
    node = pickle.load(file)
count = 0
while node is not None:
    count += 1
    node = node.after
print(count)
"""


@pytest.mark.slow  # by value each link is pickled by cloudpickle
@pytest.mark.parametrize("uuids", ["content", "given"])
def test_deep_chains_of_a_scripts_own_class(tmp_path, uuids):
    """10,000 links of a class of `__main__` store and load, also in a worker that does not have the class."""
    handed = str(tmp_path / "top.pickle")
    code = DEEP_MAIN
    assert classes.run(code, str(tmp_path / "s"), str(DEEP), uuids, handed, cwd=tmp_path) == str(DEEP)
    assert classes.run(DEEP_WORKER, handed, cwd=tmp_path) == str(DEEP)


@pytest.mark.slow
def test_chains_of_a_scripts_own_class(tmp_path):
    """300 links of a class of `__main__` load in a worker that has neither class nor configuration."""
    handed = str(tmp_path / "top.pickle")
    assert classes.run(DEEP_MAIN, str(tmp_path / "s"), "300", "content", handed, cwd=tmp_path) == "300"
    assert classes.run(DEEP_WORKER, handed, cwd=tmp_path) == "300"


@pytest.mark.slow
def test_chains_of_a_scripts_own_class_in_a_worker_with_a_store_of_its_own(tmp_path):
    """The same where the worker has set another layer: every link is looked for where its parent came from."""
    handed = str(tmp_path / "top.pickle")
    assert classes.run(DEEP_MAIN, str(tmp_path / "s"), "300", "content", handed, cwd=tmp_path) == "300"
    assert classes.run(DEEP_WORKER, handed, str(tmp_path / "own"), cwd=tmp_path) == "300"


def in_child(task):
    """Run a task in a forked child; raise what went wrong there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = repr(task())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode()[:4000])
        os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            return pipe.read()
    finally:
        os.waitpid(pid, 0)


def test_a_forked_child_has_the_objects_of_its_parent(tmp_path):
    """After a fork references give the child's own copies of the live objects, and new states can be stored."""
    fresh(tmp_path / "s")
    obj = classes.Counted([1])
    obj.make_uuid()
    data = pickle.dumps(obj)

    def child():
        other = classes.A("from the child")
        other.make_uuid()
        return pickle.loads(data) is obj, classes.A.ana_load(other.uuid) is other

    assert in_child(child) == "(True, True)"
    assert len(classes.states(tmp_path / "s")) == 2


@pytest.mark.slow
def test_fork_while_other_threads_load(tmp_path, switching):
    """A child that is forked in the middle of other threads' loads does not wait for them, and sees whole objects."""
    fresh(tmp_path / "s", keep_bytes=0)
    references = ring(5)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            for data in references:
                walked(pickle.loads(data), 5)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for step in range(20):
            assert in_child(lambda step=step: walked(pickle.loads(references[step % 5]), 5)[0]) == repr(
                [(step % 5 + more) % 5 for more in range(6)]
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_what_a_layer_kept_goes_with_it(tmp_path):
    """Objects that were kept for reuse die with the layer that kept them, though another of its objects lives on."""
    ana.set_dl(pickle_dir=tmp_path)
    first, second = classes.A(1), classes.A(2)
    uuids = [first.make_uuid(), second.make_uuid()]
    del first, second
    layer = ana.set_dl(pickle_dir=tmp_path)
    held = classes.A.ana_load(uuids[0])
    kept = weakref.ref(classes.A.ana_load(uuids[1]))
    gc.collect()
    assert kept() is not None
    del layer
    ana.set_dl()
    gc.collect()
    assert kept() is None
    assert held.x == 1
