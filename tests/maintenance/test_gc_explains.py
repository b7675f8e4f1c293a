"""A collection says why what stays stays, what would go, and when the rest can go."""

import time

import pytest
from support import care, raw_tree
from support.care import make_older, numbered, put, ran

import ana
from ana import maintenance, units
from ana.maintenance import Scope

UNREACHABLE = Scope(unreachable=True)
DAY_SECONDS = 86400.0


@pytest.fixture
def store(tmp_path):
    """Three old states that a root keeps, two young ones, an old one that one of them needs, and two needless ones."""
    folder = care.store(tmp_path / "store")
    put(folder, numbered(1), (numbered(2), numbered(3)), age_days=9)
    for number in (2, 3, 5, 7, 8):
        put(folder, numbered(number), size=number * 1000, age_days=9)
    put(folder, numbered(4), (numbered(5), numbered(2)), age_days=0.25)
    put(folder, numbered(6), age_days=0.5)
    maintenance.keep(folder, "paper", [numbered(1)])
    return folder


def sums(done):
    """Return the numbers of states that stay, by reason; their sum is that of all that stay."""
    found = (sum(done.kept_by_root.values()), done.kept_young, done.kept_by_others, done.kept_within_limits)
    assert sum(found) == done.kept
    return found


def test_sums_by_reason(store):
    """Roots, age, and what young states refer to: each state counts once."""
    done = maintenance.gc(store, UNREACHABLE, dry_run=True)
    assert sums(done) == (3, 2, 1, 0)
    assert done.kept_by_root == {"paper": 3}
    assert abs(done.young_until - time.time() - 0.5 * DAY_SECONDS) < 3600
    maintenance.keep(store, "b", [numbered(2), numbered(8)])
    done = maintenance.gc(store, UNREACHABLE, dry_run=True)
    assert done.kept_by_root == {"b": 2, "paper": 2}
    assert sums(maintenance.gc(store, Scope(max_files=7), dry_run=True)) == (4, 2, 1, 0)
    assert sums(maintenance.gc(store, Scope(max_files=8), dry_run=True)) == (4, 2, 1, 1)
    assert sums(maintenance.gc(store, Scope(older_than_seconds=30 * DAY_SECONDS), dry_run=True)) == (4, 4, 0, 0)


def test_sums_by_reason_in_packs(tmp_path):
    """As in files of their own."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False, pack_bytes=65536) as layer:
        layer.keep("paper", *(ana.Ref(number) for number in range(3)))
        layer.store_many([ana.Ref(number) for number in range(20)])
        layer.store.packs.seal()
    done = maintenance.gc(tmp_path / "store", UNREACHABLE)
    assert (done.kept, sums(done)) == (20, (3, 17, 0, 0))


def test_a_dry_run_lists_what_would_go(store, capfd):
    """With its size, the largest first; what is in the trash, too. A real run does just that."""
    put(store, numbered(9), size=9000, age_days=2).rename(path_in_trash(store, numbered(9)))
    document = ran(capfd, "--json", "-d", store, "gc", "--unreachable", "--dry-run").document
    sizes = {name.rpartition("/")[2].removesuffix(raw_tree.SUFFIX): size for name, size in document["going"].items()}
    assert set(sizes) == {numbered(7), numbered(8), f".trash-{numbered(9)}"}
    assert sizes[numbered(7)] == raw_tree.path_of(store, numbered(7)).stat().st_size
    said = ran(capfd, "-d", store, "gc", "--unreachable", "--dry-run").out
    assert [said.index(numbered(number)) for number in (9, 8, 7)] == sorted(
        said.index(numbered(number)) for number in (9, 8, 7)
    )
    done = maintenance.gc(store, UNREACHABLE)
    assert (done.going, len(done.trashed), len(done.deleted)) == ({}, 2, 1)


def path_in_trash(store, key):
    """Return a state's file in the trash."""
    path = raw_tree.path_of(store, key)
    return path.with_name(f".trash-{path.name}")


def test_a_first_time_owner_learns_when(tmp_path, capfd):
    """Nothing goes, because all is young: the message says so, and from when on the oldest can go."""
    folder = care.store(tmp_path / "store")
    for number in range(20):
        put(folder, numbered(number), age_days=0.25)
    said = ran(capfd, "-d", folder, "gc", "--unreachable", "--without-roots").out
    assert "nothing to collect: all 20 states are younger than 24 h" in said
    when = maintenance.date(time.time() + 0.75 * DAY_SECONDS, "%Y-%m-%d")
    assert f"the first of the young states can be collected from {when}" in said


def test_it_says_when_space_will_be_free(store, capfd):
    """What was moved to the trash is deleted by a run after the grace, not before."""
    said = ran(capfd, "-d", store, "gc", "--unreachable").out
    assert "the space is free after a run later than" in said
    assert "by the root paper" in said
    assert "younger than 24 h" in said


def test_it_says_when_a_limit_cannot_be_kept(store, capfd):
    """Roots and the grace come first."""
    said = ran(capfd, "-d", store, "gc", "--max-bytes", "2k").out
    assert "what roots and age keep takes" in said
    assert "more than 2.00 kB" in said
    assert "more than" not in ran(capfd, "-d", store, "gc", "--max-bytes", "1G").out.replace("and more than", "")


@pytest.mark.parametrize("pack_bytes", [0, 65536])
@pytest.mark.parametrize("ttl", ["30d", None])
def test_cron_keeps_a_store_within_a_budget(tmp_path, pack_bytes, ttl):
    """Day after day the same command: two graces later the store has at most that size, but for one pack."""
    folder = tmp_path / "store"
    maintenance.init(folder, pack_bytes=pack_bytes, ttl=ttl)
    budget = 60_000
    for day in range(8):
        with ana.using_dl(pickle_dir=folder, durable=False) as layer:
            layer.store_many([ana.Ref((day, number, "x" * 1000)) for number in range(20)])
            layer.store.packs.seal()
        done = maintenance.gc(folder, Scope(max_bytes=budget))
        assert (done.failed, done.problems) == ({}, [])
        for path in folder.rglob("*.pkl.zst"), folder.rglob("*.pack.zst"):
            for one in path:
                make_older(one, (time.time() - one.stat().st_mtime) / DAY_SECONDS + 1.01)
    for _ in range(2):
        maintenance.gc(folder, Scope(max_bytes=budget))
        for one in (*folder.rglob(".trash-*"),):
            make_older(one, 1.01)
    maintenance.gc(folder, Scope(max_bytes=budget))
    left = [path for path in folder.rglob("*.zst") if path.is_file()]
    size = sum(path.stat().st_size for path in left)
    of_a_day = 20 * 1300
    assert budget / 2 < size <= budget + (of_a_day if pack_bytes else 0)
    assert not [path for path in left if path.name.startswith(".trash-")]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (86400, "24 h"),
        (3600, "1 h"),
        (30 * 86400, "30 d"),
        (600, "10 min"),
        (90, "1.5 min"),
        (7, "7 s"),
        (129600, "36 h"),
    ],
)
def test_a_chosen_duration_is_said_as_it_was_chosen(seconds, said):
    """Not rounded: "24 h" is no "1.0 d"."""
    assert units.duration(seconds) == said
