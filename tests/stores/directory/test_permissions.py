"""What is made in a store has the store's mode, group and owner; nothing is written through what somebody planted."""

import io
import os
import stat
import tarfile
import tempfile
import threading
from pathlib import Path

# Another user may not be able to read what is imported late.
import filelock  # noqa: F401 - see above
import pytest
from support import care, processes
from support.users import user

import ana
from ana import maintenance
from ana.__main__ import main
from ana.fs import atomic, permissions

OWNER, MEMBER, GROUP = 23_461, 23_462, 23_460


def needs_root(test):
    """Mark a test that is several users."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users: sudo python -m pytest")(test)


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
        with pytest.raises(ana.UntrustedStoreError, match="everyone may write"):
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
    "name",
    ["history.jsonl", "summary.json", "verified.json", "locks/maintenance.lock", "locks/maintenance.lock.holder"],
)
def test_nothing_is_written_through_what_was_planted(tmp_path, capfd, name, kind):
    """Neither followed nor waited for nor replaced: maintenance goes on without that file."""
    uuid = stored(tmp_path / "store")
    untouched = plant(kind, tmp_path / "store" / ".ana" / name, tmp_path / "precious")
    for arguments in (
        ["stats", "--exact"],
        ["verify"],
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
    os.close(permissions.open_regular(str(tmp_path / "new")))
    assert (tmp_path / "new").is_file()
    for number, kind in enumerate(PLANTED):
        path = tmp_path / str(number) / "planted"
        untouched = plant(kind, path, tmp_path / str(number) / "target")
        with pytest.raises(ana.UntrustedStoreError, match="not a regular file"):
            permissions.open_regular(str(path))
        with pytest.raises(ana.UntrustedStoreError, match="not a regular file"):
            atomic.replace(str(path), b"new")
        with pytest.raises(ana.UntrustedStoreError, match="not a regular file"):
            atomic.append(str(path), b"new")
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


# Where a user wants output, outside of any store


def put(where, capfd, tmp_path, *, export=False):
    """Have a page, or an export, written there by the command line."""
    uuid = stored(tmp_path / "store")
    words = ["export", uuid] if export else ["report"]
    return care.ran(capfd, "-q", "-d", tmp_path / "store", *words, "-o", where)


@needs_root
@pytest.mark.parametrize("export", [False, True])
def test_a_device_stays_one(tmp_path, capfd, export):
    """What is written to it goes where the device has it; its errors are told."""
    for name, minor, code in (("null", 3, 0), ("full", 7, 1)):
        os.mknod(tmp_path / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        assert put(tmp_path / name, capfd, tmp_path, export=export).code == code
        assert stat.S_ISCHR((tmp_path / name).lstat().st_mode)


@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("where", ["-", "/dev/stdout", "pipe"])
def test_a_pipe_gets_what_is_written(tmp_path, capfdbinary, where, export):
    """A named one, or standard output, onto which nothing else is printed."""
    uuid = stored(tmp_path / "store")
    if where != "pipe":
        words = ["export", uuid] if export else ["report"]
        assert main(["-d", str(tmp_path / "store"), *words, "-o", where]) == 0
        got = capfdbinary.readouterr().out
    else:
        os.mkfifo(tmp_path / "pipe")
        heard = []
        thread = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_bytes()))
        thread.start()
        words = ["export", uuid] if export else ["report"]
        assert main(["-q", "-d", str(tmp_path / "store"), *words, "-o", str(tmp_path / "pipe")]) == 0
        thread.join(120)
        (got,) = heard
        assert (tmp_path / "pipe").is_fifo()
    if export:
        with tarfile.open(fileobj=io.BytesIO(got)) as archive:
            assert [name.rpartition("/")[2] for name in archive.getnames()] == ["ana.json", f"{uuid}.pkl.zst"]
    else:
        assert got.startswith(b"<!doctype html>")
        assert got.rstrip().endswith(b"</html>")


def test_ones_own_link_is_followed(tmp_path, capfd):
    """The page goes where it leads, and the link stays, a dangling one, too."""
    (tmp_path / "page.html").write_text("old")
    (tmp_path / "link").symlink_to("page.html")
    (tmp_path / "deep").symlink_to(tmp_path / "link")
    (tmp_path / "new").symlink_to("made.html")
    for name, target in (("deep", "page.html"), ("new", "made.html")):
        assert put(tmp_path / name, capfd, tmp_path).code == 0
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text().startswith("<!doctype")
    (tmp_path / "ring").symlink_to("ring")
    assert put(tmp_path / "ring", capfd, tmp_path).code == 1


@needs_root
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_somebody_planted_gets_no_output(place, tmp_path, capfd, kind):
    """In a folder that everyone may write to, another user's link is not followed, nor their pipe written to."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    with user(MEMBER):
        (place / "page").symlink_to(precious) if kind == "link" else os.mkfifo(place / "page")
    ran = put(place / "page", capfd, tmp_path)
    assert (ran.code, precious.read_text()) == (1, "precious")
    assert f"belongs to user {MEMBER}" in ran.err
