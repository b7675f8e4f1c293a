"""Collecting garbage: what goes, what stays, and that nothing is lost to anybody who works in the store meanwhile."""

import contextlib
import errno
import os
import shutil

import pytest
from support import care, memory, mounts, raw_tree
from support.care import make_older, numbered, put, ran
from support.classes import A, Node
from support.steps import Failing, Killed, patched, stepping

import ana
from ana import maintenance
from ana.format import record
from ana.fs import files
from ana.maintenance import Scope, collecting
from ana.stores.directory import roots, trash
from ana.stores.directory.store import DirectoryStore

UNREACHABLE = Scope(unreachable=True)
HOUR_SECONDS = 3600.0


@pytest.fixture
def store():
    """An empty store in memory."""
    with memory.folder() as folder:
        yield care.store(folder / "store")


def collect(store, scope=UNREACHABLE, **options):
    """Collect, with no roots too."""
    return maintenance.gc(store, scope, without_roots=True, **options)


def name(key):
    """Return the name of a key's file, relative to the store."""
    return os.path.relpath(raw_tree.path_of("/", key), "/")


def path_of(store, key):
    """Return a state's file."""
    return raw_tree.path_of(store, key)


def in_trash(store, key):
    """Return a state's file in the trash."""
    path = path_of(store, key)
    return path.with_name(f".trash-{path.name}")


def put_in_trash(store, key, children=(), *, age_days):
    """Put a state into the trash, where it has been for so long."""
    path = put(store, key, children, age_days=age_days)
    path.rename(in_trash(store, key))


def all_names(store):
    """Return all files but the store's own."""
    return [path for path in raw_tree.files(store) if not path.startswith(".ana/") and path != "ana.json"]


# What goes, and what stays


def test_what_no_root_leads_to_goes(store):
    """A root keeps its states and all that they refer to; the rest is in the trash at once, and gone a grace later."""
    put(store, numbered(1), (numbered(2),), age_days=2)
    put(store, numbered(2), (numbered(3),), age_days=2)
    put(store, numbered(3), age_days=2)
    put(store, numbered(4), (numbered(3),), age_days=2)
    maintenance.keep(store, "mine", [numbered(1)])
    done = maintenance.gc(store, UNREACHABLE)
    assert done.trashed == [name(numbered(4))]
    assert (done.states, done.kept, done.roots, done.waiting) == (4, 3, 1, 1)
    assert in_trash(store, numbered(4)).exists()
    again = maintenance.gc(store, UNREACHABLE)
    assert (again.trashed, again.deleted, again.waiting) == ([], [], 1)
    make_older(in_trash(store, numbered(4)), 1.1)
    last = maintenance.gc(store, UNREACHABLE)
    assert last.deleted == [name(numbered(4))]
    assert last.deleted_bytes > 100
    assert all_names(store) == sorted(name(numbered(number)) for number in (1, 2, 3))


def test_a_forgotten_root_keeps_nothing(store):
    """After forget, what it kept goes; what another root keeps as well stays."""
    put(store, numbered(1), (numbered(2),), age_days=2)
    put(store, numbered(2), age_days=2)
    maintenance.keep(store, "one", [numbered(1)])
    maintenance.keep(store, "other", [numbered(2)])
    assert maintenance.forget(store, "one") == 1
    assert maintenance.gc(store, UNREACHABLE).trashed == [name(numbered(1))]


def test_what_is_young_stays_with_all_that_it_refers_to(store):
    """A state within the grace is kept, and so are its old children: a job may be about to use it."""
    put(store, numbered(1), (numbered(2),))
    put(store, numbered(2), (numbered(3),), age_days=30)
    put(store, numbered(3), age_days=30)
    put(store, numbered(4), age_days=30)
    assert collect(store).trashed == [name(numbered(4))]
    assert collect(store, grace_seconds=40 * 86400).kept == 3


