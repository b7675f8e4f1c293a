"""Collecting packs: what goes, what stays, and that nothing is lost to anybody who works in the store meanwhile."""

import contextlib
import errno
import os

import pytest
from support import care, memory, packed, raw_tree
from support.care import make_older, numbered, put, ran
from support.steps import Failing, Killed, patched, stepping

import ana
from ana import maintenance
from ana.format import pack
from ana.fs.append_file import KeptFile
from ana.maintenance import Scope, collecting
from ana.stores.directory import pack_survey, pack_table, roots
from ana.stores.directory.store import DirectoryStore

UNREACHABLE = Scope(unreachable=True)


@pytest.fixture
def store():
    """An empty store in memory."""
    with memory.folder() as folder:
        yield care.store(folder / "store")


@pytest.fixture
def lying_locks(monkeypatch):
    """Locks that exclude nobody."""
    monkeypatch.setattr(collecting, "locked", lambda *_: contextlib.nullcontext())


def collect(store, scope=UNREACHABLE, **options):
    """Collect, with no roots too."""
    return maintenance.gc(store, scope, without_roots=True, **options)


def age_all(store, days=2):
    """Let time pass for all packs and states."""
    for path in [*(store / "packs").iterdir(), *(store / name for name in raw_tree.files(store))]:
        if path.suffix != ".json":
            make_older(path, days)


def plain(path):
    """Return a pack's name relative to the store."""
    return f"packs/{path.name.removeprefix('.trash-')}"


def load(store, key):
    """Load a state as a reader of another process would; None if it is not found."""
    try:
        return DirectoryStore(str(store), wait_seconds=0).get(key).header
    except ana.StateNotFoundError:
        return None


def keys_in(path):
    """Return the keys of the records in a pack, by its index."""
    table = pack_table.read_table(KeptFile.open(str(path), lambda *_: None), None, None)
    assert table.sealed
    return {pack.key_of_number(number) for number, _ in table.items()}


# What goes, and what stays


def test_a_pack_goes_once_nothing_in_it_is_needed(store):
    """A pack with a state that a root keeps stays; one without goes to the trash, and is deleted a grace later."""
    child, lone, dead = packed.state(1), packed.state(2), packed.state(3)
    top = packed.state(4, (child.key,))
    kept = [packed.write(store, child, age_days=9), packed.write(store, top, age_days=9)]
    goes = packed.write(store, lone, dead, age_days=9)
    size = goes.stat().st_size
    maintenance.keep(store, "mine", [top.key])
    done = maintenance.gc(store, UNREACHABLE)
    assert (done.states, done.packs, done.kept) == (4, 3, 2)
    assert (done.packs_trashed, done.trashed_bytes, done.trashed) == ([plain(goes)], size, [])
    assert done.waiting == 1
    assert packed.names(store) == sorted([f".trash-{goes.name}", *(path.name for path in kept)])
    again = maintenance.gc(store, UNREACHABLE)
    assert (again.packs_deleted, again.waiting) == ([], 1)
    make_older(goes.with_name(f".trash-{goes.name}"), 2)
    last = maintenance.gc(store, UNREACHABLE)
    assert (last.packs_deleted, last.deleted_bytes, last.waiting) == ([plain(goes)], size, 0)
    assert packed.names(store) == sorted(path.name for path in kept)


def test_young_packs_stay_with_all_that_they_refer_to(store):
    """A young pack keeps old files and old packs that its states refer to."""
    low, lower = packed.state(1), packed.state(2)
    put(store, numbered(1), (lower.key,), age_days=9)
    for state in (low, lower):
        packed.write(store, state, age_days=9)
    packed.write(store, packed.state(3, (low.key, numbered(1))))
    done = collect(store)
    assert (done.trashed, done.packs_trashed, done.kept) == ([], [], 4)


def test_older_than_and_limits(store):
    """Scopes count a state in a pack by its record, and its age by its pack."""
    states = [packed.state(number) for number in range(4)]
    paths = [packed.write(store, state, age_days=20 - number) for number, state in enumerate(states)]
    put(store, numbered(1), age_days=18.5)
    assert collect(store, Scope(older_than_seconds=17.5 * 86400), dry_run=True).packs_trashed == [
        plain(path) for path in sorted(paths[:3], key=lambda path: path.name)
    ]
    two = collect(store, Scope(max_files=2), dry_run=True)
    assert (two.kept, len(two.packs_trashed), len(two.trashed)) == (2, 2, 1)
    size = sum(len(state.data) for state in states[2:]) + raw_tree.path_of(store, numbered(1)).stat().st_size
    three = collect(store, Scope(max_bytes=size))
    assert (three.kept, sorted(three.packs_trashed), three.trashed) == (3, sorted(map(plain, paths[:2])), [])


