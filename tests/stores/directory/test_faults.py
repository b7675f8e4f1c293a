"""Every system call fails, in every way, and the process crashes at each: whole states or none, always."""

import contextlib
import errno
import functools
import gc
import itertools
import os
import pickle
import shutil

import pytest
from support import faults, memory, raw_pack, raw_record, raw_tree
from support.classes import A
from support.faults import Fault

import ana
from ana import maintenance
from ana.fs import mounts
from ana.objects import identity
from ana.persist import saving
from ana.stores.directory.store import DirectoryStore

pytestmark = pytest.mark.once

ERRORS = (
    errno.ENOSPC,
    errno.EIO,
    errno.EACCES,
    errno.ESTALE,
)
MORE_ERRORS = [
    pytest.param(code, marks=pytest.mark.slow)
    for code in (errno.EDQUOT, errno.EROFS, errno.EINTR, errno.EMFILE, errno.ENAMETOOLONG)
]
"""Nothing in ana asks for these: they take the way of ENOSPC, so they need not be tried every day."""
LINK_ERRORS = (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EACCES, errno.EINVAL, errno.EMLINK)
LINK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENAMETOOLONG)
REPEATED = {"link": errno.EEXIST, "mkdir": errno.EEXIST, "unlink": errno.ENOENT, "rename": errno.ENOENT}
"""What an NFS server says to a call that it has done already, when its reply was lost."""
CHANGES = ("link", "makedirs", "mkdir", "open", "rename", "unlink", "write", "pwritev", "ftruncate")
SMALL = "small " * 100
LOCKED = bytes((1 << 20) + 1)
LARGE = bytes(9 << 20)
PACKS = {"pack_bytes": "64k"}
OLD = ".tmp-host-1-of-a-writer-that-was-killed"


class Run:
    """A scenario while it runs on a tree: what it was told is stored, and what must not have happened."""

    def __init__(self, tree, report=None):
        self.tree = tree
        self.acknowledged = set()
        self.objects = []
        self.problems = []
        self.report = report

    def layer(self, **options):
        """Open the tree, and make it the current layer."""
        return ana.set_dl(pickle_dir=self.tree, **options)

    def acknowledge(self, uuid):
        """Note that a state counts as stored now; also where this process is about to crash."""
        self.acknowledged.add(uuid)
        if self.report is not None:
            os.write(self.report, f"{uuid}\n".encode())

    def make_uuid(self, value):
        """Have a new object stored under its content address."""
        obj = A(value)
        self.objects.append(obj)
        try:
            uuid = obj.make_uuid()
        except BaseException:
            self.expect(obj.uuid is None, "it has a UUID, though make_uuid raised")
            raise
        self.acknowledge(uuid)
        return obj

    def ana_store(self, obj, *uuids):
        """Have an object that has a UUID stored."""
        layer = ana.get_dl()
        try:
            obj.ana_store()
        except BaseException:
            self.expect(not saving.is_known(layer, identity.mark_of(obj)), "it is marked as stored, though it raised")
            raise
        for uuid in uuids:
            self.acknowledge(uuid)

    def expect(self, holds, what):
        """Note what is wrong unless it holds."""
        if not holds:
            self.problems.append(what)


class Scenario:
    """What is done, and the tree that it begins with."""

    readers = False
    """Nothing is written: one tree does for all cases."""
    network = False
    value = SMALL

    def prepare(self, tree):
        """Make the tree that every case begins with."""
        ana.DirDataLayer(tree)

    def act(self, run):
        """Do it."""
        raise NotImplementedError


class NewTree(Scenario):
    """The first store in a new tree."""

    def prepare(self, tree):
        """Leave it to the first writer to make the tree."""

    def act(self, run):
        run.layer()
        run.make_uuid(self.value)


class WarmTree(Scenario):
    """A store where the folders are there already."""

    def prepare(self, tree):
        with ana.using_dl(pickle_dir=tree):
            raw_tree.path_of(tree, A(self.value).make_uuid()).unlink()

    def act(self, run):
        run.layer()
        run.make_uuid(self.value)


class OnNetwork(WarmTree):
    """The same, where it is believed to be NFS."""

    network = True


