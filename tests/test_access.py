"""What is made in a store has the store's mode, group and owner; nothing is written through what somebody planted."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

# Another user may not be able to read what is imported late.
import filelock  # noqa: F401 - see above
import pytest
from helpers import care, processes

import ana
from ana import access, maintenance, publishing

OWNER, MEMBER, GROUP = 23_461, 23_462, 23_460


def needs_root(test):
    """Mark a test that is several users."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users: sudo python -m pytest")(test)


@contextlib.contextmanager
def user(uid, *groups, umask=0o022):
    """Be another user, whose own group comes first, in this very process."""
    os.setgroups([uid, *groups])
    os.setegid(uid)
    os.seteuid(uid)
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


@pytest.fixture
def place():
    """A folder that all users can reach and write to, as /scratch is."""
    with tempfile.TemporaryDirectory(prefix="ana-access-") as found:
        Path(found).chmod(0o1777)
        yield Path(found)


def everything(root):
    """Return mode and group of each file and folder under a folder."""
    found = [(path.relative_to(root), path.lstat()) for path in sorted(root.rglob("*"))]
    return {str(name): (stat.S_ISDIR(seen.st_mode), stat.S_IMODE(seen.st_mode), seen.st_gid) for name, seen in found}


def stored(root, x=1, **options):
    """Store something; return its UUID."""
    ana.set_dl(pickle_dir=root, durable=False, **options)
    return ana.Ref(x).make_uuid()


WHO_COMES_FIRST = {
    "stats": lambda root, _: maintenance.stats(root, exact=True),
    "keep": lambda root, uuid: maintenance.keep(root, "first", [uuid]),
    "gc": lambda root, _: maintenance.gc(root, maintenance.Scope(older_than_seconds=1e6)),
    "sweep": lambda root, _: maintenance.sweep(root),
    "report": lambda root, _: maintenance.report(root),
    "a large state": lambda root, _: stored(root, os.urandom(1_100_000), shared=None),
}


@needs_root
@pytest.mark.parametrize("first", WHO_COMES_FIRST)
@pytest.mark.parametrize("setgid", [True, False])
def test_a_groups_store_is_the_groups_whoever_comes_first(place, monkeypatch, first, setgid):
    """All that is made has the store's group, mode and setgid, whatever the umask; the next member works with it."""
    monkeypatch.setenv("ANA_SHARED", "1")
    monkeypatch.setenv("ANA_TRUSTED_UIDS", f"{OWNER},{MEMBER}")
    root = place / "store"
    root.mkdir()
    os.chown(root, OWNER, GROUP)
    root.chmod(0o2770 if setgid else 0o770)
    with user(OWNER, GROUP, umask=0o077):
        uuid = stored(root)
        WHO_COMES_FIRST[first](root, uuid)
    with user(MEMBER, GROUP, umask=0o077):
        for act in WHO_COMES_FIRST.values():
            act(root, uuid)
        stored(root, 2)
    folder_mode = 0o2770 if setgid else 0o770
    for name, (is_folder, mode, group) in everything(root).items():
        assert (name, oct(mode), group) == (name, oct(folder_mode if is_folder else 0o660), GROUP)


@needs_root
def test_a_store_that_anybody_may_read_is_its_owners_to_write(place):
    """Nobody else can write to, or move, anything in it."""
    root = place / "store"
    with user(OWNER):
        root.mkdir(mode=0o755)
        uuid = stored(root)
        for act in WHO_COMES_FIRST.values():
            act(root, uuid)
    assert {mode & 0o022 for _, mode, _ in everything(root).values()} == {0}


@needs_root
def test_what_root_does_in_a_users_store_stays_the_users(place, monkeypatch):
    """Maintenance that an administrator ran first does not keep the owner out."""
    monkeypatch.setenv("ANA_TRUSTED_UIDS", str(OWNER))
    root = place / "store"
    with user(OWNER):
        uuid = stored(root)
    for act in WHO_COMES_FIRST.values():
        act(root, uuid)
    assert {path.lstat().st_uid for path in root.rglob("*")} == {OWNER}
    with user(OWNER):
        for act in WHO_COMES_FIRST.values():
            act(root, uuid)


