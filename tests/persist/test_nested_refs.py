"""Refs in Refs: in a circle, thousands deep, around something that cannot be pickled. No hang, and no 2^n steps."""

import gc
import pickle
import threading

import pytest

import ana


class Stubborn:
    """Cannot be pickled, and counts how often that was tried."""

    def __init__(self):
        self.tried = 0

    def __reduce__(self):
        self.tried += 1
        msg = "not this one"
        raise pickle.PicklingError(msg)


class Wrapped(ana.Storable):
    """Wraps what it holds into a new Ref each time its state is asked for."""

    def __init__(self, name, other=None):
        self.name = name
        self.other = other

    def _ana_getstate(self):
        return [self.name, ana.Ref([self.other])]

    def _ana_setstate(self, s):
        self.name, self.ref = s


class ByValue(ana.Storable):
    """Goes by value, and holds something."""

    def __init__(self, x):
        self.x = x


@pytest.fixture(params=["memory", "folder"])
def layer(request, tmp_path):
    """Return a function that begins anew with a layer over the same store: nothing that was stored is alive."""
    states = {}

    def fresh():
        if request.param == "memory":
            return ana.set_dl(ana.DictDataLayer(states))
        return ana.set_dl(pickle_dir=tmp_path / "s", durable=False)

    fresh()
    return fresh


def store(ref):
    """Store a Ref by pickling it."""
    pickle.dumps(ref)


def store_many(ref):
    """Store a Ref by a batch."""
    ana.get_dl().store_many([ref])


@pytest.mark.parametrize("begin", [ana.Ref.make_uuid, store, store_many])
def test_a_circle_of_refs_is_stored(layer, begin):
    """A tree whose nodes know their parents: one of them has a random UUID, and all of it loads as one circle."""
    parent, kids = {"name": "p"}, [{"name": "a"}, {"name": "b"}]
    ref = ana.Ref(parent)
    parent["kids"] = [ana.Ref(kid) for kid in kids]
    for kid in kids:
        kid["parent"] = ref
    begin(ref)
    reference = pickle.dumps(ref)
    del ref, parent, kids, kid
    layer()
    loaded = pickle.loads(reference)
    assert [kid.value["name"] for kid in loaded.value["kids"]] == ["a", "b"]
    assert all(kid.value["parent"] is loaded for kid in loaded.value["kids"])


def test_a_ref_that_holds_itself(layer):
    """The shortest circle."""
    value = {}
    ref = value["self"] = ana.Ref(value)
    reference = pickle.dumps(ref)
    del ref, value
    layer()
    loaded = pickle.loads(reference)
    assert loaded.value["self"] is loaded


def test_circles_that_are_longer_than_pythons_stack(layer):
    """150 Refs, each with two others: all loads, whoever is asked for first."""
    refs = [ana.Ref([]) for _ in range(150)]
    for number, ref in enumerate(refs):
        ref.value.extend((refs[(number + 1) % 150], refs[(number * 7 + 3) % 150], number))
    reference = pickle.dumps(refs[0])
    refs.clear()
    del ref
    layer()
    first = ref = pickle.loads(reference)
    for number in range(150):
        assert ref.value[2] == number
        ref = ref.value[0]
    assert ref is first


def test_states_that_make_new_refs_are_stored_in_a_circle(layer):
    """Two objects that wrap each other in a new Ref at each pickling."""
    one, two = Wrapped("one"), Wrapped("two")
    one.other, two.other = two, one
    one.make_uuid()
    reference = pickle.dumps(one)
    del one, two
    gc.collect()
    layer()
    loaded = pickle.loads(reference)
    (two,) = loaded.ref.value
    (one,) = two.ref.value
    assert one is loaded
    assert [one.name, two.name] == ["one", "two"]


@pytest.mark.slow
def test_what_has_no_end_is_an_error(layer):
    """States that go on making new Refs: a RecursionError, in the end."""
    one, two = Wrapped("one"), Wrapped("two")
    one.other, two.other = two, one
    with pytest.raises(RecursionError):
        pickle.dumps(one)


def test_a_long_chain_of_refs_is_stored_and_loaded(layer):
    """400 Refs in one another, of which none has a UUID."""
    ref = None
    for _ in range(400):
        ref = ana.Ref([ref])
    reference = pickle.dumps(ref)
    del ref
    layer()
    ref, depth = pickle.loads(reference), 0
    while ref is not None:
        (ref,), depth = ref.value, depth + 1
    assert depth == 400


@pytest.mark.parametrize(
    "wrap",
    [lambda x: ana.Ref([x]), lambda x: ana.Ref(ByValue([x])), lambda x: Wrapped("", x)],
    ids=["Ref", "Ref around a Storable", "a new Ref each time"],
)
def test_what_cannot_be_pickled_is_not_tried_again_at_each_level(layer, wrap):
    """Thirty states in one another: the innermost is tried as often as if it were alone."""
    alone, nested = Stubborn(), Stubborn()
    with pytest.raises(pickle.PicklingError):
        ana.Ref([alone]).make_uuid()
    ref = nested
    for _ in range(30):
        ref = wrap(ref)
    with pytest.raises(pickle.PicklingError):
        ref.make_uuid()
    assert nested.tried <= alone.tried


def test_a_store_that_fails_is_not_asked_again_at_each_level(layer, monkeypatch):
    """Thirty Refs in one another, and a full disk."""
    asked = []

    def put(*_, **__):
        asked.append(1)
        raise ana.StoreError("/somewhere", 28, "no space left")

    monkeypatch.setattr(ana.get_dl().store, "put", put)
    ref = 1
    for _ in range(30):
        ref = ana.Ref([ref])
    with pytest.raises(ana.StoreError):
        ref.make_uuid()
    assert len(asked) <= 3


def test_after_a_failure_all_can_be_stored(layer):
    """What could not be pickled is taken out: everything around it has no UUID yet, and gets one."""
    inner = [threading.Lock()]
    ref = ana.Ref(inner)
    outer = ana.Ref(ref)
    with pytest.raises(TypeError):
        outer.make_uuid()
    assert outer.uuid is None
    assert ref.uuid is None
    inner[0] = 1
    assert outer.make_uuid() == ana.Ref(ana.Ref([1])).make_uuid()


def test_a_tree_is_pickled_once(layer):
    """A wide and deep tree: each value is pickled at most twice, whatever the depth at which it is found."""
    counts = {}

    class Counting(ana.Ref):
        def _ana_getstate(self):
            counts[id(self)] = counts.get(id(self), 0) + 1
            return super()._ana_getstate()

    globals()["Counting"] = Counting
    Counting.__qualname__ = "Counting"
    refs = []
    for width in range(8):
        ref = Counting([width])
        for _ in range(40):
            ref = Counting([ref, width])
            refs.append(ref)
    top = Counting(refs[39::40])
    top.make_uuid()
    assert counts[id(top)] == 1
    assert max(counts.values()) <= 3