class LockedStore(WarmTree):
    """A store of a state that is so large that its writers wait for each other."""

    value = LOCKED


class There(Scenario):
    """A store of what is there."""

    def prepare(self, tree):
        with ana.using_dl(pickle_dir=tree):
            A(self.value).make_uuid()

    def act(self, run):
        run.layer()
        run.make_uuid(self.value)


class Healed(There):
    """A damaged state is stored again."""

    def prepare(self, tree):
        super().prepare(tree)
        (path,) = raw_tree.states(tree)
        data = bytearray((tree / path).read_bytes())
        data[-1] ^= 1
        (tree / path).write_bytes(data)

    def act(self, run):
        run.layer()
        obj = A(self.value)
        obj.make_uuid()
        run.objects.append(obj)
        run.ana_store(obj, obj.uuid)


class HealedEmpty(There):
    """An empty file is where the state should be."""

    def prepare(self, tree):
        super().prepare(tree)
        (path,) = raw_tree.states(tree)
        (tree / path).write_bytes(b"")


class Loaded(There):
    """A load."""

    readers = True

    def act(self, run):
        run.layer()
        obj = A.ana_load(uuid_of(self.value))
        run.expect(obj.x == self.value, "it loaded something else")


class LoadedLarge(Loaded):
    """A load of a state of several chunks."""

    value = LARGE


class LoadedFromNetwork(Loaded):
    """A load, where it is believed to be NFS."""

    network = True


class Missed(Loaded):
    """A load of what is not there, where it is believed to be NFS."""

    network = True

    def act(self, run):
        run.layer()
        with contextlib.suppress(ana.StateNotFoundError):
            A.ana_load("missing")
            run.expect(holds=False, what="it loaded what is not there")


class Packed(Scenario):
    """States that go into a pack, one after the other, which is sealed then."""

    def prepare(self, tree):
        with ana.using_dl(pickle_dir=tree, **PACKS) as layer:
            A("of another process").make_uuid()
            layer.store.packs.seal()

    def act(self, run):
        layer = run.layer(**PACKS)
        run.make_uuid(self.value)
        run.make_uuid("another")
        layer.store.packs.seal()
        run.make_uuid("in the next pack")


class PackedNew(Packed):
    """The first pack in a new tree."""

    def prepare(self, tree):
        """Leave it to the first writer to make the tree."""


class PackedOnNetwork(Packed):
    """The same, where it is believed to be NFS."""

    network = True


class PackedTogether(Packed):
    """Many at once, that refer to each other."""

    def act(self, run):
        layer = run.layer(**PACKS)
        objects = [A(A(f"{number} {SMALL}")) for number in range(3)]
        run.objects += objects
        try:
            uuids = layer.store_many(objects)
        except ana.ANAError:
            for obj in objects:
                if obj.uuid is not None:
                    run.acknowledge(obj.uuid)
            raise
        for uuid in uuids:
            run.acknowledge(uuid)


class PackedThere(Scenario):
    """A store of what is in a pack, which is known."""

    def prepare(self, tree):
        with ana.using_dl(pickle_dir=tree, **PACKS) as layer:
            A(self.value).make_uuid()
            layer.store.packs.seal()

    def act(self, run):
        layer = run.layer(**PACKS)
        # What cannot be read may be stored a second time.
        layer.store.has(uuid_of(self.value))
        run.make_uuid(self.value)


class PackedHealed(PackedThere):
    """A damaged state in a pack is stored again."""

    def prepare(self, tree):
        super().prepare(tree)
        path, at, size = raw_pack.find(tree, uuid_of(self.value))
        raw_pack.overwrite(path, at + size - 1, bytes([path.read_bytes()[at + size - 1] ^ 1]))

    def act(self, run):
        run.layer(**PACKS)
        obj = A(self.value)
        obj.make_uuid()
        run.objects.append(obj)
        run.ana_store(obj, obj.uuid)


class PackedLoaded(PackedThere):
    """A load from a pack, found without a hint."""

    readers = True

    def act(self, run):
        run.layer()
        obj = A.ana_load(uuid_of(self.value))
        run.expect(obj.x == self.value, "it loaded something else")


