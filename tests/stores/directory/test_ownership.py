"""Whose files are believed: a planted pickle of another user is refused, whatever way it came into the tree."""

import ctypes
import os
import pickle
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

# Another user may not be able to read what is imported late.
import filelock  # noqa: F401 - see above
import pytest
from support.users import Trap, user

import ana
from ana.format import record
from ana.stores.directory.store import DirectoryStore

OWNER, ATTACKER, COLLEAGUE = 23_451, 23_452, 23_453
GROUP = 23_450
CHOSEN = "5f3ac0e1-0000-4000-8000-000000000001"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users: sudo python -m pytest")


class A(ana.Storable):
    """Something to store."""

    def __init__(self, x):
        self.x = x


@pytest.fixture
def place():
    """A folder that all users can reach and write to, as /scratch is."""
    with tempfile.TemporaryDirectory(prefix="ana-ownership-") as found:
        Path(found).chmod(0o1777)
        yield Path(found)


@pytest.fixture
def folder(place):
    """A store of OWNER's with one object in it."""
    with user(OWNER):
        store(place / "store", "mine")
        chosen = A("mine")
        chosen.make_uuid(CHOSEN)
        chosen.ana_store()
    return place / "store"


def store(folder, x, **options):
    """Store an object of that state; return its UUID."""
    ana.set_dl(pickle_dir=folder, durable=False, **options)
    return A(x).make_uuid()


def load(folder, uuid, **options):
    """Load it in a layer that has nothing in memory."""
    ana.set_dl(pickle_dir=folder, durable=False, **options)
    return A.ana_load(uuid).x


def address(x):
    """Return the UUID of an object of that state."""
    ana.set_dl()
    return A(x).make_uuid()


def path_of(folder, uuid):
    """Say where a state lies."""
    return Path(folder, uuid[:2], uuid[2:4], f"{uuid}.pkl.zst")


def trap(place):
    """Return the bytes of a record that makes a file when it is unpickled, under a UUID that a program chose.

    Under the address of "mine" its content would show that it is not that, whoever owns the file.
    """
    sentinel = place / "sentinel"
    content = record.content(f"{__name__}:A", [memoryview(pickle.dumps({"x": Trap(sentinel)}, 5))])
    return record.encode(CHOSEN, content), sentinel


# New stores


def test_a_new_store_is_its_owners_alone(folder, place):
    """Mode 0700, all the way down, whatever the umask; others cannot even look."""
    uuid = address("mine")
    path = path_of(folder, uuid)
    assert [stat.S_IMODE(found.stat().st_mode) for found in (folder, path.parent.parent, path.parent, path)] == [
        0o700,
        0o700,
        0o700,
        0o600,
    ]
    with user(OWNER, umask=0o002):
        store(place / "open-minded", "mine")
        assert load(place / "open-minded", uuid) == "mine"
    assert stat.S_IMODE((place / "open-minded").stat().st_mode) == 0o700
    with user(ATTACKER):
        with pytest.raises(ana.UntrustedStoreError):
            load(folder, uuid)
        with pytest.raises(ana.StoreError):
            load(folder, uuid, trusted_uids=[OWNER])


def test_a_folder_that_is_there_keeps_its_mode(place):
    """A store that others may read has folders and files that they may read, and nobody write to."""
    with user(OWNER, umask=0o002):
        (place / "store").mkdir(mode=0o755)
        uuid = store(place / "store", "mine")
    path = path_of(place / "store", uuid)
    modes = [stat.S_IMODE(found.stat().st_mode) for found in (place / "store", path.parent, path)]
    assert modes == [0o755, 0o755, 0o644]
    with user(COLLEAGUE):
        assert load(place / "store", uuid, trusted_uids=[OWNER]) == "mine"


def test_root_is_trusted(place):
    """What root has stored for all loads for all."""
    (place / "store").mkdir(mode=0o755)
    uuid = store(place / "store", "mine")
    with user(COLLEAGUE):
        assert load(place / "store", uuid) == "mine"


# Refused


def test_a_store_of_somebody_else_is_refused(folder):
    """Unless they are trusted; the error says how."""
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    uuid = address("mine")
    with user(COLLEAGUE):
        with pytest.raises(ana.UntrustedStoreError, match=rf"owner {OWNER}.*trusted_uids=\[{OWNER}\]") as caught:
            load(folder, uuid)
        assert caught.value.path == str(folder)
        assert load(folder, uuid, trusted_uids=[OWNER]) == "mine"


def test_owners_that_nobody_knows_get_a_hint(folder):
    """An NFS server with root_squash, or a wrong ID mapping, shows them as nobody."""
    os.chown(folder, 65534, 65534)
    folder.chmod(0o755)
    with user(OWNER), pytest.raises(ana.UntrustedStoreError, match=r"root_squash.*ID mapping.*nfsidmap"):
        load(folder, address("mine"))


