"""Looking after a store: `ana info`, `stats`, `ls`, `show`, `cat`, `verify`, `sweep` on stores of every kind."""

import errno
import io
import json
import os
import pickle
import pickletools
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import care, memory, mounts, processes, raw_tree
from support.care import numbered, put, ran
from support.classes import A, Node
from support.terminal import on_a_terminal

import ana
from ana import maintenance
from ana.fs import files, locks

STATES = 2000
READING = [
    ("info",),
    ("stats",),
    ("stats", "--exact", "--by", "class"),
    ("ls",),
    ("verify",),
    ("sweep", "--dry-run"),
    ("roots",),
    ("gc", "--older-than", "1d", "--dry-run"),
]
"""Commands that only look, and take no name of a state. The first one judges places without a store, too."""
DOING = [
    ("sweep",),
    ("gc", "--older-than", "1d"),
    ("gc", "--unreachable"),
    ("keep", "name", "x"),
    ("forget", "name"),
    ("extend", "name"),
    ("rm", "x"),
    ("show", "x"),
    ("why", "x"),
    ("cat", "x"),
    ("export", "x", "-o", "NEW"),
    ("report", "-o", "NEW"),
]
"""Commands that want something to be there, or change something; NEW is a file that is not there."""


@pytest.fixture(scope="module")
def large():
    """A store of many states in chains of ten."""
    with memory.folder() as folder:
        yield care.big_store(folder / "store", STATES)


@pytest.fixture
def small(tmp_path):
    """A store of objects: one that refers to two others, and a bare state with a name of its own."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False) as layer:
        top = Node(1, [A("left" * 100), A("right")])
        for child in top.after:
            child.make_uuid()
        top.make_uuid()
        layer.store_state("my mesh/1", list(range(1000)))
        return tmp_path / "store", top.uuid, [child.uuid for child in top.after]


def damage(store, key):
    """Flip the last byte of a state's file."""
    path = raw_tree.path_of(store, key)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path


# A large store


def test_ls_of_a_large_store(large, capfd):
    """All states are listed, one JSON line each, and filters and limits choose among them."""
    lines = ran(capfd, "-d", large, "--json", "ls").out.splitlines()
    assert {json.loads(line)["uuid"] for line in lines} == {numbered(number) for number in range(STATES)}
    assert ran(capfd, "-d", large, "ls", "--larger", "1M").out == ""
    assert len(ran(capfd, "-d", large, "ls", "-n", "7", "--sort", "uuid").out.splitlines()) == 7
    names = ran(capfd, "-d", large, "ls", "--class", "^made:", "-0").out.split("\0")
    assert len(names) == STATES + 1
    assert names[-1] == ""


def test_stats_of_a_large_store(large, capfd):
    """Counts come from listings alone; sizes only from an exact count, which is there for the next one."""
    first = ran(capfd, "-d", large, "stats", "--json").document
    assert (first["states"], first["summary"], first["exact"]) == (STATES, None, False)
    exact = ran(capfd, "-d", large, "stats", "--json", "--exact").document
    files = [large / path for path in raw_tree.states(large)]
    assert exact["summary"]["stored_bytes"] == sum(path.stat().st_size for path in files)
    assert exact["inodes"] == STATES + exact["folders"]
    again = ran(capfd, "-d", large, "stats", "--json").document
    assert again["summary"] == exact["summary"]
    assert again["summary_age_seconds"] >= 0
    assert [group["states"] for group in again["summary"]["by_class"]] == [STATES]
    assert ran(capfd, "-d", large, "stats", "--by", "size").out.count("to 64 KiB") == 1


@pytest.mark.once
def test_stats_makes_no_stat_storm(large, tmp_path):
    """Without --exact the number of system calls on files goes with the folders, not with the states."""
    log = tmp_path / "log"
    words = ["strace", "-f", "-qq", "-e", "trace=%stat,newfstatat,statx", "-o", log, sys.executable, "-m", "ana"]
    if subprocess.run(["which", "strace"], capture_output=True, check=False).returncode:
        pytest.skip("no strace: apt-get install strace")
    subprocess.run([*words, "-d", large, "-q", "stats"], check=True, timeout=120)
    assert sum(".pkl.zst" in line for line in log.read_text(errors="replace").splitlines()) == 0


def test_show_of_a_large_store(large, capfd):
    """A state is found by the beginning of its UUID, and its chain is drawn as a tree."""
    shown = ran(capfd, "-d", large, "--json", "show", numbered(20)[:9])
    assert shown.document["uuid"] == numbered(20)
    assert shown.document["children"] == [numbered(21)]
    tree = ran(capfd, "-d", large, "show", numbered(20), "--tree").out
    assert all(tree.count(numbered(number)) == 1 for number in range(20, 30))
    many = ran(capfd, "-d", large, "show", numbered(20)[:1])
    assert many.code == 2
    assert "more than one" in many.err


def test_verify_of_a_large_store(large, capfd):
    """Every byte is read, or those of a sample."""
    done = ran(capfd, "-d", large, "--json", "verify")
    assert (done.code, done.document["checked"], done.document["problems"]) == (0, STATES, [])
    sampled = ran(capfd, "-d", large, "--json", "verify", "--sample", "5%").document
    assert 0 < sampled["checked"] < STATES / 10
    assert ran(capfd, "-d", large, "--json", "verify", "--older", "1d").document["checked"] == 0


