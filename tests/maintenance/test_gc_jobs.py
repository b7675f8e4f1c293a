"""Collections, killed at any moment, two at once and without locks, beside jobs that write and read."""

import contextlib
import json
import random
import subprocess
import sys
import time

import pytest
from support import care, gc_jobs, memory, processes, raw_tree

import ana
from ana import maintenance


@contextlib.contextmanager
def job(role, folder, seed, grace):
    """Run one of the processes for the length of a block; it ends when it is told to, or is killed."""
    words = [sys.executable, "-m", "support.gc_jobs", role, folder / "store", folder / "logs", seed, grace]
    process = subprocess.Popen(
        [str(word) for word in words],
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def collected(logs):
    """Return how often the collectors collected, and how much they put into the trash and deleted."""
    lines = [line for path in logs.glob("collector-*") for line in gc_jobs.Log(path).read()]
    return len(lines), sum(line[1] for line in lines), sum(line[2] for line in lines)


def wait_for_a_collection(logs, pair):
    """Wait until the collectors that were just started have collected; a slow machine takes seconds to start them."""
    before, _, _ = collected(logs)
    patience = time.monotonic() + processes.PATIENCE_SECONDS
    while collected(logs)[0] == before:
        assert time.monotonic() < patience
        for process in pair:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def run_jobs(folder, seconds, grace):
    """Run writers, readers and collectors, kill the collectors now and then; return the logs and the loads."""
    chance = random.Random(0)
    logs = folder / "logs"
    logs.mkdir()
    store = care.store(folder / "store")
    with ana.using_dl(pickle_dir=store) as layer:
        layer.keep("first", gc_jobs.A("first"))
    end, patience = time.monotonic() + seconds, time.monotonic() + 20 * seconds
    loads = kills = 0
    with contextlib.ExitStack() as stack:
        honest = [
            stack.enter_context(job(role, folder, seed, grace))
            for role, seed in (("write", 1), ("write", 2), ("read", 3), ("read", 4))
        ]
        while time.monotonic() < end or (min(collected(logs)[1:]) <= 20 and time.monotonic() < patience):
            with contextlib.ExitStack() as killed:
                pair = [killed.enter_context(job("collect", folder, seed, grace)) for seed in (5, 6)]
                wait_for_a_collection(logs, pair)
                time.sleep(2 * chance.random())
                for process in pair:
                    assert process.poll() is None, process.communicate()[1]
            kills += 2
        (logs / gc_jobs.STOP).touch()
        for process in honest:
            said, problem = process.communicate(timeout=processes.PATIENCE_SECONDS)
            assert process.returncode == 0, problem
            loads += json.loads(said)["loads"] if said else 0
    return store, loads, kills


def check_end(store, logs, grace):
    """See that what is kept is there and right, that no parent is without a child, and that later runs tidy up."""
    assert [wrong for wrong in maintenance.verify(store).problems if wrong.kind == "damaged"] == []
    with ana.using_dl(pickle_dir=store, errors="raise"):
        kept = gc_jobs.kept_now(logs)
        for uuid, (_, _, leaves) in kept.items():
            gc_jobs.check(uuid, leaves)
    assert kept
    assert maintenance.verify(store).problems == []
    for _ in range(3):
        maintenance.gc(store, maintenance.Scope(unreachable=True), grace_seconds=grace)
        time.sleep(grace + 0.1)
    done = maintenance.gc(store, maintenance.Scope(unreachable=True), grace_seconds=grace)
    assert (done.problems, done.waiting, done.failed) == ([], 0, {})
    assert [path for path in raw_tree.strangers(store) if "/.trash-" in path or "/.gone-" in path] == []


@pytest.mark.leaves_temporaries(reason="collectors are killed while they ask for the time")
@pytest.mark.parametrize(
    ("seconds", "grace"),
    [
        pytest.param(8, 2.0, id="8 s", marks=pytest.mark.slow),
        pytest.param(60, 2.5, id="60 s", marks=pytest.mark.stress),
    ],
)
def test_nothing_reachable_is_lost_beside_running_jobs(seconds, grace):
    """Writers and readers work while two collections at once are killed and started again: nothing kept is lost."""
    with memory.folder() as folder:
        store, loads, kills = run_jobs(folder, seconds, grace)
        _, trashed, deleted = collected(folder / "logs")
        assert loads > 20
        assert trashed > 20
        assert deleted > 20
        assert kills >= 4
        check_end(store, folder / "logs", grace)
