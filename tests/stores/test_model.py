"""Clients of one tree do anything in any order, and the tree suffers everything; it is compared with a model."""

import contextlib
import logging
import os
import pickle
import re
import shutil
import time
import traceback

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import faults, memory, raw_record, raw_tree
from support.classes import A

import ana
from ana import maintenance

NAMES = ("alpha", "beta", "gamma")
BARE = ("bare", "ba/re")
LEGAL = re.compile(
    r"ana\.json"
    r"|\.ana/locks/([0-9a-f]{2}|maintenance)\.lock"
    r"|\.ana/roots/[a-z]+\.[0-9a-f]{16}\.json"
    r"|(\.tmp-[^/]+)"
    r"|[0-9a-f]{2}/[0-9a-f]{2}/((\.tmp-|\.bad-)[^/]+|(\.trash-)?[A-Za-z0-9_%-]+\.pkl\.zst)"
)
VERSION_AND_FLAGS = range(16, 20)
"""Where they are in a record: docs/format.md."""
DAYS_SECONDS = 86400
ONE_BUG = {"report_multiple_bugs": False}
"""To look for the shortest way to each of several would take minutes."""
number = st.integers(0, 4)
"""Few values, so that the same ones meet again."""
which = st.integers(0, 1000)
"""Which of however many there are."""


class Kept:
    """An object that a client holds, with what it had stored it as."""

    def __init__(self, obj, layer, reference):
        self.obj = obj
        self.layer = layer
        self.reference = reference


def key_of(path):
    """Return the key of a state's file, in the trash or not."""
    return path.rpartition("/")[2].removeprefix(".trash-").removesuffix(raw_tree.SUFFIX).replace("%2F", "/")


def content_key(obj):
    """Return the address that the content of an object without children has."""
    with ana.using_dl(ana.DataLayer()):
        return A(obj.x).make_uuid()