# One state


def test_show_says_all_that_the_header_says(small, capfd):
    """Sizes, chunks and children are those of the file, and nothing is unpickled."""
    store, top, children = small
    shown = ran(capfd, "-d", store, "--json", "show", top).document
    assert shown["class_name"] == "support.classes:Node"
    assert sorted(shown["children"]) == sorted(children)
    assert shown["size_bytes"] == raw_tree.path_of(store, top).stat().st_size
    assert shown["header_bytes"] + shown["stored_bytes"] == shown["size_bytes"]
    table = ran(capfd, "-d", store, "show", top).out
    assert all(child in table for child in children)
    assert ran(capfd, "-d", store, "--json", "show", "my mesh/1").document["uuid"] == "my mesh/1"


def test_cat_gives_the_pickle(small):
    """`ana cat` gives what `zstd -dc` would, after checking it."""
    store, _, _ = small
    words = [sys.executable, "-m", "ana", "-d", store, "cat", "my mesh/1"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert pickle.loads(done.stdout) == list(range(1000))
    pickletools.dis(done.stdout, out=io.StringIO())
    damage(store, "my mesh/1")
    assert subprocess.run(words, capture_output=True, check=False).returncode == 4


def test_the_tree_shows_what_is_missing_and_damaged(small, capfd):
    """Holes and damage among the descendants are shown where they are, with exit code 4."""
    store, top, (left, right) = small
    raw_tree.path_of(store, left).unlink()
    path = raw_tree.path_of(store, right)
    path.write_bytes(path.read_bytes()[:-20])
    done = ran(capfd, "-d", store, "--json", "show", "--tree", top)
    problems = {child["uuid"]: child["problem"]["kind"] for child in done.document["children"]}
    assert (done.code, problems) == (4, {left: "missing", right: "damaged"})


@pytest.mark.slow
def test_a_chain_of_thousands_is_shown(tmp_path, capfd):
    """A chain longer than the recursion limit is followed."""
    store = care.store(tmp_path / "store")
    for number in range(3000):
        put(store, numbered(number), (numbered(number + 1),) if number < 2999 else ())
    order = maintenance.tree(store, numbered(0))
    depth = 1
    while order.children:
        (order,) = order.children
        depth += 1
    assert depth == 3000


# Damage


def test_verify_finds_damage_and_holes(small, capfd):
    """A flipped byte and a missing child are found, named, and not touched."""
    store, _, (left, right) = small
    path = damage(store, left)
    raw_tree.path_of(store, right).unlink()
    done = ran(capfd, "-d", store, "--json", "verify")
    found = {(wrong["uuid"], wrong["kind"]) for wrong in done.document["problems"]}
    assert (done.code, found) == (4, {(left, "damaged"), (right, "missing")})
    assert path.exists()
    assert ran(capfd, "-d", store, "verify").code == 4


def test_verify_sets_damage_aside(small, capfd):
    """With --set-aside the damaged file becomes .bad-…, and the object can be stored again."""
    store, _, (left, _) = small
    data = damage(store, left).read_bytes()
    done = ran(capfd, "-d", store, "--json", "verify", "--set-aside")
    (aside,) = done.document["set_aside"]
    assert done.code == 4
    assert (store / aside).read_bytes() == data
    with ana.using_dl(pickle_dir=store):
        assert A("left" * 100).make_uuid() == left
    assert ran(capfd, "-d", store, "verify").code == 0


def test_verify_repairs_from_another_store(small, tmp_path, capfd):
    """What is damaged or missing is copied from another store with all that it refers to; the rest is named."""
    store, top, (left, right) = small
    backup = tmp_path / "backup"
    subprocess.run(["cp", "-a", store, backup], check=True)
    damage(store, left)
    raw_tree.path_of(store, right).unlink()
    damage(store, "my mesh/1")
    raw_tree.path_of(backup, "my mesh/1").unlink()
    done = ran(capfd, "-d", store, "--json", "verify", "--repair-from", backup)
    assert done.code == 4
    assert sorted(done.document["repaired"]) == sorted([left, right])
    assert [wrong["uuid"] for wrong in done.document["problems"]] == ["my mesh/1"]
    assert raw_tree.path_of(store, "my mesh/1").exists()
    with ana.using_dl(pickle_dir=store):
        assert Node.ana_load(top).after[1].x == "right"


def test_a_newer_record_is_no_damage(small, capfd):
    """A state that a newer ana wrote is reported as not readable, and never set aside."""
    store, _, (left, _) = small
    path = raw_tree.path_of(store, left)
    data = bytearray(path.read_bytes())
    data[16] = 9
    path.write_bytes(data)
    done = ran(capfd, "-d", store, "--json", "verify", "--set-aside")
    assert [(wrong["uuid"], wrong["kind"]) for wrong in done.document["problems"]] == [(left, "failed")]
    assert path.read_bytes() == data


# One bad thing among many


@pytest.mark.parametrize("kind", ["conflict", "long", "misplaced", "misplaced alone", "shortened"])
@pytest.mark.parametrize("cure", ["--set-aside", "--repair-from"])
def test_copies_in_a_wrong_place_are_set_aside(tmp_path, capfd, kind, cure):
    """What a sync tool or a slip has left stops a collection; the cure that it names takes it away, no more."""
    store = care.store(tmp_path / "store")
    care.store(tmp_path / "other")
    put(store, numbered(1), (numbered(2),))
    path = put(store, numbered(2))
    assert ran(capfd, "-d", store, "keep", "root", numbered(1)).code == 0
    wrong = {
        "conflict": path.with_name(f"{numbered(2)} (conflicted copy).pkl.zst"),
        "long": path.with_name(f"{numbered(2)}{'x' * 200}.pkl.zst"),
        "shortened": path.with_name(f"{'x' * 120}~{'0' * 32}.pkl.zst"),
    }.get(kind, store / "00" / "00" / path.name)
    wrong.parent.mkdir(parents=True, exist_ok=True)
    (path.rename if kind == "misplaced alone" else lambda to: to.write_bytes(path.read_bytes()))(wrong)
    gc = ("-d", store, "gc", "--unreachable")
    if kind != "misplaced alone":
        done = ran(capfd, *gc)
        assert done.code == 4
        assert cure in done.err
    before = wrong.read_bytes()
    words = (cure,) if cure == "--set-aside" else (cure, tmp_path / "other")
    aside = ran(capfd, "--json", "-d", store, "verify", *words).document["set_aside"]
    assert not wrong.exists()
    assert [(store / name).read_bytes() for name in aside] == [before]
    assert path.exists() is (kind != "misplaced alone")
    assert ran(capfd, *gc).code == (4 if kind == "misplaced alone" else 0)


@pytest.fixture
def unlistable(small, monkeypatch):
    """A store, one of its shard folders, and that this cannot be listed: a bad block, or another's mode."""
    store, top, _ = small
    for number in range(1, 6):
        put(store, numbered(number))
    folder, real = f"{top[:2]}/", files.list_folder

    def list_folder(path):
        if path.endswith(f"/{folder}"):
            with files.reported(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(files, "list_folder", list_folder)
    return store, folder, top


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("ls", 4),
        ("ls --larger 1G", 4),
        ("ls -0", 4),
        ("stats", 4),
        ("stats --exact", 4),
        ("verify", 4),
        ("report -o NEW", 4),
        ("gc --older-than 1d", 4),
        ("gc --older-than 1d --dry-run", 4),
        ("sweep", 3),
    ],
)
def test_a_folder_that_cannot_be_listed(unlistable, tmp_path, capfd, command, code):
    """Each command says which it is, does what it can with the others, and its exit code says that it was not all."""
    store, folder, _ = unlistable
    before = raw_tree.states(store)
    done = ran(capfd, "-d", store, *_new(command.split(), tmp_path))
    assert done.code == code
    assert folder in done.err
    assert raw_tree.states(store) == before
    assert not (store / ".ana" / "summary.json").exists()


