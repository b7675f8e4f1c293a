"""Layers: which one is current, what they agree to, and where states are looked up."""

import dbm.dumb
import gc
import json
import os
import pickle
import random
import threading
import weakref

import pytest
from support import classes

import ana
from ana import maintenance


def test_set_dl_returns_the_layer(tmp_path):
    """And `get_dl` gives the same one; `ana.dl` too."""
    made = ana.set_dl(pickle_dir=tmp_path / "s")
    assert ana.get_dl() is ana.dl is made
    assert made.home == str(tmp_path / "s")
    assert isinstance(made, ana.DirDataLayer)


@pytest.mark.parametrize("how", ["keyword", "position", "pathlike", "bytes", "layer", "directory layer"])
def test_ways_to_name_a_folder(tmp_path, how):
    """A path as keyword, by position, as PathLike or bytes, or a layer over it: the same store."""
    path = tmp_path / "a" / "b"
    ways = {
        "keyword": lambda: ana.set_dl(pickle_dir=str(path)),
        "position": lambda: ana.set_dl(str(path)),
        "pathlike": lambda: ana.set_dl(path),
        "bytes": lambda: ana.set_dl(pickle_dir=os.fsencode(path)),
        "layer": lambda: ana.set_dl(ana.DataLayer(pickle_dir=path)),
        "directory layer": lambda: ana.set_dl(ana.DirDataLayer(path)),
    }
    ways[how]()
    uuid = classes.A(1).make_uuid()
    assert classes.states(path) == [f"{uuid}.pkl.zst"]
    assert ana.get_dl().home == str(path)


