"""Threads that share an object never see it half-built: they wait for its load, or get the typed error."""

import asyncio
import concurrent.futures
import contextlib
import gc
import pickle
import random
import sys
import threading
import time

import pytest
from support import classes
from support.half_built import KINDS, WAIT_SECONDS, Counting, Listed, Mapped, OwnHooks, OwnRef, Slots, gate

import ana
from ana.objects import ghost
from ana.persist import inflight
from ana.persist import loading as loads

PLAIN = {
    "attributes": lambda: classes.Node(1, 2),
    "slots": lambda: classes.SlottedData(1, 2),
    "frozen slots": lambda: classes.FrozenSlotted(1, 2),
    "list": lambda: classes.ListFirst([1, 2]),
    "dict": lambda: classes.DictFirst({1: 1, 2: 2}),
    "set": lambda: classes.SetFirst([1, 2]),
}
PARTS = {
    "attributes": lambda obj: obj.number + obj.after,
    "slots": lambda obj: obj.a + obj.b,
    "frozen slots": lambda obj: obj.a + obj.b,
}
USES = {
    "attribute": lambda obj: obj.first + obj.second,
    "getattr": lambda obj: getattr(obj, "second", None) + 1,
    "vars": lambda obj: vars(obj)["second"] + 1 if hasattr(obj, "__dict__") else obj.total(),
    "setattr": lambda obj: setattr(obj, "second", obj.second) or obj.total(),
    "method": lambda obj: obj.total(),
    "operator": lambda obj: obj + 0,
    "iteration": sum,
    "len": len,
    "call": lambda obj: obj(),
    "hash": lambda obj: 3 if hash(obj) == hash(3) else 0,
    "equality": lambda obj: 3 if obj == 3 else 0,
    "repr": lambda obj: sum(map(int, repr(obj).split("+"))),
    "state": lambda obj: sum(obj._ana_getstate()) if isinstance(obj, OwnHooks) else obj.total(),
    "type": lambda obj: obj.total() if isinstance(obj, type(obj)) and obj.__class__ in (*KINDS, OwnRef) else 0,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a store's folder, with a layer over it."""
    # On a busy machine, whoever waits at the gate is not to be taken for one that waits in vain.
    for name in ("PATIENCE_SECONDS", "LAST_PATIENCE_SECONDS"):
        monkeypatch.setattr(inflight, name, WAIT_SECONDS)
    gate.open()
    ana.set_dl(pickle_dir=tmp_path / "s", durable=False)
    return tmp_path / "s"


def waiting(folder, obj):
    """Return an object whose first load failed, and whose state is there again; and a reference to it."""
    uuid = obj._ana_uuid or obj.make_uuid()
    reference = pickle.dumps(obj)
    file = classes.file_of(folder, uuid)
    raw = file.read_bytes()
    file.unlink()
    ana.set_dl(pickle_dir=folder)
    obj = pickle.loads(reference)
    file.write_bytes(raw)
    assert ghost.is_ghost(obj)
    return obj, reference


@contextlib.contextmanager
def loading(obj, use=lambda obj: obj.total(), *, fails=False):
    """Load an object in a thread, which waits in the midst of it until the block has begun something in others."""
    gate.close(fails=fails)
    reached, opened = gate.reached, gate.opened
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(use, obj)
        assert reached.wait(WAIT_SECONDS)
        try:
            yield pool, first
        finally:
            opened.set()


def assert_waits(future):
    """Check that a thread is not done with an object that is half-built."""
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_thread_waits(folder, kind):
    """It gets the whole object, whatever its class is like."""
    Counting.filled = 0
    obj, _ = waiting(folder, kind())
    with loading(obj) as (pool, first):
        second = pool.submit(lambda: (obj.first, obj.second, obj.total()))
        assert_waits(second)
    assert second.result() == (1, 2, 3)
    assert first.result() == 3
    assert type(obj) is kind
    assert Counting.filled == (kind is Counting)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", [OwnHooks, Slots])
def test_any_use_waits(folder, kind, use):
    """Whether it is an attribute, an operator or a built-in function."""
    obj, _ = waiting(folder, kind())
    with loading(obj) as (pool, _):
        second = pool.submit(USES[use], obj)
        assert_waits(second)
    assert second.result() == 3


def test_a_ref_of_its_own_kind_waits(folder):
    """A subclass of Ref, which is lazy and was never tried, as well."""
    ref = OwnRef()
    uuid = ref.make_uuid()
    reference = pickle.dumps(ref)
    del ref
    ana.set_dl(pickle_dir=folder)
    ref = pickle.loads(reference)
    with loading(ref, lambda ref: ref.value) as (pool, first):
        second = pool.submit(lambda: (ref.value, ref.second, ref.uuid))
        assert_waits(second)
    assert second.result() == ((1, 2), 2, uuid)
    assert first.result() == (1, 2)
    assert type(ref) is OwnRef


@pytest.mark.parametrize("kind", KINDS)
def test_a_load_that_fails_midway(folder, kind):
    """The first thread gets the typed error; the second one loads by itself. Nobody gets an AttributeError."""
    obj, _ = waiting(folder, kind())
    with loading(obj, fails=True) as (pool, first):
        second = pool.submit(obj.total)
        assert_waits(second)
    with pytest.raises(ana.StateLoadError, match=rf"{kind.__name__}\._ana_setstate raised ValueError: not today"):
        first.result()
    assert second.result() == 3
    assert [*obj] == [1, 2]
    Counting.filled = 0


@pytest.mark.parametrize("kind", [OwnHooks, Listed, Mapped])
def test_every_thread_gets_the_typed_error(folder, kind):
    """If the state can still not be set, after it was half set."""
    obj, _ = waiting(folder, kind())
    with loading(obj, fails=True) as (pool, first):
        classes.file_of(folder, obj._ana_uuid).unlink()
        others = [pool.submit(lambda: obj.second) for _ in range(4)]
    with pytest.raises(ana.StateLoadError):
        first.result()
    for other in others:
        with pytest.raises(ana.StateNotFoundError):
            other.result()
    assert "not loaded" in repr(obj)
    if not isinstance(obj, OwnHooks):
        assert kind.__bases__[2].__len__(obj) > 0


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda obj, reference: pickle.loads(reference).second, id="unpickled"),
        pytest.param(lambda obj, reference: ana.load(obj._ana_uuid).second, id="load"),
        pytest.param(lambda obj, reference: OwnHooks.ana_load(obj._ana_uuid).second, id="ana_load"),
        pytest.param(lambda obj, reference: ana.get_dl().load_many([obj._ana_uuid])[0].second, id="load_many"),
        pytest.param(lambda obj, reference: ana.prefetch([obj]) or obj.second, id="prefetch"),
        pytest.param(lambda obj, reference: obj.ana_store() and obj.second, id="stored"),
        pytest.param(lambda obj, reference: asyncio.run(asyncio.to_thread(lambda: obj.second)), id="asyncio"),
        pytest.param(lambda obj, reference: pickle.loads(pickle.dumps([obj]))[0].second, id="pickled"),
    ],
)
def test_all_ways_to_the_object(folder, use):
    """Whoever gets the object from its UUID, a reference or the layer waits as well."""
    obj, reference = waiting(folder, OwnHooks())
    with loading(obj) as (pool, _):
        second = pool.submit(use, obj, reference)
        assert_waits(second)
    assert second.result() == 2