def test_the_rest_of_a_store_whose_folder_cannot_be_listed(unlistable, capfd):
    """Lists, counts and checks have all others; a collection takes nothing, as nobody knows what is needed."""
    store, folder, top = unlistable
    rest = [path for path in raw_tree.states(store) if not path.startswith(folder)]
    listed = [json.loads(line) for line in ran(capfd, "-d", store, "--json", "ls").out.splitlines()]
    assert sorted(state["name"] for state in listed) == sorted([*rest, folder])
    assert ran(capfd, "-d", store, "--json", "stats").document["states"] == len(rest)
    verified = ran(capfd, "-d", store, "--json", "verify").document
    assert verified["checked"] == len(rest)
    assert [(wrong["name"], wrong["kind"]) for wrong in verified["problems"]] == [(folder, "failed")]
    assert ran(capfd, "-d", store, "show", rest[0].rpartition("/")[2][:8]).code == 0
    assert ran(capfd, "-d", store, "show", top[:8]).code == 1
    collected = ran(capfd, "-d", store, "--json", "gc", "--older-than", "0s", "--grace", "0s").document
    assert collected["refused"]
    assert collected["trashed"] == []


CALENDARS = [253402300900, 910692648000, -62135596801, 2**33]


@pytest.mark.parametrize("when", CALENDARS)
def test_times_that_no_calendar_has(tmp_path, capfd, when):
    """A broken file server's times of change are said as they are, and end nothing."""
    with mounts.tmpfs(tmp_path / "memory", "size=4m") as place:
        store = care.store(place / "store")
        path = put(store, numbered(1))
        left = path.with_name(".tmp-node-1-00")
        left.touch()
        ahead = when > time.time()
        for found in (path, left):
            os.utime(found, (when, when))
        codes = {"verify": 0, "stats --exact": 0, f"show {numbered(1)}": 0, "report -o NEW": 0, "ls": 0}
        codes["gc --older-than 1d --dry-run"] = 0
        codes["sweep"] = 3 if ahead else 0
        for command, code in codes.items():
            done = ran(capfd, "-d", store, *_new(command.split(), tmp_path))
            assert (command, done.code) == (command, code)
            assert ("ahead" in done.out + done.err) is (ahead and command.split()[0] in {"ls", "gc", "sweep"})
        left.unlink(missing_ok=True)