def test_relative_paths_and_the_home_folder_are_made_absolute(tmp_path, monkeypatch):
    """A reference must not depend on the folder of the process that unpickles it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert ana.set_dl(pickle_dir="rel").home == str(tmp_path / "rel")
    assert ana.set_dl(pickle_dir="~/mine").home == str(tmp_path / "me" / "mine")
    assert ana.set_dl(ana.DirDataLayer()).home == str(tmp_path / "pickles")


def test_without_arguments_a_new_dict(tmp_path):
    """`set_dl()` is an empty layer in memory; what another one stored is not in it."""
    a = classes.A(1)
    uuid = a.make_uuid()
    del a
    ana.set_dl()
    with pytest.raises(ana.StateNotFoundError):
        classes.A.ana_load(uuid)


def test_the_layer_can_be_assigned(tmp_path):
    """`ana.dl = layer`, as old programs do."""
    layer = ana.DataLayer(pickle_dir=str(tmp_path / "s"))
    ana.dl = layer
    assert ana.get_dl() is layer
    with pytest.raises(TypeError):
        ana.dl = 7
    assert ana.get_dl() is layer


CONTRADICTIONS = [
    (lambda path: ana.set_dl(ana.DataLayer(), pickle_dir=path), TypeError),
    (lambda path: ana.set_dl(ana.DataLayer(), strict=True), TypeError),
    (lambda path: ana.set_dl(path, pickle_dir=path), TypeError),
    (lambda path: ana.set_dl(durable=False), TypeError),
    (lambda path: ana.set_dl(durable=True), TypeError),
    (lambda path: ana.set_dl(pickle_dir=path, errors="explode"), ValueError),
    (lambda path: ana.set_dl(pickle_dir=path, keep_bytes=-1), ValueError),
    (lambda path: ana.set_dl(pickle_dir=path, keep_bytes="much"), ValueError),
    (lambda path: ana.set_dl(pickle_dir=path, keep_bytes=None), TypeError),
    (lambda path: ana.set_dl(pickle_dir=path, strict="no"), TypeError),
    (lambda path: ana.set_dl(pickle_dir=path, no_such_option=1), TypeError),
    (lambda path: ana.set_dl(pickle_dir=path, mongo_args={}), TypeError),
    (lambda path: ana.set_dl({}), TypeError),
    (lambda path: ana.set_dl(7), TypeError),
    (lambda path: ana.set_dl(pickle_dir=7), TypeError),
    (lambda path: ana.set_dl(pickle_dir=""), ValueError),
    (lambda path: ana.set_dl(""), ValueError),
    (lambda path: ana.set_dl(pickle_dir="nul\0byte"), ValueError),
    (lambda path: ana.set_dl(ana.DictDataLayer(7)), TypeError),
    (lambda path: ana.set_dl(ana.DictDataLayer({}, durable=True)), TypeError),
    (lambda path: ana.set_dl(ana.DataLayer), TypeError),
]


@pytest.mark.parametrize("number", range(len(CONTRADICTIONS)))
def test_options_that_contradict(tmp_path, number):
    """A typed error, the current layer stays, and no folder is made."""
    attempt, error = CONTRADICTIONS[number]
    before = ana.get_dl()
    with pytest.raises(error):
        attempt(tmp_path / "new")
    assert ana.get_dl() is before
    with pytest.raises(error), ana.using_dl():
        attempt(tmp_path / "new")
    assert ana.get_dl() is before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "foreign", "newer"])
def test_folders_that_are_refused_leave_the_layer_alone(tmp_path, what):
    """A file, a folder of something else, a newer store: a typed error, nothing written, the layer as before."""
    place = tmp_path / "place"
    if what == "file":
        place.write_text("x")
    else:
        place.mkdir()
        (place / ("ana.json" if what == "newer" else "thesis.tex")).write_text('{"format": 99}')
    before, held = ana.get_dl(), classes.tree(tmp_path)
    expected = {"file": ana.StoreError, "foreign": ana.UntrustedStoreError, "newer": ana.UnsupportedFormatError}
    with pytest.raises(expected[what]):
        ana.set_dl(pickle_dir=place)
    assert ana.get_dl() is before
    assert classes.tree(tmp_path) == held


def test_using_dl_nests_and_gives_back(tmp_path):
    """`with using_dl(...)` sets a layer for the block, nested ones too, and puts the former back."""
    outside = ana.get_dl()
    with ana.using_dl(pickle_dir=tmp_path / "one") as one:
        assert ana.get_dl() is one
        with ana.using_dl(tmp_path / "two") as two:
            assert ana.get_dl() is two
            uuid = classes.A(1).make_uuid()
        assert ana.get_dl() is one
        with ana.using_dl(outside) as same:
            assert same is outside
    assert ana.get_dl() is outside
    assert classes.states(tmp_path / "one") == []
    assert classes.states(tmp_path / "two") == [f"{uuid}.pkl.zst"]


def test_using_dl_after_an_exception(tmp_path):
    """An exception goes through, and the former layer is back."""
    outside = ana.get_dl()
    with pytest.raises(ZeroDivisionError), ana.using_dl(pickle_dir=tmp_path / "one"):
        raise ZeroDivisionError
    assert ana.get_dl() is outside


def test_using_dl_as_decorator(tmp_path):
    """As context managers of the standard library it decorates functions, too."""
    outside = ana.get_dl()

    @ana.using_dl(pickle_dir=tmp_path / "one")
    def work():
        return ana.get_dl().home

    assert work() == work() == str(tmp_path / "one")
    assert ana.get_dl() is outside


def test_the_layer_is_the_same_in_all_threads(tmp_path):
    """A layer that one thread sets is the one of all threads."""
    made = ana.set_dl(pickle_dir=tmp_path / "s")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(ana.get_dl()))
    thread.start()
    thread.join()
    assert seen == [made]


ENVIRONMENT = """
import os, sys, ana
os.environ["ANA_PICKLE_DIR"] = sys.argv[1]
print(ana.get_dl().home)
os.environ["ANA_PICKLE_DIR"] = sys.argv[1] + "-later"
print(ana.get_dl().home)
"""


def test_the_environment_is_read_when_it_is_first_needed(tmp_path):
    """Not at import: a program may set `ANA_PICKLE_DIR` after it; what was opened stays."""
    home = str(tmp_path / "s")
    assert classes.run(ENVIRONMENT, home, cwd=tmp_path, ANA_PICKLE_DIR="/nonexistent/x") == f"{home}\n{home}"
    assert not (tmp_path / "s-later").exists()


def test_importing_ana_makes_no_folder(tmp_path):
    """With and without the variable, importing touches no store, and no pickles folder appears."""
    (tmp_path / "cwd").mkdir()
    script = tmp_path / "script.py"
    script.write_text("import ana; from support import classes; classes.A(1); ana.Ref(1)")
    classes.run_file(script, cwd=tmp_path / "cwd", ANA_PICKLE_DIR=str(tmp_path / "s"))
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", "script.py"}
    assert list((tmp_path / "cwd").iterdir()) == []


def test_set_dl_comes_before_the_environment(tmp_path, monkeypatch):
    """A layer that was set is used for storing, whatever the environment says."""
    monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "environment"))
    ana.set_dl(pickle_dir=tmp_path / "set")
    classes.A(1).make_uuid()
    assert len(classes.states(tmp_path / "set")) == 1
    assert not (tmp_path / "environment").exists()


def put(folder, x):
    """Store an object under the given UUID "same" in a folder; return its reference."""
    with ana.using_dl(pickle_dir=folder):
        obj = classes.A(x)
        obj.make_uuid(uuid="same")
        return pickle.dumps(obj)


LOOK_UP = """
import pickle, sys, ana; from support import classes
handed, folder, live = sys.argv[1:]
if folder:
    ana.set_dl(pickle_dir=folder)