@needs_root
def test_an_older_versions_folder_for_all_is_narrowed_or_refused(place):
    """`.ana` with mode 0777: who owns it narrows it by the next write, and nobody believes its roots before."""
    root = place / "store"
    with user(OWNER):
        root.mkdir(mode=0o755)
        uuid = stored(root)
        (root / ".ana").mkdir()
        (root / ".ana").chmod(0o777)
        maintenance.keep(root, "mine", [uuid])
        assert stat.S_IMODE((root / ".ana").stat().st_mode) == 0o755
        (root / ".ana" / "roots").chmod(0o777)
        with pytest.raises(ana.UntrustedStoreError, match="everybody may write"):
            maintenance.gc(root, maintenance.Scope(unreachable=True), grace_seconds=0)
        maintenance.keep(root, "mine", [uuid])
        assert maintenance.gc(root, maintenance.Scope(unreachable=True), grace_seconds=0).trashed == []


PLANTED = ["link", "dangling link", "pipe", "device", "folder"]


def plant(kind, path, target):
    """Put something in a file's place; return what shows that it is untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        target.write_text("precious")
        path.symlink_to(target)
    elif kind == "dangling link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        if os.geteuid():
            pytest.skip("only root makes devices")
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    else:
        path.mkdir()

    def untouched():
        assert stat.S_IFMT(path.lstat().st_mode) != stat.S_IFREG
        assert (target.read_text() == "precious") if kind == "link" else not target.exists()

    return untouched


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize(
    "name", ["history.jsonl", "summary.json", "locks/maintenance.lock", "locks/maintenance.lock.holder"]
)
def test_nothing_is_written_through_what_was_planted(tmp_path, capfd, name, kind):
    """Neither followed nor waited for nor replaced: maintenance goes on without that file."""
    uuid = stored(tmp_path / "store")
    untouched = plant(kind, tmp_path / "store" / ".ana" / name, tmp_path / "precious")
    for arguments in (
        ["stats", "--exact"],
        ["gc", "--unreachable", "--without-roots"],
        ["sweep"],
        ["keep", "it", uuid],
    ):
        assert care.ran(capfd, "-q", "-d", tmp_path / "store", *arguments).code == 0
        untouched()


@pytest.mark.parametrize("name", [".ana", ".ana/roots", ".ana/locks"])
def test_the_stores_own_folders_are_no_links(tmp_path, name):
    """What is written there would land somewhere else."""
    uuid = stored(tmp_path / "store")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "store" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    if name != ".ana/locks":
        with pytest.raises(ana.UntrustedStoreError, match="symbolic link"):
            maintenance.keep(tmp_path / "store", "it", [uuid])
    maintenance.sweep(tmp_path / "store")
    maintenance.stats(tmp_path / "store", exact=True)
    stored(tmp_path / "store", os.urandom(1_100_000))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_is_opened_for_writing_only_if_it_is_one(tmp_path):
    """The one function that does it refuses each other kind, and makes what is missing."""
    os.close(access.open_regular(str(tmp_path / "new")))
    assert (tmp_path / "new").is_file()
    for number, kind in enumerate(PLANTED):
        path = tmp_path / str(number) / "planted"
        untouched = plant(kind, path, tmp_path / str(number) / "target")
        with pytest.raises(ana.UntrustedStoreError, match="not a regular file"):
            access.open_regular(str(path))
        with pytest.raises(ana.UntrustedStoreError, match="not a regular file"):
            publishing.replace(str(path), b"new")
        with pytest.raises(ana.UntrustedStoreError, match="not a regular file"):
            publishing.append(str(path), b"new")
        untouched()


def test_what_is_made_outside_of_a_store_has_the_umasks_mode(tmp_path):
    """An exported file, a page, a process's numbers: nobody else may write to them."""
    program = """
import ana, sys
from ana import maintenance
ana.set_dl(pickle_dir="store")
uuid = ana.Ref(1).make_uuid()
maintenance.export_states("store", [uuid], "out.ana")
maintenance.write_file("page.html", b"page")
"""
    processes.run_program(
        program, cwd=tmp_path, umask=0o022, env=processes.environment(ANA_STATS=str(tmp_path / "numbers"))
    )
    made = [tmp_path / "out.ana", tmp_path / "page.html", tmp_path / "numbers", *(tmp_path / "numbers").iterdir()]
    assert len(made) == 4
    assert [oct(path.stat().st_mode & 0o022) for path in made] == [oct(0)] * 4