def test_only_the_age_of_what_goes_is_looked_at(store):
    """An old state goes although its header is damaged, or others can write to it; a young one stops the collection."""
    damaged, open_to_all, whole, young = (path_of(store, numbered(number)) for number in range(4))
    for number in range(3):
        put(store, numbered(number), age_days=9)
    for path in (damaged, put(store, numbered(3))):
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        age = path.stat().st_mtime
        path.write_bytes(data)
        os.utime(path, (age, age))
    open_to_all.chmod(0o666)
    refused = collect(store)
    assert refused.refused
    assert [wrong.name for wrong in refused.problems] == [name(numbered(3))]
    young.unlink()
    assert sorted(collect(store).trashed) == sorted(name(numbered(number)) for number in range(3))
    assert not any(path.exists() for path in (damaged, open_to_all, whole))


def test_older_than(store):
    """Only what is older goes, unless a root or something younger refers to it."""
    for number, age in enumerate((1, 10, 20, 40, 50)):
        put(store, numbered(number), age_days=age)
    put(store, numbered(9), (numbered(4),), age_days=15)
    maintenance.keep(store, "mine", [numbered(3)])
    done = collect(store, Scope(older_than_seconds=18 * 86400))
    assert done.trashed == [name(numbered(2))]


def test_max_files_and_max_bytes(store):
    """The oldest go until the rest fits; children of what stays stay."""
    for number in range(6):
        put(store, numbered(number), age_days=10 + number)
    put(store, numbered(6), (numbered(5),), age_days=9.5)
    done = collect(store, Scope(max_files=4))
    assert sorted(done.trashed) == sorted(name(numbered(number)) for number in (2, 3, 4))
    size = path_of(store, numbered(0)).stat().st_size
    done = collect(store, Scope(max_bytes=3 * size + 100))
    assert done.trashed == [name(numbered(1))]
    assert collect(store, Scope(max_bytes=10 * size)).trashed == []
    assert collect(store, Scope(max_files=0)).kept == 0


def test_limits_keep_what_roots_keep(store):
    """A limit never takes what a root keeps, or what is within the grace, however little fits."""
    put(store, numbered(1), age_days=9)
    put(store, numbered(2), age_days=9)
    put(store, numbered(3))
    maintenance.keep(store, "mine", [numbered(1)])
    assert collect(store, Scope(max_bytes=0)).trashed == [name(numbered(2))]


def test_scopes_together_have_to_agree(store):
    """Over the limit, but not old enough: stays."""
    for number, age in enumerate((5, 10, 20)):
        put(store, numbered(number), age_days=age)
    done = collect(store, Scope(max_files=1, older_than_seconds=15 * 86400))
    assert done.trashed == [name(numbered(2))]


def test_without_a_scope_or_a_root_nothing_is_done(store, capfd):
    """No scope is wrong usage, and so is --unreachable without any root, unless that is meant."""
    put(store, numbered(1), age_days=9)
    assert ran(capfd, "-d", store, "gc").code == 2
    refused = ran(capfd, "-d", store, "gc", "--unreachable")
    assert refused.code == 2
    assert "no roots" in refused.err
    assert path_of(store, numbered(1)).exists()
    assert ran(capfd, "-d", store, "gc", "--unreachable", "--without-roots").code == 0
    assert not path_of(store, numbered(1)).exists()
    with pytest.raises(ValueError, match="negative"):
        collect(store, Scope(max_files=-1))
    with pytest.raises(ValueError, match="negative"):
        collect(store, grace_seconds=-1)


def test_a_dry_run_changes_nothing(store, capfd):
    """--dry-run says what a run would do, and does not."""
    put(store, numbered(1), age_days=9)
    put_in_trash(store, numbered(2), age_days=9)
    before = all_names(store)
    words = ("-d", store, "--json", "gc", "--unreachable", "--without-roots")
    dry = ran(capfd, *words, "--dry-run").document
    assert all_names(store) == before
    real = ran(capfd, *words).document
    assert len(dry.pop("going")) == 2
    assert real.pop("going") == {}
    assert 0 < real.pop("free_from") - dry.pop("free_from") < 3600
    assert real.pop("free_from_iso") > dry.pop("free_from_iso")
    assert dry.pop("dry_run") is True
    assert real.pop("dry_run") is False
    assert dry == real
    assert (dry["trashed"], dry["deleted"]) == ([name(numbered(1))], [name(numbered(2))])


