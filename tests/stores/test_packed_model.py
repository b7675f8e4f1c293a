"""Clients that pack and clients that do not, in any order, while packs are damaged, deleted, repacked and collected."""

import contextlib
import itertools
import logging
import os
import traceback

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import faults, memory, raw_pack, raw_record, raw_tree
from support.classes import A

import ana
from ana import maintenance

number = st.integers(0, 5)
"""Few values, so that the same ones meet again."""
which = st.integers(0, 1000)
"""Which of however many there are."""
DAYS_SECONDS = 86400
OPTIONS = ({"pack_bytes": "64k"}, {"pack_bytes": "64k"}, {})


class Model(RuleBasedStateMachine):
    """`values` says what each key that was acknowledged holds; `lost` which of them need not be there any more.

    Those in `damaged` were corrupted or cut off, and not healed since.
    """

    @initialize()
    def begin(self):
        """Make a tree, and three clients of it: two pack, one does not."""
        self.stack = contextlib.ExitStack()
        self.tree = self.stack.enter_context(memory.folder()) / "tree"
        self.stack.enter_context(ana.using_dl(ana.DataLayer()))
        self.clients = [self._client(which) for which in range(len(OPTIONS))]
        self.values, self.lost, self.damaged = {}, set(), set()
        self.old, self.marked, self.doomed = set(), set(), set()
        self.roots = {}

    def teardown(self):
        """Everything that is not lost is loaded by a client that knows nothing; then the tree is removed."""
        if hasattr(self, "stack"):
            try:
                self._load(self.values)
            finally:
                for client in range(len(OPTIONS)):
                    self._end(client, seals=False)
                self.stack.close()

    def _end(self, client, *, seals):
        packs = self.clients[client].store.packs
        if seals:
            packs.seal()
        packs.leave_to_parent()

    def _client(self, which):
        return ana.DirDataLayer(self.tree, durable=False, recheck_seconds=0, **OPTIONS[which])

    def _is_stored(self, key, value, *, healed=False):
        """Note what was acknowledged. What is there already is not read again, unless it is to be healed."""
        self.values[key] = value
        if healed:
            self.damaged.discard(key)
        if key not in self.damaged:
            self.lost.discard(key)
            self.doomed.discard(key)

    def _is_damaged(self, before, path):
        """Note which keys a file no longer holds whole."""
        keys = _whole_in(before) - _whole_in(path.read_bytes())
        self.damaged |= keys
        self.lost |= keys

    # What clients do

    @rule(client=st.integers(0, 2), value=number)
    def store(self, client, value):
        """Store an object."""
        with ana.using_dl(self.clients[client]):
            self._is_stored(A(value).make_uuid(), value)

    @rule(client=st.integers(0, 2), value=number)
    def heal(self, client, value):
        """ana_store: whatever is there now, it is whole afterwards."""
        with ana.using_dl(self.clients[client]):
            self._is_stored(A(value).ana_store(), value, healed=True)

    @rule(client=st.integers(0, 2), values=st.lists(number, max_size=6))
    def store_many(self, client, values):
        """Store many at once, each held by another object."""
        with ana.using_dl(self.clients[client]) as layer:
            children = [A(value) for value in values]
            for key, value in zip(layer.store_many(children), values, strict=True):
                self._is_stored(key, value)
            keys = layer.store_many([A(["holds", child]) for child in children])
        for key, value in zip(keys, values, strict=True):
            self._is_stored(key, ["holds", value])

    @rule(client=st.integers(0, 1))
    def seal(self, client):
        """A client's pack is sealed; the next state begins another."""
        self.clients[client].store.packs.seal()

    @rule(client=st.integers(0, 2), seals=st.booleans())
    def start_client(self, client, seals):
        """A client ends, by sealing its pack or in the middle of its work, and another begins."""
        self._end(client, seals=seals)
        self.clients[client] = self._client(client)

    @rule(value=number)
    def another_process_stores(self, value):
        """A process of its own stores something and ends without sealing its pack."""
        key = _key_of(value)
        assert _exit_status_of(lambda: self._store_in_child(value, key, None)) == 0
        self._is_stored(key, value)

    @rule(value=number, call=st.sampled_from(("open", "pwritev", "mkdir")), times=st.integers(1, 3))
    def another_process_is_killed(self, value, call, times):
        """A process of its own dies while it stores: its state is there, or it is not."""
        key = _key_of(value)
        fault = faults.Fault(call, times, "crash", faults.crash_after, for_good=True)
        assert _exit_status_of(lambda: self._store_in_child(value, key, fault)) in {0, faults.CRASHED}

    def _store_in_child(self, value, key, fault):
        with faults.under(fault), ana.using_dl(self._client(0)):
            assert A(value).make_uuid() == key

    # What happens to the packs

    @precondition(lambda self: raw_pack.packs(self.tree))
    @rule(index=which)
    def delete_pack(self, index):
        """A pack is deleted."""
        path = self._pick(index)
        self.lost |= _whole_in(path.read_bytes())
        path.unlink()

    @precondition(lambda self: raw_pack.packs(self.tree))
    @rule(index=which, position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
    def corrupt(self, index, position, change):
        """A byte of a pack changes, of a record or of its index; not in a record's version and flags."""
        path = self._pick(index)
        data = path.read_bytes()
        at = int(position * len(data))
        for _, start, size in raw_pack.records(data):
            if start + 16 <= at < start + 20 and at < start + size:
                at = start + 20
        if data:
            raw_pack.overwrite(path, at, bytes([data[at] ^ change]))
        self._is_damaged(data, path)

    @precondition(lambda self: raw_pack.packs(self.tree))
    @rule(index=which, position=st.floats(0, 1, exclude_max=True))
    def truncate(self, index, position):
        """A pack loses its end."""
        path = self._pick(index)
        data = path.read_bytes()
        os.truncate(path, int(position * len(data)))
        self._is_damaged(data, path)

    # What maintenance does

    @precondition(lambda self: (self.tree / "ana.json").exists())
    @rule(unpack=st.booleans())
    def pack(self, unpack):
        """Loose states go into packs, or packed ones get files of their own."""
        (maintenance.unpack_states if unpack else maintenance.pack_states)(self.tree)

    @precondition(lambda self: self.values.keys() - self.lost)
    @rule(name=st.sampled_from(("one", "two")), index=which)
    def keep(self, name, index):
        """Somebody keeps a state, and what it holds."""
        keys = sorted(self.values.keys() - self.lost)
        key = keys[index % len(keys)]
        maintenance.keep(self.tree, name, [key])
        self.roots.setdefault(name, set()).add(key)

    @rule(days=st.sampled_from((2, 30)))
    def grow_old(self, days):
        """Time passes."""
        for path in raw_tree.files(self.tree) if self.tree.exists() else []:
            if path.endswith(".zst"):
                then = (self.tree / path).stat().st_mtime - days * DAYS_SECONDS
                os.utime(self.tree / path, (then, then))
        self.doomed |= self.marked
        self.old |= self.values.keys()

    @precondition(lambda self: (self.tree / "ana.json").exists())
    @rule()
    def collect(self):
        """What is old and nobody keeps goes into the trash, and what was there for long is deleted."""
        done = maintenance.gc(self.tree, maintenance.Scope(unreachable=True), without_roots=True)
        kept = self._kept()
        if not done.refused:
            self.lost |= self.doomed - kept
            self.marked |= self.old - kept

    def _kept(self):
        keys = set().union(*self.roots.values())
        return keys | {_key_of(self.values[key][1]) for key in keys if isinstance(self.values[key], list)}

    @precondition(lambda self: (self.tree / "ana.json").exists())
    @rule()
    def verify(self):
        """What is whole in damaged packs is saved."""
        maintenance.verify(self.tree, set_aside=True)

    # What has to hold

    @precondition(lambda self: self.values)
    @rule(index=which, client=st.integers(0, 2))
    def load(self, index, client):
        """A client loads what is there as it was stored; what is lost is a typed error, or there all the same."""
        keys = sorted(self.values)
        self._load([keys[index % len(keys)]], self.clients[client])

    def _load(self, keys, client=None):
        with ana.using_dl(client or ana.DirDataLayer(self.tree)) as layer:
            for key in keys:
                try:
                    found = A.ana_load(key).x
                    found = ["holds", found[1].x] if isinstance(found, list) else found
                except (ana.StateNotFoundError, ana.CorruptedStateError):
                    assert self._may_be_lost(key), f"{key} ({self.values[key]}) is lost"
                else:
                    assert found == self.values[key]
            if layer not in self.clients:
                layer.store.packs.files.reset()

    def _may_be_lost(self, key):
        value = self.values[key]
        return key in self.lost or (isinstance(value, list) and _key_of(value[1]) in self.lost)

    @invariant()
    def all_is_there(self):
        """Read past ana: every key that is not lost is whole in some file."""
        if hasattr(self, "tree") and self.tree.exists():
            missing = self.values.keys() - self.lost - self._whole()
            assert not missing, f"lost: {missing}"

    def _whole(self):
        paths = (self.tree / path for path in raw_tree.files(self.tree) if path.endswith(".zst"))
        return set().union(*(_whole_in(path.read_bytes()) for path in paths))

    def _pick(self, index):
        # One that is set aside has a random number before its name.
        paths = sorted(raw_pack.packs(self.tree), key=lambda path: path.name[path.name.find("pack-") :])
        return paths[index % len(paths)]


PREFIX = raw_record.SKIPPABLE.to_bytes(4, "little")


def _whole_in(data):
    """Return the keys of all whole records in a file, wherever they begin."""
    found = set()
    at = data.find(PREFIX)
    while at >= 0:
        for key, start, size in itertools.islice(raw_pack.records(data[at:]), 1):
            with contextlib.suppress(Exception):
                raw_record.read(data[at + start : at + start + size])
                found.add(key)
        at = data.find(PREFIX, at + 1)
    return found


def _key_of(value):
    """Return the address of an object that holds a value."""
    with ana.using_dl(ana.DataLayer()):
        return A(value).make_uuid()


def _exit_status_of(work):
    """Do something in a forked process."""
    pid = os.fork()
    if pid == 0:
        # Whatever happens, this process does not go on as the test run.
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch, tmp_path):
    """Packs are numbered: with names made by chance, the same steps would pick another pack when they are repeated."""
    last = tmp_path / "last number"
    last.write_text("0")

    def name():
        # In a file: a forked process counts on.
        number = int(last.read_text()) + 1
        last.write_text(str(number))
        return f"pack-{number:09d}"

    monkeypatch.setattr("ana.stores.directory.pack_writer.unique_name", name)


@pytest.fixture(autouse=True)
def _quiet(caplog, monkeypatch):
    """Thousands of warnings would hide what went wrong; and nobody believes for a second what a step has changed."""
    caplog.set_level(logging.ERROR, "ana")
    for module in ("packs", "pack_files"):
        monkeypatch.setattr(f"ana.stores.directory.{module}.BELIEVE_SECONDS", 0)
    monkeypatch.setattr("ana.stores.directory.pack_writer.CHECK_SECONDS", 0)


@pytest.mark.slow
@pytest.mark.once
def test_any_order():
    """Nothing wrong is ever loaded, and nothing that was acknowledged is lost but what was damaged or collected."""
    bounds = hypothesis.settings(max_examples=15, stateful_step_count=30, derandomize=True, report_multiple_bugs=False)
    run_state_machine_as_test(Model, settings=bounds)


@pytest.mark.slow
def test_any_order_for_long():
    """The same in longer orders: others each time, but in CI, which is to fail for what was changed."""
    bounds = hypothesis.settings(
        max_examples=100, stateful_step_count=50, report_multiple_bugs=False, derandomize="CI" in os.environ
    )
    run_state_machine_as_test(Model, settings=bounds)