# In a user namespace


NAMESPACE, DUMPABLE = 0x10000000, 4
"""Of <linux/sched.h> and <linux/prctl.h>."""


def in_namespace(uid, work, *, mapped):
    """Do some work as a user in a user namespace of their own, with their number mapped or not; return what it said."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "failed"
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            library = ctypes.CDLL(None, use_errno=True)
            library.prctl(DUMPABLE, 1, 0, 0, 0)
            said = f"no namespace: {os.strerror(ctypes.get_errno())}" if library.unshare(NAMESPACE) else ""
            if not said:
                if mapped:
                    Path("/proc/self/uid_map").write_bytes(f"{uid} {uid} 1".encode())
                said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(send, said.encode())
            os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8") as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    if said.startswith("no namespace"):
        pytest.skip(f"{said}: sysctl kernel.unprivileged_userns_clone=1")
    return said


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("owner", [0, ATTACKER])
@pytest.mark.parametrize("trusted", [None, [65534], [ATTACKER]])
def test_nobody_is_nobodys_word_in_a_namespace(place, mapped, owner, trusted):
    """A stranger's store, and root's, looks like anybody's there: refused, whatever number is trusted, with a cure."""
    with user(owner):
        (place / "store").mkdir(mode=0o755)
        uuid = store(place / "store", "theirs")
    said = in_namespace(COLLEAGUE, lambda: load(place / "store", uuid, trusted_uids=trusted), mapped=mapped)
    assert said.startswith("UntrustedStoreError")
    assert "ANA_TRUSTED_UIDS=unmapped" in said
    assert "[65534]" not in said


@pytest.mark.parametrize("where", ["first", "second", "file"])
def test_what_nobody_planted_in_a_namespace(folder, place, where):
    """Also a stranger's folder or file within one's own store."""
    uuid = address("mine")
    with user(ATTACKER):
        (place / "other").mkdir(mode=0o755)
        store(place / "other", "mine")
    path = {"first": Path(uuid[:2]), "second": Path(uuid[:2], uuid[2:4]), "file": path_of("", uuid)}[where]
    (folder / path).rename(place / "away")
    (place / "other" / path).rename(folder / path)
    assert in_namespace(OWNER, lambda: load(folder, uuid), mapped=True).startswith("UntrustedStoreError")


@pytest.mark.parametrize("mapped", [False, True])
def test_ones_own_store_in_a_namespace(folder, mapped):
    """What nobody but its owner may read, and is read here, is one's own, whatever number that has."""
    assert in_namespace(OWNER, lambda: load(folder, address("mine")), mapped=mapped) == "'mine'"


def test_owners_who_are_not_mapped_can_be_trusted(place, monkeypatch):
    """In so many words, by option or environment: a site's store is root's, and root is nobody in a container."""
    (place / "store").mkdir(mode=0o755)
    uuid = store(place / "store", "the site's")
    found = in_namespace(COLLEAGUE, lambda: load(place / "store", uuid, trusted_uids=["unmapped"]), mapped=True)
    assert found == repr("the site's")
    monkeypatch.setenv("ANA_TRUSTED_UIDS", "5,unmapped")
    assert in_namespace(COLLEAGUE, lambda: load(place / "store", uuid), mapped=True) == repr("the site's")
    os.chown(place / "store", ATTACKER, ATTACKER)
    with user(COLLEAGUE), pytest.raises(ana.UntrustedStoreError):
        load(place / "store", uuid)


def test_root_is_not_told_to_take_a_store_from_its_user(folder):
    """The cures are to trust the user, as an option and in the environment: not to shut them out."""
    with pytest.raises(ana.UntrustedStoreError, match=rf"ANA_TRUSTED_UIDS={OWNER}") as caught:
        load(folder, address("mine"))
    assert "chown" not in str(caught.value)