def test_a_dry_run_of_a_read_only_store(store, tmp_path, capfd):
    """Where nobody can write, a dry run works, and a real one says why it does not."""
    put(store, numbered(1), age_days=9)
    with mounts.read_only(store, tmp_path / "ro") as place:
        words = ("-d", place, "gc", "--older-than", "2d")
        assert ran(capfd, *words, "--dry-run").code == 0
        refused = ran(capfd, *words)
        assert refused.code == 1
        assert "read-only" in refused.err


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_other_folder_levels(store, levels):
    """A store with other folder levels is collected, too."""
    (store / "ana.json").write_text(f'{{"format": 1, "levels": {levels}, "id": "x"}}')
    for number in (1, 2):
        raw_tree.path_of(store, numbered(number), levels).parent.mkdir(parents=True, exist_ok=True)
        put(store, numbered(number), age_days=9).rename(raw_tree.path_of(store, numbered(number), levels))
    maintenance.keep(store, "mine", [numbered(1)])
    done = maintenance.gc(store, UNREACHABLE)
    assert [os.path.basename(name) for name in done.trashed] == [f"{numbered(2)}.pkl.zst"]
    assert collect(store, grace_seconds=0).deleted == done.trashed
    assert raw_tree.path_of(store, numbered(1), levels).exists()


def test_names_of_every_kind(store):
    """Keys that are percent-encoded or shortened are collected, kept and brought back like others."""
    layer = ana.set_dl(pickle_dir=store, durable=False)
    keys = ["my mesh/1", "…" * 100, "trash-like", ".gone-1-x"]
    for key in keys:
        layer.store_state(key, key)
    for path in raw_tree.states(store):
        make_older(store / path, 9)
    maintenance.keep(store, "mine", [keys[1]])
    assert len(collect(store).trashed) == 3
    assert [layer.load_state(key) for key in keys] == keys
    assert len(raw_tree.states(store)) == 4


def test_a_backup_by_hard_links(store):
    """Names elsewhere (`cp -al`, `rsync --link-dest`) keep nothing here: all goes in one run, and the backup stays."""
    for number in range(5):
        put_in_trash(store, numbered(number), (numbered(number + 1),) if number < 4 else (), age_days=2)
    backup = shutil.copytree(store, store.with_name("backup"), copy_function=os.link)
    done = collect(store)
    assert sorted(done.deleted) == sorted(name(numbered(number)) for number in range(5))
    assert all_names(store) == []
    assert len(all_names(backup)) == 5


def test_empty_folders_go_when_they_have_been_empty_for_a_grace(store):
    """A shard folder that was emptied long ago is removed; one of a moment ago may be a writer's."""
    path = put(store, numbered(1), age_days=9)
    put(store, numbered(2))
    path.unlink()
    assert collect(store).folders == 0
    make_older(path.parent, 2)
    make_older(path.parent.parent, 2)
    assert collect(store).folders == 1
    make_older(path.parent.parent, 2)
    assert collect(store).folders == 1
    assert not path.parent.parent.exists()
    assert path_of(store, numbered(2)).exists()


def test_ages_are_by_the_servers_clock(store, monkeypatch):
    """A host whose clock is a year ahead or behind collects the same."""
    put(store, numbered(1), age_days=0.5)
    put(store, numbered(2), age_days=2)
    real = files.now_ns()
    for days in (-365, 365):
        monkeypatch.setattr(files, "now_ns", lambda days=days: real + days * 86400 * 10**9)
        assert collect(store, dry_run=True).trashed == [name(numbered(2))]


# Damage


