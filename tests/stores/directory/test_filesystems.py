"""Real filesystems that say no: full, read-only, without links or permission. And whose files they are."""

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blake3
import pytest
from support import care, limits, mounts, processes, raw_record, raw_tree
from test_directory import Part

import ana
from ana import maintenance
from ana.format import record
from ana.fs import atomic
from ana.stores.directory.store import DirectoryStore

pytestmark = pytest.mark.once

KIB = 1 << 10
MIB = 1 << 20
NOISE = blake3.blake3(b"noise").digest(length=2 * MIB)
SOMEBODY, GROUP = 12345, 54321
"""Any user and group: the kernel asks for no names."""

AS_SOMEBODY = """
import os, sys, tempfile
import filelock, uuid
import ana, ana.maintenance

class Part(ana.Storable):
    pass

# Whatever is imported late is imported as root: another user may not read this Python's folder.
ana.get_dl().store_state("warm up", 1)
with tempfile.TemporaryDirectory() as folder, filelock.FileLock(f"{folder}/lock"):
    pass
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))

def attempt(action):
    try:
        print(repr(action()))
    except ana.StoreError as error:
        print(f"{type(error).__name__} {error.errno}: {error}")
    except ana.ANAError as error:
        print(f"{type(error).__name__}: {error}")
"""
"""What comes before a program that is run as another user; its own arguments are sys.argv[3:]."""


def _as_somebody(program, *arguments, uid=SOMEBODY, gid=GROUP, **options):
    """Run a program as another user, and return the lines that it printed."""
    if os.geteuid():
        pytest.skip("only root becomes another user")
    return processes.run_program(AS_SOMEBODY + program, uid, gid, *arguments, cwd="/", **options).splitlines()


@pytest.fixture
def public():
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="ana-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# Full


def _fill(place):
    """Take what is left of a filesystem; return the files to remove."""
    fillers = [place / f"filler{number}" for number in range(200)]
    with pytest.raises(OSError, match="No space left"):
        [_write_through(filler) for filler in fillers]
    return fillers


def _write_through(path):
    """Write 64 KiB to the disk: without fsync a full disk may go unnoticed."""
    with open(path, "wb") as file:
        file.write(bytes(64 * KIB))
        file.flush()
        os.fsync(file)


SMALL_FILESYSTEMS = {
    "1 MiB of memory": lambda place: mounts.tmpfs(place, "size=1m"),
    "few inodes": lambda place: mounts.tmpfs(place, "size=8m,nr_inodes=30"),
    "ext4 of 2 MiB": lambda place: mounts.ext4(place, 2 * MIB),
}


@pytest.fixture(params=SMALL_FILESYSTEMS)
def small(request, tmp_path):
    """A filesystem that is soon full."""
    with SMALL_FILESYSTEMS[request.param](tmp_path / "small") as place:
        yield place


def _is_full(caught, tree):
    error = caught.value
    return error.errno == errno.ENOSPC and str(tree) in error.path and "free space" in str(error)


def test_a_full_filesystem_is_a_typed_error_and_leaves_nothing(small):
    """StoreError (ENOSPC) with its cure; no temporary, no half state; what is stored loads on."""
    tree = small / "tree"
    with ana.using_dl(pickle_dir=tree) as layer:
        layer.store_state("before", "state")
        _fill(small)
        for number in range(5):
            with pytest.raises(ana.StoreError) as caught:
                layer.store_state(f"later {number}", NOISE)
            assert _is_full(caught, tree)
        assert raw_tree.strangers(tree) == []
        assert raw_tree.states(tree) == [str(raw_tree.path_of(tree, "before").relative_to(tree))]
        assert layer.load_state("before") == "state"