def test_a_dry_run_changes_nothing(store, capfd):
    """It says what a run would do to packs, and does none of it."""
    states = [packed.state(number) for number in range(8)]
    packed.write(store, states[0], age_days=9)
    packed.write(store, *states[1:5], age_days=9)
    packed.write(store, states[5], age_days=9, sealed=False)
    packed.write(store, states[6], age_days=9, trashed=True)
    packed.write(store, states[7], age_days=9, trashed=True)
    maintenance.keep(store, "mine", [states[1].key, states[5].key])
    maintenance.forget(store, "mine")
    files = [path for path in raw_tree.files(store) if "/packs/" in path or path.startswith("packs/")]
    put(store, numbered(1), (states[1].key, states[5].key, states[6].key))
    done = collect(store, dry_run=True)
    assert [len(some) for some in (done.packs_trashed, done.packs_rewritten, done.packs_sealed)] == [1, 1, 1]
    assert [len(some) for some in (done.packs_brought_back, done.packs_deleted)] == [1, 1]
    shown = ran(capfd, "-d", store, "gc", "--unreachable", "--without-roots", "--dry-run").out
    assert "packs" in shown
    assert [path for path in raw_tree.files(store) if path.startswith("packs/")] == files


def test_a_pack_that_is_mostly_dead_is_written_anew(store):
    """What is needed moves to a new pack that is as old, verified and sealed; the old one goes to the trash."""
    states = [packed.state(number) for number in range(10)]
    old = packed.write(store, *states, age_days=9)
    half = packed.write(store, *(packed.state(number) for number in range(20, 30)), age_days=9)
    maintenance.keep(store, "mine", [states[2].key, states[7].key, *(packed.state(n).key for n in range(20, 26))])
    changed = old.stat().st_mtime
    done = maintenance.gc(store, UNREACHABLE)
    assert (done.packs_rewritten, done.packs_trashed) == ([plain(old)], [])
    assert done.dead_bytes == sum(len(packed.state(number).data) for number in range(26, 30))
    (new,) = [path for path in (store / "packs").iterdir() if path.name not in (half.name, f".trash-{old.name}")]
    assert keys_in(new) == {states[2].key, states[7].key}
    assert abs(new.stat().st_mtime - changed) < 1
    assert load(store, states[2].key).key == states[2].key
    age_all(store)
    assert maintenance.gc(store, UNREACHABLE).packs_deleted == [plain(old)]
    assert maintenance.verify(store).problems == []
    assert maintenance.gc(store, UNREACHABLE).packs_rewritten == []


def test_what_another_pack_has_is_not_copied_again(store):
    """A collection that was killed after writing the new pack goes on, and writes it no second time."""
    states = [packed.state(number) for number in range(10)]
    old = packed.write(store, *states, age_days=9)
    copy = packed.write(store, states[3], age_days=9)
    maintenance.keep(store, "mine", [states[3].key])
    done = maintenance.gc(store, UNREACHABLE)
    assert done.packs_rewritten == [plain(old)]
    assert packed.names(store) == sorted([copy.name, f".trash-{old.name}"])
    assert load(store, states[3].key)


def test_a_damaged_record_is_not_left_behind(store):
    """A pack with a needed record that is damaged stays as it is, and the damage is told."""
    states = [packed.state(number) for number in range(10)]
    path = packed.write(store, *states, age_days=9)
    packed.damage(path, len(states[0].data) - 3)
    maintenance.keep(store, "mine", [states[0].key])
    done = maintenance.gc(store, UNREACHABLE)
    assert [wrong.kind for wrong in done.problems] == ["damaged"]
    assert packed.names(store) == [path.name]


@pytest.mark.parametrize("torn", [False, True])
def test_packs_of_killed_writers_are_sealed(store, torn):
    """After 48 hours a pack gets its index; one with a torn end is written anew; a younger one is left alone."""
    states = [packed.state(number) for number in range(4)]
    old = packed.write(store, *states[:2], sealed=False)
    young = packed.write(store, *states[2:], sealed=False, age_days=1.5)
    if torn:
        old.write_bytes(old.read_bytes() + states[3].data[:-9])
    make_older(old, 3)
    changed = old.stat().st_mtime
    maintenance.keep(store, "mine", [state.key for state in states])
    assert maintenance.gc(store, UNREACHABLE).packs_sealed == [plain(old)]
    (sealed,) = [path for path in (store / "packs").iterdir() if path != young and not path.name.startswith(".trash-")]
    assert (sealed == old) != torn
    assert keys_in(sealed) == {state.key for state in states[:2]}
    assert abs(sealed.stat().st_mtime - changed) < 1
    assert maintenance.gc(store, UNREACHABLE).packs_sealed == []
    assert all(load(store, state.key) for state in states)