@pytest.mark.parametrize("kept_by", ["root", "youth", "a parent"])
def test_nothing_goes_while_a_state_that_stays_cannot_be_read(store, capfd, kept_by):
    """What it refers to is not known: refused with exit code 4, until it is set aside."""
    put(store, numbered(1), (numbered(2),), age_days=9)
    path = put(store, numbered(2), (numbered(3),), age_days=0 if kept_by == "youth" else 9)
    put(store, numbered(3), age_days=9)
    put(store, numbered(4), age_days=9)
    maintenance.keep(store, "mine", [numbered(2 if kept_by == "root" else 1)] if kept_by != "youth" else [numbered(4)])
    data = path.read_bytes()
    modified = path.stat().st_mtime
    path.write_bytes(data[:40] + b"?" + data[41:])
    os.utime(path, (modified, modified))
    before = all_names(store)
    done = ran(capfd, "-d", store, "--json", "gc", "--unreachable")
    assert (done.code, done.document["refused"]) == (4, True)
    assert all_names(store) == before
    assert ran(capfd, "-d", store, "verify", "--set-aside").code == 4
    assert ran(capfd, "-d", store, "gc", "--unreachable").code in {0, 4}
    assert in_trash(store, numbered(3)).exists()


def test_a_damaged_root_stops_everything(store, capfd):
    """A root that cannot be read may name anything: nothing is collected."""
    put(store, numbered(1), age_days=9)
    maintenance.keep(store, "mine", [numbered(1)])
    (root,) = (store / ".ana" / "roots").iterdir()
    root.write_bytes(root.read_bytes().replace(b'["', b'["0'))
    done = ran(capfd, "-d", store, "gc", "--unreachable")
    assert done.code == 1
    assert "not a root" in done.err or "does not match its name" in done.err
    assert path_of(store, numbered(1)).exists()


def test_what_is_missing_is_said(store, capfd):
    """A hole below a root does not stop a collection, and is reported with exit code 4."""
    put(store, numbered(1), (numbered(2),), age_days=9)
    put(store, numbered(3), age_days=9)
    with contextlib.suppress(ana.StateNotFoundError):
        maintenance.keep(store, "mine", [numbered(1)])
    done = ran(capfd, "-d", store, "--json", "gc", "--unreachable")
    assert done.code == 4
    assert [wrong["name"] for wrong in done.document["problems"]] == [name(numbered(2))]
    assert done.document["trashed"] == [name(numbered(3))]


# The trash


def test_a_read_that_misses_brings_it_back(store):
    """A state in the trash loads, has its name back, and is young again; its other name goes after a grace."""
    put_in_trash(store, numbered(1), age_days=9)
    found = DirectoryStore(str(store)).get(numbered(1))
    assert len(found.segments()[0]) == 108
    assert collect(store).trashed == []
    assert path_of(store, numbered(1)).exists()
    make_older(path_of(store, numbered(1)), 2)
    maintenance.keep(store, "mine", [numbered(1)])
    collect(store)
    assert all_names(store) == [name(numbered(1))]


def test_a_read_only_reader_reads_from_the_trash(store, tmp_path):
    """Who may not write reads it where it lies, also a large one."""
    put(store, numbered(1), size=3 << 20, age_days=9).rename(in_trash(store, numbered(1)))
    with mounts.read_only(store, tmp_path / "ro") as place:
        found = DirectoryStore(str(place)).get(numbered(1))
        assert len(found.segments()[0]) == (3 << 20) + 8
        assert len(found.segments()[0]) == (3 << 20) + 8
    assert in_trash(store, numbered(1)).exists()


def test_references_and_their_children_load_from_the_trash(store):
    """An object whose state and children were collected loads as ever."""
    with ana.using_dl(pickle_dir=store):
        uuid = Node(1, [A("x" * 5000), A("y")]).make_uuid()
    for path in raw_tree.states(store):
        make_older(store / path, 3)
    collect(store)
    assert raw_tree.states(store) == []
    with ana.using_dl(pickle_dir=store):
        assert [child.x for child in Node.ana_load(uuid).after] == ["x" * 5000, "y"]


def test_a_store_of_what_is_in_the_trash(store):
    """Storing the same object again makes it be there; its copy in the trash goes later, by itself."""
    with ana.using_dl(pickle_dir=store):
        uuid = A("again").make_uuid()
    make_older(path_of(store, uuid), 3)
    collect(store)
    with ana.using_dl(pickle_dir=store):
        assert A("again").make_uuid() == uuid
    assert path_of(store, uuid).exists()
    make_older(in_trash(store, uuid), 3)
    collect(store)
    assert path_of(store, uuid).exists()
    assert not in_trash(store, uuid).exists()