@pytest.mark.parametrize("where", ["root", "first", "second", "file", "ana.json"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_to_is_refused(folder, where, mode):
    """At each level; the error names the path, its owner and mode, and the command that mends it, which does."""
    uuid = address("mine")
    path = path_of(folder, uuid)
    target = {
        "root": folder,
        "first": path.parent.parent,
        "second": path.parent,
        "file": path,
        "ana.json": folder / "ana.json",
    }[where]
    target.chmod(target.stat().st_mode | mode)
    with user(OWNER):
        with pytest.raises(ana.UntrustedStoreError, match=rf"owner {OWNER}, group {OWNER}, mode ") as caught:
            load(folder, uuid)
        assert caught.value.path == str(target)
        command = caught.value.reason.partition(": ")[2].partition(",")[0]
        subprocess.run(shlex.split(command), check=True)
        assert load(folder, uuid) == "mine"


@pytest.mark.parametrize(("mode", "cure"), [("go=u", "go-w"), ("g=u", "go-w")])
def test_one_cure_is_enough_for_a_copy_with_a_wider_umask(folder, place, mode, cure):
    """As `cp -r`, unzip or a check-out makes it where the umask is 002 or 000; the command is for the whole store."""
    with user(OWNER):
        uuids = [store(folder, x) for x in range(5)]
        copy = place / "a copy"
        shutil.copytree(folder, copy)
        subprocess.run(["chmod", "-R", mode, copy], check=True)
        with pytest.raises(ana.UntrustedStoreError, match=f"chmod -R {cure}") as caught:
            load(copy, uuids[0])
        command = caught.value.reason.partition(": ")[2].partition(",")[0]
        subprocess.run(shlex.split(command), check=True)
        assert [load(copy, uuid) for uuid in uuids] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("where", ["file", "second", "first", "root"])
def test_a_planted_record_is_refused(folder, place, where):
    """A file, or a whole folder, of another user's in the place of one's own; the trap is not sprung."""
    data, sentinel = trap(place)
    uuid = CHOSEN
    path = path_of(folder, uuid)
    for parent in (folder, path.parent.parent, path.parent):
        parent.chmod(0o777)
    target = {"file": path, "second": path.parent, "first": path.parent.parent, "root": folder}[where]
    config = (folder / "ana.json").read_bytes()
    with user(OWNER):
        (shutil.rmtree if target.is_dir() else os.unlink)(target)
    with user(ATTACKER):
        path.parent.mkdir(parents=True, exist_ok=True)
        if where == "root":
            (folder / "ana.json").write_bytes(config)
        path.write_bytes(data)
    for parent in (folder, path.parent.parent, path.parent):
        parent.chmod(0o755)
    with user(OWNER):
        with pytest.raises(ana.UntrustedStoreError, match=f"owner {ATTACKER}") as caught:
            load(folder, uuid)
        assert caught.value.path in {str(target), str(path)}
        assert not sentinel.exists()
        # And with the option that says so, it is.
        load(folder, uuid, trusted_uids=[ATTACKER])
        assert sentinel.exists()


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *((where, kind) for where in ("file", "second", "first") for kind in ("link", "fifo")),
        ("second", "file"),
        ("first", "file"),
    ],
)
def test_links_and_pipes_are_refused(folder, place, where, kind):
    """In the place of each part of the path, even one's own; without waiting for anything."""
    uuid = address("mine")
    path = path_of(folder, uuid)
    target = {"file": path, "second": path.parent, "first": path.parent.parent}[where]
    with user(OWNER):
        target.rename(place / "elsewhere")
        if kind == "link":
            target.symlink_to(place / "elsewhere")
        elif kind == "fifo":
            os.mkfifo(target)
        else:
            target.write_bytes(b"")
    done = []

    def attempt():
        with pytest.raises((ana.UntrustedStoreError, ana.StateNotFoundError, ana.StoreError)) as caught:
            load(folder, uuid)
        done.append(caught.value)

    with user(OWNER):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join(120)
    assert done
    assert isinstance(done[0], ana.UntrustedStoreError) or kind != "link"


def test_the_root_may_be_a_link_of_ones_own(folder, place):
    """As to a scratch folder; another user's link is refused."""
    uuid = address("mine")
    with user(OWNER):
        (place / "mine").symlink_to(folder)
        assert load(place / "mine", uuid) == "mine"
    with user(ATTACKER):
        (place / "theirs").symlink_to(folder)
    with user(OWNER), pytest.raises(ana.UntrustedStoreError, match=f"owner {ATTACKER}"):
        load(place / "theirs", uuid)


@pytest.mark.slow
def test_a_race_wins_nothing(folder, place):
    """While an attacker keeps swapping a shard folder for a link to theirs, only one's own state is ever loaded."""
    data, sentinel = trap(place)
    uuid = CHOSEN
    path = path_of(folder, uuid)
    with user(ATTACKER):
        (place / "planted").mkdir()
        (place / "planted" / path.name).write_bytes(data)
    stop = threading.Event()
    seen = {"mine": 0, "refused": 0}

    def swap():
        hidden = path.parent.with_name("hidden")
        while not stop.is_set():
            path.parent.rename(hidden)
            path.parent.symlink_to(place / "planted")
            path.parent.unlink()
            hidden.rename(path.parent)
            time.sleep(0.0005)

    thread = threading.Thread(target=swap)
    with user(OWNER):
        thread.start()
        try:
            for _ in range(3000):
                opened = DirectoryStore(str(folder), durable=False)
                try:
                    found = opened.get(uuid, wait=False)
                    assert b"mine" in bytes(found.segments()[0])
                    seen["mine"] += 1
                except (ana.UntrustedStoreError, ana.StateNotFoundError, ana.StoreError):
                    seen["refused"] += 1
        finally:
            stop.set()
            thread.join()
    assert not sentinel.exists()
    assert min(seen.values()) > 10


