"""A file that one client appends to, while another reads it by offset and size."""

import itertools
import os
import statistics

import clients
import pytest
from conftest import counted_mount
from mountstats import RoundTrips, filesystem

REPEAT = 3
RECORD_BYTES = 1000
READ = os.O_RDONLY | os.O_CLOEXEC


@pytest.fixture
def appender(shared):
    """A new file that the near client appends to."""
    with clients.Appender(shared.near / "file") as appender:
        yield appender


@pytest.fixture
def opened(shared, appender):
    """The file as the far client has had it open since it had one record."""
    appender.append(bytes(RECORD_BYTES))
    descriptor = os.open(shared.far / "file", READ)
    assert len(os.pread(descriptor, RECORD_BYTES, 0)) == RECORD_BYTES
    yield descriptor
    os.close(descriptor)


def open_again(shared):
    """Open the file once more on the far client, which makes it ask for the size."""
    os.close(os.open(shared.far / "file", READ))


def commonest_total(mount, act, prepare=lambda: None):
    """Return how many calls to the server an act costs: the median of several runs."""
    totals = []
    for _ in range(REPEAT):
        prepare()
        with RoundTrips(mount) as trips:
            act()
        totals.append(trips.total)
    return statistics.median(totals)


def test_an_open_descriptor_reads_a_new_record_once_the_file_is_opened_again(shared, appender, opened):
    """One more open of the file shows each synced record to all of the client's descriptors, without a second try."""
    offsets = [0]
    records = [bytes(RECORD_BYTES)]
    for number in range(1, 21):
        # Odd sizes: records begin and end within pages that the reader has cached.
        records.append(bytes([number]) * (number * 777))
        offsets.append(appender.append(records[-1]))
        open_again(shared)
        assert os.pread(opened, len(records[-1]), offsets[-1]) == records[-1]
    for offset, record in zip(offsets, records, strict=True):
        assert os.pread(opened, len(record), offset) == record


def test_an_open_descriptor_alone_may_not_see_a_new_record(shared, appender, opened):
    """A client that does not ask the server reads nothing behind the size that it knows; never anything wrong."""
    mount = counted_mount(shared.far)
    record = b"new" * 300
    offset = appender.append(record)
    with RoundTrips(mount) as trips:
        found = os.pread(opened, len(record), offset)
    # It asks by itself when it has known the size for some seconds.
    assert found == (record if trips.total else b"")


@pytest.mark.parametrize("count", [1, 100])
def test_small_records_and_a_sync_cost_one_call(shared, appender, count):
    """Records that fit into one WRITE travel together, and the sync needs no call of its own."""
    mount = counted_mount(shared.near)
    records = [bytes(RECORD_BYTES)] * count
    assert commonest_total(mount, lambda: appender.append(*records)) == 1


def test_a_reader_pays_for_the_open_and_for_the_read(shared, appender, opened):
    """Opening a grown file again costs one call on NFSv4 and two on NFSv3; a new record costs one more."""
    mount = counted_mount(shared.far)
    offsets = itertools.count(RECORD_BYTES, RECORD_BYTES)

    def grow():
        appender.append(bytes(RECORD_BYTES))

    def read():
        with open(shared.far / "file", "rb", buffering=0) as again:
            assert len(os.pread(again.fileno(), RECORD_BYTES, next(offsets))) == RECORD_BYTES

    budget = 2 if filesystem(mount) == "nfs4" else 3
    # `opened` keeps NFSv4 from closing the file on the server.
    assert commonest_total(mount, read, grow) <= budget