def test_a_full_filesystem_can_be_made_less_full(small, capfd):
    """`gc`, `sweep` and `forget` need no byte and no inode: collected states go, leftovers go, space is free again."""
    tree = small / "tree"
    with ana.using_dl(pickle_dir=tree) as layer:
        for number in range(3):
            layer.store_state(f"state {number}", NOISE[: 100 * KIB])
        layer.keep("kept", ana.Ref(1))
        (tree / ".tmp-killed-1-abcd").write_bytes(NOISE[: 50 * KIB])
    for path in (*tree.rglob("*.zst"), tree / ".tmp-killed-1-abcd"):
        care.make_older(path, 9)
    _fill(small)
    assert care.ran(capfd, "-q", "-d", tree, "sweep").code == 0
    assert care.ran(capfd, "-q", "-d", tree, "forget", "kept").code == 0
    _fill(small)
    collect = ("--json", "-d", tree, "gc", "--older-than", "1d", "--grace", "0s")
    assert len(care.ran(capfd, *collect).document["trashed"]) == 4
    time.sleep(0.02)
    _fill(small)
    assert len(care.ran(capfd, *collect).document["deleted"]) == 4
    (small / "room").write_bytes(NOISE[: 200 * KIB])


def test_an_object_that_did_not_fit_is_not_taken_for_stored(small):
    """No UUID where `make_uuid` failed; no reference where pickling failed; all of it once space is freed."""
    tree = small / "tree"
    with ana.using_dl(pickle_dir=tree):
        fillers = _fill(small)
        anonymous, named = Part(NOISE[: 300 * KIB]), Part(NOISE[: 200 * KIB])
        named.make_uuid("named")
        for attempt in (anonymous.make_uuid, anonymous.ana_store, named.ana_store, lambda: pickle.dumps(named)):
            for _ in range(2):
                with pytest.raises(ana.StoreError) as caught:
                    attempt()
                assert _is_full(caught, tree)
        assert anonymous.uuid is None
        assert raw_tree.strangers(tree) == []
        assert raw_tree.states(tree) == []
        for filler in fillers:
            filler.unlink(missing_ok=True)
        uuid = anonymous.make_uuid()
        assert pickle.loads(pickle.dumps(named)) is named
    with ana.using_dl(pickle_dir=tree):
        assert Part.ana_load(uuid).value == NOISE[: 300 * KIB]
        assert Part.ana_load("named").value == NOISE[: 200 * KIB]


def test_a_tree_that_cannot_be_made_for_want_of_space(small):
    """Opening a new store on a full filesystem: StoreError (ENOSPC), and it can be made later."""
    fillers = _fill(small)
    with pytest.raises(ana.StoreError) as caught:
        # A few blocks may be left for folders.
        [ana.DirDataLayer(small / f"tree{number}") for number in range(100)]
    assert _is_full(caught, small)
    assert raw_tree.strangers(small / caught.value.path) == []
    for filler in fillers:
        filler.unlink(missing_ok=True)
    layer = ana.DirDataLayer(small / "tree99")
    layer.store_state("later", "state")
    assert layer.load_state("later") == "state"


def test_a_limit_of_file_sizes_is_a_typed_error(tmp_path):
    """What the user's own limit (ulimit -f) cuts short is no state: StoreError (EFBIG)."""
    layer = ana.set_dl(pickle_dir=tmp_path)
    with limits.largest_file(100 * KIB), pytest.raises(ana.StoreError) as caught:
        layer.store_state("large", NOISE)
    assert caught.value.errno == errno.EFBIG
    assert raw_tree.states(tmp_path) == raw_tree.strangers(tmp_path) == []


def test_a_limit_of_open_files_is_a_typed_error(tmp_path):
    """StoreError (EMFILE), never "not found", while no descriptor is to be had; all is well afterwards."""
    layer = ana.set_dl(pickle_dir=tmp_path)
    layer.store_state("state", "state")
    with limits.no_more_files():
        for attempt in (
            lambda: layer.load_state("state"),
            lambda: layer.load_state("missing"),
            lambda: layer.store_state("another", "state"),
            lambda: ana.DirDataLayer(tmp_path),
        ):
            with pytest.raises(ana.StoreError, match="ulimit -n") as caught:
                attempt()
            assert caught.value.errno == errno.EMFILE
    layer.store_state("another", "state")
    assert layer.load_state("another") == layer.load_state("state") == "state"
    assert raw_tree.strangers(tmp_path) == []


