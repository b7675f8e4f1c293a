"""Jobs keep for a time what they store, and are killed at any step: what must stay stays, and the rest goes."""

import contextlib
import os
import signal
import tempfile

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from support import memory, raw_tree
from support.classes import A
from support.steps import Stepping, patched

import ana
from ana import maintenance

DAY_SECONDS = 86400
TTL_DAYS, GRACE_DAYS = 3.0, 1.0
NAMES = ("sweep", "scan")
PAPER = "paper"
DAYS = st.sampled_from((0.37, 1.23, 2.51, 5.0))
"""Of which no sum is the time to live, with the grace or without it: the real clock goes on, too."""
FLAGS = st.tuples(st.booleans(), st.booleans())
"""Whether a job's worker does the work, and whether there is a collection some days later."""
PLANS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=4)
"""What a job stores: numbers, each alone or with a reference to the one before. Few, so that jobs share states."""


class Steps(Stepping):
    """All calls that change a file, too."""

    CALLS = (*Stepping.CALLS, "fdatasync", "fsync", "pwritev")


def kill_me():
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work):
    """Run a function in a forked child, and wait for its end, whatever that is."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status


class Jobs(RuleBasedStateMachine):
    """The clock goes by making all files older. `said` is what jobs were told is stored, by the name of their root."""

    @initialize(pack_bytes=st.sampled_from((0, 65536)))
    def begin(self, pack_bytes):
        """Make a store; with or without packs."""
        self.stack = contextlib.ExitStack()
        self.tree = self.stack.enter_context(memory.folder()) / "tree"
        self.pack_bytes = pack_bytes
        ana.DirDataLayer(self.tree, durable=False)
        self.now = 0.0
        self.said = {name: {} for name in NAMES}
        self.ends = dict.fromkeys(NAMES, -9.0)
        self.papers = {}
        self.objects = {}

    def teardown(self):
        """All jobs are over: after their time to live and a grace, exactly what the paper keeps is left."""
        if not hasattr(self, "stack"):
            return
        with self.stack:
            for _ in range(3):
                self.wait(5.0, collects=True)
            kept, left = self.closure(self.papers), self.states()
            # A pack stays as a whole if half of it is needed.
            assert left >= kept if kept and self.pack_bytes else left == kept
            assert {root.name for root in maintenance.roots(self.tree)} == ({PAPER} if self.papers else set())
            assert [path for path in raw_tree.strangers(self.tree) if ".trash-" in path or ".gone-" in path] == []

    @rule(name=st.sampled_from(NAMES), plan=PLANS, killed_at=st.none() | st.integers(0, 60), days=DAYS, flags=FLAGS)
    def job(self, name, plan, killed_at, days, flags):
        """A job stores in a `keeping` block, in itself or in a worker, and may be killed before any system call."""
        with tempfile.TemporaryFile() as told:
            in_child(lambda: self._work(name, plan, killed_at, told, forks=flags[0]))
            told.seek(0)
            said = [uuid for uuid in told.read().decode().splitlines() if len(uuid) == 36]
        if said:
            self.ends[name] = self.now + TTL_DAYS
            self.said[name] |= dict.fromkeys(said)
        before = None
        with ana.using_dl(ana.DataLayer()):
            for value, refers in plan:
                obj = A([value, before] if refers else [value])
                self.objects[obj.make_uuid()] = before.uuid if refers and before else None
                before = obj
        self.wait(days, collects=flags[1])

    def _work(self, name, plan, killed_at, told, *, forks):
        layer = ana.set_dl(pickle_dir=self.tree, durable=False, pack_bytes=self.pack_bytes)

        def store():
            before = None
            for value, refers in plan:
                before = A([value, before] if refers else [value])
                before.make_uuid()
                os.write(told.fileno(), f"{before.uuid}\n".encode())
            layer.store.packs.seal()

        with patched(Steps(-1 if killed_at is None else killed_at, kill_me)), layer.keeping(name, ttl="3d"):
            if forks:
                in_child(store)
            else:
                store()

    @precondition(lambda self: self.states())
    @rule(index=st.integers(0, 1000))
    def keep(self, index):
        """Somebody keeps a state for ever."""
        present = sorted(self.states())
        uuid = present[index % len(present)]
        maintenance.keep(self.tree, PAPER, [uuid])
        self.papers[uuid] = None

    @rule(days=DAYS, collects=st.booleans())
    def wait(self, days, collects):
        """Time passes, and perhaps it is time for a collection."""
        self.now += days
        for path in raw_tree.files(self.tree):
            found = os.stat(self.tree / path)
            then = found.st_mtime - days * DAY_SECONDS
            os.utime(self.tree / path, (then, then))
        if collects:
            self.collect()

    def collect(self):
        """A collection: all that a root still keeps is there afterwards, with all that it refers to."""
        done = maintenance.gc(self.tree, maintenance.Scope(unreachable=True), without_roots=True)
        assert (done.problems, done.failed, done.refused) == ([], {}, False)
        needed = dict(self.papers)
        for name in NAMES:
            if self.ends[name] > self.now:
                needed |= self.said[name]
            elif self.ends[name] + GRACE_DAYS < self.now:
                # The root is gone, too: a later job of this name begins anew.
                self.said[name] = {}
        assert self.closure(needed) <= self.states()

    def states(self):
        """Return the UUIDs of all states, but those in the trash."""
        return {state.uuid for state in maintenance.ls(self.tree)}

    def closure(self, uuids):
        """Return states with all that they refer to."""
        found = set()
        for uuid in uuids:
            below = uuid
            while below is not None:
                found.add(below)
                below = self.objects[below]
        return found


@pytest.mark.slow
def test_jobs_are_killed_at_any_step():
    """In any order of jobs, kills, waiting and collecting."""
    bounds = hypothesis.settings(
        max_examples=20, stateful_step_count=8, deadline=None, derandomize=True, report_multiple_bugs=False
    )
    run_state_machine_as_test(Jobs, settings=bounds)


@pytest.mark.slow
def test_jobs_are_killed_at_any_step_for_long():
    """The same in longer orders: others each time, but in CI, which is to fail for what was changed."""
    bounds = hypothesis.settings(
        max_examples=150,
        stateful_step_count=20,
        deadline=None,
        derandomize="CI" in os.environ,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Jobs, settings=bounds)