if live:
    obj = classes.A(live)
    obj.make_uuid(uuid="same")
print(pickle.load(open(handed, "rb")).x)
"""


def test_the_order_of_looking_up(tmp_path):
    """Live object, layer that was set, ANA_PICKLE_DIR, the reference's home."""
    (tmp_path / "handed").write_bytes(put(tmp_path / "home", "home"))
    put(tmp_path / "environment", "environment")
    put(tmp_path / "set", "set")
    (tmp_path / "empty").mkdir()

    def look(folder, live="", **variables):
        place = str(tmp_path / folder) if folder else ""
        return classes.run(LOOK_UP, str(tmp_path / "handed"), place, live, cwd=tmp_path, **variables)

    variable = {"ANA_PICKLE_DIR": str(tmp_path / "environment")}
    assert look("") == "home"
    assert look("empty") == "home"
    assert look("", **variable) == "environment"
    assert look("empty", **variable) == "environment"
    assert look("set", **variable) == "set"
    assert look("set", "live", **variable) == "live"


def test_ana_load_looks_into_the_environments_folder(tmp_path, monkeypatch):
    """`ana_load` finds what is in the set layer or in that of ANA_PICKLE_DIR."""
    put(tmp_path / "environment", "environment")
    monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "environment"))
    ana.set_dl()
    assert classes.A.ana_load("same").x == "environment"
    with pytest.raises(ana.StateNotFoundError, match="environment"):
        classes.A.ana_load("other")


def test_an_object_loaded_from_home_is_the_same_for_the_set_layer(tmp_path):
    """Identity holds across the places in which an object may be found."""
    data = put(tmp_path / "home", 1)
    ana.set_dl(pickle_dir=tmp_path / "set")
    found = pickle.loads(data)
    assert pickle.loads(data) is found
    passed_on = pickle.dumps(found)
    assert pickle.loads(passed_on) is found


class Upper(dict):
    """A mapping that changes keys and values on their way."""

    def __setitem__(self, key, value):
        super().__setitem__(key.upper(), bytes(value)[::-1])

    def __getitem__(self, key):
        return super().__getitem__(key.upper())[::-1]

    def __contains__(self, key):
        return super().__contains__(key.upper())


class Views(dict):
    """A mapping that gives memoryviews, as some clients do."""

    def __getitem__(self, key):
        return memoryview(super().__getitem__(key))


@pytest.mark.parametrize("make", [dict, Upper, Views])
def test_any_mapping_will_do(make):
    """What a mapping does inside is its own affair: bytes in, bytes out."""
    mapping = make()
    ana.set_dl(ana.DictDataLayer(mapping))
    a = classes.A(["a", b"b" * 20_000])
    uuid = a.make_uuid()
    data = pickle.dumps(a)
    assert len(mapping) == 1
    ana.set_dl(ana.DictDataLayer(the_dict=mapping))
    assert pickle.loads(data).x == a.x
    assert classes.A.ana_load(uuid).x == a.x


