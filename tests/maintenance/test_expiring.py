"""What a purge takes next is told by root, and telling it changes no time that the purge goes by."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from support import mounts, processes, raw_pack, raw_tree
from support.care import ran
from support.users import user

import ana
from ana import maintenance
from ana.fs import mounts as known_mounts
from ana.maintenance import Purge

DAY = 86400.0


def fill(tree, **options):
    """Keep two roots that share a child, and something that no root keeps; return its UUIDs by name."""
    with ana.using_dl(pickle_dir=tree, durable=False, **options) as layer:
        shared = ana.Ref("shared")
        one, two, none = ana.Ref(["one", shared]), ana.Ref(["two", shared]), ana.Ref("none")
        none.make_uuid()
        layer.keep("one", one)
        layer.keep("two", two)
        return {"shared": shared.uuid, "one": one.uuid, "two": two.uuid, "none": none.uuid}


def set_age(tree, uuid, days):
    """Make a state's file so old that it was used and changed that long ago."""
    path, then = raw_tree.path_of(tree, uuid), time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def times(tree):
    """Return the times of all files of states, packs and roots."""
    found = {path: path.stat() for path in tree.rglob("*") if path.is_file() and path.name != "ana.json"}
    return {path: (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns) for path, status in found.items()}


def by_name(found):
    """Return the rows by the names of roots."""
    return {each.name: each for each in found.roots}