class HintedLoaded(PackedThere):
    """A load from a pack by a reference."""

    readers = True

    def prepare(self, tree):
        super().prepare(tree)
        with ana.using_dl(pickle_dir=tree) as layer:
            layer.store.has(uuid_of(self.value))
            type(self).hint = layer.store.hint(uuid_of(self.value))

    def act(self, run):
        run.layer().store.note_hint(uuid_of(self.value), self.hint)
        obj = A.ana_load(uuid_of(self.value))
        run.expect(obj.x == self.value, "it loaded something else")


class HintedFromNetwork(HintedLoaded):
    """The same, where it is believed to be NFS."""

    network = True


class ParentAndChild(Scenario):
    """The store of an object and of another that it refers to, under UUIDs that were given."""

    def act(self, run):
        run.layer()
        child = A(SMALL)
        child.make_uuid("child")
        parent = A(child)
        parent.make_uuid("parent")
        run.objects += [parent, child]
        run.ana_store(parent, "child", "parent")


class Swept(There):
    """Maintenance removes what killed writers left."""

    def prepare(self, tree):
        super().prepare(tree)
        for path in raw_tree.states(tree):
            old = (tree / path).with_name(OLD)
            old.touch()
            os.utime(old, (0, 0))

    def act(self, run):
        maintenance.sweep(run.tree)


PACKERS = [Packed, PackedNew, PackedOnNetwork, PackedTogether, PackedHealed]
PACK_READERS = [PackedLoaded, HintedLoaded, HintedFromNetwork]
LINKERS = [NewTree, WarmTree, OnNetwork, LockedStore, Healed, HealedEmpty, ParentAndChild, PackedNew]
"""Writers that link or rename."""
WRITERS = list(dict.fromkeys([*LINKERS, *PACKERS]))
CHANGERS = [*WRITERS, There, PackedThere, Swept]
READERS = [Loaded, LoadedLarge, LoadedFromNetwork, *PACK_READERS]


def scenarios(*kinds):
    """Run a test with each of the scenarios."""
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.__name__)


@functools.cache
def uuid_of(value):
    """Return the content address of an A that holds a value."""
    with ana.using_dl(ana.DataLayer()):
        return A(value).make_uuid()


