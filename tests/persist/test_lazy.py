"""What is lazy is not touched before it is used: an object that holds thousands of Refs is one file to load."""

import pickle

import pytest
from support import classes

import ana
from ana.persist import prefetching
from ana.stores.directory.store import DirectoryStore


class Special(ana.Ref):
    """A kind of Ref."""


@pytest.fixture(params=["local", "network"])
def folder(request, tmp_path, monkeypatch):
    """Return a store's folder, with a layer over it; it answers at once, or late."""
    if request.param == "network":
        monkeypatch.setattr(DirectoryStore, "high_latency", True)
        monkeypatch.setenv("ANA_WAIT", "0")
    ana.set_dl(pickle_dir=tmp_path / "s", durable=False)
    return tmp_path / "s"


@pytest.fixture
def opened(monkeypatch):
    """Return the UUIDs that the store is asked for."""
    asked = []
    get = DirectoryStore.get

    def noting(self, key, **options):
        asked.append(key)
        return get(self, key, **options)

    monkeypatch.setattr(DirectoryStore, "get", noting)
    return asked


def again(folder, obj):
    """Return the object as a process that has only a reference gets it."""
    reference = pickle.dumps(obj)
    ana.set_dl(pickle_dir=folder)
    return pickle.loads(reference)


REFS = {"Ref": ana.Ref, "a subclass": Special, "Ref[int]": ana.Ref[int]}


@pytest.mark.parametrize("kind", REFS)
def test_refs_in_a_ref_are_not_opened(folder, opened, kind):
    """Until one of them is used: that is one more."""
    outer = again(folder, ana.Ref([REFS[kind](number) for number in range(50)]))
    assert opened == []
    refs = outer.value
    assert opened == [outer.uuid]
    assert refs[7].value == 7
    assert opened == [outer.uuid, refs[7].uuid]


def test_refs_in_a_storable_are_not_opened(folder, opened):
    """Nor those of the Storables that it holds, each of which is loaded with it."""
    inner = [classes.A([ana.Ref(number)]) for number in range(6)]
    for one in inner:
        one.make_uuid()
    outer = classes.A([*inner, *(ana.Ref(-number) for number in range(50))])
    outer.make_uuid()
    needed = {outer.uuid, *(one.uuid for one in inner)}
    del inner
    outer = again(folder, outer)
    assert [one.x[0].value for one in outer.x[:6]] == list(range(6))
    lazy = {ref.uuid for ref in (*(one.x[0] for one in outer.x[:6]), *outer.x[6:])}
    # The first few after a Storable are looked up ahead, where that is done at all: what they are is not known.
    ahead = set(opened) - needed - {one.x[0].uuid for one in outer.x[:6]}
    assert len(ahead & lazy) <= prefetching.SAMPLE_STATES
    assert needed <= set(opened)


def test_a_missing_state_of_a_ref_shows_when_it_is_used(folder):
    """Not when what holds it is loaded."""
    outer = ana.Ref([ana.Ref(1), ana.Ref(2)])
    outer.make_uuid()
    classes.file_of(folder, outer.value[1].uuid).unlink()
    refs = again(folder, outer).value
    assert refs[0].value == 1
    with pytest.raises(ana.StateNotFoundError):
        _ = refs[1].value


def test_prefetch_loads_what_is_lazy(folder, opened):
    """What was asked for, and not what that holds in turn."""
    outer = again(folder, ana.Ref([ana.Ref([ana.Ref(number)]) for number in range(20)]))
    refs = outer.value
    ana.prefetch(refs)
    del opened[:]
    assert [len(ref.value) for ref in refs] == [1] * 20
    assert opened == []


def test_a_ref_is_one_object_whoever_refers_to_it(folder):
    """Also where two states hold it, and it was not loaded yet."""
    shared = ana.Ref("shared")
    one, two = classes.A([shared]), classes.A([shared])
    one.make_uuid(), two.make_uuid()
    both = pickle.dumps([one, two])
    del shared, one, two
    ana.set_dl(pickle_dir=folder)
    one, two = pickle.loads(both)
    assert one.x[0] is two.x[0]


@pytest.mark.parametrize("length", [15, 40, 300])
def test_chains_of_storables_load_whole(folder, length):
    """Of any length, with Refs on the way; each node has what it refers to when its state is set."""
    node = None
    for number in range(length):
        node = classes.Chained(number, node)
        node.make_uuid()
    reference = pickle.dumps(node)
    while node is not None:
        node = node.next
    ana.set_dl(pickle_dir=folder)
    node, seen = pickle.loads(reference), 0
    while node is not None:
        assert node.length == length - seen
        assert node.ref.value == length - seen - 1
        node, seen = node.next, seen + 1
    assert seen == length
