"""Roots with an end: until then they keep, afterwards they do not, and whoever extends one in time loses nothing."""

import json
import math
import os
import time

import pytest
from support import care, raw_tree
from support.care import make_older, numbered, put, ran

import ana
from ana import maintenance
from ana.maintenance import Scope
from ana.stores.directory import roots

DAY_SECONDS = 86400.0
UNREACHABLE = Scope(unreachable=True)


@pytest.fixture
def store(tmp_path):
    """A store with a parent and its child, both old, and a root for a day that keeps the parent."""
    folder = care.store(tmp_path / "store")
    put(folder, numbered(1), (numbered(2),), age_days=9)
    put(folder, numbered(2), age_days=9)
    maintenance.keep(folder, "sweep", [numbered(1)], ttl="1d")
    return folder


def files_of(store):
    """Return the files of the roots."""
    return sorted((store / ".ana" / "roots").glob("*.json"))


def silent_for(store, days):
    """Let the last sign of life of all roots be so long ago."""
    for path in files_of(store):
        make_older(path, days)


def names(found):
    """Return the keys of states that gc names by their files."""
    return sorted(name.rpartition("/")[2].removesuffix(raw_tree.SUFFIX) for name in found)


def test_a_root_keeps_until_it_ends(store):
    """Just before its end nothing goes, just after it all goes, and is deleted a grace later."""
    silent_for(store, 0.99)
    assert maintenance.gc(store, UNREACHABLE).trashed == []
    silent_for(store, 1.01)
    done = maintenance.gc(store, UNREACHABLE)
    assert names(done.trashed) == sorted([numbered(1), numbered(2)])
    assert done.roots == 0
    for path in store.rglob(".trash-*"):
        make_older(path, 1.01)
    silent_for(store, 2.02)
    assert len(maintenance.gc(store, UNREACHABLE).deleted) == 2
    assert raw_tree.states(store) == []


def test_what_another_root_keeps_stays(store):
    """Only what no lasting root leads to goes."""
    maintenance.keep(store, "paper", [numbered(2)])
    silent_for(store, 2)
    assert names(maintenance.gc(store, UNREACHABLE).trashed) == [numbered(1)]