@pytest.mark.parametrize("in_the_trash", [False, True])
def test_states_from_the_future_are_named(tmp_path, capfd, in_the_trash):
    """A collection leaves what is dated ahead of the server's clock, says so with a cure, and the cure works."""
    store = care.store(tmp_path / "store")
    path = put(store, numbered(1), age_days=-300)
    if in_the_trash:
        path = path.rename(path.with_name(f".trash-{path.name}"))
    command = ("-d", store, "gc", "--older-than", "0s", "--grace", "0s")
    done = ran(capfd, *command)
    assert done.code == 0
    assert path.exists()
    cure = re.search("run: (find .*)", done.err)[1]
    subprocess.run(["sh", "-c", cure.replace("STORE", shlex.quote(str(store)))], check=True)
    time.sleep(0.01)
    assert ran(capfd, *command).err == ""
    assert not path.exists()


SENSELESS = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"[" * 60_000,
    b'{"taken": NaN}',
    b'{"taken": 1e999, "states": 1}',
    b'{"taken": ' + b"9" * 5000 + b"}",
    b'{"taken": "yesterday"}',
    b'{"taken": 1, "taken": 2}',
    b'{"taken": true, "states": {}, "inodes": [], "raw_bytes": null, "stored_bytes": "x"}',
    b'{"taken": 1, "states": "x", "raw_bytes": 1, "stored_bytes": 1, "trash_bytes": 1, "by_class": 1}',
    b'{"taken": 1, "states": 1, "raw_bytes": 1, "stored_bytes": 1, "trash_bytes": 1, "by_class": [7], "by_age": []}',
]


@pytest.mark.parametrize("text", SENSELESS, ids=lambda text: repr(text[:60]))
def test_senseless_sums_are_passed_over(small, tmp_path, capfd, text):
    """What a summary, the history or a process's numbers say is believed if it can be; else it is as if not there."""
    store, _, _ = small
    assert ran(capfd, "-d", store, "stats", "--exact").code == 0
    (store / ".ana" / "summary.json").write_bytes(text)
    with open(store / ".ana" / "history.jsonl", "ab") as file:
        file.write(b"\n" + text + b"\n")
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "ana-node-1-0.json").write_bytes(text)
    # Counted anew, as in a store that was never counted: it is small.
    assert ran(capfd, "-d", store, "--json", "stats").document["summary"]["states"] == len(raw_tree.states(store))
    assert ran(capfd, "-d", store, "stats", "--jobs", tmp_path / "numbers").code == 0
    assert len(maintenance.history(store)) == 1
    assert ran(capfd, "-d", store, "report", "-o", tmp_path / "page.html").code == 0


@pytest.mark.parametrize("text", SENSELESS, ids=lambda text: repr(text[:60]))
def test_senseless_roots_stop_a_collection_with_a_line(small, tmp_path, capfd, text):
    """Nobody knows what is to be kept: a line names the file. All others are listed, counted, and can be forgotten."""
    store, top, _ = small
    assert ran(capfd, "-d", store, "keep", "root", top).code == 0
    (path,) = (store / ".ana" / "roots").iterdir()
    path.write_bytes(text)
    for name in ("other", "second"):
        assert ran(capfd, "-d", store, "keep", name, top).code == 0
    listed = ran(capfd, "-d", store, "roots")
    assert listed.code == 4
    assert path.name in listed.err
    assert "other" in listed.out
    page = ran(capfd, "-d", store, "report", "-o", tmp_path / "page.html")
    assert page.code == 4
    assert "2 roots" in (tmp_path / "page.html").read_text()
    assert ran(capfd, "-d", store, "forget", "other").code == 0
    assert ran(capfd, "-d", store, "forget", "root").code != 0
    done = ran(capfd, "-d", store, "gc", "--unreachable")
    assert done.code in {1, 10}
    assert str(path) in done.err
    assert len(done.err.splitlines()) == 1


# Other places than a store


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_an_empty_store(tmp_path, capfd, command):
    """A store without states is nothing special."""
    done = ran(capfd, "-d", care.store(tmp_path / "store"), *command)
    assert (done.code, done.err) == (0, "")


def test_an_empty_store_has_nothing_to_show_or_collect(tmp_path, capfd):
    """What is asked for by name is missing (4), and what there is to do is done."""
    store = care.store(tmp_path / "store")
    codes = {" ".join(command): ran(capfd, "-d", store, *_new(command, tmp_path)).code for command in DOING}
    assert codes == {
        "sweep": 0,
        "gc --older-than 1d": 0,
        "gc --unreachable": 2,
        "keep name x": 4,
        "forget name": 4,
        "extend name": 4,
        "rm x": 4,
        "why x": 4,
        "show x": 4,
        "cat x": 4,
        "export x -o NEW": 4,
        "report -o NEW": 0,
    }
    assert raw_tree.states(store) == raw_tree.strangers(store) == []


def _new(command, folder):
    return [str(folder / "new") if word == "NEW" else word for word in command]


