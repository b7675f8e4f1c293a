"""States go from store to store: children first, verified on both ends, roots too; and what differs is told."""

import json
import math
import shutil
import signal
import subprocess
import sys

import pytest
from support import processes, raw_tree
from support.care import ran
from support.node import noise

import ana
from ana import maintenance
from ana.errors import StateNotFoundError, UntrustedStoreError
from ana.stores.directory import roots
from ana.stores.directory.store import DirectoryStore

MIB = 1 << 20
EXPLICIT = "run 7/3"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """A place of its own for keys."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ANA_KEY_FILE", raising=False)


def fill(tree, **options):
    """Store small and large states, with parts, shared, in packs or not; return the UUIDs of what "sweep" keeps."""
    options = {"durable": False, "part_bytes": MIB, **options}
    with ana.using_dl(pickle_dir=tree, **options) as layer:
        children = [ana.Ref({"number": number}) for number in range(40)]
        top, named = ana.Ref([*children, ana.Ref(noise(1, 2 * MIB))]), ana.Ref("by a name")
        named.make_uuid(uuid=EXPLICIT)
        layer.keep("sweep", top, named, ttl="14d")
        ana.Ref("not kept").make_uuid()
        return [top.uuid, EXPLICIT]


def store_as(value, uuid):
    """Store a value under a UUID of the program's choice."""
    ref = ana.Ref(value)
    ref.make_uuid(uuid=uuid)
    ref.ana_store()


def states(tree):
    """Return the UUIDs of all states of a store."""
    return {state.uuid for state in maintenance.ls(tree)}