# Read-only


@pytest.fixture
def read_only(tmp_path):
    """A tree that holds the state of an object, mounted read-only, and that object's UUID."""
    with ana.using_dl(pickle_dir=tmp_path / "tree"):
        uuid = Part(NOISE).make_uuid()
        Part("small").make_uuid()
    with mounts.read_only(tmp_path / "tree", tmp_path / "read-only") as place:
        yield place, uuid


def test_a_read_only_tree_can_be_loaded_from(read_only):
    """Opening and loading write nothing, so they work."""
    place, uuid = read_only
    with ana.using_dl(pickle_dir=place):
        part = Part.ana_load(uuid)
        assert part.value == NOISE
        assert pickle.loads(pickle.dumps(part)) is part


WATCHED = """
import os, sys
import ana; from support import classes
from ana.runtime import counters

attempts = []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        attempts.append((event, arguments))
    elif event in {"os.mkdir", "os.link", "os.rename", "os.remove", "os.chmod", "os.utime", "os.truncate"}:
        attempts.append((event, arguments))

ana.set_dl(pickle_dir=sys.argv[1])
small, large = classes.A("small"), classes.A(b"large" * 1_000_000)
if sys.argv[2] == "watched":
    sys.addaudithook(watch)
    ana.set_dl(pickle_dir=sys.argv[1])
for obj in (small, large):
    uuid = obj.make_uuid()
    obj.ana_store()
    ana.set_dl(pickle_dir=sys.argv[1])
    assert classes.A.ana_load(uuid).x == obj.x
numbers = counters.snapshot()[sys.argv[1]]
print(attempts, numbers["found"], numbers["stored"], numbers["retries"])
"""


def test_a_filesystem_that_is_mounted_read_only_is_not_written_to(tmp_path):
    """A node that mounts a store read-only loads, and finds what it has, without as much as trying to write."""

    def prepare(place):
        processes.run_program(WATCHED, place / "tree", "")

    with mounts.ext4_read_only(tmp_path / "disk", 32 * MIB, prepare) as (place, image):
        with pytest.raises(OSError, match="Read-only"):
            (place / "file").touch()
        before = blake3.blake3(image.read_bytes()).digest()
        assert processes.run_program(WATCHED, place / "tree", "watched") == "[] 4 0 0\n"
        with ana.using_dl(pickle_dir=place / "tree"):
            for value in ("new", NOISE):
                with pytest.raises(ana.StoreError, match="loading works, storing does not") as caught:
                    Part(value).make_uuid()
                assert caught.value.errno == errno.EROFS
        assert blake3.blake3(image.read_bytes()).digest() == before


def test_what_a_read_only_tree_has_need_not_be_stored(read_only):
    """A job that is run again finds its states: nothing has to be written, so nothing fails."""
    place, uuid = read_only
    with ana.using_dl(pickle_dir=place):
        part = Part(NOISE)
        assert part.make_uuid() == part.ana_store() == uuid


@pytest.mark.parametrize("hours", [-48, 0, 24])
def test_an_image_that_was_just_made(tmp_path, hours):
    """What an image (squashfs) has is found there, whatever the times in it: it has no fsync, and needs none."""
    with ana.using_dl(pickle_dir=tmp_path / "tree"):
        uuid = Part("small").make_uuid()
    then = time.time() + 3600 * hours
    for path in tmp_path.rglob("*"):
        os.utime(path, (then, then))
    with mounts.squashfs(tmp_path / "tree", tmp_path / "image") as place, ana.using_dl(pickle_dir=place):
        part = Part("small")
        assert part.make_uuid() == part.ana_store() == uuid
        assert pickle.loads(pickle.dumps(part)) is part
        with pytest.raises(ana.StoreError, match="loading works, storing does not"):
            Part("new").make_uuid()


