"""How many inodes a store takes, estimated: exact where all folders are looked at, near where they are not."""

import os

from ana.format import address, record
from ana.maintenance import info, init, inodes
from ana.stores.directory.store import DirectoryStore


def fill(tree, sizes, *, pack_bytes=0):
    """Store noise of these sizes."""
    store = DirectoryStore(str(tree), durable=False)
    store.packs.pack_bytes = pack_bytes
    for size in sizes:
        found = record.content("mesh:Mesh", [memoryview(os.urandom(size))])
        store.put(address.content_uuid(found.digest), found, (), repair=False)
    store.packs.seal()
    return store


def test_an_empty_store_has_none(tmp_path):
    """Nor a store that only packs."""
    init(str(tmp_path / "s"), pack_bytes="64k")
    assert inodes.estimate(fill(tmp_path / "s", [], pack_bytes=64_000)) == (0, 0, 0, 0)
    assert inodes.estimate(fill(tmp_path / "s", [100, 200], pack_bytes=64_000)) == (0, 0, 0, 1)


def test_few_states_are_counted(tmp_path):
    """Each is in folders of its own."""
    store = fill(tmp_path / "s", [100, 100, 100, 200_000])
    found = inodes.estimate(store)
    assert (found.states, found.small, found.packs) == (4, 3, 0)
    assert found.folders == sum(path.is_dir() and path.name != ".ana" for path in (tmp_path / "s").rglob("*"))


def test_many_states_are_estimated(tmp_path):
    """Within a third of what there is."""
    store = fill(tmp_path / "s", [100] * 2000)
    found = inodes.estimate(store)
    folders = sum(path.is_dir() for path in (tmp_path / "s").rglob("*"))
    assert 1300 < found.states < 2700
    assert found.small == found.states
    assert folders / 1.5 < found.folders < folders * 1.5


def test_info_says_when_packing_would_pay(tmp_path, monkeypatch):
    """With how many small states there are; and when there are many packs."""
    store = fill(tmp_path / "s", [100] * 50)
    assert not [found for found in info(store).findings if "ana pack" in found.cure]
    monkeypatch.setattr("ana.maintenance.doctor.MANY_STATES", 10)
    (found,) = [found for found in info(store).findings if "ana pack" in found.cure]
    assert "small states have files of their own" in found.what
    monkeypatch.setattr("ana.maintenance.doctor.MANY_PACKS", 1)
    fill(tmp_path / "s", [100], pack_bytes=64_000)
    assert [found.kind for found in info(store).findings if "ana pack" in found.cure] == ["note", "slow"]
