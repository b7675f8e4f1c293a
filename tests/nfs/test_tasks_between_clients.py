"""`ana.Executor` between two clients: what one ships, the other finds at once, under another path."""

import concurrent.futures
import contextlib
import os

import numpy as np
import pytest
from conftest import counted_mount
from mountstats import RoundTrips, filesystem

import ana
from ana.layers import current
from ana.tasks import depot

SIZES = [200_000, 3_000_000, 20_000_000]
"""In bytes: in a pack, in a file of its own, and in chunks."""
TRIPS = {"nfs4": 3, "nfs": 4}
"""Round trips of a task on each side, by type of mount: a write, the pack's new size (1 or 2), and a read."""


def prepare(path_map):
    """Let a process find the near client's folder at its own mount."""
    os.environ["ANA_PATH_MAP"] = path_map
    depot._by_home.clear()


def let_go():
    """Let a process forget all stores, as one that ends."""
    depot._by_home.clear()
    current.set_dl()


def negated(data):
    """Take an array and return one that is as large: the task."""
    return ~data


def noise(size, number):
    """Return an array that does not compress, another one for each number."""
    return np.random.default_rng(number).integers(0, 255, size, "u1")


class FarExecutor(concurrent.futures.Executor):
    """Runs each task on the far client, before `submit` returns."""

    def __init__(self, client):
        self.client = client

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(self.client.call(fn, *args))
        except Exception as error:
            # As an engine does.
            future.set_exception(error)
        return future


@contextlib.contextmanager
def executor_over(shared, other):
    """Make an executor whose store is the near client's, and whose worker is the far one."""
    other.call(prepare, f"{shared.near}={shared.far}")
    with ana.using_dl(pickle_dir=shared.near / "tree"), ana.Executor(FarExecutor(other)) as found:
        yield found
    other.call(let_go)


@pytest.mark.parametrize("size", SIZES)
def test_what_one_client_ships_the_other_finds(shared, other, size):
    """Arguments and results, new ones for each task and old ones again, are right at the first try."""
    with executor_over(shared, other) as executor:
        for number in range(6):
            data = noise(size, number // 2)
            assert (executor.submit(negated, data).result() == ~data).all()


def test_a_task_of_its_own_costs_an_append_and_a_read(shared, other):
    """Of a value that is new each time, once packs are open on both sides."""
    near_mount, far_mount = counted_mount(shared.near), counted_mount(shared.far)
    with executor_over(shared, other) as executor:
        for number in range(4):
            executor.submit(negated, noise(200_000, number)).result()
        with RoundTrips(near_mount) as near, RoundTrips(far_mount) as far:
            for number in range(4, 14):
                executor.submit(negated, noise(200_000, number)).result()
    most = 10 * TRIPS[filesystem(near_mount)]
    assert near.total <= most, near
    assert far.total <= most, far