@pytest.mark.parametrize("value", ["new", NOISE + b"new"], ids=["small", "large"])
def test_storing_into_a_read_only_tree_is_refused(read_only, value):
    """StoreError (EROFS) says that loading works and storing does not; the object has no UUID then."""
    place, _ = read_only
    with ana.using_dl(pickle_dir=place):
        part, named = Part(value), Part(value)
        named.make_uuid("named")
        for attempt in (part.make_uuid, part.ana_store, named.ana_store, lambda: pickle.dumps(named)):
            with pytest.raises(ana.StoreError, match="loading works, storing does not") as caught:
                attempt()
            assert caught.value.errno == errno.EROFS
        assert part.uuid is None
    assert raw_tree.strangers(place) == []


def test_damage_in_a_read_only_tree_is_told_and_not_healed(read_only, tmp_path):
    """Loading says that the state is damaged, storing it again that the tree is read-only."""
    place, uuid = read_only
    path = raw_tree.path_of(tmp_path / "tree", uuid)
    damaged = path.read_bytes()[:-1] + b"\xff"
    path.write_bytes(damaged)
    with ana.using_dl(pickle_dir=place):
        with pytest.raises(ana.CorruptedStateError):
            Part.ana_load(uuid)
        part = Part(NOISE)
        with pytest.raises(ana.StoreError) as caught:
            part.ana_store()
        assert caught.value.errno == errno.EROFS
    assert path.read_bytes() == damaged


def test_a_new_tree_cannot_be_made_read_only(tmp_path):
    """StoreError (EROFS) with the path."""
    (tmp_path / "folder").mkdir()
    with (
        mounts.read_only(tmp_path / "folder", tmp_path / "read-only") as place,
        pytest.raises(ana.StoreError) as caught,
    ):
        ana.DirDataLayer(place / "tree")
    assert caught.value.errno == errno.EROFS
    assert "read-only" in caught.value.path


# Permission


def test_a_folder_that_may_not_be_written_to(public):
    """Opening a new tree there: StoreError (EACCES), which names path and cure."""
    (line,) = _as_somebody("attempt(lambda: ana.set_dl(sys.argv[3]))", public / "tree")
    assert line.startswith(f"StoreError {errno.EACCES}: {public / 'tree'}")
    assert "check owner and mode" in line


def test_a_tree_that_may_only_be_read(public):
    """Root's tree: its states load, storing is StoreError (EACCES), and leaves nothing."""
    (public / "tree").mkdir(mode=0o755)
    ana.DirDataLayer(public / "tree").store_state("state", "value")
    before = raw_tree.files(public)
    lines = _as_somebody(
        """
layer = ana.set_dl(sys.argv[3])
attempt(lambda: layer.load_state("state"))
attempt(lambda: layer.store_state("state", "value"))
attempt(lambda: layer.store_state("new", "value"))
attempt(lambda: layer.store_state("large", os.urandom(2_000_000)))
part = Part()
attempt(part.make_uuid)
attempt(lambda: part.uuid)
""",
        public / "tree",
    )
    assert lines[:2] == ["'value'", "None"]
    assert [line.split(":")[0] for line in lines[2:5]] == [f"StoreError {errno.EACCES}"] * 3
    assert lines[5] == "None"
    assert raw_tree.files(public) == before


@pytest.mark.parametrize("closed", ["state", "folder", "outer folder", "tree"])
def test_what_may_not_be_read_is_not_called_missing(public, closed):
    """StoreError (EACCES) and no StateNotFoundError: a permission is the user's to give."""
    (public / "tree").mkdir(mode=0o755)
    layer = ana.DirDataLayer(public / "tree")
    layer.store_state("state", "value")
    path = raw_tree.path_of(public / "tree", "state")
    place = {"state": path, "folder": path.parent, "outer folder": path.parent.parent, "tree": public / "tree"}[closed]
    program = """
layer = ana.set_dl(sys.argv[3]) if sys.argv[4] != "tree" else None
attempt(lambda: (layer or ana.set_dl(sys.argv[3])).load_state("state"))
"""
    place.chmod(0)
    (line,) = _as_somebody(program, public / "tree", closed)
    place.chmod(0o755)
    assert line.startswith(f"StoreError {errno.EACCES}: {path if closed != 'tree' else public / 'tree'}")


# Whose files


