"""System calls as the real kernel sees them: made to fail by strace's fault injection; and a budget of them."""

import errno
import json
import os
import re
import shutil
import sys

import pytest
from support import processes, raw_record, raw_tree
from support.classes import A

import ana
from ana import maintenance
from ana.fs import files

STORED = [[number, "x" * 2000] for number in range(2)]
PROGRAM = """
import json, os, sys
import ana
from support.classes import A

stored = [[number, "x" * 2000] for number in range(2)]
acknowledged, problem = [], None

def begin():
    os.access("/begin", os.F_OK)

def end():
    os.access("/end", os.F_OK)

# What is imported late is imported here.
with ana.using_dl(pickle_dir=sys.argv[2]) as layer:
    A.ana_load(A("warm up").ana_store())
    layer.load_state(layer.store_state("state", "warm up") or "state")
ana.set_dl(ana.DataLayer())
"""
"""Strace sees the calls between the two marks; before them are the interpreter's own, for its imports."""

STORE = """
begin()
try:
    with ana.using_dl(pickle_dir=sys.argv[1]):
        for value in stored:
            obj = A(value)
            try:
                acknowledged.append(obj.make_uuid())
            except ana.ANAError:
                assert obj.uuid is None
                raise
except ana.ANAError as error:
    problem = [type(error).__name__, getattr(error, "errno", None)]
end()
print(json.dumps([acknowledged, problem]))
"""

LOAD = """
keys = sys.argv[3:]
begin()
try:
    with ana.using_dl(pickle_dir=sys.argv[1]):
        for key, value in zip(keys, stored):
            assert A.ana_load(key).x == value
            acknowledged.append(key)
except ana.ANAError as error:
    problem = [type(error).__name__, getattr(error, "errno", None)]
end()
print(json.dumps([acknowledged, problem]))
"""

STORE_FAULTS = [
    ("openat", "ENOSPC"),
    ("openat", "EACCES"),
    ("pwritev2", "EDQUOT"),
    ("pwritev2", "EIO"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("linkat", "EIO"),
    ("linkat", "EROFS"),
    ("unlink", "EIO"),
    ("mkdir", "EROFS"),
    ("newfstatat", "ESTALE"),
    ("newfstatat", "EIO"),
]
LOAD_FAULTS = [
    ("openat", "EMFILE"),
    ("openat", "EACCES"),
    ("preadv2", "EIO"),
    ("preadv2", "ESTALE"),
    ("newfstatat", "EIO"),
]
CALL = re.compile(r"\d+ +([a-z0-9_]+)\(")
SAME = {
    "newfstatat": "stat",
    "fstat": "stat",
    "openat": "open",
    "preadv2": "preadv",
    "pwritev2": "pwritev",
    "pread64": "preadv",
    "linkat": "link",
}
"""Names that the C libraries have for one thing."""


def traced(folder, options, program, *arguments):
    """Run a Python program under strace; return what it printed, and the lines of the calls that strace saw."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt-get install strace")
    log = folder / "strace.log"
    # The same calls in each run: no compiled files to be written, dicts and sets in the same order.
    environment = processes.environment(PYTHONDONTWRITEBYTECODE="1", PYTHONHASHSEED="0")
    words = ("strace", "-f", "-qq", "-o", log, *options, sys.executable, "-c", PROGRAM + program)
    said = processes.run(*words, *arguments, env=environment)
    return said, log.read_text(errors="replace").splitlines()


def calls_of(lines):
    """Return the calls' names, before the mark and between the marks."""
    begin = next(number for number, line in enumerate(lines) if '"/begin"' in line)
    end = next(number for number, line in enumerate(lines) if '"/end"' in line)
    found = [(number, CALL.match(line)) for number, line in enumerate(lines)]
    before = [match[1] for number, match in found if match and number < begin]
    return before, [match[1] for number, match in found if match and begin < number < end]


class Injection:
    """Runs a program again and again, each time with another of its calls refused by the kernel."""

    def __init__(self, folder, program, call, *, prepare):
        self.folder = folder
        self.program = program
        self.call = call
        self.prepare = prepare
        self.number = 0
        _, lines = self._run("-e", f"trace={call},access")
        before, self.between = calls_of(lines)
        self.first = before.count(call) + 1

    def _run(self, *options):
        self.number += 1
        self.tree = self.folder / f"tree{self.number}"
        keys = self.prepare(self.tree)
        said, lines = traced(self.folder, options, self.program, self.tree, self.folder / f"warm{self.number}", *keys)
        return json.loads(said), lines

    def results(self, error):
        """Refuse each of the calls with an error, then all of them; yield what was acknowledged, and the problem."""
        times = self.between.count(self.call)
        assert times
        for when in [*(f"{self.first + number}" for number in range(times)), f"{self.first}+"]:
            inject = f"inject={self.call}:error={error}:when={when}"
            said, lines = self._run("-e", f"trace={self.call},access", "-e", inject)
            assert any("(INJECTED)" in line for line in lines)
            yield said


def nothing(tree):
    """Leave the tree to be made by the program."""
    return []


def two_states(tree):
    """Make a tree with the two states; return their keys."""
    with ana.using_dl(pickle_dir=tree, durable=False):
        return [A(value).make_uuid() for value in STORED]


def check_tree(tree, acknowledged, *, leftovers=False):
    """See that what was acknowledged is whole, that nothing else is there, and that the next store works."""
    whole = set()
    for path in raw_tree.states(tree) if tree.exists() else []:
        whole.add(raw_record.read((tree / path).read_bytes())[0].key)
    assert set(acknowledged) <= whole
    assert leftovers or not tree.exists() or raw_tree.strangers(tree) == []
    with ana.using_dl(pickle_dir=tree):
        for value in STORED:
            A(value).ana_store()
    with ana.using_dl(pickle_dir=tree):
        for value in STORED:
            assert A.ana_load(A(value).make_uuid()).x == value


@pytest.mark.slow
@pytest.mark.leaves_temporaries(reason="where unlink fails")
@pytest.mark.parametrize(("call", "error"), STORE_FAULTS, ids=lambda value: value)
def test_a_store_that_the_kernel_refuses(tmp_path, call, error):
    """The kernel's own error or success; whole states or none; the next store works."""
    injection = Injection(tmp_path, STORE, call, prepare=nothing)
    for acknowledged, problem in injection.results(error):
        assert problem is None or problem == ["StoreError", getattr(errno, error)]
        assert problem is not None or len(acknowledged) == len(STORED)
        check_tree(injection.tree, acknowledged, leftovers=call == "unlink")


@pytest.mark.slow
def test_links_that_the_kernel_refuses(tmp_path):
    """What filesystems without hard links say: stored all the same."""
    for error in ("EPERM", "EOPNOTSUPP", "EXDEV", "EACCES"):
        (tmp_path / error).mkdir()
        injection = Injection(tmp_path / error, STORE, "linkat", prepare=nothing)
        for acknowledged, problem in injection.results(error):
            assert problem is None
            check_tree(injection.tree, acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "error"), LOAD_FAULTS, ids=lambda value: value)