@pytest.mark.parametrize("command", [*READING[1:], *DOING], ids=" ".join)
@pytest.mark.parametrize("kind", ["nothing", "foreign", "newer", "original"])
def test_no_store(tmp_path, capfd, command, kind):
    """No store, a foreign folder: exit code 10; a newer store: 1; a line says why, and nothing is made."""
    place = tmp_path / "place"
    if kind != "nothing":
        place.mkdir()
        name, text = {
            "foreign": ("notes.txt", "mine"),
            "newer": ("ana.json", '{"format": 99}'),
            "original": ("a.p", ""),
        }[kind]
        (place / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    done = ran(capfd, "-d", place, *_new(command, tmp_path))
    assert done.code == (1 if kind == "newer" else 10)
    assert len(done.err.splitlines()) == 1
    assert str(place) in done.err
    assert sorted(tmp_path.rglob("*")) == before


ELSEWHERE = {
    "a shard folder": ["{store}/{u0}"],
    "an inner shard folder": ["{store}/{u0}/{u1}"],
    "empty shard folders": ["{other}/ab/cd/"],
    "another tool's cache": ["{other}/00/", "{other}/ab/cdef0123"],
    "a cache of two levels": ["{other}/ab/cd/ef0123"],
    "states elsewhere": ["{other}/ab/cd/5f3ac0e1-1234-8123-9123-123456789abc.pkl.zst"],
}
"""Folders that are no stores, and look a little like one."""


@pytest.fixture(params=ELSEWHERE)
def elsewhere(request, small, tmp_path):
    """Such a folder."""
    store, top, _ = small
    places = {"store": store, "other": tmp_path / "other", "u0": top[:2], "u1": top[2:4]}
    for path in [Path(word.format(**places)) for word in ELSEWHERE[request.param]]:
        if str(path).startswith(str(store)):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x") if path.suffix or "0123" in path.name else path.mkdir()
    return tmp_path / "other"


@pytest.mark.once
@pytest.mark.parametrize("command", [*READING[1:], *DOING], ids=" ".join)
def test_no_store_is_made_by_looking(elsewhere, tmp_path, capfd, command):
    """A shard folder, or another tool's cache, is no store (10), and does not become one."""
    before = picture(tmp_path)
    done = ran(capfd, "-d", elsewhere, *_new(command, tmp_path))
    assert done.code == 10
    assert len(done.err.splitlines()) == 1
    assert picture(tmp_path) == before


def picture(folder):
    """All that is in a folder, with times and sizes, to see that nobody wrote."""
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [folder, *folder.rglob("*")]}


LOOKING = [
    ("stats",),
    ("stats", "--by", "class"),
    ("ls",),
    ("ls", "--older", "1d"),
    ("roots",),
    ("show", "x"),
    ("show", "x", "--tree"),
    ("why", "x"),
    ("cat", "x"),
]


@pytest.mark.once
@pytest.mark.parametrize("purged", [False, True])
@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_looking_writes_nothing(small, capfd, command, purged):
    """No file is made, not for a moment, and none is touched; nor is an `ana.json` that a purge has taken made anew."""
    store, top, _ = small
    if purged:
        (store / "ana.json").unlink()
    before = picture(store)
    assert ran(capfd, "-d", store, *[top if word == "x" else word for word in command]).code == 0
    assert picture(store) == before


@pytest.mark.once
@pytest.mark.parametrize(("options", "whole"), [((), True), (("--older", "1d"), False), (("--sample", "50%"), False)])
def test_verify_writes_down_only_what_it_found(small, capfd, options, whole):
    """A file for `stats` and the report is all that it leaves; no other file is made or touched."""
    store, _, _ = small
    (store / ".ana").mkdir(exist_ok=True)
    before = picture(store)
    done = ran(capfd, "-d", store, "--json", "verify", *options)
    after = picture(store)
    path = str(store / ".ana" / "verified.json")
    assert after.keys() - before.keys() == {path}
    touched = {name for name in before if before[name] != after[name]}
    assert touched <= {str(store / ".ana")}
    last = maintenance.last_verification(store)
    assert (last.checked, last.problems) == (done.document["checked"], [])
    assert (last.whole_taken == last.taken) is whole


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_read_only_store(small, tmp_path, capfd, command):
    """Looking works where nobody can write, and the doctor says so."""
    store, top, _ = small
    with mounts.read_only(store, tmp_path / "ro") as place:
        done = ran(capfd, "-d", place, *command)
        assert done.code == 0
        assert ran(capfd, "-d", place, "show", top).code == 0
        if command == ("info",):
            assert "nothing can be written here" in done.out


@pytest.mark.parametrize("command", DOING, ids=" ".join)
def test_changing_a_read_only_store(small, tmp_path, capfd, command):
    """What would change something is refused with a line that says so, or is done where it changes nothing."""
    store, top, _ = small
    words = [top if word == "x" else word for word in _new(command, tmp_path)]
    with mounts.read_only(store, tmp_path / "ro") as place:
        done = ran(capfd, "-d", place, *words)
    looks = command[0] in {"show", "why", "cat", "export", "report"}
    # The root is missing, whether it could be written or not; no root is wrong usage before anything else.
    known = {"forget name": 4, "extend name": 4, "gc --unreachable": 2}
    assert done.code == known.get(" ".join(command), 0 if looks else 1)
    assert looks or len(done.err.strip().splitlines()[-1]) > 20