@pytest.mark.parametrize(
    ("umask", "of_tree"),
    [(0o022, 0o700), (0o022, 0o755), (0o002, 0o750), (0o077, 0o755), (0o000, 0o700), (0o000, 0o750)],
    ids=lambda mode: f"{mode:o}",
)
def test_modes_follow_the_trees_own(tmp_path, umask, of_tree):
    """Every file and folder, locks too, is as readable as the tree itself, less the umask; its owner alone writes."""
    program = """
import ana, os, sys
layer = ana.set_dl(sys.argv[1])
layer.store_state("small", 1)
layer.store_state("large", [os.urandom(1 << 20) for _ in range(34)])
"""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree").chmod(of_tree)
    processes.run_program(program, tmp_path / "tree", umask=umask)
    everything = [*(tmp_path / "tree").rglob("*")]
    assert len(raw_tree.states(tmp_path / "tree")) == 2
    assert any(path.suffix == ".lock" for path in everything)
    for path in everything:
        wanted = (of_tree if path.is_dir() else of_tree & 0o666) & ~umask
        assert (path, oct(_mode(path))) == (path, oct(wanted))


@pytest.mark.slow
def test_a_group_shares_a_tree(public):
    """Two users of a group, umask 002, in a setgid folder: each stores into the other's folders and loads all."""
    if os.geteuid():
        pytest.skip("only root becomes another user")
    tree = public / "tree"
    tree.mkdir()
    os.chown(tree, SOMEBODY, GROUP)
    tree.chmod(0o2775)
    program = """
layer = ana.set_dl(sys.argv[3], shared=True, trusted_uids=[12345])
for number in range(10):
    layer.store_state(f"5f3a{sys.argv[4]}{number:03}-0000-8000-8000-000000000000", number)
layer.store_state(f"large {sys.argv[4]}", [os.urandom(1 << 20) for _ in range(34)])
layer.store_state("large and common", [b"x" * (1 << 20) for _ in range(34)])
"""
    _as_somebody(program, tree, 1, umask=0o002)
    _as_somebody(program, tree, 2, uid=SOMEBODY + 1, umask=0o002)
    last = "5f3a2009-0000-8000-8000-000000000000"
    assert _as_somebody(
        f"layer = ana.set_dl(sys.argv[3], shared=True)\nattempt(lambda: layer.load_state({last!r}))", tree
    ) == ["9"]
    assert len(raw_tree.states(tree)) == 2 * 10 + 3
    assert {os.stat(path).st_gid for path in (tree, *tree.rglob("*"))} == {GROUP}
    assert raw_tree.strangers(tree) == []


SHARED = """
import time
from pathlib import Path
from support import raw_tree
from ana.fs import locks; from ana import maintenance
from ana.runtime.counters import Counters
os.environ.update(ANA_SHARED="1", ANA_TRUSTED_UIDS="12345")
layer = ana.set_dl(sys.argv[3])
tree = Path(sys.argv[3])
"""


@pytest.fixture
def shared(public):
    """A group's tree: setgid, writable for the group, with a state of one member."""
    if os.geteuid():
        pytest.skip("only root becomes another user")
    tree = public / "tree"
    tree.mkdir()
    os.chown(tree, SOMEBODY, GROUP)
    tree.chmod(0o2775)
    _as_member(tree, 'layer.store_state("state", "value")')
    return tree


def _as_member(tree, program, *arguments, number=0, umask=0o002):
    return _as_somebody(SHARED + program, tree, *arguments, uid=SOMEBODY + number, umask=umask)


def test_a_member_heals_what_another_has_stored(shared):
    """Damage in somebody else's file: storing the object again sets that aside and writes it anew."""
    uuid = _as_member(shared, "print(Part().make_uuid())")[0]
    path = raw_tree.path_of(shared, uuid)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    program = """
part = Part()
assert part.make_uuid() == sys.argv[4]
part.ana_store()
print(os.stat(raw_tree.path_of(tree, part.uuid)).st_uid - os.getuid())
"""
    assert _as_member(shared, program, uuid, number=1) == ["0"]
    assert _as_member(shared, "attempt(lambda: type(Part.ana_load(sys.argv[4])).__name__)", uuid) == ["'Part'"]