def test_a_load_that_the_kernel_refuses(tmp_path, call, error):
    """The right value or the kernel's own error; never "not found", never "damaged"."""
    injection = Injection(tmp_path, LOAD, call, prepare=two_states)
    for loaded, problem in injection.results(error):
        assert problem is None or problem == ["StoreError", getattr(errno, error)]
        assert problem is not None or len(loaded) == len(STORED)
        check_tree(injection.tree, loaded)


# A budget of calls


def budgeted(tmp_path, program):
    """Run a program between the marks; return the calls on files that it made there."""
    traces = ("-e", "trace=%file,%desc")
    _, lines = traced(
        tmp_path, traces, f"layer = ana.set_dl({str(tmp_path / 'tree')!r})\n{program}", "-", tmp_path / "warm"
    )
    # Memory that Python takes for its objects, whenever it has to, is no file.
    on_files = [line for line in lines if "MAP_ANONYMOUS" not in line]
    return [SAME.get(name, name) for name in calls_of(on_files)[1]]


@pytest.fixture
def key(tmp_path, monkeypatch):
    """The key of a state that is in the tree, and was written long ago."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "now_ns", lambda: 0)
        (key, *_) = two_states(tmp_path / "tree")
    os.utime(raw_tree.path_of(tmp_path / "tree", key), (0, 0))
    return key


WHOSE_FOLDERS = ["stat", "stat"]
"""Whether others can have planted files in the two folders of a key: a look, once for each folder and process."""


@pytest.mark.parametrize("name", ["make_uuid", "ana_store"])
def test_calls_of_a_store(tmp_path, key, name):
    """A small new state in a folder that is there: look, whose folders, write, sync, link, unlink, sync the folder.

    What `ana_store()` has just written, it does not read.
    """
    raw_tree.path_of(tmp_path / "tree", key).unlink()
    calls = budgeted(tmp_path, f"obj = A(stored[0])\nbegin()\nobj.{name}()\nend()")
    publish = ["open", "pwritev", "fsync", "stat", "close", "link", "unlink"]
    assert calls == ["stat", *WHOSE_FOLDERS, *publish, "open", "fsync", "close"]


def test_calls_of_a_store_that_is_not_durable(tmp_path, key):
    """The same without waiting for the disk."""
    raw_tree.path_of(tmp_path / "tree", key).unlink()
    calls = budgeted(tmp_path, "layer.store.durable = False\nobj = A(stored[0])\nbegin()\nobj.make_uuid()\nend()")
    assert calls == ["stat", *WHOSE_FOLDERS, "open", "pwritev", "stat", "close", "link", "unlink"]


@pytest.mark.parametrize("refusal", [(), ("-e", "inject=sync_file_range:error=ENOSPC")], ids=["granted", "refused"])
def test_a_large_state_is_on_its_way_to_the_disk_before_it_is_complete(tmp_path, refusal):
    """Each large part is sent off as it is written; where the kernel refuses that, the fsync at the end does it all."""
    program = f"layer = ana.set_dl({str(tmp_path / 'tree')!r}, durable=%s)\nobj = A(os.urandom(9 << 20))\n"
    program += "begin()\nprint(obj.make_uuid())\nend()"
    options = ("-e", "trace=fsync,pwritev2,sync_file_range,access", *refusal)
    said, lines = traced(tmp_path, options, program % True, "-", tmp_path / "warm")
    calls = calls_of(lines)[1]
    assert calls.count("sync_file_range") == 3
    assert "fsync" in calls[max(number for number, name in enumerate(calls) if name == "sync_file_range") :]
    assert bool(refusal) == any("(INJECTED)" in line for line in lines)
    assert len(maintenance.cat(tmp_path / "tree", said.strip())[1]) == 9 << 20
    _, lines = traced(tmp_path, options, program % False, "-", tmp_path / "warm")
    assert "sync_file_range" not in calls_of(lines)[1]


def test_calls_of_a_store_of_what_is_there(tmp_path, key):
    """One look-up."""
    assert budgeted(tmp_path, "obj = A(stored[0])\nbegin()\nobj.make_uuid()\nend()") == ["stat"]


def test_calls_of_a_load(tmp_path, key):
    """A small state is opened, measured, read at once and closed."""
    calls = budgeted(tmp_path, f"begin()\nA.ana_load({key!r})\nend()")
    assert calls == ["open", "stat", "preadv", "close", *WHOSE_FOLDERS]


def test_calls_of_a_load_of_what_is_new(tmp_path):
    """The same; as its writer may not have waited for the disk, which kind of filesystem it is counts, too."""
    (key, *_) = two_states(tmp_path / "tree")
    calls = budgeted(tmp_path, f"begin()\nA.ana_load({key!r})\nend()")
    assert calls == ["open", "stat", "preadv", "close", *WHOSE_FOLDERS, "stat"]


def test_calls_of_a_pickle_and_its_load(tmp_path, key):
    """What was stored a moment ago travels without any call, and what is alive is found without any."""
    program = "import pickle\nobj = A(stored[0])\nobj.make_uuid()\nbegin()\npickle.loads(pickle.dumps(obj))\nend()"
    assert budgeted(tmp_path, program) == []


def test_calls_of_a_miss_in_a_folder_that_is_there(tmp_path, key):
    """A look, one at the folder, one into the trash, another look, and one for packs, which there are none of."""
    missing = f"{key[:-1]}{'0' if key[-1] != '0' else '1'}"
    program = f"begin()\ntry:\n    A.ana_load({missing!r})\nexcept ana.StateNotFoundError:\n    end()"
    assert budgeted(tmp_path, program) == ["open", "open", "close", "open", "open", "stat"]


def test_calls_of_a_load_from_the_trash(tmp_path, key):
    """The same, and then it is linked back and made young."""
    path = raw_tree.path_of(tmp_path / "tree", key)
    path.rename(path.with_name(f".trash-{path.name}"))
    look = ["open", "open", "close"]
    bring_back = ["link", "utimensat"]
    assert budgeted(tmp_path, f"begin()\nA.ana_load({key!r})\nend()") == [
        *look,
        "open",
        "stat",
        "preadv",
        "close",
        *WHOSE_FOLDERS,
        *bring_back,
    ]
    assert path.exists()


def test_calls_of_a_miss(tmp_path, key):
    """A look, one at the folders in case a network filesystem remembers too much, and another look.

    None into the trash, whose folder would be the same.
    """
    program = "begin()\ntry:\n    layer.load_state('missing')\nexcept ana.StateNotFoundError:\n    end()"
    # The folder itself, then all from the tree down to the first that is not there.
    folders = ["open", "open", "close", "open"]
    assert budgeted(tmp_path, program) == ["open", *folders, "open"]
