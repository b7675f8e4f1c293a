"""Sites that mount a store elsewhere: references are found by a map of paths, and it is one store by two paths."""

import os
import pickle
import shutil

import pytest
from support import classes, mounts, processes

import ana
from ana import reference as references
from ana.errors import ANAError, StateNotFoundError
from ana.layers import path_map, resolve


@pytest.fixture
def reference(tmp_path):
    """A reference that was made where the store had another path, and where that store is now."""
    with ana.using_dl(pickle_dir=tmp_path / "there" / "pickles"):
        data = pickle.dumps(_stored(classes.Counted("state")))
    (tmp_path / "there").rename(tmp_path / "here")
    resolve._met.clear()
    return data, tmp_path


def _stored(obj):
    obj.make_uuid()
    return obj


def _map(monkeypatch, *pairs):
    monkeypatch.setenv("ANA_PATH_MAP", ":".join(f"{start}={target}" for start, target in pairs))


# The map


@pytest.mark.parametrize(
    ("said", "home", "found"),
    [
        ("/lustre/x=/mnt/x", "/lustre/x/pickles", "/mnt/x/pickles"),
        ("/lustre/x=/mnt/x", "/lustre/x", "/mnt/x"),
        ("/lustre/x=/mnt/x", "/lustre/xy/pickles", "/lustre/xy/pickles"),
        ("/lustre/x=/mnt/x", "/gpfs/lustre/x", "/gpfs/lustre/x"),
        ("/lustre/x=/mnt/x", "memory:5f3a", "memory:5f3a"),
        ("/a=/short:/a/b=/long", "/a/b/c", "/long/c"),
        ("/a/b=/long:/a=/short", "/a/b/c", "/long/c"),
        ("/a/b=/long:/a=/short", "/a/c", "/short/c"),
        ("/a=/b:/b=/a", "/a/x", "/b/x"),
        ("/a/=/b//c/", "/a/x", "/b/c/x"),
        (":/a=/b:", "/a/x", "/b/x"),
        ("/=/mnt", "/a/x", "/mnt/a/x"),
        ("/mnt=/", "/mnt/a", "/a"),
        ("//a=//b", "/a/x", "/b/x"),
        ("/a b=/ü", "/a b/x", "/ü/x"),
        ("", "/a", "/a"),
    ],
)
def test_the_longest_pair_of_whole_components_counts(monkeypatch, said, home, found):
    """A home is mapped once, by the longest FROM that is a prefix of it component by component; else it stays."""
    monkeypatch.setenv("ANA_PATH_MAP", said)
    assert path_map.here(home) == found


BAD = ["/a", "/a=b", "a=/b", "/a=", "=/b", "/a=/b=/c", "/a=/b:nonsense", "/a=/b:/a=/c", " /a=/b"]


@pytest.mark.parametrize("said", BAD)
def test_a_map_that_makes_no_sense_is_refused(monkeypatch, said):
    """ANAError names the variable, what it holds, and how it should look."""
    monkeypatch.setenv("ANA_PATH_MAP", said)
    with pytest.raises(ANAError, match="ANA_PATH_MAP must be FROM=TO") as caught:
        path_map.here("/a/x")
    assert repr(said) in str(caught.value)


# References


def test_a_reference_of_another_site_is_found(reference, monkeypatch):
    """It is loaded from where this host mounts the store, once, and later references give the same object."""
    data, place = reference
    _map(monkeypatch, (place / "there", place / "here"), ("/elsewhere", "/nowhere"))
    before = classes.Counted.loads
    found = pickle.loads(data)
    assert found.x == "state"
    assert pickle.loads(data) is found
    assert classes.Counted.loads == before + 1
    assert not (place / "there").exists()


def test_without_the_map_it_is_not_found(reference):
    """As ever: the object raises when it is used, and says where was looked."""
    data, place = reference
    found = pickle.loads(data)
    with pytest.raises(StateNotFoundError, match=str(place / "there" / "pickles")):
        found.x


def test_what_was_not_found_is_found_when_the_map_is_there(reference, monkeypatch):
    """The environment is read when the state is looked for, not at the start."""
    data, place = reference
    found = pickle.loads(data)
    _map(monkeypatch, (place / "there", place / "here"))
    assert found.x == "state"