class Bench:
    """Runs one scenario again and again, each time under another fault, and says what went wrong."""

    def __init__(self, scenario, folder):
        self.scenario = scenario
        self.folder = folder
        self.template = folder / "template"
        self.cases = 0
        self.problems = []
        with faults.under():
            scenario.prepare(self.template)
        self.content = self._reference()

    def _reference(self):
        """Run it without faults; return the states that may be there afterwards, by key."""
        run = Run(self._tree())
        with faults.under() as seen:
            self.scenario.act(run)
        _close_packs()
        assert run.problems == []
        self.seen = dict(seen.seen)
        return {part.key: segments for part, segments in whole_states(run.tree, self._damaged()).values()}

    def _damaged(self):
        """Return the damaged files that a scenario begins with: by path, with what they hold."""
        found = {}
        for path in raw_tree.states(self.template) if self.template.exists() else []:
            data = (self.template / path).read_bytes()
            try:
                raw_record.read(data)
            except Exception:
                found[path] = data
        return found | self._damaged_in_packs()

    def _damaged_in_packs(self):
        found = {}
        for path in raw_pack.packs(self.template):
            data = path.read_bytes()
            for _, at, size in raw_pack.records(data):
                try:
                    raw_record.read(data[at : at + size])
                except Exception:
                    found[f"{path.name}:{at}"] = data[at : at + size]
        return found

    def _tree(self):
        if self.scenario.readers:
            return self.template
        tree = self.folder / f"tree{self.cases}"
        if self.template.exists():
            shutil.copytree(self.template, tree)
        return tree

    def faults(self, calls, effects, *, both=True):
        """Yield each fault at each call that the scenario makes: effects are given by name."""
        for call in calls:
            for number in range(1, self.seen.get(call, 0) + 1):
                for name, effect in effects.items():
                    yield Fault(call, number, name, effect)
                    if both:
                        yield Fault(call, number, name, effect, for_good=True)

    def check_all(self, cases, **options):
        """Run the scenario under each fault."""
        for fault in cases:
            self.cases += 1
            self.problems += [f"{fault}: {problem}" for problem in self.check(fault, **options)]
        self.conclude()

    def conclude(self):
        """Fail with what went wrong."""
        text = "\n".join(self.problems[:20])
        assert self.cases
        assert not self.problems, f"{len(self.problems)} problems in {self.cases} cases, among them\n{text}"

    def check(self, fault, *, code=None, must_work=False):
        """Run it under a fault, then without one; return what went wrong."""
        run = Run(self._tree())
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        with faults.under(fault):
            error = outcome(self.scenario, run)
        _close_packs()
        gc.collect()
        run.problems += complaints(error, code, must_work=must_work)
        run.expect(len(os.listdir("/proc/self/fd")) == before, "a file stayed open")
        self._check_tree(run, leftovers=fault.call == "unlink")
        with faults.under():
            self._check_objects(run)
            self._check_next(run)
        return run.problems

    def check_crash(self, fault):
        """Run it in a process that crashes; return what went wrong."""
        run = Run(self._tree())
        status, run.acknowledged = in_child(self.scenario, run.tree, fault)
        run.expect(status in {0, faults.CRASHED}, f"the process ended with status {status}")
        self._check_tree(run, leftovers=True)
        with faults.under():
            self._check_next(run)
        return run.problems

    def _check_tree(self, run, *, leftovers):
        """Only whole states are there, with their children, and all that were acknowledged."""
        damaged = self._damaged()
        try:
            found = whole_states(run.tree, damaged)
        except AssertionError as error:
            run.problems.append(f"a state that is not whole: {error}")
            return
        keys = {part.key for part, _ in found.values()}
        run.expect(run.acknowledged <= keys, f"acknowledged, and not there: {run.acknowledged - keys}")
        for part, segments in found.values():
            run.expect(segments == self.content[part.key], f"{part.key} has another content")
            run.expect(set(part.children) <= keys, f"{part.key} is there without {part.children}")
        left = [path for path in raw_tree.strangers(run.tree) if not path.endswith(OLD)]
        left = [path for path in left if not (damaged and "/.bad-" in path)]
        left = [path for path in left if not (path.endswith(raw_pack.SUFFIX) and (run.tree / path).stat().st_size)]
        run.expect(leftovers or not left, f"left behind: {left}")

    def _check_objects(self, run):
        """What this process believes to be stored is: whoever has a UUID pickles into a reference that works."""
        if run.objects and ana.get_dl().home != str(run.tree):
            return
        for obj in run.objects:
            if obj.uuid in run.acknowledged:
                data = pickle.dumps(obj)
                run.expect(loads_elsewhere(data, run.tree) == value_in(obj), "its pickle leads to no state")

    def _check_next(self, run):
        """The same again, without faults: it works, and all is there."""
        again = Run(run.tree)
        error = outcome(self.scenario, again)
        run.expect(error is None, f"not the next time either: {error!r}")
        # A damaged file is set aside; a damaged record stays in its pack.
        keys = {part.key for part, _ in whole_states(run.tree, self._damaged_in_packs()).values()}
        run.expect(keys == set(self.content), f"in the end there are {keys}")
        run.problems += again.problems
        run.expect(not any(path.endswith(OLD) for path in raw_tree.files(run.tree)), "it was not swept")
        ana.set_dl()
        if not self.scenario.readers:
            shutil.rmtree(run.tree)


def _close_packs():
    """Close the packs that a layer keeps open: its own one gets its index, as when the process ends."""
    store = ana.get_dl().store
    if isinstance(store, DirectoryStore):
        with faults.under(), contextlib.suppress(ana.StoreError):
            store.packs.seal()
        store.packs.files.reset()


def value_in(obj):
    """Return what an A holds, or what the A that it holds holds."""
    return obj.x.x if isinstance(obj.x, A) else obj.x


def loads_elsewhere(data, tree):
    """Load a pickle through a layer that knows no objects yet."""
    with ana.using_dl(pickle_dir=tree):
        try:
            return value_in(pickle.loads(data))
        except ana.ANAError as error:
            return repr(error)


