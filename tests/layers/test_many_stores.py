"""A process that meets a new store with each job: what it holds does not grow, and objects stay one per UUID."""

import gc
import os
import pickle
import weakref

import pytest
from support import classes

import ana
from ana.layers import layer, resolve
from ana.runtime import counters


def references(tmp_path, number, size=100):
    """Store a Ref in each of many stores; return a reference to each."""
    found = []
    for place in range(number):
        ana.set_dl(pickle_dir=tmp_path / str(place), durable=False)
        found.append(pickle.dumps(ana.Ref([place, "x" * size])))
    ana.set_dl()
    return found


def alive():
    """Return how many layers of folders there are, and how many files are open."""
    gc.collect()
    # One that was opened for a reference was a layer in memory for a moment.
    layers = {id(one) for one in layer.by_home.values() if not one.home.startswith("memory:")}
    return len(layers), len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("node_cache", ["", "cache"])
def test_stores_that_references_led_to_are_let_go(tmp_path, monkeypatch, node_cache):
    """Of 40, the last few are open; the objects that were loaded from the rest are gone."""
    monkeypatch.setenv("ANA_NODE_CACHE", node_cache and str(tmp_path / node_cache))
    ends, seen = references(tmp_path, 40), []
    for number, reference in enumerate(ends):
        ref = pickle.loads(reference)
        assert ref.value[0] == number
        seen.append(weakref.ref(ref))
        del ref
        if number == 20:
            middle = alive()
    assert alive() <= middle
    assert alive()[0] <= resolve.MOST_MET + 1
    assert sum(ref() is not None for ref in seen) <= resolve.MOST_MET + 1


def test_an_object_outlives_the_layer_that_it_came_from(tmp_path):
    """Its store is let go, a reference to it is met again: it is the same object."""
    first, *others = references(tmp_path, 30)
    ref = pickle.loads(first)
    assert ref.value[0] == 0
    for other in others:
        assert pickle.loads(other).value
    assert str(tmp_path / "0") not in resolve._met
    assert pickle.loads(first) is ref


def test_a_ref_loads_from_a_store_that_was_let_go(tmp_path):
    """The store is opened again for it."""
    first, *others = references(tmp_path, 30)
    ref = pickle.loads(first)
    for other in others:
        assert pickle.loads(other).value
    assert ref.value[0] == 0


def test_the_store_that_is_used_again_and_again_stays(tmp_path):
    """However many others are met in between."""
    first, *others = references(tmp_path, 40)
    ref = pickle.loads(first)
    assert ref.value
    held = weakref.ref(layer.by_home[str(tmp_path / "0")])
    for other in others:
        assert pickle.loads(other).value
        del ref
        ref = pickle.loads(first)
        assert ref.value
    assert layer.by_home[str(tmp_path / "0")] is held()


def loaded(folder, uuid):
    """Load an object, and return a weak reference to it."""
    with ana.using_dl(folder):
        return weakref.ref(classes.A.ana_load(uuid))


def test_keep_bytes_is_for_all_layers_of_the_process(tmp_path):
    """Objects of 400 bytes, 1,000 bytes to keep: two are kept, whichever layers they are from."""
    gc.collect()
    layers = [ana.DirDataLayer(tmp_path / str(number), keep_bytes=1000, durable=False) for number in range(3)]
    uuids = []
    for number, one in enumerate(layers):
        with ana.using_dl(one):
            uuids.append(classes.A(f"{number}" * 400).make_uuid())
    seen = [loaded(one, uuid) for one, uuid in zip(layers, uuids, strict=True)]
    gc.collect()
    assert [ref() is not None for ref in seen] == [False, True, True]


def test_the_largest_budget_is_the_processs(tmp_path):
    """And each layer's own counts for its own objects."""
    gc.collect()
    large = ana.DirDataLayer(tmp_path / "large", keep_bytes=10_000, durable=False)
    small = ana.DirDataLayer(tmp_path / "small", keep_bytes=0, durable=False)
    seen = {}
    for one in (large, small):
        with ana.using_dl(one):
            uuids = [classes.A(f"{number}" * 400).make_uuid() for number in range(3)]
        seen[one] = [loaded(one, uuid) for uuid in uuids]
    gc.collect()
    assert [ref() is not None for ref in seen[large]] == [True, True, True]
    assert [ref() is not None for ref in seen[small]] == [False, False, True]


def test_the_counts_of_stores_that_are_gone_do_not_grow(tmp_path, monkeypatch):
    """Of many the oldest are summed up; nothing is lost."""
    monkeypatch.setattr(counters, "_past", {})
    defaults = list(counters._retire.__defaults__)
    defaults[1], defaults[3] = counters._past, 5
    monkeypatch.setattr(counters._retire, "__defaults__", tuple(defaults))
    for number in range(20):
        counted = counters.Counters(f"/store/{number}")
        counted.stored += 1
        del counted
    assert len(counters._past) <= 6
    assert sum(one["stored"] for one in counters._past.values()) == 20
    assert "/store/19" in counters._past
    assert counters.OTHERS in counters._past