# Shared


def test_a_shared_store_is_its_groups(place):
    """New ones have mode 2770; each member reads and writes what the others have stored, whatever their umask."""
    with user(OWNER, gid=GROUP, umask=0o077):
        first = store(place / "store", "first", shared=True)
    root = place / "store"
    assert stat.S_IMODE(root.stat().st_mode) == 0o2770
    with user(COLLEAGUE, gid=GROUP, umask=0o022):
        # The folder is OWNER's: a member says that they trust them, and the group.
        with pytest.raises(ana.UntrustedStoreError):
            load(root, first, shared=True)
        options = {"shared": True, "trusted_uids": [OWNER]}
        assert load(root, first, **options) == "first"
        second = store(root, "second", **options)
        third = store(root, "x" * 3_000_000, **options)
    with user(OWNER, gid=GROUP, umask=0o077):
        assert load(root, second, shared=True) == "second"
        assert load(root, third, shared=True) == "x" * 3_000_000
        assert store(root, "second", shared=True) == second
    for folder, _, names in os.walk(root):
        assert stat.S_IMODE(os.stat(folder).st_mode) & 0o2777 == 0o2770, folder
        for name in names:
            found = os.stat(f"{folder}/{name}")
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, GROUP), name
    with user(ATTACKER), pytest.raises(ana.StoreError):
        load(root, first, shared=True, trusted_uids=[OWNER])


def test_a_groups_store_has_to_be_called_shared(place):
    """A folder that a group can write to, because of somebody's umask, is an accident else."""
    with user(OWNER, gid=GROUP):
        uuid = store(place / "store", "mine", shared=True)
        with pytest.raises(ana.UntrustedStoreError, match=r"chmod -R go-w .*, or shared=True to trust.*ANA_SHARED=1"):
            load(place / "store", uuid)


def test_a_folder_for_everyone_is_not_to_be_changed(place):
    """`chmod -R` is the cure for a store, not for /tmp or a project's folder, which are no stores."""
    for mode, holds, cure in (
        (0o1777, (), "use a folder of your own in it"),
        (0o1777, ("theirs",), r"\(it holds 'theirs'\): choose an empty folder"),
        (0o2775, ("theirs", "another"), "and 1 more.*choose an empty folder"),
    ):
        folder = place / f"{mode:o}-{len(holds)}"
        folder.mkdir()
        for name in holds:
            (folder / name).touch()
        folder.chmod(mode)
        with pytest.raises(ana.UntrustedStoreError, match=cure) as raised:
            ana.set_dl(folder)
        assert "chmod" not in str(raised.value)
        assert raised.value.__cause__ is None
    empty = place / "empty"
    empty.mkdir()
    empty.chmod(0o777)
    with pytest.raises(ana.UntrustedStoreError, match=f"chmod -R go-w {empty}"):
        ana.set_dl(empty)


def test_the_environment_says_it_for_workers(place, monkeypatch):
    """`ANA_SHARED` and `ANA_TRUSTED_UIDS`; nonsense in them is an error that names them."""
    with user(OWNER, gid=GROUP):
        uuid = store(place / "store", "mine", shared=True)
        monkeypatch.setenv("ANA_SHARED", "1")
        assert load(place / "store", uuid) == "mine"
    with user(COLLEAGUE, gid=GROUP):
        monkeypatch.setenv("ANA_TRUSTED_UIDS", f"5,{OWNER}")
        assert load(place / "store", uuid) == "mine"
        monkeypatch.setenv("ANA_TRUSTED_UIDS", "root")
        with pytest.raises(ana.ANAError, match="ANA_TRUSTED_UIDS"):
            load(place / "store", uuid)
        monkeypatch.setenv("ANA_TRUSTED_UIDS", "")
        monkeypatch.setenv("ANA_SHARED", "perhaps")
        with pytest.raises(ana.ANAError, match="ANA_SHARED"):
            load(place / "store", uuid)


@pytest.mark.parametrize("wrong", ["root", "unmapped", [-1], ["5"], [True]])
def test_nonsense_is_no_list_of_users(place, wrong):
    """Nothing is made then."""
    with pytest.raises((TypeError, ValueError), match="trusted_uids"):
        ana.DirDataLayer(place / "store", trusted_uids=wrong)
    assert not (place / "store").exists()