def whole_states(tree, damaged):
    """Read every state of a tree past ana; `damaged` ones, by path, may lie there as they were."""
    found = {}
    for path in raw_tree.states(tree):
        data = (tree / path).read_bytes()
        if damaged.get(path) != data:
            found[path] = raw_record.read(data)
            assert str(raw_tree.path_of(tree, found[path][0].key).relative_to(tree)) == path
    return found | _whole_in_packs(tree, damaged)


def _whole_in_packs(tree, damaged):
    """Read the states in packs past ana, up to the first of a pack that is torn."""
    found = {}
    for path in raw_pack.packs(tree):
        data = path.read_bytes()
        for key, at, size in raw_pack.records(data):
            place = f"{path.name}:{at}"
            if damaged.get(place) != data[at : at + size]:
                found[place] = raw_record.read(data[at : at + size])
                assert found[place][0].key == key
    return found


def outcome(scenario, run):
    """Do what the scenario does; return the error that it raised, without what it holds."""
    try:
        scenario.act(run)
    except Exception as error:
        return without_frames(error)
    return None


def without_frames(error):
    """Return an error whose frames are gone, which would keep files open."""
    link = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def complaints(error, code, *, must_work):
    """Say what is wrong with an error; `code` is what the system said."""
    if error is None:
        return []
    if must_work or not isinstance(error, ana.ANAError):
        return [f"it raised {error!r}"]
    if code is not None and getattr(error, "errno", None) != code:
        return [f"the system said {faults.name_of(code)}, and it raised {error!r}"]
    return []