def test_a_writer_whose_pack_was_sealed_goes_on_in_another(store):
    """A process that was idle for days finds its pack sealed, or in the trash, and what it stores then is kept."""
    target = DirectoryStore(str(store), durable=False)
    target.packs.pack_bytes = 10_000
    first, second = packed.state(1), packed.state(2)
    target.packs.append([first])
    (path,) = (store / "packs").iterdir()
    make_older(path, 3)
    maintenance.keep(store, "mine", [first.key])
    assert maintenance.gc(store, UNREACHABLE).packs_sealed == [plain(path)]
    target.packs._writer._checked = -1e9
    target.packs.append([second])
    target.packs.seal()
    assert len(packed.names(store)) == 2
    assert load(store, first.key)
    assert load(store, second.key)


def test_nothing_goes_while_damage_hides_what_states_refer_to(store):
    """A damaged header of a young pack, or states behind damage in an unsealed one: nothing is collected."""
    states = [packed.state(number) for number in range(4)]
    goes = put(store, numbered(1), age_days=9)
    path = packed.write(store, *states)
    packed.damage(path, 50)
    assert collect(store).refused
    path.unlink()
    path = packed.write(store, *states, sealed=False)
    packed.damage(path, len(states[0].data) + 50)
    make_older(path, 0.5)
    done = collect(store)
    assert done.refused
    assert "damaged at byte" in done.problems[0].reason
    assert goes.exists()
    make_older(path, 3)
    maintenance.verify(store, set_aside=True)
    assert not collect(store).refused


# The trash


def test_a_needed_state_in_the_trash_brings_its_pack_back(store):
    """A state that stays and is only in a pack in the trash: the pack is back, with the other states in it."""
    low, other = packed.state(1), packed.state(2)
    path = packed.write(store, low, other, age_days=9, trashed=True)
    put(store, numbered(1), (low.key,))
    done = collect(store)
    assert done.packs_brought_back == [plain(path)]
    assert path.name.removeprefix(".trash-") in packed.names(store)
    age_all(store)
    maintenance.keep(store, "mine", [low.key])
    assert load(store, low.key)
    collect(store)
    assert path.name not in packed.names(store)
    assert load(store, low.key)


def test_dead_states_in_a_pack_that_stays_keep_what_they_refer_to(store):
    """They can still be read, and writers find them: what they refer to may go to the trash, but is not deleted."""
    below = packed.state(1)
    dead, alive = packed.state(2, (below.key, numbered(1)), size=10), packed.state(3, size=1000)
    packed.write(store, dead, alive, age_days=9)
    packed.write(store, below, age_days=9)
    put(store, numbered(1), age_days=9)
    maintenance.keep(store, "mine", [alive.key])
    for _ in range(3):
        done = maintenance.gc(store, UNREACHABLE)
        assert (done.deleted, done.packs_deleted) == ([], [])
        age_all(store)
    assert done.waiting == 2
    assert load(store, dead.key)
    assert load(store, below.key)
    assert load(store, numbered(1))


def test_packs_and_files_are_deleted_parents_first(store, monkeypatch):
    """A chain through packs and files in the trash goes from its top; if its top is brought back, all of it stays."""
    keys = [packed.state(0).key]
    for number in range(1, 6):
        if number % 2:
            put(store, numbered(number), (keys[-1],), age_days=9)
            path = raw_tree.path_of(store, numbered(number))
            path.rename(path.with_name(f".trash-{path.name}"))
            keys.append(numbered(number))
        else:
            state = packed.state(number, (keys[-1],))
            packed.write(store, state, age_days=9, trashed=True)
            keys.append(state.key)
    packed.write(store, packed.state(0), age_days=9, trashed=True)
    gone = []
    real = os.unlink
    monkeypatch.setattr("ana.stores.directory.trash.os.unlink", lambda path: gone.append(path) or real(path))
    done = collect(store)
    assert (len(done.deleted), len(done.packs_deleted)) == (3, 3)
    gone = [path for path in gone if "/.gone-" in path]
    assert ["/packs/" in path for path in gone] == [False, True] * 3
    assert numbered(5) in gone[0]