def test_a_dbm_file_as_mapping(tmp_path):
    """A mapping on disk, of the standard library: another layer over it finds the state."""
    with dbm.dumb.open(str(tmp_path / "db"), "n") as mapping:
        ana.set_dl(ana.DictDataLayer(mapping))
        uuid = classes.A([1, 2]).make_uuid()
    with dbm.dumb.open(str(tmp_path / "db"), "r") as mapping:
        ana.set_dl(ana.DictDataLayer(mapping))
        assert classes.A.ana_load(uuid).x == [1, 2]


def test_two_layers_over_one_mapping_do_not_share_live_objects():
    """Identity is of a layer; states are shared."""
    mapping = {}
    ana.set_dl(ana.DictDataLayer(mapping))
    a = classes.A(1)
    a.make_uuid()
    ana.set_dl(ana.DictDataLayer(mapping))
    assert classes.A.ana_load(a.uuid) is not a


def test_values_that_are_no_bytes():
    """A mapping that holds something else under the UUID: a typed error."""
    mapping = {"x": "text", "y": b"", "z": b"garbage" * 100}
    ana.set_dl(ana.DictDataLayer(mapping))
    for uuid in mapping:
        with pytest.raises(ana.CorruptedStateError, match=uuid):
            classes.A.ana_load(uuid)


def test_bare_states(tmp_path):
    """`store_state` and `load_state` of old programs: any state under any UUID; anew at each load."""
    for layer in (ana.set_dl(), ana.set_dl(pickle_dir=tmp_path / "s")):
        layer.store_state("key", {"a": [1, (2,)]})
        first, second = layer.load_state("key"), layer.load_state("key")
        assert first == second == {"a": [1, (2,)]}
        assert first is not second
        with pytest.raises(ana.StateNotFoundError):
            layer.load_state("other")
        for bad in ("", "x" * 201):
            with pytest.raises(ValueError):
                layer.store_state(bad, 1)
            with pytest.raises(ValueError):
                layer.load_state(bad)
        for bad in (None, 7, b"x"):
            with pytest.raises(TypeError):
                layer.load_state(bad)


def test_bare_states_and_objects_are_the_same_thing(tmp_path):
    """An object's state can be loaded bare, and a bare state as an object."""
    layer = ana.set_dl(pickle_dir=tmp_path / "s")
    uuid = classes.A(5).make_uuid()
    assert layer.load_state(uuid) == {"x": 5}
    layer.store_state("bare", {"x": 6})
    assert classes.A.ana_load("bare").x == 6


def test_uuid_cache():
    """`uuid_cache` of old programs has the live objects by UUID, and does not keep them alive."""
    layer = ana.set_dl()
    a = classes.A(1)
    uuid = a.make_uuid()
    assert layer.uuid_cache[uuid] is a
    assert dict(layer.uuid_cache) == {uuid: a}
    del a
    assert uuid not in layer.uuid_cache


def test_a_layer_has_an_id():
    """Each layer its own."""
    assert len({ana.DataLayer().uuid for _ in range(5)}) == 5


def test_simple_layer_stores_nothing():
    """States travel in the pickle; identity holds where the object is alive; nothing can be loaded."""
    layer = ana.set_dl(ana.SimpleDataLayer())
    a = classes.A([1])
    uuid = a.make_uuid()
    data = pickle.dumps([a, a])
    assert all(found is a for found in pickle.loads(data))
    assert a.ana_store() == uuid
    assert classes.A.ana_load(uuid) is a
    with pytest.raises(ana.ANAError):
        layer.load_state(uuid)
    del a
    first, second = pickle.loads(data)
    assert first is second
    assert first.x == [1]
    assert first.uuid == uuid
    assert pickle.loads(data)[0] is first


def test_a_backend_counts_whatever_its_module_is_called():
    """A layer with methods of its own for states is asked for them, even if its module's name begins with "ana."."""
    states = {}

    class Backend(ana.DataLayer):
        def store_state(self, uuid, state):
            states[uuid] = state

        def load_state(self, uuid):
            return states[uuid]

    Backend.store_state.__module__ = Backend.load_state.__module__ = "ana.elsewhere"
    ana.set_dl(Backend())
    uuid = classes.A([1]).make_uuid()
    assert list(states) == [uuid]


