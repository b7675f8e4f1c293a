"""What a path lies on: what is not known to be this host's own is taken for somebody else's."""

import logging
import os

import pytest
from support import mounts as mounting
from support import node as nodes

import ana
from ana.fs import mounts


@pytest.fixture
def named(monkeypatch):
    """A function that has the kernel call a folder's filesystem by some name."""

    def name(folder, kind, options="rw"):
        device = os.stat(folder).st_dev
        line = f"22 1 {os.major(device)}:{os.minor(device)} / {folder} rw,relatime shared:1 - {kind} source {options}"
        monkeypatch.setattr(mounts, "_lines", lambda: [line])
        monkeypatch.setattr(mounts, "_types", {})
        return str(folder)

    return name


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "rootfs", "squashfs"])
def test_what_is_this_hosts_own(tmp_path, named, kind):
    """Disks, images and memory: nobody is waited for, and what is mapped there stays."""
    place = named(tmp_path, kind)
    assert mounts.is_local(place)
    assert not mounts.is_network(place)
    assert not mounts.waits_at_close(place)


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "cifs", "9p"])
def test_what_is_a_servers(tmp_path, named, kind):
    """Other hosts' files may show up late there, and closing a file waits for the server."""
    place = named(tmp_path, kind)
    assert not mounts.is_local(place)
    assert mounts.is_network(place)
    assert mounts.waits_at_close(place)


@pytest.mark.parametrize(
    "kind", ["fuse", "fuse.sshfs", "fuseblk", "virtiofs", "gfs2", "ocfs2", "dvs", "of-tomorrow", ""]
)
def test_what_nobody_knows_is_not_local(tmp_path, named, kind):
    """It is waited for, nothing is mapped, and what is stored there is synced before it counts."""
    place = named(tmp_path, kind)
    assert not mounts.is_local(place)
    assert mounts.is_network(place)
    assert not mounts.waits_at_close(place)


def test_without_a_list_of_mounts_nothing_is_local(tmp_path, monkeypatch):
    """Where /proc is hidden, nobody knows."""
    monkeypatch.setattr(mounts, "_lines", list)
    monkeypatch.setattr(mounts, "_types", {})
    assert not mounts.is_local(str(tmp_path))
    assert mounts.is_network(str(tmp_path))


ODD = [
    "two words",
    "tab\there",
    "new\nline",
    "back\\slash",
    "\\040",
    "#1",
    "re\rturn",
    "form\ffeed",
    "\u2028",
    "ü",
    "\udcff",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_names_of_mount_points_are_decoded(tmp_path, name):
    """Whatever bytes a mount point's name has, it is found, and so is what lies below it."""
    with mounting.tmpfs(tmp_path / name, "size=1m") as place:
        (place / "folder").mkdir()
        found = mounts.mount_of(str(place / "folder"))
        assert (found.point, found.kind) == (str(place), "tmpfs")
        assert mounts.is_local(str(place / "folder"))


def test_the_upper_one_of_two_mounts_counts(tmp_path):
    """What is mounted over another filesystem hides it; a folder that is bound elsewhere is what it was."""
    (tmp_path / "source").mkdir()
    with mounting.tmpfs(tmp_path / "place", "size=1m") as place:
        assert mounts.mount_of(str(place)).kind == "tmpfs"
        with mounting.bindfs(tmp_path / "source", place):
            assert mounts.mount_of(str(place)).kind == "fuse"
            assert not mounts.is_local(str(place))
        (place / "below").mkdir()
        with mounting.read_only(place / "below", tmp_path / "bound") as bound:
            assert mounts.mount_of(str(bound)).point == str(bound)
            assert mounts.is_local(str(bound))


def test_a_device_number_that_is_used_again(tmp_path):
    """The node's cache is not put on FUSE because a local filesystem had that number a moment ago."""
    (tmp_path / "source").mkdir()
    for _ in range(3):
        with mounting.tmpfs(tmp_path / "place", "size=1m") as place:
            assert mounts.is_local(str(place))
        with mounting.bindfs(tmp_path / "source", tmp_path / "place") as place:
            assert not mounts.is_local(str(place))


def test_an_overlay_is_what_it_writes_to(tmp_path):
    """An overlay on memory is local; one that would write to a server's filesystem is not."""
    memory = mounting.tmpfs(tmp_path / "memory", "size=4m")
    with memory, mounting.overlay(tmp_path / "memory", tmp_path / "place") as place:
        assert mounts.is_local(str(place))
        assert not mounts.is_network(str(place))


def test_an_overlay_on_a_server(tmp_path, monkeypatch):
    """Its upper folder is looked up, where it can be seen from here; in a container it cannot."""
    device = os.stat(tmp_path).st_dev
    (tmp_path / "server").mkdir()
    numbers = f"{os.major(device)}:{os.minor(device)}"
    for upper, local in ((tmp_path / "server", False), (tmp_path / "hidden", True)):
        over = f"22 1 {numbers} / {tmp_path} rw - overlay overlay rw,lowerdir=/x,upperdir={upper},workdir=/y"
        lines = [over, f"23 22 {numbers} / {tmp_path}/server rw - virtiofs tag rw"]
        monkeypatch.setattr(mounts, "_lines", lambda lines=lines: lines)
        (tmp_path / "place").mkdir(exist_ok=True)
        assert mounts.is_local(str(tmp_path / "place")) is local


def test_a_node_cache_on_a_daemons_filesystem_is_refused(tmp_path, caplog):
    """Nothing is mapped that goes away with the daemon, which would kill the process; a warning names the kind."""
    (tmp_path / "source").mkdir()
    ana.set_dl(pickle_dir=tmp_path / "store")
    uuid = ana.Ref(nodes.noise(1)).make_uuid()
    with mounting.bindfs(tmp_path / "source", tmp_path / "place") as place, caplog.at_level(logging.WARNING):
        ana.set_dl(pickle_dir=tmp_path / "store", node_cache=place / "not" / "there")
        assert ana.Ref.ana_load(uuid).value.flags.writeable
        assert not any((tmp_path / "source").iterdir())
    assert "fuse" in caplog.text
