"""Collections on one client beside readers and writers on another: nothing that somebody needs is lost."""

import os
import time
from pathlib import Path

import clients
import raw_tree

import ana
from ana import maintenance
from ana.fs import files
from ana.maintenance import Scope
from ana.stores.directory import trash

VALUES = ["small", "x" * 600_000]


def collect(place: str, grace_seconds: float = 86400.0) -> maintenance.Collected:
    """Collect all that no root keeps."""
    scope = Scope(unreachable=True)
    return maintenance.gc(place, scope, grace_seconds=grace_seconds, without_roots=True, lock_seconds=60)


def all_states(place: Path) -> list[Path]:
    """Return the files of all states, in the trash or not."""
    return [path for path in place.rglob("*") if path.name.endswith(".pkl.zst")]


def make_older(place: Path, days: float) -> None:
    """Set back the times of all states, in the trash or not."""
    then = time.time() - days * 86400
    for path in all_states(place):
        os.utime(path, (then, then))


def collect_often(place: str, seconds: float) -> int:
    """Collect again and again, with a short grace; return how many states were moved."""
    until = time.monotonic() + seconds
    moved = 0
    while time.monotonic() < until:
        moved += len(collect(place, 3.0).trashed)
    return moved


def load_all(place: str, uuids: list[str]) -> list[object]:
    """Load states as a process that has just started."""
    return clients.load_many(place, uuids)


def test_what_one_client_moved_another_reads_and_brings_back(shared, other):
    """A state in the trash, large or small, loads on another client, which gives it its name back."""
    uuids = clients.store_many(shared.near, VALUES)
    make_older(shared.near, 2)
    assert len(collect(shared.near).trashed) == 2
    assert other.call(load_all, shared.far, uuids) == VALUES
    assert other.call(load_all, shared.far, uuids) == VALUES
    files.revalidate([str(raw_tree.path_of(shared.near, uuids[0]).parent)], 0.1)
    assert raw_tree.path_of(shared.near, uuids[0]).exists()
    # The server's clock says that they are young.
    assert collect(shared.near).trashed == []
    assert load_all(shared.near, uuids) == VALUES


def test_a_client_that_remembers_where_it_was_reads_it_on(shared, other):
    """A client that has read a state before reads it on after it was moved, also if it does not notice the move."""
    uuids = clients.store_many(shared.near, VALUES)
    assert other.call(load_all, shared.far, uuids) == VALUES
    make_older(shared.near, 2)
    assert len(collect(shared.near).trashed) == 2
    assert other.call(load_all, shared.far, uuids) == VALUES
    assert collect(shared.near).deleted == []
    assert other.call(load_all, shared.far, uuids) == VALUES


def test_what_was_brought_back_is_not_deleted(shared, other):
    """A collector whose client remembers that a name was not there sees that a reader brought it back."""
    (uuid,) = clients.store_many(shared.near, VALUES[:1])
    make_older(shared.near, 2)
    collect(shared.near)
    make_older(shared.near, 2)
    name = raw_tree.path_of(shared.near, uuid)
    assert files.stat(str(name)) is None
    real, seen = trash.delete, []

    def delete(path: str, before: float) -> str:
        # The last moment: after all looks of the collection, before its first step.
        assert other.call(load_all, shared.far, [uuid]) == VALUES[:1]
        seen.append(real(path, before))
        return seen[-1]

    trash.delete = delete
    try:
        done = collect(shared.near)
    finally:
        trash.delete = real
    assert seen in (["young"], ["back"])
    assert done.deleted == []
    assert load_all(shared.near, [uuid]) == VALUES[:1]


def test_what_nobody_reads_is_deleted(shared, other):
    """After the grace it is gone for both clients."""
    uuids = other.call(clients.store_many, shared.far, VALUES)
    make_older(shared.near, 2)
    collect(shared.near)
    make_older(shared.near, 2)
    assert len(collect(shared.near).deleted) == 2
    assert all_states(shared.near) == []
    for uuid in uuids:
        try:
            other.call(clients.load, shared.far, uuid)
        except ana.StateNotFoundError:
            continue
        raise AssertionError(uuid)


def test_a_running_job_loses_nothing(shared, other):
    """While one client collects with a grace of seconds, the other stores, keeps and loads the same few states."""
    clients.store_many(shared.near, ["warm up"])
    other.start(collect_often, shared.far, 8.0)
    until = time.monotonic() + 8.0
    number = 0
    kept = []
    while time.monotonic() < until:
        number += 1
        with ana.using_dl(pickle_dir=shared.near, recheck_seconds=0.2) as layer:
            model = clients.Model([number % 7, clients.Model(f"child {number % 3}")])
            model.value[1].make_uuid()
            kept += [(uuid, number % 7) for uuid in layer.keep(f"root {number}", model)]
        uuid, value = kept[number * 7 // 11 % len(kept)]
        assert clients.load(shared.near, uuid)[0] == value
    assert other.result() > 0
    assert number > 10
    for uuid, value in dict(kept).items():
        loaded = clients.load(shared.far, uuid)
        assert loaded[0] == value
        assert loaded[1].value.startswith("child")
    assert maintenance.verify(shared.near).problems == []