@pytest.fixture
def store(tmp_path):
    """A store with a root."""
    fill(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("options", [{}, {"pack_bytes": "64k"}])
def test_a_root_goes_with_all_of_it(tmp_path, options):
    """A root's states are in the other store, whole, under the same name, with its time to live; others are not."""
    uuids = fill(tmp_path / "store", **options)
    done = maintenance.copy_states(tmp_path / "store", ["sweep"], tmp_path / "other")
    assert sorted(done.uuids) == sorted(uuids)
    assert set(done.copied) == states(tmp_path / "other") == states(tmp_path / "store") - unkept(tmp_path / "store")
    assert (done.roots, done.problems, done.present) == (["sweep"], [], 0)
    assert maintenance.verify(tmp_path / "other").problems == []
    (root,) = roots.read(DirectoryStore(str(tmp_path / "other")))
    assert (root.name, root.ttl_seconds, set(root.uuids)) == ("sweep", 14 * 86400, set(uuids))
    with ana.using_dl(pickle_dir=tmp_path / "other"):
        assert [ref.value["number"] for ref in ana.load(uuids[0]).value[:40]] == list(range(40))


def unkept(tree):
    """Return the UUIDs of what no root keeps."""
    with ana.using_dl(pickle_dir=tree):
        return {ana.Ref("not kept").make_uuid()}


def test_a_second_run_copies_what_is_missing(store, tmp_path):
    """What the other store has is not copied again."""
    first = maintenance.copy_states(store, ["sweep"], tmp_path / "other")
    gone = next(path for path in raw_tree.states(tmp_path / "other") if EXPLICIT[:3] not in path)
    (tmp_path / "other" / gone).unlink()
    again = maintenance.copy_states(store, ["sweep"], tmp_path / "other")
    assert (len(again.copied), again.present) == (1, len(first.copied) - 1)


KILLED = """
import os, signal, sys
from ana import maintenance
left = int(sys.argv[3])
def on_progress(doing):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
maintenance.copying.windows.__globals__["WINDOW_STATES"] = 5
maintenance.copy_states(sys.argv[1], ["sweep"], sys.argv[2], on_progress=on_progress)
"""


@pytest.mark.leaves_temporaries("the copy is killed")
@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_copy_that_is_killed_goes_on(store, tmp_path, after):
    """After `kill -9` the other store is sound: each state there has its children; a second run completes it."""
    words = [sys.executable, "-c", KILLED, store, tmp_path / "other", str(after)]
    done = subprocess.run(words, check=False, env=processes.environment())
    assert done.returncode == -signal.SIGKILL
    assert maintenance.verify(tmp_path / "other").problems == []
    copied = states(tmp_path / "other")
    assert copied
    again = maintenance.copy_states(store, ["sweep"], tmp_path / "other")
    assert again.present == len(copied)
    assert maintenance.diff(store, tmp_path / "other").only_here == sorted(unkept(store))


def test_damage_stays_where_it_is(store, tmp_path):
    """A damaged state is not copied, nor is what refers to it; all others are, and the root keeps those."""
    large = max(raw_tree.states(store), key=lambda name: (store / name).stat().st_size)
    data = bytearray((store / large).read_bytes())
    data[-1] ^= 1
    (store / large).write_bytes(data)
    done = maintenance.copy_states(store, ["sweep"], tmp_path / "other")
    assert {wrong.kind for wrong in done.problems} == {"damaged", "missing"}
    # Its children are in the source: they were not stored.
    assert {wrong.reason.partition(", ")[2] for wrong in done.problems if wrong.kind == "missing"} == {
        "which was not stored"
    }
    assert len(done.copied) == done.found - len(done.problems)
    assert maintenance.verify(tmp_path / "other").problems == []
    (root,) = roots.read(DirectoryStore(str(tmp_path / "other")))
    assert set(root.uuids) == {EXPLICIT}


def test_another_state_under_the_same_name_stays(store, tmp_path):
    """Under a UUID that a program chose, the first writer's content stays, and the copy says so."""
    with ana.using_dl(pickle_dir=tmp_path / "other"):
        store_as("something else", EXPLICIT)
    done = maintenance.copy_states(store, ["sweep"], tmp_path / "other")
    assert [wrong.uuid for wrong in done.problems] == [EXPLICIT]
    with ana.using_dl(pickle_dir=tmp_path / "other"):
        assert ana.load(EXPLICIT).value == "something else"


@pytest.mark.parametrize(("here", "there"), [(True, False), (False, True), (True, True)])
def test_from_key_to_key(tmp_path, here, there):
    """Copies are signed with the other store's key, or not at all; each store accepts only its own."""
    for name, keyed in (("store", here), ("other", there)):
        maintenance.init(tmp_path / name, keyed=keyed)
    fill(tmp_path / "store")
    done = maintenance.copy_states(tmp_path / "store", ["sweep"], tmp_path / "other")
    assert done.problems == []
    assert maintenance.verify(tmp_path / "other").problems == []
    # The flags of the header: 1 is "signed".
    signed = {(tmp_path / "other" / name).read_bytes()[18] & 1 for name in raw_tree.states(tmp_path / "other")}
    assert signed == {int(there)}
    (tmp_path / "config").rename(tmp_path / "away")
    with pytest.raises(UntrustedStoreError, match="key"):
        maintenance.copy_states(tmp_path / "store", ["sweep"], tmp_path / "other")


def test_a_store_that_cannot_be_written_is_a_source(store, tmp_path):
    """Nothing in the store is changed: no file, no time; a copy from a folder without write access works."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in store.rglob("*")}
    for path in [store, *store.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    maintenance.copy_states(store, ["sweep"], tmp_path / "other")
    maintenance.diff(store, tmp_path / "other")
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in store.rglob("*")}
    for path in [store, *store.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


def test_not_into_itself(store):
    """A store is not copied into itself, by whatever path."""
    link = store.with_name("link")
    link.symlink_to(store)
    with pytest.raises(ValueError, match="same store"):
        maintenance.copy_states(store, ["sweep"], link)
    with pytest.raises(StateNotFoundError):
        maintenance.copy_states(store, ["nothing"], store.with_name("new"))
    assert not store.with_name("new").exists()


# What differs


def test_what_differs_is_told(store, tmp_path):
    """States only here, only there, and under the same name with other content; roots, too."""
    shutil.copytree(store, tmp_path / "other")
    assert not maintenance.diff(store, tmp_path / "other").lacks
    with ana.using_dl(pickle_dir=store) as layer:
        here = ana.Ref("here")
        layer.keep("only here", here)
        layer.keep("sweep", here)
        store_as("one", "x" * 200)
        store_as("same", "é" * 150)
    with ana.using_dl(pickle_dir=tmp_path / "other", pack_bytes="64k") as layer:
        there = ana.Ref("there")
        layer.keep("only there", there)
        store_as("other", "x" * 200)
        store_as("same", "é" * 150)
    found = maintenance.diff(store, tmp_path / "other")
    assert (found.only_here, found.only_there, found.differing) == ([here.uuid], [there.uuid], ["x" * 200])
    assert (found.roots_only_here, found.roots_only_there) == (["only here"], ["only there"])
    assert found.roots_differing == ["sweep"]
    assert found.both == len(states(store)) - 1
    assert found.lacks
    back = maintenance.diff(tmp_path / "other", store)
    assert (back.only_here, back.only_there) == (found.only_there, found.only_here)


def test_roots_without_an_end_last(tmp_path):
    """A root without an end has none in the other store either."""
    with ana.using_dl(pickle_dir=tmp_path / "store") as layer:
        layer.keep("paper", ana.Ref(1))
    maintenance.copy_states(tmp_path / "store", ["paper"], tmp_path / "other")
    (root,) = roots.read(DirectoryStore(str(tmp_path / "other")))
    assert root.ttl_seconds == math.inf
    assert not maintenance.diff(tmp_path / "store", tmp_path / "other").lacks


# The commands


def test_the_commands_say_what_they_did(store, tmp_path, capfd):
    """`ana copy` and `ana diff` have tables, JSON and exit codes."""
    other = tmp_path / "other"
    same = ran(capfd, "-d", store, "diff", store)
    assert (same.code, "0 only here, 0 only there, 0 different" in same.out) == (0, True)
    copied = ran(capfd, "-d", store, "copy", "sweep", "--to", other)
    assert copied.code == 0
    assert "copied to" in copied.out
    assert "1 root kept there" in copied.out
    differs = ran(capfd, "-d", store, "diff", other)
    (lost,) = unkept(store)
    assert differs.code == 4
    assert f"< {lost}\n" in differs.out
    quiet = ran(capfd, "-q", "-d", store, "diff", other)
    assert (quiet.code, quiet.out, "lacks states or roots" in quiet.err) == (4, "", True)
    again = ran(capfd, "-d", store, "--json", "copy", "sweep", "--to", other)
    assert again.document["present"] == again.document["found"]
    assert ran(capfd, "-d", store, "--json", "diff", other).document["only_here"] == [lost]
    assert ran(capfd, "-d", store, "copy", "sweep").code == 2
    assert ran(capfd, "-d", store, "copy", "sweep", "--to", store).code == 2
    assert ran(capfd, "-d", store, "copy", "nothing", "--to", other).code == 4


def test_roots_are_shown(store, capfd):
    """`ana show ROOT` shows each state that the root keeps; as JSON, a line for each."""
    shown = ran(capfd, "-d", store, "--json", "show", "sweep")
    assert shown.code == 0
    assert {json.loads(line)["uuid"] for line in shown.out.splitlines()} >= {EXPLICIT}
    assert ran(capfd, "-d", store, "show", "sweep", "--tree").code == 0
    assert ran(capfd, "-d", store, "keep", "paper", "sweep").code == 0
    assert EXPLICIT in ran(capfd, "-d", store, "show", "paper").out
