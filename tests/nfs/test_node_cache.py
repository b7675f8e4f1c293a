"""The node-local tier in front of a tree on NFS: what it saves in round trips, and that it never lies on NFS itself."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import clients
import pytest
from conftest import Pair
from mountstats import RoundTrips

import ana
from ana.errors import StateNotFoundError

SIZE_BYTES = 1 << 20


@pytest.fixture
def local() -> Iterator[str]:
    """A folder of this node's own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.ismount("/dev/shm") else None) as folder:
        yield folder


def _layer(tree: Path, local: str | Path) -> ana.DirDataLayer:
    return ana.DirDataLayer(tree, node_cache=local)


def _load(layer: ana.DirDataLayer, uuid: str) -> object:
    with ana.using_dl(layer):
        return clients.Model.ana_load(uuid).value


def test_what_is_cached_costs_no_round_trip(mounts: Pair, shared: Pair, local: str) -> None:
    """Under its content's address, a state that another process of the node has loaded is had without the server."""
    value = os.urandom(SIZE_BYTES)
    uuid = clients.store(str(shared.far / "tree"), value)
    assert _load(_layer(shared.near / "tree", local), uuid) == value
    second = _layer(shared.near / "tree", local)
    with RoundTrips(mounts.near) as trips:
        assert _load(second, uuid) == value
    assert trips.total == 0, trips


def test_a_given_uuid_is_asked_for_and_its_content_not_read_again(mounts: Pair, shared: Pair, local: str) -> None:
    """What another client has stored under it since is what is loaded; else one look is enough."""
    uuid = clients.numbered_uuid(1)
    values = [os.urandom(SIZE_BYTES), os.urandom(SIZE_BYTES)]
    for value in values:
        clients.store(str(shared.far / "tree"), value, uuid)
        for _ in range(2):
            assert _load(_layer(shared.near / "tree", local), uuid) == value
        third = _layer(shared.near / "tree", local)
        with RoundTrips(mounts.near) as trips:
            assert _load(third, uuid) == value
        assert trips.total <= 4, trips
        assert trips.operations["READ"] <= 1, trips
        (path,) = (shared.far / "tree").rglob(f"{uuid}.pkl.zst")
        path.unlink()
        with pytest.raises(StateNotFoundError):
            _load(_layer(shared.far / "tree", local), uuid)


def test_a_folder_on_nfs_is_no_place_for_it(shared: Pair) -> None:
    """It is refused; the state comes from the tree."""
    value = os.urandom(SIZE_BYTES)
    uuid = clients.store(str(shared.near / "tree"), value)
    assert _load(_layer(shared.near / "tree", shared.near / "cache"), uuid) == value
    assert not (shared.near / "cache").exists()