class Model(RuleBasedStateMachine):
    """What is on the disk is read past ana after each step; `whole` and `damaged` say what has to be there.

    `trashed` says what is in the trash and has no other name: its content's address, or the bytes of a damaged one.
    """

    objects = Bundle("objects")

    @initialize()
    def begin(self):
        """Make a tree, and two clients of it: one looks again each time, one believes for a while."""
        self.stack = contextlib.ExitStack()
        self.tree = self.stack.enter_context(memory.folder()) / "tree"
        self.stack.enter_context(ana.using_dl(ana.DataLayer()))
        self.clients = [ana.DirDataLayer(self.tree, recheck_seconds=0), ana.DirDataLayer(self.tree)]
        self.whole = {}
        self.damaged = {}
        self.deleted = set()
        self.meanings = {}
        self.children = {}
        self.leftovers = set()
        self.trashed = {}
        self.roots = {}

    def teardown(self):
        """Remove the tree."""
        if hasattr(self, "stack"):
            self.stack.close()

    # What clients do

    @rule(target=objects, client=st.sampled_from((0, 1)), value=number, held=st.lists(objects, max_size=2))
    def store(self, client, value, held):
        """Store an object, and what it refers to, under its content address."""
        obj = A([value, *(kept.obj for kept in held)])
        with ana.using_dl(self.clients[client]) as layer:
            uuid = obj.make_uuid()
            reference = pickle.dumps(obj)
        self._is_stored(uuid, value, held)
        return Kept(obj, layer, reference)

    @rule(target=objects, client=st.sampled_from((0, 1)), name=st.sampled_from(NAMES), value=number)
    def store_named(self, client, name, value):
        """Store an object under a UUID of its own; the first writer wins, unless what it wrote is damaged."""
        obj = A([value])
        # Should the first writer's be damaged, this one takes its place, sooner or later.
        self.meanings[content_key(obj)] = (value, ())
        with ana.using_dl(self.clients[client]) as layer:
            obj.make_uuid(name)
            obj.ana_store()
            reference = pickle.dumps(obj)
        self._is_stored(name, value, [], whole=True)
        return Kept(obj, layer, reference)

    @rule(client=st.sampled_from((0, 1)), name=st.sampled_from(BARE), value=number)
    def store_bare(self, client, name, value):
        """Store a state that belongs to no object."""
        self.clients[client].store_state(name, value)
        self._is_stored(name, value, [])

    @rule(kept=objects)
    def repair(self, kept):
        """ana_store: the object's own state is there and whole, and all that it refers to is there."""
        with ana.using_dl(kept.layer):
            kept.obj.ana_store()
        self._observe()
        assert kept.obj.uuid in self.whole
        self._all_there(kept)

    @rule(kept=objects)
    def pickle_again(self, kept):
        """With a client that always looks: all that the reference leads to is there."""
        with ana.using_dl(kept.layer):
            data = pickle.dumps(kept.obj)
        self._observe()
        if kept.layer is self.clients[0]:
            self._all_there(kept)
        self._load_reference(data, kept.obj.uuid)

    @rule(kept=consumes(objects))
    def forget(self, kept):
        """A client lets go of an object; its reference may be used later."""
        self._load_reference(kept.reference, kept.obj.uuid)

    @rule(client=st.sampled_from((0, 1)), value=number)
    def start_client(self, client, value):
        """A client ends, and another begins."""
        seconds = self.clients[client].recheck_seconds
        self.clients[client] = ana.DirDataLayer(self.tree, recheck_seconds=seconds)
        self._observe()

    @rule(value=number, name=st.sampled_from((None, *NAMES)))
    def another_process_stores(self, value, name):
        """A process of its own stores something and ends well."""
        self.meanings[content_key(A([value]))] = (value, ())
        assert self._in_child(value, name, None) == 0
        self._is_stored(name or content_key(A([value])), value, [])

    @rule(value=number, name=st.sampled_from((None, *NAMES)), call=st.sampled_from(("open", "pwritev", "link")))
    def another_process_is_killed(self, value, name, call):
        """A process of its own dies while it publishes: its state is there, or it is not."""
        self.meanings[content_key(A([value]))] = (value, ())
        status = self._in_child(value, name, faults.Fault(call, 1, "crash", faults.crash_after, for_good=True))
        assert status in {0, faults.CRASHED}
        self.leftovers |= {path for path in raw_tree.files(self.tree) if ".tmp-" in path}
        # It may have set a damaged file aside, brought back from the trash or not, and got no further.
        damaged = set(self.damaged) | self._damaged_in_trash()
        aside = {key for key in damaged if not any(path.exists() for path in self._paths_of(key))}
        self.deleted |= aside
        for key in aside:
            self.damaged.pop(key, None)
            self.trashed.pop(key, None)
        self._observe(may_be_new=True)

    # What happens to the tree

    @precondition(lambda self: self.whole)
    @rule(index=which)
    def delete(self, index):
        """A state is deleted."""
        self._remove(self._pick(self.whole, index))

    @precondition(lambda self: self.whole)
    @rule(index=which, position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
    def corrupt(self, index, position, change):
        """A byte of a state's file changes."""
        self._damage(index, lambda data: _changed(data, _but_version(int(position * len(data))), change))

    @precondition(lambda self: self.whole)
    @rule(index=which, position=st.floats(0, 1, exclude_max=True))
    def truncate(self, index, position):
        """A state's file loses its end."""
        self._damage(index, lambda data: data[: int(position * len(data))])

    @precondition(lambda self: self.tree.exists())
    @rule(whole=st.booleans())
    def purge(self, whole):
        """Everything is removed: the files, or the folders as well."""
        for key in (*self.whole, *self.damaged):
            self._remove(key)
        self.deleted |= set(self.trashed)
        self.trashed.clear()
        if whole:
            # But for the tree's own folder: a store that has gone as a whole is an error.
            for entry in self.tree.iterdir():
                (shutil.rmtree if entry.is_dir() else os.unlink)(entry)
        else:
            for path in raw_tree.files(self.tree):
                (self.tree / path).unlink()
        self.leftovers.clear()
        self.roots.clear()

    @rule(days=st.sampled_from((0, 3)), index=which)
    def leave_temporary(self, days, index):
        """A writer on another host left its temporary file."""
        folder = self.tree / f"{index % 256:02x}" / "00"
        folder.mkdir(parents=True, exist_ok=True)
        left = folder / f".tmp-elsewhere-{index}-{days}"
        left.write_bytes(b"half a sta")
        age = days * DAYS_SECONDS
        os.utime(left, (left.stat().st_mtime - age, left.stat().st_mtime - age))
        self.leftovers.add(str(left.relative_to(self.tree)))

    @precondition(lambda self: (self.tree / "ana.json").exists())
    @rule()
    def sweep(self):
        """Maintenance removes the old temporary files, and nothing else."""
        # A writer that was killed after its link leaves a second name of a state, which grows old with it.
        old = {path for path in self.leftovers if self._age_of(self.tree / path) > 2}
        assert set(maintenance.sweep(self.tree).removed) == old
        self.leftovers -= old

    # What is collected

    @precondition(lambda self: self.whole or self.trashed)
    @rule(name=st.sampled_from(("one", "two")), index=which)
    def keep(self, name, index):
        """Somebody keeps a state under a name."""
        key = self._pick({**self.whole, **self.trashed}, index)
        if isinstance(self.trashed.get(key), bytes):
            with pytest.raises(ana.CorruptedStateError):
                maintenance.keep(self.tree, name, [key])
        else:
            problems = maintenance.keep(self.tree, name, [key]).problems
            assert {problem.uuid for problem in problems} <= set(self.damaged) | self.deleted | self._damaged_in_trash()
            self.roots.setdefault(name, set()).add(key)
        self._observe()

    @precondition(lambda self: self.roots)
    @rule(index=which)
    def let_go(self, index):
        """A name keeps nothing any more."""
        name = self._pick(self.roots, index)
        assert maintenance.forget(self.tree, name) == len(self.roots.pop(name))

    @precondition(lambda self: self.whole or self.damaged or self.trashed)
    @rule(index=which, days=st.sampled_from((0.5, 3, 30)), all_of_them=st.booleans())
    def grow_old(self, index, days, all_of_them):
        """Time passes for a state, or for all."""
        keys = {**self.whole, **self.damaged, **self.trashed}
        for key in keys if all_of_them else [self._pick(keys, index)]:
            for path in self._paths_of(key):
                if path.exists():
                    then = path.stat().st_mtime - days * DAYS_SECONDS
                    os.utime(path, (then, then))

    @precondition(lambda self: (self.tree / "ana.json").exists())
    @rule(
        scope=st.sampled_from(
            (
                maintenance.Scope(unreachable=True),
                maintenance.Scope(older_than_seconds=7 * DAYS_SECONDS),
                maintenance.Scope(max_files=2),
            )
        )
    )
    def collect(self, scope):
        """A collection moves what nobody needs, deletes what has been in the trash for long, and nothing else."""
        ages = self._ages()
        trashed = dict(self.trashed)
        for key in trashed:
            ages.pop(key, None)
        long_there = {key for key in trashed if self._age_of(self._paths_of(key)[1]) > 1}
        young = {key for key, days in ages.items() if days <= (7 if scope.older_than_seconds else 1)}
        needed = self._closure(young | {key for keys in self.roots.values() for key in keys})
        before = set(self.whole) | set(self.damaged)
        done = maintenance.gc(self.tree, scope, without_roots=True)
        if done.refused:
            stays = needed if scope.max_files is None else needed | before
            assert stays & (set(self.damaged) | self._damaged_in_trash())
            assert not done.trashed + done.deleted + done.brought_back
            self._observe(may_be_new=False)
            return
        deleted = {key_of(name) for name in done.deleted}
        assert deleted <= long_there - needed
        self.deleted |= deleted
        for key in deleted:
            del self.trashed[key]
        self._observe(may_be_new=False)
        # All that is needed and was to be had, is there; what went is what nobody needs.
        assert needed & (before | set(trashed)) <= set(self.whole) | set(self.damaged)
        moved = {key_of(name) for name in done.trashed}
        assert moved <= before - needed
        if scope.max_files is None:
            assert moved == before - needed
            still_there = self._closure(set(self.trashed) - long_there)
            assert deleted == long_there - needed - still_there

    # What is read

    @precondition(lambda self: self.whole or self.damaged or self.deleted or self.trashed)
    @rule(index=which)
    def load(self, index):
        """What is whole is loaded as it was stored, from the trash, too; what is not is a typed error."""
        key = self._pick({**self.whole, **self.damaged, **self.trashed, **dict.fromkeys(self.deleted)}, index)
        with self._reading() as layer:
            if key in BARE:
                self._check(key, lambda: layer.load_state(key), lambda value: value)
            else:
                self._check_object(key, lambda: A.ana_load(key))

    @precondition(lambda self: self.whole)
    @rule(index=which)
    def load_in_another_process(self, index):
        """The same in a process of its own."""
        key = self._pick(self.whole, index)
        everything = {**self.whole, **self.damaged, **self.trashed, **dict.fromkeys(self.deleted)}
        assert _exit_status_of(lambda: self.load(sorted(everything).index(key))) == 0

    # What has to hold

    @invariant()
    def nothing_is_wrong(self):
        """The tree holds what the model says, under legal names, and nothing else."""
        if hasattr(self, "tree"):
            self._observe(may_be_new=False)

    def _observe(self, *, may_be_new=True):
        """Read the whole tree past ana, and see that it is what it has to be."""
        files = raw_tree.files(self.tree) if self.tree.exists() else []
        assert [path for path in files if not LEGAL.fullmatch(path)] == []
        assert {path for path in files if ".tmp-" in path} == self.leftovers
        states = {path for path in files if path.endswith(raw_tree.SUFFIX) and "/.bad-" not in path}
        trash = {path for path in states if "/.trash-" in path}
        self._note_damage_that_came_back(states - trash)
        found = self._read(states - trash)
        in_trash = self._read_trash(trash)
        gone = set(self.whole) - set(found) - set(in_trash)
        assert not gone, f"lost: {gone}"
        assert set(self.trashed) <= set(found) | set(self.damaged) | set(in_trash)
        # What a collection moved, and what a reader or a writer brought back.
        back = {key: content for key, content in self.trashed.items() if key in found}
        self.trashed = {key: data for key, data in in_trash.items() if key not in found and key not in self.damaged}
        for key in self.trashed:
            self.whole.pop(key, None)
        assert all(found[key][0] == content for key, content in back.items() if may_be_new is False)
        new = {key for key in found if key not in self.whole and key not in self.damaged and key not in back}
        assert may_be_new or not new, f"from nowhere: {new}"
        for key, (content, children) in found.items():
            assert self.whole.setdefault(key, content) == content, f"{key} was replaced"
            self.damaged.pop(key, None)
            self.children[key] = children
        self.deleted -= set(found)
        for key in found:
            missing = set(self.children[key]) - set(found) - set(self.damaged) - self.deleted - set(self.trashed)
            assert not missing, f"{key} is there without {missing}"

    def _read(self, paths):
        """Return the whole states by key: their content's address, and their children."""
        found = {}
        for path in paths:
            data = (self.tree / path).read_bytes()
            key = key_of(path)
            if self.damaged.get(key) == data:
                continue
            part, segments = raw_record.read(data)
            assert part.key == key
            assert raw_tree.path_of(self.tree, key) == self.tree / path
            digest = raw_record.content_digest(part.class_name, segments, [b"".join(segments)])
            assert part.content == digest
            assert key in (*NAMES, *BARE, raw_record.address(digest))
            found[key] = raw_record.address(digest), part.children
        return found

    def _note_damage_that_came_back(self, paths):
        """Note what is damaged and was brought back from the trash, or moved there."""
        for key in [key for key, data in self.damaged.items() if not raw_tree.path_of(self.tree, key).exists()]:
            if self._paths_of(key)[1].exists():
                del self.damaged[key]
        for path in paths:
            data = self.trashed.get(key_of(path))
            if isinstance(data, bytes) and (self.tree / path).read_bytes() == data:
                self.damaged[key_of(path)] = data

    def _read_trash(self, paths):
        """Return what is in the trash by key: its content's address, or the bytes of what is damaged."""
        found = {}
        for path in paths:
            data = (self.tree / path).read_bytes()
            try:
                part, segments = raw_record.read(data)
            except Exception:
                found[key_of(path)] = data
                continue
            digest = raw_record.content_digest(part.class_name, segments, [b"".join(segments)])
            if digest == part.content:
                found[part.key] = raw_record.address(digest)
                self.children[part.key] = part.children
            else:
                found[key_of(path)] = data
        return found

    def _paths_of(self, key):
        """Return where a state's file is: by its own name, and in the trash."""
        path = raw_tree.path_of(self.tree, key)
        return path, path.with_name(f".trash-{path.name}")

    def _damaged_in_trash(self):
        return {key for key, data in self.trashed.items() if isinstance(data, bytes)}

    def _age_of(self, path):
        """Return for how many days a file has not changed."""
        return (time.time() - path.stat().st_mtime) / DAYS_SECONDS

    def _ages(self):
        paths = {key: self._paths_of(key)[0] for key in (*self.whole, *self.damaged)}
        return {key: self._age_of(path) for key, path in paths.items()}

    def _closure(self, keys):
        """Return the keys and all that they are known to refer to through what can be read."""
        found, todo = set(), list(keys)
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                broken = key in self.damaged or key in self._damaged_in_trash() or key in self.deleted
                todo += [] if broken else self.children.get(key, ())
        return found

    def _is_stored(self, key, value, held, *, whole=False):
        """See that a state is there that a client has just been told is stored; learn what it means."""
        before = self.whole.get(key) or self.trashed.get(key)
        self._observe()
        assert key in self.whole or (not whole and key in self.damaged)
        if key in self.whole and before is None:
            meaning = (value, tuple(kept.obj.uuid for kept in held))
            assert self.meanings.setdefault(self.whole[key], meaning) == meaning

    def _all_there(self, kept):
        """See that all that an object refers to is there, as far as objects of the same client are concerned."""
        todo = [kept.obj]
        while todo:
            obj = todo.pop()
            assert obj.uuid in self.whole or obj.uuid in self.damaged
            todo += [child for child in obj.x[1:] if kept.layer.live.get(child.uuid) is child]

    @contextlib.contextmanager
    def _reading(self):
        """Look through a layer that knows no objects yet; it makes no tree where there is none."""
        existed = (self.tree / "ana.json").exists()
        with ana.using_dl(pickle_dir=self.tree) as layer:
            yield layer
        if not existed:
            (self.tree / "ana.json").unlink()

    def _load_reference(self, data, key):
        with self._reading():
            self._check_object(key, lambda: pickle.loads(data))

    def _check_object(self, key, load):
        self._check(key, lambda: _used(load()), lambda obj: obj.x[0])
        content = self.whole.get(key) or self.trashed.get(key)
        if isinstance(content, str):
            _, child_keys = self.meanings[content]
            children = load().x[1:]
            assert [child.uuid for child in children] == list(child_keys)
            for child in children:
                self._check_object(child.uuid, lambda child=child: child)

    def _check(self, key, load, value_of):
        """Load, and see that it is what the model says, or that it raises what it has to."""
        content = self.whole.get(key) or self.trashed.get(key)
        if isinstance(content, str):
            assert value_of(load()) == self.meanings[content][0]
        else:
            damaged = key in self.damaged or content is not None
            with pytest.raises(ana.CorruptedStateError if damaged else ana.StateNotFoundError):
                load()

    def _in_child(self, value, name, fault):
        def store():
            with ana.using_dl(pickle_dir=self.tree), faults.under(fault):
                A([value]).make_uuid(name)
                if name is not None:
                    named = A([value])
                    named.make_uuid(name)
                    named.ana_store()

        return _exit_status_of(store)

    def _pick(self, keys, index):
        return sorted(keys)[index % len(keys)]

    def _remove(self, key):
        for path in self._paths_of(key):
            path.unlink(missing_ok=True)
        self.whole.pop(key, None)
        self.damaged.pop(key, None)
        self.deleted.add(key)

    def _damage(self, index, change):
        key = self._pick(self.whole, index)
        path, second_name = self._paths_of(key)
        second_name.unlink(missing_ok=True)
        self.damaged[key] = change(path.read_bytes())
        path.write_bytes(self.damaged[key])
        del self.whole[key]


def _changed(data, position, change):
    return data[:position] + bytes([data[position] ^ change]) + data[position + 1 :]


def _but_version(position):
    # With other bytes there it is a record of a later version, which no writer may replace: test_bits has them.
    return 0 if position in VERSION_AND_FLAGS else position


def _used(obj):
    """Use an object, so that it raises if its state could not be loaded."""
    assert obj.x
    return obj


def _exit_status_of(work):
    """Do something in a forked process."""
    pid = os.fork()
    if pid == 0:
        _be_child(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _be_child(work):
    # Whatever happens, this process does not go on as the test run.
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """Thousands of warnings of states that were set aside would hide what went wrong."""
    caplog.set_level(logging.ERROR, "ana")


@pytest.mark.slow
@pytest.mark.once
def test_any_order():
    """Nothing wrong is ever loaded, nothing that was acknowledged is lost, what is damaged or gone is said to be."""
    bounds = hypothesis.settings(max_examples=20, stateful_step_count=30, derandomize=True, **ONE_BUG)
    run_state_machine_as_test(Model, settings=bounds)


@pytest.mark.slow
def test_any_order_for_long():
    """The same in longer orders: others each time, but in CI, which is to fail for what was changed."""
    bounds = hypothesis.settings(max_examples=150, stateful_step_count=50, derandomize="CI" in os.environ, **ONE_BUG)
    run_state_machine_as_test(Model, settings=bounds)


def test_a_writer_dies_that_had_set_aside_what_the_trash_gave_back():
    """Both names of a damaged state are gone then, and nothing takes its place: it is missing, and can be stored."""
    model = Model()
    model.begin()
    try:
        model.store_named(client=0, name="beta", value=0)
        model.truncate(index=0, position=0.0)
        model.grow_old(all_of_them=False, days=3, index=0)
        model.collect(maintenance.Scope(unreachable=True))
        assert model.trashed == {"beta": b""}
        model.another_process_is_killed(call="pwritev", name="beta", value=0)
        assert model.deleted == {"beta"}
        model.load(index=0)
        model.store_named(client=0, name="beta", value=0)
        model.load(index=0)
        assert set(model.whole) == {"beta"}
    finally:
        model.teardown()