def test_the_first_writer_wins_through_the_trash(store):
    """Under an explicit UUID what is in the trash counts: it comes back, and another content is a conflict."""
    with ana.using_dl(pickle_dir=store, strict=True):
        first = A("first")
        first.make_uuid("named")
        first.ana_store()
        make_older(path_of(store, "named"), 3)
        collect(store)
        second = A("second")
        second.make_uuid("named")
        with pytest.raises(ana.UUIDConflictError):
            second.ana_store()
    assert path_of(store, "named").exists()


def test_a_large_state_is_brought_back_instead_of_written_again(store):
    """From 1 MiB on a store looks in the trash before it writes: the file is the same one."""
    with ana.using_dl(pickle_dir=store):
        uuid = A(bytes(2 << 20)).make_uuid()
        number = path_of(store, uuid).stat().st_ino
        make_older(path_of(store, uuid), 3)
        collect(store)
    with ana.using_dl(pickle_dir=store):
        assert A(bytes(2 << 20)).make_uuid() == uuid
    assert path_of(store, uuid).stat().st_ino == number


def test_what_is_set_aside_as_damaged_is_not_brought_back(store, capfd):
    """A state that was brought back, and found damaged, loses its name in the trash as well when it is set aside."""
    layer = ana.set_dl(pickle_dir=store, durable=False)
    layer.store_state("named", "x" * 5000)
    make_older(path_of(store, "named"), 3)
    collect(store)
    assert layer.load_state("named") == "x" * 5000
    path = path_of(store, "named")
    path.write_bytes(path.read_bytes()[:-1])
    assert ran(capfd, "-d", store, "verify", "--set-aside").code == 4
    layer.store_state("named", "y" * 5000)
    assert layer.load_state("named") == "y" * 5000


def test_what_waits_in_the_trash_keeps_what_it_refers_to(store):
    """A child that has been in the trash for long is not deleted while a parent may still be brought back."""
    put(store, numbered(1), (numbered(2),), age_days=9)
    put_in_trash(store, numbered(2), (numbered(3),), age_days=9)
    put_in_trash(store, numbered(3), age_days=9)
    done = collect(store)
    assert (done.trashed, done.deleted, done.waiting) == ([name(numbered(1))], [], 3)
    make_older(in_trash(store, numbered(1)), 2)
    assert len(collect(store).deleted) == 3


def test_what_cannot_be_moved_keeps_what_it_refers_to(store, monkeypatch):
    """A state that stays because moving failed keeps its children from being deleted; exit code 3."""
    put(store, numbered(1), (numbered(2),), age_days=9)
    put_in_trash(store, numbered(2), age_days=9)
    real = os.utime

    def refuse(path, *arguments, **options):
        if str(path) == str(path_of(store, numbered(1))):
            raise PermissionError(errno.EPERM, "not the owner")
        real(path, *arguments, **options)

    monkeypatch.setattr(trash.os, "utime", refuse)
    done = collect(store)
    assert list(done.failed) == [name(numbered(1))]
    assert (done.trashed, done.deleted, done.waiting) == ([], [], 1)


def test_a_link_left_by_a_reader_who_died(store):
    """A state that has both names (killed while it was brought back) stays, and loses the name in the trash."""
    path = put(store, numbered(1), age_days=9)
    os.link(path, in_trash(store, numbered(1)))
    maintenance.keep(store, "mine", [numbered(1)])
    collect(store)
    assert path.exists()
    assert not in_trash(store, numbered(1)).exists()
    maintenance.forget(store, "mine")
    assert collect(store).trashed == [name(numbered(1))]


# Everybody at once: each step of one, with all of another in between

GROUPS = {"kept": (1, 2), "young": (3, 4), "unreachable": (5, 6), "deleted": (7, 8)}
"""Parent and child: kept by a root with the child in the trash; young; old with the child in the trash; both there."""
SAFE = (1, 2, 3, 4, 5, 6)


