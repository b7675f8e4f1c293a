"""Where a state's record lies: worked out once, and right however it is arrived at."""

import pytest

from ana.format import address, record
from ana.stores.directory.place import Place
from ana.stores.directory.store import DirectoryStore

KEY = "5f3ac0e1-1234-4123-9123-123456789abc"


@pytest.mark.parametrize("key", [KEY, "a key/of one's own", "x" * 200])
def test_a_place_is_the_same_from_a_key_and_from_a_listing(tmp_path, key):
    """What a survey finds under a name is where the key leads."""
    tree = DirectoryStore(str(tmp_path / "s")).tree
    place = tree.place(key)
    assert place.path == f"{place.folder}/{place.name}"
    assert Place.listed(tree.root, place.path.removeprefix(f"{tree.root}/"), key) == place
    parts = place.shard.split("/")
    assert place.folders() == [tree.root, f"{tree.root}/{parts[0]}", f"{tree.root}/{parts[0]}/{parts[1]}"]


def test_a_place_in_a_tree_without_folders():
    """The root is the only folder."""
    place = Place.listed("/a/b", "x.pkl.zst", "x")
    assert place == ("x", "", "/a/b", "x.pkl.zst", "/a/b/x.pkl.zst", 0, -1)
    assert place.folders() == ["/a/b"]


def test_an_operation_works_a_place_out_once(tmp_path, monkeypatch):
    """A new state is put, found, read and missed with one look at what its key means, folders made or not."""
    store = DirectoryStore(str(tmp_path / "s"))
    seen = []
    work_out = address.place
    monkeypatch.setattr(address, "place", lambda key, levels: seen.append(key) or work_out(key, levels))
    content = record.content("mesh:Mesh", [memoryview(b"state")])
    for operation in (
        lambda: store.put(KEY, content, (), repair=False),
        lambda: store.has(KEY),
        lambda: store.get(KEY).segments(),
        lambda: store.get(KEY).release(),
    ):
        seen.clear()
        operation()
        assert seen == [KEY]
