"""The lab has the faults that the other tests are about; if it had not, they would prove nothing."""

import errno
import os
import threading
import time

import pytest
from mountstats import RoundTrips

# Real clusters differ, and that is no fault of theirs.
pytestmark = pytest.mark.skipif("ANA_TEST_EXPORT" not in os.environ, reason="these are the lab's own faults")

SERVER_SETTLE_SECONDS = 0.5


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
    with RoundTrips(mount_of(shared.near)) as trips:
        assert not (shared.near / "late").exists()
    assert trips.total == 0


def test_clients_have_their_own_caches(shared):
    """What one client has read is read from the server again by the other."""
    (shared.near / "file").write_bytes(b"x" * 1000)
    with RoundTrips(mount_of(shared.far)) as trips:
        assert (shared.far / "file").read_bytes() == b"x" * 1000
    assert trips.operations["READ"] == 1


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


def mount_of(path):
    """Return the mount point of a folder."""
    while not os.path.ismount(path):
        path = path.parent
    return path