def test_simple_layer_in_another_process(tmp_path):
    """The state is in the pickle, circles included; another process with a simple layer has identity, too."""
    ana.set_dl(ana.SimpleDataLayer())
    a, b = classes.Node(1), classes.Node(2)
    a.after, b.after = b, a
    a.make_uuid()
    b.make_uuid()
    (tmp_path / "handed").write_bytes(pickle.dumps(a))
    code = (
        "import pickle, sys, ana\n"
        "ana.set_dl(ana.SimpleDataLayer())\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "a = pickle.loads(data)\n"
        "print(a.number, a.after.number, a.after.after is a, pickle.loads(data) is a, a.uuid)\n"
    )
    assert classes.run(code, str(tmp_path / "handed"), cwd=tmp_path) == f"1 2 True True {a.uuid}"


def test_the_store_says_what_it_is(tmp_path):
    """`ana.json` names the format, the levels and the store; opening it again does not change it."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    text = (tmp_path / "s" / "ana.json").read_text()
    assert {"format", "levels", "id"} <= json.loads(text).keys()
    ana.set_dl(pickle_dir=tmp_path / "s")
    assert (tmp_path / "s" / "ana.json").read_text() == text


def test_two_layers_over_one_folder(tmp_path):
    """Opening the same store again is another layer with its own live objects, over the same states."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    a = classes.A(1)
    uuid = a.make_uuid()
    ana.set_dl(pickle_dir=tmp_path / "s")
    found = classes.A.ana_load(uuid)
    assert found.x == 1
    assert found.uuid == uuid


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_levels_of_compression(tmp_path, where):
    """A higher level makes smaller records, 0 stores what it is given; address and content are the same."""
    words = random.Random(0).choices([f"word{number}" for number in range(300)], k=100_000)
    text = " ".join(words)
    sizes, uuids = {}, set()
    for level in (-22, 0, 1, 19):
        options = {"pickle_dir": tmp_path / f"level{level}"} if where == "folder" else {}
        with ana.using_dl(**options, level=level) as layer:
            uuid = classes.A(text).make_uuid()
            header = layer.store.get(uuid).header
            sizes[level] = header.stored_bytes
            uuids.add(uuid)
            layer.live.forget_kept()
            assert classes.A.ana_load(uuid).x == text
    assert sizes[0] > header.raw_bytes
    assert sizes[19] < sizes[1] < sizes[-22] < sizes[0]
    assert len(uuids) == 1


@pytest.mark.parametrize("level", [23, -23, 1.0, "1", True, None])
def test_levels_that_make_no_sense(tmp_path, level):
    """They are refused before anything is made."""
    with pytest.raises((TypeError, ValueError), match="level"):
        ana.set_dl(pickle_dir=tmp_path / "tree", level=level)
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("path", ["", b"", "a\0b", "\0"], ids=repr)
def test_what_is_no_path_is_refused(path, tmp_path, monkeypatch):
    """An empty path, or one with NUL, is a ValueError wherever one is asked for; nothing is made, or meant instead."""
    monkeypatch.chdir(tmp_path)
    for attempt in (
        lambda: ana.set_dl(pickle_dir=path),
        lambda: ana.DirDataLayer(path),
        lambda: list(maintenance.ls(path)),
        lambda: maintenance.stats(path),
        lambda: maintenance.gc(path, maintenance.Scope(unreachable=True)),
        lambda: maintenance.init(path),
    ):
        with pytest.raises(ValueError, match=r"path|pickle_dir"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"pack_bytes": "64k"}, {"node_cache": "cache"}, {"durable": False}], ids=str)
def test_a_layer_that_nobody_uses_closes_its_files_at_once(options, tmp_path, monkeypatch):
    """There is no cycle among it and its parts, so Python need not look for cycles first."""
    monkeypatch.chdir(tmp_path)
    gc.disable()
    try:
        layer = ana.DataLayer(pickle_dir=tmp_path / "store", **options)
        with ana.using_dl(layer):
            model = classes.A([1, 2])
            uuid = model.make_uuid()
            del model
            assert classes.A.ana_load(uuid).x == [1, 2]
        parts = [weakref.ref(layer), weakref.ref(layer.store)]
        del layer
        assert [part() for part in parts] == [None, None]
    finally:
        gc.enable()