def test_where_the_store_comes_from(small, tmp_path, capfd, monkeypatch):
    """-d comes first, then ANA_PICKLE_DIR, then ./pickles; info says which."""
    store, _, _ = small
    monkeypatch.chdir(tmp_path)
    care.store(tmp_path / "pickles")
    assert ran(capfd, "--json", "info").document["source"] == "the default, ./pickles"
    monkeypatch.setenv("ANA_PICKLE_DIR", str(store))
    named = ran(capfd, "info", "--json").document
    assert (named["source"], named["path"]) == ("ANA_PICKLE_DIR", str(store))
    assert ran(capfd, "info", "-d", tmp_path / "pickles", "--json").document["path"] == str(tmp_path / "pickles")


# The doctor


def test_the_doctor_tries_what_it_says(small, tmp_path, capfd):
    """Filesystem, links, locks (also by another mount), clock and space are those of the place."""
    store, _, _ = small
    with mounts.tmpfs(tmp_path / "memory", "size=4m") as memory:
        subprocess.run(["cp", "-a", store, memory / "store"], check=True)
        found = ran(capfd, "--json", "info", "-d", memory / "store", "--other", memory / "store").document
        assert (found["filesystem"], found["hard_links"], found["lock"], found["lock_other"]) == ("tmpfs", True, "", "")
        assert found["mount_point"] == str(memory)
        assert found["clock_difference_seconds"] == 0
        assert 0 < found["free_bytes"] < found["total_bytes"] == 4 << 20
        assert "memory" in next(item for item in found["findings"] if item["kind"] == "unsafe")["what"]
        assert raw_tree.strangers(memory / "store") == []
        elsewhere = care.store(tmp_path / "elsewhere")
        other = ran(capfd, "--json", "info", "-d", memory / "store", "--other", elsewhere).document
        assert raw_tree.strangers(elsewhere) == []
        assert "not visible" in other["lock_other"]
        assert any("another store" in finding["what"] for finding in other["findings"])


def test_the_doctor_notices_missing_links(tmp_path, capfd):
    """Where hard links do not exist, it says so."""
    with mounts.exfat(tmp_path / "exfat") as place:
        found = ran(capfd, "--json", "info", "-d", care.store(place / "store")).document
    assert found["hard_links"] is False
    assert any("no hard links" in finding["what"] for finding in found["findings"])


# The lock


def test_the_lock_names_its_holder(small, capfd):
    """Maintenance waits for other maintenance, a bounded time, and says who holds it; exit code 11."""
    store, _, _ = small
    # A lock of the command's own process would not exclude it.
    with (
        locks.exclusive(f"{store}/.ana/locks/maintenance.lock", 5),
        care.start("-d", store, "sweep", "--wait", "0.3s") as process,
    ):
        _, said = process.communicate(timeout=processes.PATIENCE_SECONDS)
    assert process.returncode == 11
    assert f"pid {os.getpid()}" in said
    assert os.uname().nodename in said
    assert ran(capfd, "-d", store, "sweep", "--wait", "0.3s").code == 0


# People


def test_help_shows_examples_and_exit_codes(capfd):
    """Each command's help has examples, JSON keys where there are any, and exit codes."""
    listed = ran(capfd, "--help").out
    for command in (
        *("init", "info", "stats", "ls", "show", "cat", "verify", "sweep", "pack", "unpack"),
        *("keep", "extend", "forget", "roots", "why", "rm", "gc", "import", "export", "report"),
    ):
        assert f"\n  {command} " in listed
        shown = ran(capfd, command, "--help").out
        assert f"ana {command}" in shown
        assert "Exit codes:" in shown
        assert all(len(line) <= 80 for line in shown.splitlines())


