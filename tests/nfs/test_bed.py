"""The lab has the faults that the other tests are about; if it had not, they would prove nothing."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from conftest import PAIRS, name_of
from mountstats import RoundTrips, filesystem, mount_point

# Read now: the surrounding tests take every ANA_ variable out of the environment.
EXPORT = os.environ.get("ANA_TEST_EXPORT", "")
# Real clusters differ, and that is no fault of theirs.
pytestmark = pytest.mark.skipif(not EXPORT, reason="these are the lab's own faults")

SERVER_SETTLE_SECONDS = 0.5
V4_PAIRS = [pair for pair in PAIRS if EXPORT and filesystem(pair.near) == "nfs4"] or [None]
CLIENTS = Path("/proc/fs/nfsd/clients")


def wait_until_held(lossy):
    """Wait until the proxy has stopped a call."""
    deadline = time.monotonic() + 60
    while lossy.send("status")["held"] is None:
        assert time.monotonic() < deadline, "no such call came by"
        time.sleep(0.01)


def test_a_client_remembers_that_a_name_was_not_there(shared):
    """After a look-up that failed, a client goes on answering from memory while the file is there."""
    assert not (shared.near / "late").exists()
    (shared.far / "late").write_bytes(b"here")
    with RoundTrips(mount_point(shared.near)) as trips:
        assert not (shared.near / "late").exists()
    assert trips.total == 0


def test_clients_have_their_own_caches(shared):
    """What one client has read is read from the server again by the other."""
    (shared.near / "file").write_bytes(b"x" * 1000)
    with RoundTrips(mount_point(shared.far)) as trips:
        assert (shared.far / "file").read_bytes() == b"x" * 1000
    assert trips.operations["READ"] == 1


def client_ids():
    """Return the server's ids of its NFSv4 clients, by the name that each gives itself."""
    ids = {}
    for info in CLIENTS.glob("*/info"):
        fields = dict(line.split(": ", 1) for line in info.read_text().splitlines())
        if fields["status"] == "confirmed":
            ids[fields["name"].strip('"')] = fields["clientid"]
    return ids


def test_the_server_sees_two_nfsv4_clients():
    """The two mounts have host names and client ids of their own, as two compute nodes have."""
    ids = client_ids()
    assert set(ids) == {"Linux NFSv4.2 node-a", "Linux NFSv4.2 node-b"}
    assert len(set(ids.values())) == 2


def test_a_reader_that_opens_a_file_again_sees_what_the_other_client_appended(shared):
    """The server does not delegate a file to its reader while the other client writes it.

    To the server, two mounts with one host name are one client: the reader would get a delegation, and would never ask
    again.
    """
    with (shared.near / "file").open("ab", buffering=0) as writer:
        for count in range(1, 4):
            writer.write(b"x" * 1000)
            os.fsync(writer)
            with (shared.far / "file").open("rb") as reader:
                assert len(reader.read()) == count * 1000


def is_delegated(path):
    """Return whether the server has told an NFSv4 client that it will hear of any change of a file."""
    states = "".join(file.read_text() for file in CLIENTS.glob("*/states"))
    return any("type: deleg" in line and f"{path.parent.name}/{path.name}" in line for line in states.splitlines())


def open_delegated(path):
    """Open a file that nobody writes, until the server delegates it: it lets go of the writer's file a moment later."""
    deadline = time.monotonic() + 60
    while True:
        reader = path.open("rb")
        if is_delegated(path):
            return reader
        reader.close()
        assert time.monotonic() < deadline, "the server delegates nothing"
        time.sleep(0.1)


@pytest.mark.parametrize("mounts", V4_PAIRS, indirect=True, ids=name_of)
def test_a_delegation_is_recalled_when_the_other_client_writes(shared):
    """The server delegates a file to its only reader, and takes it back when the other client opens it to write."""
    file = shared / "file"
    file.near.write_bytes(b"x" * 1000)
    with open_delegated(file.far) as reader:
        assert len(reader.read()) == 1000
        with file.near.open("ab") as writer:
            writer.write(b"x" * 1000)
        assert not is_delegated(file.far)
        with file.far.open("rb") as again:
            assert len(again.read()) == 2000


def test_two_clients_that_append_to_one_file_overwrite_each_other(shared):
    """O_APPEND goes by the size that the client knows."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    near, far = (os.open(folder / "file", flags) for folder in shared)
    for descriptor, letter in ((near, b"n"), (far, b"f")):
        os.write(descriptor, letter * 1000)
        os.fsync(descriptor)
        os.close(descriptor)
    assert Path(EXPORT, shared.near.name, "file").read_bytes() == b"f" * 1000


@pytest.mark.parametrize(
    ("procedure", "act", "lie", "left"),
    [
        ("LINK", lambda folder: os.link(folder / "file", folder / "link"), errno.EEXIST, {"file", "link"}),
        ("MKDIR", lambda folder: os.mkdir(folder / "folder"), errno.EEXIST, {"file", "folder"}),
        ("REMOVE", lambda folder: os.unlink(folder / "file"), errno.ENOENT, set()),
        ("RENAME", lambda folder: os.rename(folder / "file", folder / "renamed"), errno.ENOENT, {"renamed"}),
    ],
)
def test_a_lost_reply_turns_success_into_an_error(lossy, procedure, act, lie, left):
    """A client that did not hear the reply is told that what it did itself stands in its way."""
    (lossy.folder.near / "file").touch()
    lossy.send(f"swallow {procedure}")
    with pytest.raises(OSError) as raised:
        act(lossy.folder.near)
    assert raised.value.errno == lie
    assert lossy.send("status")["swallowed"] == [procedure]
    assert set(os.listdir(lossy.folder.far)) == left


def test_a_reader_of_a_deleted_file_gets_estale(lossy):
    """A file that another client deletes between open and read answers ESTALE (NFSv3)."""
    (lossy.folder.far / "file").write_bytes(b"x" * 1000)
    descriptor = os.open(lossy.folder.near / "file", os.O_RDONLY)
    results = []

    def read():
        try:
            results.append(os.read(descriptor, 1000))
        except OSError as error:
            results.append(error.errno)

    reader = threading.Thread(target=read)
    lossy.send("hold READ")
    reader.start()
    wait_until_held(lossy)
    os.unlink(lossy.folder.far / "file")
    # The server's cache of open files lets go of a deleted one a moment later.
    time.sleep(SERVER_SETTLE_SECONDS)
    lossy.send("release")
    reader.join()
    os.close(descriptor)
    assert results == [errno.ESTALE]


def test_a_full_export_says_so_only_after_the_write(small_export):
    """Every write succeeds; that there was no room is said by fsync or close."""
    descriptor = os.open(small_export / "large", os.O_WRONLY | os.O_CREAT)
    assert os.write(descriptor, bytes(3 << 20)) == 3 << 20
    assert os.write(descriptor, bytes(3 << 20)) == 3 << 20
    errors = []
    for finish in (os.fsync, os.close):
        try:
            finish(descriptor)
        except OSError as error:
            errors.append(error.errno)
    assert errors[0] == errno.ENOSPC
