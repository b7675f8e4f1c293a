"""Real filesystems for the length of a `with` block: small, read-only, without hard links. Needs root."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def _command(*words: object) -> str:
    """Run a command that has to work; what it says otherwise is the failure's message."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def _command_or_skip(*words: object) -> str:
    """Run a command that sets something up; in a container it may be refused, and the test is skipped."""
    try:
        return _command(*words)
    except AssertionError as error:
        pytest.skip(f"not possible here: {error}")


def need(package: str, *programs: str) -> None:
    """Skip the test where it cannot run: mounting is root's, and the programs come from a Debian package."""
    if os.geteuid():
        pytest.skip("only root mounts filesystems")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install {package}")


@contextlib.contextmanager
def mounted(place: Path, *command: object) -> Iterator[Path]:
    """Run the command that mounts something at `place`, which is made; unmount it afterwards."""
    place.mkdir(exist_ok=True)
    _command_or_skip(*command, place)
    try:
        yield place
    finally:
        _command("umount", place)


@contextlib.contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    """Mount a filesystem in memory, e.g. with "size=1m"."""
    need("mount", "mount", "umount")
    with mounted(place, "mount", "-t", "tmpfs", "-o", options, "none"):
        yield place


@contextlib.contextmanager
def read_only(folder: Path, place: Path) -> Iterator[Path]:
    """Show a folder a second time, where nobody can write to it."""
    need("mount", "mount", "umount")
    with mounted(place, "mount", "--bind", folder):
        _command("mount", "-o", "remount,bind,ro", place)
        yield place


@contextlib.contextmanager
def ext4_read_only(place: Path, size_bytes: int, prepare: Callable[[Path], object]) -> Iterator[tuple[Path, Path]]:
    """Mount an ext4 read-only, as compute nodes may, which `prepare` has filled; yield it and the device's image."""
    with ext4(place, size_bytes):
        prepare(place)
        # A mount of its own, not a second one of a filesystem that was writable a moment ago.
        _command("umount", place)
        try:
            device = _command(
                "losetup", "--noheadings", "--output", "NAME", "--associated", place.with_suffix(".image")
            )
            _command("mount", "-t", "ext4", "-o", "ro", device, place)
            yield place, place.with_suffix(".image")
        finally:
            # What `ext4` unmounts is there in any case.
            if not os.path.ismount(place):
                _command("mount", "-t", "ext4", device, place)


@contextlib.contextmanager
def loop_device(image: Path, size_bytes: int) -> Iterator[str]:
    """Make a block device of a new file."""
    need("mount", "losetup")
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    device = _command_or_skip("losetup", "--show", "--find", image)
    try:
        yield device
    finally:
        _command("losetup", "--detach", device)


@contextlib.contextmanager
def ext4(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a new ext4 of the given size: what is written gets its blocks, and a full disk its error, late."""
    need("e2fsprogs", "mkfs.ext4")
    with loop_device(place.with_suffix(".image"), size_bytes) as device:
        _command("mkfs.ext4", "-q", "-m", "0", device)
        with mounted(place, "mount", "-t", "ext4", device):
            shutil.rmtree(place / "lost+found")
            yield place


@contextlib.contextmanager
def exfat(place: Path, size_bytes: int = 16 << 20, options: str = "umask=022") -> Iterator[Path]:
    """Mount a new exFAT, which has no hard links, no modes and no owners."""
    need("exfat-fuse", "mount.exfat-fuse")
    need("exfatprogs", "mkfs.exfat")
    with loop_device(place.with_suffix(".image"), size_bytes) as device:
        _command("mkfs.exfat", device)
        with mounted(place, "mount.exfat-fuse", "-o", options, device):
            yield place


@contextlib.contextmanager
def bindfs(folder: Path, place: Path) -> Iterator[Path]:
    """Show a folder by a daemon (FUSE) that does not name itself: the kernel calls it plain "fuse"."""
    need("bindfs", "bindfs", "umount")
    with mounted(place, "bindfs", folder):
        yield place


@contextlib.contextmanager
def overlay(folder: Path, place: Path) -> Iterator[Path]:
    """Lay an empty writable folder over another; both are made in `folder`."""
    need("mount", "mount", "umount")
    for name in ("lower", "upper", "work"):
        (folder / name).mkdir(exist_ok=True)
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    with mounted(place, "mount", "-t", "overlay", "-o", options, "overlay"):
        yield place


@contextlib.contextmanager
def squashfs(folder: Path, place: Path) -> Iterator[Path]:
    """Pack a folder into an image, as containers are, and mount it; files keep their times."""
    need("squashfs-tools", "mksquashfs")
    image = place.with_suffix(".squashfs")
    _command("mksquashfs", folder, image, "-quiet", "-no-progress")
    with mounted(place, "mount", "-t", "squashfs", "-o", "loop", image):
        yield place