@pytest.fixture
def store(tmp_path):
    """A store with two roots."""
    fill(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.mark.parametrize("by", ["atime", "mtime"])
def test_roots_are_told_by_what_goes_first(tmp_path, by):
    """A root goes with the first of its files, a shared one counts for each root; what no root needs comes last."""
    uuids = fill(tmp_path / "tree")
    for name, days in (("shared", 20), ("one", 29), ("two", 1), ("none", 40)):
        set_age(tmp_path / "tree", uuids[name], days)
    found = maintenance.expiring(tmp_path / "tree", Purge(by, 30 * DAY), within_seconds=15 * DAY)
    assert [each.name for each in found.roots] == ["one", "two", ""]
    one, two, none = found.roots
    assert [round((each.first_goes - found.now) / DAY) for each in found.roots] == [1, 10, -10]
    # Each with its own file, and that of the root.
    assert [(each.files, each.soon, each.due) for each in (one, two, none)] == [(3, 2, 0), (3, 1, 0), (1, 1, 1)]
    assert (found.files.files, found.files.soon, found.files.due) == (4, 3, 1)
    assert (found.problems, found.untold) == ([], "")


def test_the_time_of_a_change_counts(store):
    """A purge by ctime goes by the time that nobody can set."""
    uuid = next(state.uuid for state in maintenance.ls(store))
    set_age(store, uuid, 100)
    found = maintenance.expiring(store, Purge("ctime", DAY))
    assert all(0.9 * DAY < each.first_goes - found.now <= DAY for each in found.roots)


def test_a_pack_goes_as_a_whole(tmp_path):
    """States in packs go with their pack, and count for each root that needs one of them."""
    fill(tmp_path / "tree", pack_bytes="64k")
    (pack,) = raw_pack.packs(tmp_path / "tree")
    then = time.time() - 29 * DAY
    os.utime(pack, (then, then))
    found = by_name(maintenance.expiring(tmp_path / "tree", Purge("atime", 30 * DAY)))
    assert {name: (each.files, each.soon) for name, each in found.items()} == {"one": (2, 1), "two": (2, 1), "": (0, 0)}


def test_no_time_changes_where_each_read_is_noted(tmp_path):
    """On a filesystem that notes each read, looking leaves all times as they are; reading without care would not."""
    with mounts.tmpfs(tmp_path / "scratch", "size=20m,strictatime") as scratch:
        fill(scratch / "tree", pack_bytes="16")
        before = times(scratch / "tree")
        time.sleep(0.01)
        found = maintenance.expiring(scratch / "tree", Purge("atime", 30 * DAY))
        assert {each.name: each.files for each in found.roots} == {"one": 3, "two": 3, "": 1}
        assert times(scratch / "tree") == before
        maintenance.verify(scratch / "tree")
        assert times(scratch / "tree") != before


@pytest.mark.once
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace: apt-get install strace")
def test_where_a_server_notes_reads_nothing_is_opened(store, tmp_path):
    """On NFS and its like, files are only looked at: none of a state, a pack or a root is opened."""
    program = (
        "import sys; from ana import maintenance; from ana.fs import mounts; "
        "mounts.is_local = lambda path: False; mounts._find = lambda *_: mounts.Mount('/', 'nfs4', 's', 'rw'); "
        "found = maintenance.expiring(sys.argv[1], maintenance.Purge('atime', 86400.0)); "
        "assert 'nfs4' in found.untold and found.roots == [] and found.files.files == 4"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-o", trace, "-e", "trace=open,openat", sys.executable, "-c", program, store]
    processes.run(*command)
    opened = [line for line in trace.read_text(encoding="utf-8", errors="replace").splitlines() if str(store) in line]
    kinds = Counter("state" if ".pkl" in line else "root" if ".json" in line else "folder" for line in opened)
    assert kinds["folder"] > 4
    # ana.json, which every command reads.
    assert kinds["state"] == 0
    assert all("ana.json" in line for line in opened if ".json" in line)


def test_it_is_told_where_roots_are_not(store, monkeypatch, capfd):
    """Where roots cannot be told apart, the reason is told instead; --read tells them all the same."""
    monkeypatch.setattr(known_mounts, "is_local", lambda _: False)
    done = ran(capfd, "-d", store, "expiring", "--purge", "atime:30d")
    assert done.code == 0
    assert "roots are not told apart" in done.out
    assert "one" in ran(capfd, "-d", store, "expiring", "--purge", "atime:30d", "--read").out
    assert "one" in ran(capfd, "-d", store, "expiring", "--purge", "mtime:30d").out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user owns some of the files")
def test_files_of_others_are_named():
    """A header that only its owner can read without a trace is not read: it is named, and its file still counts."""
    with tempfile.TemporaryDirectory(prefix="ana-expiring-") as place:
        Path(place).chmod(0o1777)
        tree = Path(place) / "tree"
        with user(12345):
            uuids = fill(tree)
        path = raw_tree.path_of(tree, uuids["one"])
        # As root's it is trusted, and can be read.
        os.chown(path, 0, 0)
        path.chmod(0o644)
        with user(12345):
            found = maintenance.expiring(tree, Purge("atime", 30 * DAY))
            seen = maintenance.expiring(tree, Purge("mtime", 30 * DAY))
    assert [wrong.kind for wrong in found.problems] == ["failed"]
    assert by_name(found)["one"].files == 2
    # What it refers to is unknown, so nothing is known to be needed by no root.
    assert ("" in by_name(found), "" in by_name(seen)) == (False, True)
    assert found.problems[0].reason in found.untold
    assert (seen.problems, by_name(seen)["one"].files) == ([], 3)


def test_a_root_that_cannot_be_read_is_a_risk(store, capfd):
    """Its files are not told to be those of no root, and the exit code says that something is unknown."""
    (store / ".ana/roots/damaged.0123456789abcdef.json").write_text("damaged")
    done = ran(capfd, "-d", store, "expiring", "--purge", "atime:30d")
    assert (done.code, "no root  " in done.out) == (4, False)
    assert "what no root needs is not told" in done.out


@pytest.mark.parametrize("purge", [Purge("btime", DAY), Purge("atime", 0), Purge("mtime", float("inf"))])
def test_rules_that_make_no_sense(store, purge):
    """A rule names a time that files have, and an age."""
    with pytest.raises(ValueError, match="a purge goes by"):
        maintenance.expiring(store, purge)


def test_the_command_warns(tmp_path, capfd):
    """`ana expiring` lists roots with the time that is left, warns on standard error, and has a JSON document."""
    uuids = fill(tmp_path / "tree")
    set_age(tmp_path / "tree", uuids["one"], 25)
    words = ("-d", tmp_path / "tree")
    done = ran(capfd, *words, "expiring", "--purge", "atime:30d")
    assert done.code == 4
    assert "in 5.0 d" in done.out
    assert "1 root loses files within 7.0 d (first: one)" in done.err
    quiet = ran(capfd, *words, "-q", "expiring", "--purge", "atime:30d")
    assert (quiet.out, quiet.code) == ("", 4)
    assert "1 root loses files" in quiet.err
    assert ran(capfd, *words, "expiring", "--purge", "atime:30d", "--within", "1d").code == 0
    document = ran(capfd, *words, "--json", "expiring", "--purge", "mtime:30d").document
    assert [root["name"] for root in document["roots"]] == ["one", "two", ""]
    assert document["roots"][0]["first_goes_iso"] > document["now_iso"]
    for rule in ("30d", "atime", "atime:30", "birth:30d"):
        assert ran(capfd, *words, "expiring", "--purge", rule).code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("noatime", "reads are not noted"),
        ("relatime", "at most once a day"),
        ("strictatime", "each read is noted"),
    ],
)
def test_info_says_what_the_mount_notes(tmp_path, options, said):
    """`ana info` says what a mount's options mean for a purge by access time, and that is what the kernel does."""
    with mounts.tmpfs(tmp_path / "scratch", f"size=20m,{options}") as scratch:
        uuid = fill(scratch / "tree")["one"]
        assert said in maintenance.info(scratch / "tree").access_times
        path = set_age(scratch / "tree", uuid, 0.5)
        before = path.stat().st_atime
        subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)
        first = path.stat().st_atime
        # Longer than the kernel's clock takes for a step.
        time.sleep(0.05)
        subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)
        moved = (first > before, path.stat().st_atime > first)
        assert moved == {"noatime": (False, False), "relatime": (True, False), "strictatime": (True, True)}[options]