def furnish(store):
    """Make a store in which a collection does all that it can do."""
    put(store, numbered(1), (numbered(2),), age_days=9)
    put(store, numbered(2), age_days=9)
    maintenance.keep(store, "mine", [numbered(1)])
    for number in (1, 2):
        make_older(path_of(store, numbered(number)), 9)
    path_of(store, numbered(2)).rename(in_trash(store, numbered(2)))
    put(store, numbered(3), (numbered(4),))
    put(store, numbered(4), age_days=9)
    put(store, numbered(5), (numbered(6),), age_days=9)
    put_in_trash(store, numbered(6), age_days=9)
    put_in_trash(store, numbered(7), (numbered(8),), age_days=9)
    put_in_trash(store, numbered(8), age_days=9)
    put(store, numbered(9), age_days=9)
    with contextlib.suppress(PermissionError):
        os.link(path_of(store, numbered(9)), in_trash(store, numbered(9)))
    return {number: content(store, number) for number in range(1, 10)}


def content(store, number):
    """Return a state's bytes, wherever they lie."""
    for path in (path_of(store, numbered(number)), in_trash(store, numbered(number))):
        if path.exists():
            return path.read_bytes()
    return None


def load(store, number):
    """Load a state as a reader of another process would; None if it is not found."""
    try:
        return DirectoryStore(str(store), wait_seconds=0).get(numbered(number)).header.children, True
    except ana.StateNotFoundError:
        return None


def read_pair(store, *numbers):
    """Return an action: a reader loads a state, and what it refers to. Says which it got."""
    return lambda: [number for number in numbers if load(store, number) is not None]


def write_pair(store):
    """Return an action: a writer stores the deleted pair anew, child first, as `saving` does."""

    def write():
        target = DirectoryStore(str(store), durable=False)
        for number, children in ((8, ()), (7, (numbered(8),))):
            if not target.has(numbered(number)):
                data = b"\x80\x05B" + (4).to_bytes(4, "little") + b"new!."
                target.put(numbered(number), record.content("made:Up", [memoryview(data)]), children, repair=False)
        return [7, 8]

    return write


def keep_pair(store):
    """Return an action: somebody keeps the pair that is about to be deleted. Says what is kept now."""

    def keep():
        try:
            problems = roots.keep(DirectoryStore(str(store), wait_seconds=0), "late", [numbered(7)])
        except ana.StateNotFoundError:
            return []
        return [] if problems else [7, 8]

    return keep


def be_killed():
    """Die."""
    raise Killed


ACTIONS = {
    "reads what is deleted": lambda store: read_pair(store, 7, 8),
    "reads what is moved": lambda store: read_pair(store, 5, 6),
    "reads what is kept": lambda store: read_pair(store, 1, 2),
    "reads what has two names": lambda store: read_pair(store, 9),
    "stores it anew": write_pair,
    "keeps it": keep_pair,
    "collects": lambda store: lambda: collect(store) and [],
    "is killed": lambda store: be_killed,
}


@pytest.fixture
def lying_locks(monkeypatch):
    """Locks that exclude nobody."""
    monkeypatch.setattr(collecting, "locked", lambda *_: contextlib.nullcontext())


def one_run(at, action, *, collects_later=True):
    """Collect with an action at one step; return how many steps there were, after seeing that nothing is lost."""
    with memory.folder() as folder:
        store = care.store(folder / "store")
        before = furnish(store)
        got = []
        with stepping(at, lambda: got.extend(ACTIONS[action](store)() or ())) as steps, contextlib.suppress(Killed):
            collect(store)
        if action == "is killed" or collects_later:
            collect(store)
        _check(store, before, got, action)
        return steps.steps


def _check(store, before, got, action):
    for number in {*SAFE, 9, *got}:
        assert load(store, number) is not None, f"{number} is lost"
        assert action == "stores it anew" or content(store, number) == before[number]
    if load(store, 7) is not None:
        # A parent that is to be had has its child.
        assert load(store, 8) is not None
    assert not [path for path in raw_tree.files(store) if "/.gone-" in path]


