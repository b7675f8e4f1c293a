"""Roots between clients: what a job on one client keeps, and how long, a collection on another client knows."""

import os
import signal
import time
from pathlib import Path

import clients
from clients import Model

import ana
from ana import maintenance
from ana.maintenance import Scope

VALUES = [f"value {number}" for number in range(50)]


def store_and_die(place: str, values: list[str]) -> None:
    """Store in a `keeping` block, in a process that is killed at the end of the last store."""
    pid = os.fork()
    if pid == 0:
        layer = ana.set_dl(pickle_dir=place)
        with layer.keeping("sweep", ttl="1d"):
            for value in values:
                Model(value).make_uuid()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def extend(place: str) -> None:
    """Extend the root."""
    maintenance.extend(place, "sweep")


def make_older(place: Path, pattern: str, days: float) -> None:
    """Set back the times of files."""
    then = time.time() - days * 86400
    for path in place.rglob(pattern):
        os.utime(path, (then, then))


def collected(place: Path) -> int:
    """Collect; return how many states were moved to the trash."""
    done = maintenance.gc(place, Scope(unreachable=True))
    assert (done.problems, done.failed) == ([], {})
    return len(done.trashed)


def test_a_killed_job_keeps_all_that_it_has_stored(shared, other):
    """Each line that it had written is on the server once it is dead, though nobody waited for it."""
    clients.store(shared.near, "before")
    other.call(store_and_die, shared.far, VALUES)
    (root,) = maintenance.roots(shared.near)
    assert len(root.uuids) == root.states == len(VALUES)
    make_older(shared.near, "*.pkl.zst", 9)
    assert collected(shared.near) == 1
    make_older(shared.near, "sweep*.json", 1.1)
    assert collected(shared.near) == len(VALUES)


def test_a_collection_knows_at_once_that_a_root_was_extended(shared, other):
    """It has read the root before, and its client remembers the file's times."""
    other.call(store_and_die, shared.far, VALUES[:3])
    make_older(shared.near, "*.pkl.zst", 9)
    for _ in range(5):
        assert collected(shared.near) == 0
        make_older(shared.near, "sweep*.json", 1.1)
        assert [one.ended for one in maintenance.roots(shared.near)] == [True]
        other.call(extend, shared.far)
    assert collected(shared.near) == 0


def test_a_root_that_a_collection_has_seen_end_comes_back_with_its_states(shared, other):
    """Extended on another client while all of it is in the trash."""
    other.call(store_and_die, shared.far, VALUES[:3])
    make_older(shared.near, "*.pkl.zst", 9)
    make_older(shared.near, "sweep*.json", 1.1)
    assert collected(shared.near) == 3
    other.call(extend, shared.far)
    assert collected(shared.near) == 0
    (root,) = maintenance.roots(shared.near)
    assert (root.states, root.missing, root.ended) == (3, [], False)
