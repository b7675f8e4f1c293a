"""A process's pack: after a fork, when its store is let go; and which store a hint is told to."""

import gc
import os
import pickle

import pytest
from support.classes import A

import ana
from ana.format import address, record
from ana.stores.directory.store import DirectoryStore


def content(number):
    """Return the content of a state, and its address."""
    found = record.content("mesh:Mesh", [memoryview(b"%08d" % number * 20)])
    return address.content_uuid(found.digest), found


def test_a_child_knows_what_its_parent_has_packed(tmp_path):
    """Without reading the pack again; what it stores itself goes into another, and each finds the other's."""
    store = DirectoryStore(str(tmp_path / "s"), durable=False)
    store.packs.pack_bytes = 65536
    keys = []
    for number in range(20):
        key, state = content(number)
        store.put(key, state, (), repair=False)
        keys.append(key)
    (name,) = os.listdir(tmp_path / "s" / "packs")
    child = os.fork()
    if not child:
        status = 1
        try:
            assert set(store.packs.tables) == {name}
            assert all(map(store.has, keys))
            key, state = content(100)
            store.put(key, state, (), repair=False)
            store.packs.seal()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(os.listdir(tmp_path / "s" / "packs")) == 2
    key, state = content(21)
    store.put(key, state, (), repair=False)
    for number in [*range(22), 100]:
        if number != 20:
            store.get(content(number)[0]).verify()
    store.packs.seal()
    reader = DirectoryStore(str(tmp_path / "s"))
    for number in [*range(20), 21, 100]:
        reader.get(content(number)[0]).verify()


def test_a_store_that_is_let_go_seals_its_pack(tmp_path):
    """As a layer that another one replaces."""
    store = DirectoryStore(str(tmp_path / "s"), durable=False)
    store.packs.pack_bytes = 65536
    key, state = content(1)
    store.put(key, state, (), repair=False)
    (path,) = (tmp_path / "s" / "packs").iterdir()
    assert not path.read_bytes().endswith(b"ANA\0END\n")
    del store
    gc.collect()
    assert path.read_bytes().endswith(b"ANA\0END\n")


def test_a_hint_goes_to_the_store_that_the_reference_names(tmp_path, monkeypatch):
    """Also if another store is searched after it: the state is read without a look at which packs there are."""
    with ana.using_dl(pickle_dir=tmp_path / "s", pack_bytes="64k") as layer:
        thing = A("state")
        thing.make_uuid()
        data = pickle.dumps(thing)
        layer.store.packs.seal()
    del thing
    ana.DirDataLayer(tmp_path / "another")
    monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "another"))
    with ana.using_dl(pickle_dir=tmp_path / "s") as layer:
        monkeypatch.setattr(layer.store.packs, "refresh", lambda: pytest.fail("it was not read by the hint"))
        assert pickle.loads(data).x == "state"
        layer.store.packs.files.reset()