@pytest.mark.once
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.usefixtures("lying_locks")
def test_nothing_is_lost_whatever_happens_at_any_step(action, share):
    """Before each system call of a collection another process acts: what is needed stays, what it got it keeps.

    In an everyday run the actions take turns: each step meets two or three of them.
    """
    first, step = (0, 1) if share == "all" else (list(ACTIONS).index(action) % 3, 3)
    steps = one_run(-1, action)
    assert steps > 50
    # Some more, where what happens makes more steps necessary.
    for at in range(first, steps + 10, step):
        one_run(at, action)


@pytest.mark.once
@pytest.mark.usefixtures("lying_locks")
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ["reads what is deleted", "reads what is kept", "is killed"])
def test_nothing_is_lost_where_there_are_no_hard_links(action, share, monkeypatch):
    """The same on a filesystem without hard links, where renaming has to do."""
    first, step = (0, 1) if share == "all" else (len(action) % 3, 3)

    def no_links(*_arguments, **_options):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    steps = one_run(-1, action)
    assert steps > 50
    # Some more, where what happens makes more steps necessary.
    for at in range(first, steps + 10, step):
        one_run(at, action)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.usefixtures("lying_locks")
def test_a_reader_that_is_interrupted_at_any_step():
    """A reader brings a state back while a collection runs at each of its steps, or is killed there."""
    for at in range(30):
        for happens in ("collects", "is killed"):
            with memory.folder() as folder:
                store = care.store(folder / "store")
                before = furnish(store)
                got = []
                with stepping(at, ACTIONS[happens](store)), contextlib.suppress(Killed):
                    got += read_pair(store, 7, 8)()
                collect(store)
                _check(store, before, got, happens)


@pytest.mark.once
@pytest.mark.usefixtures("lying_locks")
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, None], ids=["EIO", "EACCES", "ESTALE", "lost"])
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_nothing_is_lost_whichever_call_fails(code, share):
    """Each system call fails, or says that it failed: an error or a report, never a loss; the next run goes on.

    In an everyday run the errors take turns; every reply is lost.
    """
    first, step = (0, 1) if share == "all" or code is None else (code % 3, 3)
    struck, errors = 0, set()
    for at in range(first, one_run(-1, "reads what is kept") + 10, step):
        with memory.folder() as folder:
            store = care.store(folder / "store")
            before = furnish(store)
            failing = Failing(at, code)
            try:
                with patched(failing):
                    collect(store)
            except ana.StoreError as error:
                errors.add(error.errno)
            struck += failing.struck
            collect(store)
            _check(store, before, [], "")
    assert struck > (5 if code is None else 50 // step)
    assert errors == ({code} if code else set())


@pytest.mark.usefixtures("lying_locks")
def test_a_writer_that_relied_on_what_is_moved():
    """A child that was found there goes into the trash before its parent is published: it is brought back."""
    for at in range(40):
        with memory.folder() as folder:
            store = care.store(folder / "store")
            with ana.using_dl(pickle_dir=store, durable=False):
                child = A("child")
                uuid = child.make_uuid()
                make_older(path_of(store, uuid), 9)
                with stepping(at, lambda store=store: collect(store)):
                    parent = Node(1, child).make_uuid()
            assert collect(store).trashed == []
            assert path_of(store, uuid).exists()
            with ana.using_dl(pickle_dir=store):
                assert Node.ana_load(parent).after.x == "child"


@pytest.mark.slow
@pytest.mark.usefixtures("lying_locks")
@pytest.mark.parametrize("inner", ["reads what is deleted", "keeps it", "is killed"])
def test_nothing_is_lost_when_three_meet(inner):
    """Before each step of a collection another one runs, and before each of that one's steps somebody acts."""
    steps = one_run(-1, "collects")
    for outer_at in range(0, steps, 2):
        for inner_at in range(outer_at % 3, steps, 3):
            with memory.folder() as folder:
                store = care.store(folder / "store")
                before = furnish(store)
                got = []

                def other(store=store, got=got, inner_at=inner_at):
                    act = ACTIONS[inner](store)
                    with stepping(inner_at, lambda: got.extend(act() or ())), contextlib.suppress(Killed):
                        collect(store)

                with stepping(outer_at, other):
                    collect(store)
                collect(store)
                _check(store, before, got, inner)