def furnish_circle(store):
    """Put three packs that refer to each other in a circle, and a file that they refer to, into the trash."""
    keys = [packed.state(number).key for number in (1, 2, 3)]
    states = [
        packed.state(1, (keys[1], numbered(1))),
        packed.state(2, (keys[2],)),
        packed.state(3, (keys[0],)),
    ]
    paths = [
        packed.write(store, state, packed.state(90 + n), age_days=9, trashed=True) for n, state in enumerate(states)
    ]
    put(store, numbered(1), age_days=9)
    path = raw_tree.path_of(store, numbered(1))
    path.rename(path.with_name(f".trash-{path.name}"))
    return keys, paths


def test_a_circle_of_packs_is_deleted(store):
    """Packs that refer to each other are deleted together, and what they refer to after them."""
    _, paths = furnish_circle(store)
    done = collect(store)
    assert sorted(done.packs_deleted) == sorted(map(plain, paths))
    assert len(done.deleted) == 1
    assert packed.names(store) == []


def one_circle(at, *, killed_after=0):
    """Collect the circle with a reader at one step, and perhaps a kill some steps later; return how many steps it took.

    What the reader got, it has, with all that it refers to, after the next collection at the latest.
    """
    with memory.folder() as folder:
        store = care.store(folder / "store")
        keys, _ = furnish_circle(store)
        got = []

        def come():
            got.append(load(store, keys[at % 3]))
            if killed_after:
                made.at += killed_after
                made.happens = be_killed

        with stepping(at, come) as made, contextlib.suppress(Killed):
            collect(store)
        collect(store)
        if got and got[0]:
            assert all(load(store, key) for key in (*keys, numbered(1)))
        else:
            collect(store)
            assert not any(load(store, key) for key in keys)
        assert not [name for name in packed.names(store) if name.startswith(".gone-")]
        return made.steps


@pytest.mark.slow
@pytest.mark.usefixtures("lying_locks")
@pytest.mark.parametrize("killed_after", [0, 1, 4, 9])
def test_a_circle_stays_if_one_of_it_is_brought_back(killed_after):
    """Whenever a reader comes, and whether the collection is killed then: if it gets one of the circle, it gets all."""
    steps = one_circle(-1)
    assert steps > 40
    for at in range(steps + 5):
        one_circle(at, killed_after=killed_after)


def be_killed():
    """Die."""
    raise Killed


def test_a_file_in_the_trash_that_a_pack_has_goes(store):
    """Once states are packed, their old files in the trash are deleted a grace later; not if the pack's is damaged."""
    states = [packed.state(1), packed.state(2)]
    for state in states:
        path = raw_tree.put(store, *state)
        make_older(path, 9)
        path.rename(path.with_name(f".trash-{path.name}"))
    packed.damage(packed.write(store, *states), len(states[0].data) - 3)
    collect(store)
    left = [path for path in raw_tree.files(store) if "/.trash-" in path]
    assert [states[0].key in path for path in left] == [True]


# Whatever happens at any step

P, C, OLD, LIVE, DEAD, TRASHED = 10, 11, 12, 13, 14, 15


def furnish(store):
    """Make a store in which a collection does all that it can do to packs. Returns the states that are safe."""
    low, child = packed.state(1), packed.state(C)
    # Kept by a root, with the child in the trash.
    rooted = packed.state(2, (low.key,))
    packed.write(store, rooted, age_days=9)
    packed.write(store, low, packed.state(3), age_days=9, trashed=True)
    # Mostly dead, and to be sealed.
    many = [packed.state(20 + number) for number in range(6)]
    packed.write(store, *many, age_days=9)
    late = packed.state(30)
    packed.write(store, late, age_days=9, sealed=False)
    # Dead; and a parent in a pack with its child in a file, both to be deleted.
    packed.write(store, packed.state(DEAD), age_days=9)
    put(store, numbered(C), age_days=9)
    path = raw_tree.path_of(store, numbered(C))
    path.rename(path.with_name(f".trash-{path.name}"))
    packed.write(store, packed.state(P, (numbered(C), child.key)), age_days=9, trashed=True)
    packed.write(store, child, age_days=9, trashed=True)
    maintenance.keep(store, "mine", [rooted.key, many[1].key, late.key])
    for path in (store / "packs").iterdir():
        make_older(path, 9)
    return [low.key, rooted.key, many[1].key, late.key]


