"""Pairs of mounts of one shared filesystem: the lab's, or those of a real cluster in ANA_TEST_MOUNTS.

    tests/nfs/lab python -m pytest tests/nfs                    # boots a kernel, server and clients of its own
    ANA_TEST_MOUNTS=/mnt/a:/mnt/b python -m pytest tests/nfs    # two mounts of one export, separate caches

Several pairs are separated by commas. The mounts of a pair belong to two hosts, or to one that gives each a host name
of its own (see lab_guest.sh): otherwise an NFSv4 server takes both for one client. Without either of the two commands
these tests are not collected.
"""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import clients
import lossy_proxy
import mountstats
import pytest

REMOVE_SECONDS = 75.0
POLL_SECONDS = 0.02
HERE = Path(__file__).resolve().parent
IN_THE_LAB = "run tests/nfs/lab python -m pytest tests/nfs"
HOW = f"no shared filesystem: set ANA_TEST_MOUNTS=/mnt/a:/mnt/b (two mounts of one export), or {IN_THE_LAB}"
# Read now: the surrounding tests take every ANA_ variable out of the environment.
MOUNTS = os.environ.get("ANA_TEST_MOUNTS", "")
FULL_MOUNTS = os.environ.get("ANA_TEST_FULL_MOUNTS", "")
LOSSY_MOUNT = os.environ.get("ANA_TEST_LOSSY_MOUNT", "")
LOSSY_CONTROL = os.environ.get("ANA_TEST_LOSSY_CONTROL", "")


class Pair(NamedTuple):
    """One folder (or mount point) as two clients see it."""

    near: Path
    far: Path

    def __truediv__(self, name: str) -> "Pair":
        return Pair(self.near / name, self.far / name)


class Lossy(NamedTuple):
    """A folder behind the proxy that loses replies, and what tells the proxy to do so."""

    folder: Pair
    control: str

    def send(self, line: str) -> dict[str, object]:
        """Give the proxy a command; returns its state."""
        return lossy_proxy.send(self.control, line)


def pairs(text: str) -> list[Pair]:
    """Read `/mnt/a:/mnt/b,/mnt/c:/mnt/d`."""
    found = [tuple(map(Path, part.split(":"))) for part in text.split(",") if part]
    for pair in found:
        if len(pair) != 2 or not all(mount.is_dir() for mount in pair):
            message = f"{':'.join(map(str, pair))} is not a pair of mounted folders: see {__file__}"
            raise pytest.UsageError(message)
    return [Pair(near, far) for near, far in found]


PAIRS = pairs(MOUNTS)
LOSSY = pairs(LOSSY_MOUNT)
SMALL = [Path(text) for text in FULL_MOUNTS.split(",") if text]


def name_of(mount: Pair | Path | None) -> str:
    """Return what a test's name says of its mount."""
    return "no-mount" if mount is None else str(mount.near.name if isinstance(mount, Pair) else mount.name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out where there are no mounts, unless someone asked for them by name."""
    asked = any(Path(word.partition("::")[0]).resolve().is_relative_to(HERE) for word in config.args)
    return None if PAIRS or asked or collection_path.suffix != ".py" else True


def counted_mount(path: Path) -> Path:
    """Return the mount point above a path; skip the test where calls to the server are not counted."""
    mount = mountstats.mount_point(path)
    kind = mountstats.filesystem(mount)
    if kind not in {"nfs", "nfs4"}:
        pytest.skip(f"{kind} does not count its calls as NFS does")
    return mount


def private_folder(pair: Pair) -> Iterator[Pair]:
    """Make a new folder on a pair of mounts; remove it afterwards."""
    folder = pair / f"ana-test-{uuid.uuid4()}"
    folder.near.mkdir()
    yield folder
    remove(folder.near)


def remove(folder: Path) -> None:
    """Remove a folder and all that is in it."""
    deadline = time.monotonic() + REMOVE_SECONDS
    # A client keeps a file that was removed while still in use, as .nfs…, for a moment.
    while folder.exists() and time.monotonic() < deadline:
        for inner, _, _ in os.walk(folder):
            # An own change makes the client list the folder anew, and not from memory.
            (Path(inner) / ".probe").touch()
            (Path(inner) / ".probe").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(POLL_SECONDS)
    assert not folder.exists(), f"{folder} can't be removed: {os.listdir(folder)}"


@pytest.fixture(params=[*PAIRS] if PAIRS else [None], ids=name_of)
def mounts(request: pytest.FixtureRequest) -> Pair:
    """Two mount points of one export with separate caches."""
    pair: Pair = request.param or pytest.skip(HOW)
    return pair


@pytest.fixture
def shared(mounts: Pair) -> Iterator[Pair]:
    """An empty folder, as two clients see it."""
    yield from private_folder(mounts)


@pytest.fixture(params=[*SMALL] if SMALL else [None], ids=name_of)
def small_export(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder on a small export that has no other user."""
    mount: Path = request.param or pytest.skip(f"no small export to fill up: {IN_THE_LAB}")
    for folder in private_folder(Pair(mount, mount)):
        yield folder.near


@pytest.fixture
def lossy() -> Iterator[Lossy]:
    """A folder behind the proxy that loses replies; `far` is an ordinary client of the same export."""
    if not LOSSY:
        pytest.skip(f"no mount that loses replies: {IN_THE_LAB}")
    lossy_proxy.send(LOSSY_CONTROL, "clear")
    for folder in private_folder(LOSSY[0]):
        yield Lossy(folder, LOSSY_CONTROL)
        lossy_proxy.send(LOSSY_CONTROL, "clear")


@pytest.fixture(scope="session")
def second_process() -> Iterator[clients.Client]:
    """A process that lives as long as all the tests: starting one costs a second."""
    with clients.Client() as client:
        yield client


@pytest.fixture
def other(second_process: clients.Client) -> Iterator[clients.Client]:
    """A second process, idle at the beginning and at the end."""
    yield second_process
    second_process.settle()
