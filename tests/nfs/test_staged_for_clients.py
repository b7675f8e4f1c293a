"""Staged states of a tree on NFS cost no call to the server; and looking at what a purge takes reads nothing there."""

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Pair
from mountstats import RoundTrips

import ana
from ana import maintenance
from ana.maintenance import Purge

SIZE_BYTES = 9 << 20


@pytest.fixture
def local() -> Iterator[Path]:
    """A folder of this node's own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.ismount("/dev/shm") else None) as folder:
        yield Path(folder)


def _store(tree: Path) -> bytes:
    """Keep small states, and a large one with a part; return the pickle of a reference to all of them."""
    with ana.using_dl(ana.DirDataLayer(tree)) as layer:
        small = [ana.Ref(number) for number in range(20)]
        top = ana.Ref([*small, ana.Ref([bytearray(b"x" * SIZE_BYTES), os.urandom(SIZE_BYTES)])])
        layer.keep("sweep", top)
        return pickle.dumps(top)


def _load(references: bytes) -> None:
    with ana.using_dl(ana.DataLayer()):
        value = pickle.loads(references).value
        assert [model.value for model in value[:20]] == list(range(20))
        assert len(value[20].value[1]) == SIZE_BYTES


@pytest.mark.parametrize("cached", [False, True])
def test_staged_states_cost_no_round_trip(
    mounts: Pair, shared: Pair, local: Path, monkeypatch: pytest.MonkeyPatch, *, cached: bool
) -> None:
    """With a staged file on the node, also in its cache, a task's loads make no call to the server: not one."""
    tree = shared.near / "tree"
    references = _store(tree)
    if cached:
        monkeypatch.setenv("ANA_NODE_CACHE", str(local / "cache"))
        maintenance.stage_in_cache(tree, ["sweep"])
    else:
        monkeypatch.setenv("ANA_STAGED", str(local / "sweep.ana"))
        maintenance.stage_states(tree, ["sweep"], local / "sweep.ana")
    with RoundTrips(mounts.near) as trips:
        _load(references)
    assert trips.total == 0, trips


def test_a_purge_by_atime_is_looked_at_without_reading(mounts: Pair, shared: Pair) -> None:
    """On NFS, where the server notes reads, not a byte is read, and roots are not told apart; by mtime they are."""
    _store(shared.far / "tree")
    store = maintenance.open_store(shared.near / "tree")
    with RoundTrips(mounts.near) as trips:
        found = maintenance.expiring(store, Purge("atime", 86400.0))
    assert trips.operations["READ"] == 0, trips
    assert "nfs" in found.untold
    assert (found.roots, found.problems) == ([], [])
    assert found.files.files > 20
    assert [root.name for root in maintenance.expiring(store, Purge("mtime", 86400.0)).roots] == ["sweep", ""]