def test_a_parent_that_is_loaded_meanwhile(folder):
    """Its setstate, in another thread, wants the child that the first thread fills."""
    child = OwnHooks()
    child.make_uuid()
    parent = classes.A(child)
    parent.make_uuid()
    reference = pickle.dumps(parent)
    obj, _ = waiting(folder, child)
    del parent, child
    with loading(obj) as (pool, _):
        second = pool.submit(lambda: pickle.loads(reference).x.second)
        assert_waits(second)
    assert second.result() == 2


class Whole(ana.Storable):
    """Uses its part, which refers back to it, before it is complete."""

    def __init__(self):
        self.part = classes.A(self)
        self.ref = ana.Ref([self])

    def _ana_getstate(self):
        return self.part, self.ref

    def _ana_setstate(self, s):
        self.part, self.ref = s
        assert self.part.x is self
        assert self.ref.value == [self]
        gate.pass_()
        self.done = 1


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda part, ref: part.x.done, id="part"),
        pytest.param(lambda part, ref: ref.value[0].done, id="Ref"),
    ],
)
def test_what_a_ghost_holds_is_complete_as_well(folder, use):
    """A part that another thread holds is filled within its whole's load, and refers to the whole: it waits for it."""
    whole = Whole()
    whole.make_uuid("whole")
    whole.part.make_uuid("part")
    whole.ana_store()
    reference, of_ref = pickle.dumps(whole), pickle.dumps(whole.ref)
    part, _ = waiting(folder, whole.part)
    del whole
    gc.collect()
    ref = pickle.loads(of_ref)
    with loading(reference, lambda reference: pickle.loads(reference).done) as (pool, first):
        second = pool.submit(use, part, ref)
        assert_waits(second)
    assert [first.result(), second.result()] == [1, 1]