def test_age_is_by_the_servers_clock(store, monkeypatch):
    """A host whose clock is a year off writes and judges the same ends."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 365 * 86400 * 10**9)
    monkeypatch.setattr(time, "time", lambda: real() / 1e9 + 365 * 86400)
    maintenance.keep(store, "later", [numbered(2)], ttl="1h")
    assert maintenance.gc(store, UNREACHABLE).trashed == []


def test_extending_in_time_saves_all(store):
    """Also after the end, and from the trash, until a collection removes the root a grace later."""
    silent_for(store, 1.5)
    assert len(maintenance.gc(store, UNREACHABLE).trashed) == 2
    found = maintenance.extend(store, "sweep")
    assert found.problems == []
    assert abs(found.until - time.time() - DAY_SECONDS) < 3600
    assert names(raw_tree.states(store)) == sorted([numbered(1), numbered(2)])
    for number in (1, 2):
        make_older(raw_tree.path_of(store, numbered(number)), 9)
    assert maintenance.gc(store, UNREACHABLE).trashed == []


def test_what_a_root_kept_until_a_moment_ago_is_not_deleted(store):
    """It was in the trash before, and nobody collected between the day when the root was extended and its next end."""
    silent_for(store, 1.5)
    assert len(maintenance.gc(store, UNREACHABLE).trashed) == 2
    for path in store.rglob(".trash-*"):
        make_older(path, 9)
    silent_for(store, 1.5)
    assert maintenance.gc(store, UNREACHABLE).deleted == []
    assert maintenance.extend(store, "sweep").problems == []
    assert names(raw_tree.states(store)) == sorted([numbered(1), numbered(2)])


def test_a_root_that_ended_long_ago_is_removed(store):
    """Its file goes to the trash a grace after the end, and from there a grace later; then its name is unknown."""
    silent_for(store, 1.5)
    maintenance.gc(store, UNREACHABLE)
    assert [root.ended for root in maintenance.roots(store)] == [True]
    silent_for(store, 2.5)
    maintenance.gc(store, UNREACHABLE)
    assert maintenance.roots(store) == []
    with pytest.raises(ana.StateNotFoundError, match="no root '"):
        maintenance.extend(store, "sweep")
    (trashed,) = (store / ".ana" / "roots").glob(".trash-*")
    maintenance.gc(store, UNREACHABLE)
    assert trashed.exists()
    make_older(trashed, 1.5)
    maintenance.gc(store, UNREACHABLE)
    assert not list((store / ".ana" / "roots").iterdir())


def test_a_sign_of_life_saves_a_root_from_being_removed(store, monkeypatch):
    """It comes between the look at the root and its removal: the file gets its name back, or is never moved."""
    silent_for(store, 3)
    real = roots.ends

    def extended_meanwhile(found):
        ended = real(found)
        for path in files_of(store):
            os.utime(path)
        return ended

    monkeypatch.setattr(roots, "ends", extended_meanwhile)
    assert roots.remove_ended(maintenance.open_store(store), time.time() - DAY_SECONDS) == {}
    assert len(files_of(store)) == 1


def test_keeping_again_extends(store):
    """The same states under the same name: one file, and its time begins anew. A longer time replaces a shorter."""
    silent_for(store, 0.9)
    maintenance.keep(store, "sweep", [numbered(1)], ttl="1h")
    (path,) = files_of(store)
    assert json.loads(path.read_bytes())["ttl"] == DAY_SECONDS
    assert time.time() - path.stat().st_mtime < 3600
    maintenance.keep(store, "sweep", [numbered(1)], ttl="3d")
    (path,) = files_of(store)
    assert json.loads(path.read_bytes())["ttl"] == 3 * DAY_SECONDS


def test_a_root_has_one_end(store):
    """All that a name keeps ends together: what is added extends it all, and without an end nothing of it ends."""
    silent_for(store, 2)
    put(store, numbered(3), age_days=9)
    maintenance.keep(store, "sweep", [numbered(3)], ttl="1h")
    assert maintenance.gc(store, UNREACHABLE).trashed == []
    maintenance.keep(store, "sweep", [numbered(3)])
    silent_for(store, 1000)
    assert maintenance.gc(store, UNREACHABLE).trashed == []
    assert [root.until for root in maintenance.roots(store)] == [None]
    assert maintenance.extend(store, "sweep").until is None


def test_a_longer_time_to_live_from_now(store):
    """`extend --ttl` lengthens, and never shortens."""
    until = maintenance.extend(store, "sweep", ttl="9d").until
    assert abs(until - time.time() - 9 * DAY_SECONDS) < 3600
    assert maintenance.extend(store, "sweep", ttl="1h").until >= until
    silent_for(store, 5)
    assert maintenance.gc(store, UNREACHABLE).trashed == []


def test_an_older_version_takes_it_for_a_root_without_an_end(store):
    """It reads the fields that it knows, and finds the file's name right."""
    (path,) = files_of(store)
    fields = json.loads(path.read_bytes())
    assert fields["uuids"] == [numbered(1)]
    del fields["ttl"]
    path.write_text(json.dumps(fields))
    make_older(path, 1000)
    (found,) = roots.read(maintenance.open_store(store))
    assert (found.uuids, found.ttl_seconds) == ((numbered(1),), math.inf)