def in_child(scenario, tree, fault):
    """Run the scenario in a forked process; return its exit status, and what was acknowledged before it ended."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(scenario, Run(tree, send), fault)
    os.close(send)
    with open(receive, encoding="ascii") as answers:
        acknowledged = set(answers.read().split())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), acknowledged


def _be_child(scenario, run, fault):
    # Whatever happens, this process does not go on as the test run.
    status = 1
    try:
        with faults.under(fault):
            scenario.act(run)
        status = 0
    finally:
        os._exit(status)


@pytest.fixture
def folder():
    """A folder in memory: some of the tests make a thousand trees."""
    with memory.folder() as place:
        yield place


@pytest.fixture
def bench(kind, folder, monkeypatch):
    """The scenario, ready to be run."""
    scenario = kind()
    # Looked up once for all: that is no call of the scenario's.
    mounts.filesystem(str(folder))
    if scenario.network:
        monkeypatch.setitem(mounts._types, os.stat(folder).st_dev, "nfs4")
    with faults.under():
        made = Bench(scenario, folder)
    # What is there already is not gone through again and again.
    gc.freeze()
    yield made
    gc.unfreeze()


@scenarios(*CHANGERS, *READERS, Missed)
@pytest.mark.parametrize("code", [*ERRORS, *MORE_ERRORS], ids=faults.name_of)
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_each_call_fails(bench, code, share):
    """With the system's own error or not at all; no state is lost or half there, and the next time all is well.

    In an everyday run the errors take turns: each call fails with some of them, once or for good.
    """
    cases = bench.faults(faults.CALLS, {faults.name_of(code): faults.fails(code)})
    if share == "some":
        # Three, as each call has two cases.
        cases = itertools.islice(cases, ERRORS.index(code) % 3 if code in ERRORS else 0, None, 3)
    bench.check_all(cases, code=code)


@scenarios(*LINKERS)
def test_links_are_not_to_be_had(bench):
    """Where there are no hard links, the states are stored all the same."""
    effects = {faults.name_of(code): faults.fails(code) for code in LINK_ERRORS}
    bench.check_all(bench.faults(["link"], effects), must_work=True)


@pytest.mark.parametrize("code", LINK_FAULTS, ids=faults.name_of)
def test_a_link_that_a_disk_or_a_server_refuses(folder, code):
    """A full disk or a server's fault is no reason to publish otherwise: it is the caller's to know."""
    layer = ana.DirDataLayer(folder / "tree")
    with (
        faults.under(faults.Fault("link", 1, faults.name_of(code), faults.fails(code), for_good=True)),
        pytest.raises(ana.StoreError) as caught,
    ):
        layer.store_state("new", "state")
    assert caught.value.errno == code
    assert raw_tree.states(folder / "tree") == raw_tree.strangers(folder / "tree") == []


@scenarios(*LINKERS, Swept)
def test_a_reply_is_lost(bench):
    """What was done already, and is refused when the client sends it again, has been done."""
    cases = (bench.faults([call], {"lost reply": faults.reply_is_lost(code)}) for call, code in REPEATED.items())
    bench.check_all(itertools.chain.from_iterable(cases), must_work=True)


@scenarios(*CHANGERS)
def test_a_call_that_fails_was_done(bench):
    """An error after the fact (a time-out of the server): as any error, though the file may be there."""
    effects = {"EIO afterwards": faults.reply_is_lost(errno.EIO)}
    bench.check_all(bench.faults((*CHANGES, "fsync"), effects), code=errno.EIO)


@scenarios(*CHANGERS, *READERS)
def test_writes_and_reads_are_short(bench):
    """However few bytes the system moves at a time, all of them are moved."""
    effects = {"half": faults.is_short(lambda size: (size + 1) // 2)}
    bench.check_all(bench.faults(["pwritev", "preadv"], effects), must_work=True)
    one = {"one byte": faults.is_short(lambda size: 1)}
    bench.check_all(bench.faults(["pwritev", "preadv"], one, both=bench.scenario.value == SMALL), must_work=True)


@scenarios(*CHANGERS, *READERS)
def test_files_end_early(bench):
    """A file that is truncated while it is read is read again, and is an I/O error then, never wrong bytes."""
    bench.check_all(bench.faults(["preadv"], {"end of file": faults.ends_early}), code=errno.ESTALE)


@scenarios(*READERS)
def test_a_stale_handle_is_opened_again(bench):
    """ESTALE while a state is read: it is opened again, and nobody notices."""
    effects = {"ESTALE": faults.fails(errno.ESTALE)}
    cases = bench.faults(["preadv", "fstat", "open"], effects, both=False)
    # The first of each is ana.json's, which is never replaced.
    bench.check_all((fault for fault in cases if fault.number > 1), must_work=True)


def _crash(bench, calls, when):
    for fault in bench.faults(calls, {when.__name__: when}, both=False):
        bench.cases += 1
        bench.problems += [f"{fault}: {problem}" for problem in bench.check_crash(fault)]
    bench.conclude()


@pytest.mark.leaves_temporaries(reason="writers crash")
@scenarios(*CHANGERS)
def test_crash_after_each_change(bench):
    """Whenever the process ends: whole states or none, all that it said were stored, and the next one can go on.

    What is on the disk changes by these calls alone, so that a crash anywhere else leaves the same.
    """
    _crash(bench, CHANGES, faults.crash_after)


@pytest.mark.slow
@pytest.mark.leaves_temporaries(reason="writers crash")
@pytest.mark.parametrize("when", [faults.crash_before, faults.crash_after], ids=lambda when: when.__name__)
@scenarios(*CHANGERS, *READERS)
def test_crash_at_each_call(bench, when):
    """The same before and after every call of any kind."""
    _crash(bench, faults.CALLS, when)


@scenarios(Healed)
@pytest.mark.parametrize("call", ["pwritev", "link", "open", "rename"])
def test_what_was_seen_to_be_damaged_is_not_taken_for_stored(bench, call):
    """ana_store finds damage and cannot repair it: the next pickle of the object does, and leads to its state."""
    run = Run(bench.template)
    run.layer()
    obj = A(SMALL)
    obj.make_uuid()
    # Only what writes fails: the damage has been seen by then.
    fault = Fault(call, 1, "ENOSPC", _fails_for_writers(errno.ENOSPC), for_good=True)
    with faults.under(fault), pytest.raises(ana.StoreError):
        obj.ana_store()
    with faults.under():
        assert loads_elsewhere(pickle.dumps(obj), run.tree) == SMALL


def _fails_for_writers(code):
    fail = faults.fails(code)

    def effect(name, real, arguments, options):
        writes = name != "open" or arguments[1] & os.O_CREAT
        return fail(name, real, arguments, options) if writes else real(*arguments, **options)

    return effect