def test_a_reference_that_is_passed_on_unloaded_keeps_its_home(reference, monkeypatch):
    """A host that only passes it on does not write its own path into it, mapped or not."""
    data, place = reference
    _map(monkeypatch, (place / "there", place / "nowhere"))
    again = pickle.dumps(pickle.loads(data))
    assert str(place / "there").encode() in again
    assert str(place / "nowhere").encode() not in again


@pytest.mark.parametrize("said", BAD[:2])
def test_a_bad_map_raises_when_the_object_is_used(reference, monkeypatch, said):
    """Not while it is unpickled, where it would hang a pool; and not where another place has the state."""
    data, place = reference
    monkeypatch.setenv("ANA_PATH_MAP", said)
    found = pickle.loads(data)
    with pytest.raises(ANAError, match="ANA_PATH_MAP"):
        found.x
    ana.set_dl(pickle_dir=place / "here" / "pickles")
    assert found.x == "state"


def test_the_path_that_this_host_was_given_is_not_mapped(reference, monkeypatch):
    """`pickle_dir` and ANA_PICKLE_DIR are paths of this host."""
    data, place = reference
    _map(monkeypatch, (place / "here", place / "nowhere"))
    monkeypatch.setenv("ANA_PICKLE_DIR", str(place / "here" / "pickles"))
    assert pickle.loads(data).x == "state"


def test_workers_of_another_site_find_it(reference):
    """A process that knows nothing but the map loads the object and stores its result in the same store."""
    data, place = reference
    (place / "reference").write_bytes(data)
    program = """
import pathlib, pickle, sys, ana
found = pickle.loads(pathlib.Path(sys.argv[1], "reference").read_bytes())
assert found.x == "state"
result = ana.Ref("result")
result.make_uuid()
print(result.uuid, ana.get_dl().home)
"""
    environment = processes.environment(ANA_PATH_MAP=f"{place / 'there'}={place / 'here'}")
    uuid, home = processes.run_program(program, place, env=environment).split()
    assert home == str(place / "here" / "pickles")
    with ana.using_dl(pickle_dir=home):
        assert ana.Ref.ana_load(uuid).value == "result"


# One store, two paths


def _reference_by(path):
    """Make an object in a store by one of its paths, and return what a worker of that site would send back."""
    program = """
import pickle, sys, ana; from support import classes
ana.set_dl(pickle_dir=sys.argv[1])
obj = classes.Counted("one")
obj.make_uuid()
sys.stdout.write(pickle.dumps(obj).hex())
"""
    return bytes.fromhex(processes.run_program(program, path))


def test_a_store_by_a_symbolic_link_is_the_same(tmp_path):
    """One object per UUID, though references name the store by two paths."""
    layer = ana.set_dl(pickle_dir=tmp_path / "store")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    data = _reference_by(tmp_path / "link")
    found = pickle.loads(data)
    ana.set_dl()
    assert pickle.loads(data) is found
    assert layer.live.get(found.uuid) is found


def test_a_store_by_a_second_mount_is_the_same(tmp_path):
    """Also by a mount of its own."""
    layer = ana.set_dl(pickle_dir=tmp_path / "store")
    uuid = _stored(classes.Counted("one")).uuid
    with mounts.read_only(tmp_path / "store", tmp_path / "mount") as place:
        ana.set_dl()
        found = pickle.loads(pickle.dumps(_Reference(uuid, str(place))))
        assert found.x == "one"
        assert layer.live.get(uuid) is found


class _Reference:
    def __init__(self, uuid, home):
        self.parts = classes.Counted, uuid, home

    def __reduce__(self):
        return references.load, self.parts


def test_a_copy_of_a_store_is_another_one(tmp_path):
    """It has the same id, but perhaps other states: a reference to the copy is looked for there."""
    ana.set_dl(pickle_dir=tmp_path / "store")
    ana.DirDataLayer(tmp_path / "store").store_state("warm up", 1)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=os.link)
    data = _reference_by(tmp_path / "copy")
    assert pickle.loads(data).x == "one"