@pytest.mark.parametrize("ttl", ["soon", -1, 0, "0d", float("nan"), float("inf"), True, [1]])
def test_an_invalid_time_to_live_keeps_nothing(store, tmp_path, ttl):
    """The error names what is allowed, and nothing has been stored or kept."""
    for call in (
        lambda: maintenance.keep(store, "other", [numbered(1)], ttl=ttl),
        lambda: maintenance.extend(store, "sweep", ttl=ttl),
        lambda: maintenance.init(tmp_path / "new", ttl=ttl),
        lambda: ana.DirDataLayer(store).keep("other", ana.Ref("x"), ttl=ttl),
    ):
        with pytest.raises((ValueError, TypeError), match=r"ttl must be .*14d"):
            call()
    assert len(files_of(store)) == 1
    assert len(raw_tree.states(store)) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("ttl", ['"1d"', "-1", "NaN", "[]", "true"])
def test_a_root_with_a_damaged_end_is_not_taken_for_ended(store, ttl):
    """What to keep is unknown then, and nothing is collected."""
    (path,) = files_of(store)
    path.write_text(path.read_text().replace("86400.0", ttl))
    with pytest.raises(ana.UntrustedStoreError, match="not a root"):
        maintenance.gc(store, UNREACHABLE)


def test_a_program_keeps_for_a_time(tmp_path):
    """`dl.keep(name, *objects, ttl=)`."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False) as layer:
        (uuid,) = layer.keep("sweep", ana.Ref("x"), ttl="2d")
    make_older(raw_tree.path_of(tmp_path / "store", uuid), 9)
    silent_for(tmp_path / "store", 1.9)
    assert maintenance.gc(tmp_path / "store", UNREACHABLE).trashed == []
    silent_for(tmp_path / "store", 2.1)
    assert names(maintenance.gc(tmp_path / "store", UNREACHABLE).trashed) == [uuid]


def test_the_commands(store, capfd):
    """The commands say until when; `roots` says how large, with all that is referred to."""
    said = ran(capfd, "-d", store, "keep", "paper", numbered(2), "--ttl", "2d").out
    assert ", until 20" in said
    (paper, sweep) = (json.loads(line) for line in ran(capfd, "--json", "-d", store, "roots").out.splitlines())
    assert (sweep["states"], sweep["ended"], paper["states"]) == (2, False, 1)
    assert sweep["size_bytes"] > paper["size_bytes"] > 100
    silent_for(store, 1.5)
    assert "(ended)" in ran(capfd, "-d", store, "roots").out
    assert ", until 20" in ran(capfd, "-d", store, "extend", "sweep").out
    assert "(ended)" not in ran(capfd, "-d", store, "roots").out
    assert ran(capfd, "-d", store, "extend", "nothing").code == 4
    maintenance.keep(store, "for-ever", [numbered(2)])
    assert "has no end" in ran(capfd, "-d", store, "extend", "for-ever").out


# A store's own time to live


@pytest.fixture
def lasting(tmp_path, capfd):
    """A store whose states stay for 30 days: one of 9 and one of 31 days, none kept."""
    folder = tmp_path / "lasting"
    assert ran(capfd, "-d", folder, "init", "--ttl", "30d").code == 0
    put(folder, numbered(1), age_days=9)
    put(folder, numbered(2), age_days=31)
    return folder


@pytest.mark.parametrize("words", [[], ["--unreachable"]])
def test_a_store_has_a_time_to_live(lasting, capfd, words):
    """Without an age or a size, a collection takes what no root keeps and what is older than that."""
    done = ran(capfd, "--json", "-d", lasting, "gc", *words).document
    assert names(done["trashed"]) == [numbered(2)]


def test_a_given_age_or_size_counts_instead(lasting, capfd):
    """The owner says something else than the store."""
    assert ran(capfd, "--json", "-d", lasting, "gc", "--older-than", "40d").document["trashed"] == []
    done = ran(capfd, "--json", "-d", lasting, "gc", "--max-files", "0").document
    assert len(done["trashed"]) == 2


def test_a_store_without_a_time_to_live_wants_a_scope(store, capfd):
    """As ever; the message names both ways."""
    refused = ran(capfd, "-d", store, "gc")
    assert refused.code == 2
    assert "--older-than" in refused.err
    assert "init --ttl" in refused.err
    with pytest.raises(ValueError, match="choose what may go"):
        maintenance.gc(store)