def read(*numbers):
    """Return an action: a reader loads packed states. Says which it got."""
    return lambda store: [state.key for state in map(packed.state, numbers) if load(store, state.key)]


def write_parent(store):
    """Store a state that refers to a dead one which is still found, as `saving` does."""
    target = DirectoryStore(str(store), durable=False, wait_seconds=0)
    target.packs.pack_bytes = 10_000
    dead = packed.state(DEAD)
    if not target.has(dead.key):
        target.packs.append([dead])
    parent = packed.state(99, (dead.key,))
    target.packs.append([parent])
    target.packs.seal()
    return [parent.key, dead.key]


def keep_parent(store):
    """Keep the pair that is about to be deleted."""
    try:
        problems = roots.keep(DirectoryStore(str(store), wait_seconds=0), "late", [packed.state(P).key])
    except ana.StateNotFoundError:
        return []
    return [] if problems else [packed.state(P).key, packed.state(C).key, numbered(C)]


ACTIONS = {
    "reads what is deleted": read(P, C),
    "reads what is moved": read(DEAD),
    "reads what is written anew": read(20, 21, 25, 30),
    "reads what is kept": read(1, 2),
    "stores what refers to it": write_parent,
    "keeps it": keep_parent,
    "collects": lambda store: collect(store) and [],
    "is killed": lambda _: be_killed(),
}


def one_run(at, action):
    """Collect with an action at one step; return how many steps there were, after seeing that nothing is lost."""
    with memory.folder() as folder:
        store = care.store(folder / "store")
        safe = furnish(store)
        got = []
        with stepping(at, lambda: got.extend(ACTIONS[action](store))) as steps, contextlib.suppress(Killed):
            collect(store)
        collect(store)
        for key in {*safe, *got}:
            assert load(store, key), f"{key} is lost"
        if load(store, packed.state(P).key):
            # A parent that is to be had has its children.
            assert load(store, numbered(C))
            assert load(store, packed.state(C).key)
        assert not [path for path in raw_tree.files(store) if "/.gone-" in path]
        return steps.steps


@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.usefixtures("lying_locks")
def test_nothing_is_lost_whatever_happens_at_any_step(action, share):
    """Before each system call of a collection another process acts: what is needed stays, what it got it keeps.

    In an everyday run the actions take turns: each step meets two of them.
    """
    first, step = (0, 1) if share == "all" else (list(ACTIONS).index(action) % 4, 4)
    steps = one_run(-1, action)
    assert steps > 80
    for at in range(first, steps + 10, step):
        one_run(at, action)


@pytest.mark.usefixtures("lying_locks")
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, None], ids=["EIO", "EACCES", "ESTALE", "lost"])
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["all there is", "a circle"])
def test_nothing_is_lost_whichever_call_fails(kind, code, share):
    """Each system call fails, or says that it failed: an error or a report, never a loss; the next run goes on."""
    first, step = (0, 1) if share == "all" or code is None else (code % 3, 3)
    struck, steps = 0, one_run(-1, "reads what is kept") if kind == "all there is" else one_circle(-1)
    for at in range(first, steps + 10, step):
        with memory.folder() as folder:
            store = care.store(folder / "store")
            safe = furnish(store) if kind == "all there is" else []
            keys = [] if safe else furnish_circle(store)[0]
            failing = Failing(at, code)
            with patched(failing), contextlib.suppress(ana.StoreError):
                collect(store)
            struck += failing.struck
            # A reader gets what is to be had of the circle: then it gets all of it after the next collection.
            safe += keys if any(load(store, key) for key in keys) else []
            collect(store)
            for key in safe:
                assert load(store, key), f"{key} is lost"
            if load(store, packed.state(P).key):
                assert load(store, numbered(C))
                assert load(store, packed.state(C).key)
            assert not [path for path in raw_tree.files(store) if "/.gone-" in path]
    assert struck > (2 if code is None else 15)


# Much


@pytest.mark.slow
def test_a_collection_keeps_no_object_for_each_packed_state(store):
    """Memory is for packs, and a few dozen bytes for each state that is reached."""
    import tracemalloc

    states = [packed.state(number) for number in range(4000)]
    packed.write(store, *states)
    collect(store)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    done = collect(store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done.kept == 4000
    blocks = sum(len(state.data) for state in states) + min(pack_survey.BLOCK_BYTES, 1)
    assert peak - before < blocks + 4000 * 400