@pytest.mark.slow
def test_members_wait_for_each_others_locks(shared):
    """A lock file that one member has made excludes the other, though it is not theirs."""
    hold = """
import logging
logging.basicConfig(level=logging.INFO, stream=sys.stdout)  # says why, where the lock was not to be had
path = f"{tree}/.ana/locks/5f.lock"
with locks.saving_work(path, 60.0, Counters(str(tree))) as held:
    print(held, os.stat(path).st_uid - os.getuid(), flush=True)
    if len(sys.argv) > 4:
        sys.stdin.read()
"""
    assert _as_member(shared, hold) == ["True 0"]
    words = [sys.executable, "-c", AS_SOMEBODY + SHARED + hold, SOMEBODY + 1, GROUP, shared, "hold"]
    with subprocess.Popen(
        list(map(str, words)),
        env=processes.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        umask=0o002,
        cwd="/",
    ) as holder:
        assert holder.stdout.readline() == "True -1\n"
        assert _as_member(shared, hold.replace("60.0", "0.1"))[-1] == "False 0"
        holder.stdin.close()
        assert holder.wait(60) == 0
    assert _as_member(shared, hold, number=2) == ["True -2"]


def test_a_member_sweeps_what_another_left(shared):
    """Temporary files that a killed writer left are anybody's of the group to remove."""
    folder = raw_tree.path_of(shared, "state").parent
    (folder / ".tmp-host-1-5f").write_text("")
    os.chown(folder / ".tmp-host-1-5f", SOMEBODY, GROUP)
    os.utime(folder / ".tmp-host-1-5f", (0, 0))
    _as_member(shared, "maintenance.sweep(tree)", number=1)
    assert raw_tree.strangers(shared) == []


@pytest.mark.slow
def test_all_that_members_make_is_the_groups(shared):
    """Folders, files, locks: of the group, setgid where folders, readable and folders writable for all members."""
    program = 'layer.store_state(f"large {os.getuid()}", [os.urandom(1 << 20) for _ in range(34)])'
    for number in range(3):
        _as_member(shared, program, number=number)
    everything = [shared, *shared.rglob("*")]
    assert len(raw_tree.states(shared)) == 4
    assert any(path.suffix == ".lock" for path in everything)
    assert {path.stat().st_uid for path in everything} == {SOMEBODY, SOMEBODY + 1, SOMEBODY + 2}
    for path in everything:
        wanted = 0o2775 if path.is_dir() else 0o664
        assert (path, oct(_mode(path)), path.stat().st_gid) == (path, oct(wanted), GROUP)


def test_a_members_umask_keeps_nobody_out(shared):
    """The tree's own mode counts: what a member with umask 077 makes is the group's."""
    program = """
layer.store_state("5f3a1000-0000-8000-8000-000000000000", 1)
layer.store_state("large", [os.urandom(1 << 20) for _ in range(34)])
"""
    _as_member(shared, program, umask=0o077)
    store = 'attempt(lambda: layer.store_state("5f3a2000-0000-8000-8000-000000000000", 1))'
    assert _as_member(shared, store, number=1) == ["None"]
    for path in shared.rglob("*"):
        assert (path, oct(_mode(path))) == (path, oct(0o2775 if path.is_dir() else 0o664))


# Without hard links


@pytest.fixture
def without_links(tmp_path):
    """A filesystem that has no hard links."""
    with mounts.exfat(tmp_path / "exfat") as place:
        (place / "file").touch()
        with pytest.raises(OSError, match=r"not permitted|not supported|not implemented"):
            os.link(place / "file", place / "link")
        (place / "file").unlink()
        yield place


