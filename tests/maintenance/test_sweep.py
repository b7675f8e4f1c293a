"""Sweeping up what killed writers left behind."""

import os
import time

import pytest

import ana
from ana import maintenance

OLD = time.time() - 49 * 3600


@pytest.fixture
def store(tmp_path):
    """A store with one state."""
    layer = ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    layer.store_state("kept", [1, 2, 3])
    return tmp_path / "store"


def state_folder(store):
    """Return the shard folder of the state."""
    return next(store.rglob("kept.pkl.zst")).parent


def put(path, age=OLD):
    """Write a file of a given age."""
    path.write_bytes(b"half a record")
    os.utime(path, (age, age))
    return path


def test_old_temporaries_go(store):
    """A temporary file of two days ago is removed, wherever it is; the states stay."""
    in_shard = put(state_folder(store) / ".tmp-node1-17-00ff")
    in_root = put(store / ".tmp-node1-17-00fe")
    swept = maintenance.sweep(store)
    assert swept.removed == sorted(str(path.relative_to(store)) for path in (in_shard, in_root))
    assert not in_shard.exists()
    assert not in_root.exists()
    assert ana.get_dl().load_state("kept") == [1, 2, 3]
    assert maintenance.sweep(store) == maintenance.Swept()


def test_young_temporaries_stay(store):
    """A temporary file of a moment ago may be a writer's, and is left alone."""
    young = put(state_folder(store) / ".tmp-node1-17-00ff", time.time())
    swept = maintenance.sweep(store)
    assert swept.kept == [str(young.relative_to(store))]
    assert young.exists()
    assert maintenance.sweep(store, older_than_seconds=0).removed == swept.kept
    assert not young.exists()


@pytest.mark.leaves_temporaries("the dry run leaves what it was given")
def test_dry_run_removes_nothing(store):
    """A dry run names what it would remove."""
    old = put(state_folder(store) / ".tmp-node1-17-00ff")
    assert maintenance.sweep(store, dry_run=True).removed == [str(old.relative_to(store))]
    assert old.exists()


@pytest.mark.leaves_temporaries("a symlink of that name is not to be touched")
def test_the_rest_is_reported_and_left_alone(store):
    """Foreign files, NFS's placeholders, damaged states that were set aside, symlinks: named, not touched."""
    shard = state_folder(store)
    strangers = [
        put(shard / ".nfs000000000001"),
        put(shard / ".bad-00000001-kept.pkl.zst"),
        put(shard / "notes.txt"),
        put(store / "README"),
    ]
    target = put(store.parent / "elsewhere")
    link = shard / ".tmp-node1-17-00ff"
    link.symlink_to(target)
    (store / "zz").mkdir()
    swept = maintenance.sweep(store)
    expected = [*strangers, link, store / "zz"]
    assert swept.skipped == sorted(str(path.relative_to(store)) for path in expected)
    assert swept.removed == []
    assert all(os.path.lexists(path) for path in [*expected, target])


def test_lock_files_belong_to_the_store(store):
    """The folder of the locks is no stranger."""
    (store / ".ana" / "locks").mkdir(parents=True)
    put(store / ".ana" / "locks" / "5f.lock")
    assert maintenance.sweep(store) == maintenance.Swept()


def test_no_store_is_an_error(tmp_path):
    """A folder that is no store is refused, and nothing is made there."""
    with pytest.raises(ana.StoreError) as error:
        maintenance.sweep(tmp_path)
    assert error.value.path == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="negative"):
        maintenance.sweep(tmp_path, older_than_seconds=-1)