def test_completion_of_commands_and_uuids(small):
    """Bash completes a command's name, and a UUID from the store."""
    store, top, _ = small
    variables = {**os.environ, "_ANA_COMPLETE": "bash_complete", "ANA_PICKLE_DIR": str(store)}
    for words, number, wanted in ((f"ana show {top[:6]}", 2, top), ("ana ver", 1, "verify")):
        done = subprocess.run(
            [sys.executable, "-m", "ana"],
            env={**variables, "COMP_WORDS": words, "COMP_CWORD": str(number)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split(",")[-1].strip() == wanted
    script = subprocess.run(
        [sys.executable, "-m", "ana", "completion", "bash"], capture_output=True, text=True, check=True
    )
    assert "_ANA_COMPLETE=bash_complete" in script.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ls", "--larger", "big"), "'big' is not a size"),
        (("ls", "--older", "30"), "'30' is not a time"),
        (("ls", "--class", "("), "--class"),
        (("ls", "-n", "0"), "-n"),
        (("verify", "--sample", "0%"), "is not a percentage"),
        (("verify", "--sample", "5"), "is not a percentage"),
        (("verify", "--repair-from", "/nowhere/at/all"), "does not exist"),
        (("stats", "--by", "colour"), "colour"),
        (("show",), "Missing argument"),
    ],
)
def test_wrong_usage(small, capfd, arguments, said):
    """A wrong command line is answered on stderr, with exit code 2."""
    done = ran(capfd, "-d", small[0], *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


EMPTY = [
    ("-d", "", "ls"),
    ("-d", "", "gc", "--older-than", "1d"),
    ("ls", "-d", ""),
    ("ls", "--pickle-dir="),
    ("ls", "--class", ""),
    ("show", ""),
    ("cat", ""),
    ("keep", "root", ""),
    ("keep", "root", "x", ""),
    ("keep", "", "x"),
    ("forget", ""),
    ("export", "", "-o", "NEW"),
    ("export", "x", "-o", ""),
    ("report", "-o", ""),
    ("import", ""),
    ("info", "--other", ""),
    ("stats", "--jobs", ""),
    ("verify", "--repair-from", ""),
    ("key", "new", ""),
    ("init", "--keyed", "--key-file", ""),
    ("",),
]


@pytest.mark.parametrize("command", EMPTY, ids=" ".join)
def test_an_empty_argument_is_wrong_usage(tmp_path, capfd, monkeypatch, command):
    """A variable of the shell that is not set means nothing: a line says so, and nothing is touched or made."""
    care.store(tmp_path / "pickles")
    monkeypatch.chdir(tmp_path)
    before = picture(tmp_path)
    done = ran(capfd, *_new(command, tmp_path))
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch("ana: .* is empty: is a shell variable not set[?]\n", done.err)
    assert picture(tmp_path) == before


@pytest.mark.parametrize("words", ["show X", "cat X", "keep X y", "keep root X", "forget X", "export X -o NEW"])
def test_a_name_that_is_too_long_is_wrong_usage(small, tmp_path, capfd, words):
    """Names of roots and UUIDs have at most 200 characters: a line says so, and nothing is touched or made."""
    before = picture(tmp_path)
    done = ran(capfd, "-d", small[0], *_new([word.replace("X", "x" * 201) for word in words.split()], tmp_path))
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "at most 200 characters" in done.err
    assert picture(tmp_path) == before


def test_quiet_says_nothing(small, capfd):
    """With -q nothing is printed by any command that only looks."""
    store, top, _ = small
    for command in (*READING, ("show", top)):
        done = ran(capfd, "-q", "-d", store, *command)
        assert (done.code, done.out, done.err) == (0, "", "")


def test_a_reader_that_has_enough(large):
    """`ana ls | head` ends quietly."""
    command = f"'{sys.executable}' -m ana -d '{large}' ls | head -n 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


INTERRUPTED = """
import os, sys
from ana.__main__ import main
number, wanted = int(sys.argv.pop(1)), sys.argv.pop(1)
count = 0
def hook(event, arguments):
    global count
    if event == wanted and ".pkl.zst" in str(arguments[0]):
        count += 1
        if count == 50:
            os.kill(os.getpid(), number)
sys.addaudithook(hook)
sys.exit(main())
"""
"""Runs a command, which gets a signal when it opens or moves the fiftieth state's file."""


def interrupted(number, event, *arguments):
    """Run a command that gets a signal at its fiftieth `event`, and return the finished process."""
    words = [sys.executable, "-c", INTERRUPTED, str(int(number)), event, *map(str, arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=processes.PATIENCE_SECONDS,
        env=processes.environment(),
    )


def test_an_interrupted_verify_can_be_run_again(large, capfd):
    """SIGINT ends it with 130 and one line; nothing has changed."""
    done = interrupted(signal.SIGINT, "open", "-d", large, "verify")
    assert (done.returncode, done.stderr.strip()) == (130, "ana: interrupted")
    assert ran(capfd, "-d", large, "verify").code == 0


# Work that takes long


@pytest.mark.slow
def test_a_collection_of_a_large_store(capfd):
    """Of many states in chains of ten, all but those that a root leads to are moved, then deleted."""
    with memory.folder() as folder:
        store = care.big_store(folder / "store", STATES)
        for path in raw_tree.states(store):
            care.make_older(store / path, 3)
        assert ran(capfd, "-d", store, "keep", "mine", numbered(20), numbered(35)).code == 0
        done = ran(capfd, "-d", store, "--json", "gc", "--unreachable").document
        kept = [*range(20, 30), *range(35, 40)]
        assert (done["states"], done["kept"], len(done["trashed"])) == (STATES, 15, STATES - 15)
        for path in raw_tree.strangers(store):
            care.make_older(store / path, 3)
        done = ran(capfd, "-d", store, "--json", "gc", "--unreachable").document
        assert (len(done["deleted"]), done["waiting"], done["problems"]) == (STATES - 15, 0, [])
        left = {os.path.basename(path).removesuffix(raw_tree.SUFFIX) for path in raw_tree.states(store)}
        assert left == {numbered(number) for number in kept}
        assert raw_tree.strangers(store) == []


@pytest.mark.slow
def test_a_collection_that_is_interrupted_can_be_run_again(capfd):
    """SIGTERM and SIGINT in the middle leave a consistent store; the next run finishes."""
    with memory.folder() as folder:
        store = care.big_store(folder / "store", 300)
        for path in raw_tree.states(store):
            care.make_older(store / path, 3)
        assert ran(capfd, "-d", store, "keep", "mine", numbered(20)).code == 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            done = interrupted(number, "os.rename", "-d", store, "gc", "--unreachable")
            assert done.returncode == 128 + number
            assert len(raw_tree.strangers(store)) >= 45
        done = ran(capfd, "-d", store, "--json", "gc", "--unreachable").document
        # Stopped between two steps, it leaves a state that looks young: that, and what it refers to, stays for longer.
        assert 10 <= done["kept"] <= 10 + 10 * 3
        assert (done["kept"] + done["waiting"], done["failed"]) == (300, {})
        assert ran(capfd, "-d", store, "verify").code == 0


@pytest.mark.slow
def test_a_terminal_gets_a_bar(tmp_path):
    """On a terminal a bar says how far the work is, and is gone in the end; with NO_COLOR there is no colour."""
    large = care.big_store(tmp_path / "store", 10_000)
    code, seen = on_a_terminal("-d", str(large), "verify", COLUMNS="100")
    assert code == 0
    assert "verifying" in seen
    assert "verifying" not in seen[seen.index("states read") :]
    code, seen = on_a_terminal("-d", str(large), "verify", COLUMNS="100", NO_COLOR="1")
    assert code == 0
    codes = {part for found in re.findall(r"\x1b\[([0-9;]*)m", seen) for part in found.split(";")}
    assert codes <= {"", "0", "1", "2"}


def test_elsewhere_a_line_says_how_far_it_is(small, capfd, monkeypatch):
    """Where there is no terminal, a plain line is printed every 30 s (here: every moment), on stderr."""
    store, _, _ = small
    monkeypatch.setattr("ana.cli.progress.LINE_SECONDS", 0.0)
    done = ran(capfd, "-d", store, "verify")
    assert re.fullmatch(r"(ana verify: verifying: \d of 4 states, .*/s\n)+", done.err)
    assert ran(capfd, "-q", "-d", store, "verify").err == ""


def test_hostile_names_say_nothing_to_a_terminal(tmp_path, capfd):
    """Control characters, markup and lone surrogates in keys and class names are shown as what they are: text."""
    layer = ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    keys = ["\x1b]0;title\x07red", "[bold]no markup[/bold]", "lone \udcff surrogate", "new\nline"]
    for key in keys:
        layer.store_state(key, key)
        layer_root = maintenance.keep(tmp_path / "store", key, [key])
        assert layer_root.problems == []
    for command in (("ls",), ("roots",), *(("show", key) for key in keys), *(("show", "--tree", key) for key in keys)):
        done = ran(capfd, "-d", tmp_path / "store", *command)
        assert done.code == 0
        assert "\x1b" not in done.out + done.err
    for key in keys:
        said = ran(capfd, "-d", tmp_path / "store", "keep", key, key).out
        assert "\x1b" not in said
        assert said.startswith("[bold]no markup[/bold]: kept 1") or key != keys[1]
    assert len(ran(capfd, "-d", tmp_path / "store", "ls").out.splitlines()) == 4
    listed = [
        json.loads(line)["uuid"] for line in ran(capfd, "-d", tmp_path / "store", "--json", "ls").out.splitlines()
    ]
    assert sorted(listed) == sorted(keys)


def test_quiet_commands_still_say_what_is_wrong(small, capfd):
    """With -q, as cron uses it, damage and holes are a line on stderr."""
    store, top, (left, _) = small
    maintenance.keep(store, "mine", [top])
    damage(store, left)
    for command in (("verify",), ("gc", "--unreachable")):
        done = ran(capfd, "-q", "-d", store, *command)
        assert done.out == ""
        # A flipped byte of the content shows to verify alone; gc reads headers.
        assert bool(done.err) == (done.code == 4) == (command == ("verify",))
    raw_tree.path_of(store, left).unlink()
    for command in (("verify",), ("gc", "--unreachable")):
        done = ran(capfd, "-q", "-d", store, *command)
        assert (done.code, done.out, "missing" in done.err) == (4, "", True)


def examples():
    """Return the command lines of all examples: those of each command's help, and of docs/operating.md."""
    from ana.cli import ana as group

    commands = [group.get_command(None, name) for name in group.list_commands(None)]
    texts = [group.epilog, *(command.epilog or "" for command in commands)]
    texts.append((Path(ana.__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8"))
    found = {line for text in texts for line in re.findall(r"(?:^ *|\* +|`)(ana [^`#|>\n]*)", text, re.MULTILINE)}
    # In a table of examples a remark follows after some blanks.
    return sorted({re.split(r" {2,}|\s\(", line)[0].strip() for line in found})


def test_each_command_has_its_name_and_a_line_of_help():
    """The group knows all of them before it imports any, and its lines fit into 80 columns."""
    from ana.cli import COMMANDS
    from ana.cli import ana as group

    for name, (_, line) in COMMANDS.items():
        assert group.get_command(None, name).name == name
        assert line.endswith(".")
        assert len(line) < 64
    files = Path(ana.__file__).with_name("cli").glob("*.py")
    defined = re.findall(r'^@click\.(?:command|group)\("([\w-]+)"', "\n".join(map(Path.read_text, files)), re.MULTILINE)
    assert sorted(defined) == sorted(COMMANDS)


@pytest.mark.parametrize("line", examples())
def test_examples_are_right(line, capfd):
    """Each command line in the help and in docs/operating.md is one that the command understands."""
    _, *words = shlex.split(line.replace("…", "x"))
    done = ran(capfd, *words, "--help")
    assert (done.code, done.err) == (0, "")


def test_there_are_many_examples():
    """The examples are found: otherwise none would be checked."""
    assert len(examples()) > 40
    assert {"ana keep experiment-7 5f3ac0e1 77b0c1d2", "ana sweep --dry-run"} <= set(examples())
    assert "ana -q -d /shared/pickles gc --unreachable" in examples()
