"""How fast a store grows, and when its disk is full."""

import json
import time
from contextlib import suppress

import pytest
from support import care, mounts
from support.care import numbered, put, ran

from ana import maintenance
from ana.fs import probes

DAY = 86400.0


def history(store, *counts):
    """Write a history of (days ago, stored bytes, inodes)."""
    (store / ".ana").mkdir(exist_ok=True)
    now = time.time()
    lines = [
        {"taken": now - days * DAY, "states": 1, "inodes": inodes, "raw_bytes": 1, "stored_bytes": stored}
        for days, stored, inodes in counts
    ]
    (store / ".ana" / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def store(tmp_path):
    """An empty store on a filesystem of 16 MB and 1,000 inodes."""
    with mounts.tmpfs(tmp_path / "memory", "size=16m,nr_inodes=1000") as place:
        yield care.store(place / "store")


@pytest.mark.parametrize("counts", [(), ((0, 100, 1),), ((0.9, 100, 1), (0.5, 200, 1), (0, 300, 1))])
def test_a_rate_needs_two_counts_that_are_a_day_apart(store, counts):
    """Else it is unknown, and is said to be; the free space is known all the same."""
    history(store, *counts)
    found = maintenance.growth(store)
    assert (found.bytes_per_day, found.inodes_per_day, found.full_in_days) == (None, None, None)
    assert 0 < found.free_bytes < found.total_bytes == 16 << 20


def test_the_rate_is_that_of_the_last_month(store):
    """What was before does not count, if there are counts in the month; else the last one before it does."""
    history(store, (100, 0, 1), (20, 1_000_000, 1), (10, 1_000_000, 1), (0, 3_000_000, 1))
    found = maintenance.growth(store)
    assert found.over_days == pytest.approx(20)
    assert found.bytes_per_day == pytest.approx(100_000)
    assert (found.full_in_days, found.full_of) == (pytest.approx(found.free_bytes / 100_000), "bytes")
    history(store, (100, 0, 1), (60, 1_000_000, 1), (0.5, 7_000_000, 1), (0, 7_000_000, 1))
    assert maintenance.growth(store).bytes_per_day == pytest.approx(100_000)


def test_inodes_may_be_used_up_first(store):
    """The first of the two to run out gives the time."""
    history(store, (10, 0, 100), (0, 1000, 600))
    found = maintenance.growth(store)
    assert (found.inodes_per_day, found.full_of) == (pytest.approx(50), "inodes")
    assert found.full_in_days == pytest.approx(probes.space(str(store)).free_inodes / 50)


def test_a_store_that_shrinks_is_never_full(store, capfd):
    """A negative rate is a rate."""
    history(store, (10, 5_000_000, 100), (0, 1000, 100))
    found = maintenance.growth(store)
    assert found.bytes_per_day < 0
    assert (found.full_in_days, found.full_of) == (None, "")
    assert "no growth (-500 kB a day)" in ran(capfd, "-d", store, "stats").out


def test_a_full_disk_is_full_now(store):
    """Whatever the rate."""
    history(store, (10, 0, 100), (0, 1000, 100))
    with suppress(OSError):
        (store.parent / "filler").write_bytes(bytes(17 << 20))
    assert maintenance.growth(store).full_in_days == 0


def test_a_report_that_may_not_be_saved_counts_too(store, tmp_path):
    """On a read-only store, the newest count is the one that was just made."""
    put(store, numbered(1), size=500_000)
    history(store, (10, 0, 1))
    with mounts.read_only(store, tmp_path / "ro") as place:
        found = maintenance.overview(place).growth
        assert maintenance.growth(place).bytes_per_day is None
    assert found.bytes_per_day == pytest.approx(50_000, rel=0.01)