class Asks(ana.Storable):
    """A child that asks its parent for what that has not got yet."""

    def __init__(self, parent):
        self.parent = parent

    def _ana_setstate(self, s):
        self.parent = s["parent"]
        self.found = getattr(self.parent, "x", "nothing")


def test_a_child_that_asks_its_parent(folder):
    """A thread that needs a ghost for the ghost's own load gets it as it is."""
    parent = classes.A(None)
    parent.make_uuid("parent")
    parent.x = Asks(parent)
    parent.x.make_uuid("child")
    parent.ana_store()
    obj, _ = waiting(folder, parent)
    assert obj.x.found == "nothing"
    assert obj.x.parent is obj


class Helped(OwnHooks):
    """Its state is set with the help of another thread, which uses it."""

    get_help = None

    def _ana_setstate(self, s):
        self.first = s[0]
        if Helped.get_help:
            Helped.get_help(self)
        self.second = s[1]


def test_a_helper_of_a_load_that_has_failed(folder, monkeypatch):
    """A thread that was let in, because the load waits for it, comes too late: it loads by itself."""
    obj, _ = waiting(folder, Helped())
    let_in, failed, load, answers = threading.Event(), threading.Event(), loads.load, []

    def load_and_wait(*arguments, **options):
        found = load(*arguments, **options)
        let_in.set()
        assert failed.wait(WAIT_SECONDS)
        return found

    def use(obj):
        monkeypatch.setattr(loads, "load", load_and_wait)
        return obj.second

    def get_help(obj):
        answers.append(pool.submit(use, obj))
        assert let_in.wait(WAIT_SECONDS)
        raise ValueError("not today")

    monkeypatch.setattr(inflight, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(Helped, "get_help", get_help)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with pytest.raises(ana.StateLoadError, match="not today"):
            obj.total()
        monkeypatch.setattr(Helped, "get_help", None)
        failed.set()
        assert answers[0].result() == 2


def test_an_object_that_another_one_replaced(folder):
    """Threads fill a ghost from the object that has its UUID now: one after the other, or rather only the first."""
    obj, _ = waiting(folder, OwnHooks())
    other = OwnHooks()
    other._ana_setstate((1, 2))
    uuid = obj._ana_uuid
    ana.get_dl().live.put(uuid, other)
    with loading(obj) as (pool, first):
        second = pool.submit(lambda: obj.second)
        assert_waits(second)
    assert [first.result(), second.result()] == [3, 2]
    assert type(obj) is OwnHooks
    assert obj is not OwnHooks.ana_load(uuid)


LOCK = threading.RLock()


class Locked(ana.Storable):
    """Needs a lock of the program in the midst of its state."""

    reached = threading.Event()

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        self.first, _ = s
        Locked.reached.set()
        with LOCK:
            _, self.second = s


class Pooled(ana.Storable):
    """Has threads that use it while its state is set, and waits for them."""

    def _ana_getstate(self):
        return [1, 2]

    def _ana_setstate(self, s):
        self.numbers = s
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            self.second = sum(pool.map(lambda at: self.numbers[at], range(2))) - 1


def test_whoever_fills_it_wants_a_lock_that_another_thread_has(folder, monkeypatch):
    """The thread that has the lock gets an error, and nobody hangs or sees half of it."""
    monkeypatch.setattr(inflight, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(inflight, "LAST_PATIENCE_SECONDS", 1.0)
    obj, _ = waiting(folder, Locked())
    Locked.reached.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with LOCK:
            first = pool.submit(lambda: (obj.first, obj.second))
            assert Locked.reached.wait(WAIT_SECONDS)
            with pytest.raises(ana.StateLoadError, match="perhaps it wants a lock of this thread"):
                _ = obj.second
        assert first.result(WAIT_SECONDS) == (1, 2)
        assert pool.submit(lambda: (obj.first, obj.second)).result(WAIT_SECONDS) == (1, 2)
    assert type(obj) is Locked
    assert not inflight._by_key


class Growing(ana.Storable, list):
    """Sets its state in steps that must not be taken twice, and waits between them."""

    may_go_on = threading.Event()
    begun = threading.Event()
    in_flight = 0

    def _ana_getstate(self):
        return list(self)

    def _ana_setstate(self, s):
        self.append(s[0])
        if not Growing.begun.is_set():
            Growing.begun.set()
            Growing.may_go_on.wait(WAIT_SECONDS)
        else:
            Growing.in_flight = len(list(inflight._in_flight()))
        self.extend(s[1:])


@pytest.mark.parametrize("load", [len, lambda obj: len(Growing.ana_load(obj.ana_uuid))], ids=["used", "loaded"])
def test_whoever_fills_it_stands_still_for_long(folder, monkeypatch, load):
    """As one that waits for a slow server: others wait, and nobody sets the state of that object a second time."""
    monkeypatch.setattr(inflight, "PATIENCE_SECONDS", 0.2)
    obj, _ = waiting(folder, Growing([1, 2]))
    Growing.begun.clear()
    Growing.may_go_on.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(load, obj)
        assert Growing.begun.wait(WAIT_SECONDS)
        threading.Timer(1.5, Growing.may_go_on.set).start()
        assert len(obj) == 2
        assert first.result(WAIT_SECONDS) == 2
    assert list(obj) == [1, 2]
    # Both loads of the state: after a fork or an interrupt, either is given up.
    assert Growing.in_flight == 2
    assert not inflight._by_key


def test_whoever_fills_it_waits_for_threads_that_use_it(folder, monkeypatch):
    """Its helpers get the ghost as it is, as the thread itself would."""
    monkeypatch.setattr(inflight, "PATIENCE_SECONDS", 0.2)
    obj, _ = waiting(folder, Pooled())
    assert obj.second == 2
    assert type(obj) is Pooled


def test_an_object_by_value_is_found_when_it_is_whole():
    """An object that takes its UUID and its state along is not there for others before its state is."""
    ana.set_dl(ana.SimpleDataLayer())
    obj = OwnHooks()
    obj.first, obj.second = 1, 2
    uuid = obj.make_uuid()
    sent = pickle.dumps(obj)
    del obj
    with loading(sent, pickle.loads) as (pool, first):
        second = pool.submit(lambda: ana.reference.load(OwnHooks, uuid).second)
        with pytest.raises(ana.ANAError):
            second.result()
    assert first.result().total() == 3
    assert ana.reference.load(OwnHooks, uuid) is first.result()


@pytest.mark.parametrize(
    "seconds", [pytest.param(1.0, id="short"), pytest.param(30.0, id="long", marks=pytest.mark.slow)]
)
def test_many_threads_at_once(folder, seconds):
    """Eight threads use objects whose states come back meanwhile: they get whole ones or the typed error."""
    kinds = [*KINDS, *PLAIN]
    made = [kind() for kind in KINDS] + [make() for make in PLAIN.values()]
    files = [classes.file_of(folder, one.make_uuid()) for one in made]
    references, raws = [pickle.dumps(one) for one in made], [file.read_bytes() for file in files]
    del made
    whole = errors = 0
    deadline, interval = time.monotonic() + seconds, sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        while time.monotonic() < deadline:
            for file in files:
                file.unlink()
            ana.set_dl(pickle_dir=folder)
            ghosts = [(PARTS.get(kind, sum), pickle.loads(one)) for kind, one in zip(kinds, references, strict=True)]
            start = threading.Barrier(9)
            with concurrent.futures.ThreadPoolExecutor(9) as pool:
                pool.submit(bring_back, start, files, raws)
                for one in pool.map(use_all, [start] * 8, range(8), [ghosts] * 8):
                    whole, errors = whole + one, errors + len(ghosts) - one
    finally:
        sys.setswitchinterval(interval)
    assert whole > errors > 0


def bring_back(start, files, raws):
    """Write the states again, as another process would."""
    start.wait()
    for file, raw in zip(files, raws, strict=True):
        file.write_bytes(raw)


def use_all(start, seed, ghosts):
    """Use each object, in some order, and return how many of them were there."""
    start.wait()
    there = 0
    for total, obj in random.Random(seed).sample(ghosts, len(ghosts)):
        with contextlib.suppress(ana.ANAError):
            assert total(obj) == 3
            there += 1
    return there