def test_modes_that_are_the_mounts_have_a_cure_that_works(tmp_path, monkeypatch):
    """Where chmod changes nothing, the error names mount options, with which it works; nothing is left."""
    with mounts.exfat(tmp_path / "exfat", options="umask=000") as place:
        # The kernel gives a device number again: this one was that of another filesystem, which is gone.
        monkeypatch.setitem(ana.fs.mounts._types, place.stat().st_dev, "tmpfs")
        with pytest.raises(ana.UntrustedStoreError, match="no modes of its own") as caught:
            ana.DirDataLayer(place / "tree")
        assert "chmod" not in str(caught.value)
        assert list(place.iterdir()) == []
    options = caught.value.reason.partition("-o ")[2].partition(" ")[0]
    with mounts.exfat(tmp_path / "again", options=options) as place:
        layer = ana.DirDataLayer(place / "tree")
        layer.keep("it", ana.Ref(1))
        assert maintenance.gc(place / "tree", maintenance.Scope(unreachable=True), grace_seconds=0).trashed == []


def test_states_are_published_by_rename_where_links_are_not(without_links):
    """Everything works: store, find, load, first writer wins; no temporary stays."""
    tree = without_links / "tree"
    with ana.using_dl(pickle_dir=tree) as layer:
        uuid = Part(NOISE).make_uuid()
        layer.store_state("small", "first")
        layer.store_state("small", "second")
        assert layer.load_state("small") == "first"
    with ana.using_dl(pickle_dir=tree):
        assert Part.ana_load(uuid).value == NOISE
    assert len(raw_tree.states(tree)) == 2
    assert raw_tree.strangers(tree) == []


def test_damage_is_healed_where_links_are_not(without_links):
    """The damaged file is set aside and the state written again."""
    tree = without_links / "tree"
    with ana.using_dl(pickle_dir=tree):
        part = Part("state")
        path = raw_tree.path_of(tree, part.make_uuid())
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        part.ana_store()
        assert raw_record.read(path.read_bytes())[0].key == part.uuid
    assert len(raw_tree.strangers(tree)) == 1


def test_what_came_in_between_stays_where_links_are_not(without_links, monkeypatch):
    """A state that another writer put there while ours was being written is not overwritten."""
    store, other = (DirectoryStore(str(without_links / "tree")) for _ in range(2))
    ours, theirs = (record.content("", [memoryview(text)]) for text in (b"ours", b"theirs"))
    link = os.link

    def link_late(*names, **options):
        monkeypatch.setattr(os, "link", link)
        other.put("key", theirs, (), repair=False)
        link(*names, **options)

    monkeypatch.setattr(os, "link", link_late)
    assert not store.put("key", ours, (), repair=False)
    assert [bytes(segment) for segment in store.get("key").segments()] == [b"theirs"]
    assert raw_tree.strangers(without_links / "tree") == []


def test_the_first_writer_wins_where_links_are_not(tmp_path, monkeypatch):
    """Also one that comes between the last look and the rename, where the filesystem has a rename for that."""
    store, other = (DirectoryStore(str(tmp_path / "tree")) for _ in range(2))
    ours, theirs = (record.content("", [memoryview(text)]) for text in (b"ours", b"theirs"))

    def no_link(*_, **__):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    look = atomic.files.stat

    def look_early(path, **options):
        found = look(path, **options)
        monkeypatch.setattr(atomic.files, "stat", look)
        other.put("key", theirs, (), repair=False)
        return found

    def no_link_yet(*_, **__):
        monkeypatch.setattr(os, "link", no_link)
        monkeypatch.setattr(atomic.files, "stat", look_early)
        no_link()

    monkeypatch.setattr(os, "link", no_link_yet)
    assert not store.put("key", ours, (), repair=False)
    assert [bytes(segment) for segment in store.get("key").segments()] == [b"theirs"]
    assert raw_tree.strangers(tmp_path / "tree") == []


def test_it_is_said_once_that_there_are_no_links(without_links):
    """One warning names the filesystem, however many states follow."""
    program = """
import ana, logging, sys
logging.basicConfig()
layer = ana.set_dl(sys.argv[1])
for number in range(5):
    layer.store_state(str(number), number)
"""
    said = processes.run_program(program, without_links / "tree", stderr=processes.STDOUT)
    assert said.count("no hard links") == 1
    assert said.startswith("WARNING:ana.publishing:")
    assert str(without_links) in said
