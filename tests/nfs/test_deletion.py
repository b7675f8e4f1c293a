"""States that vanish while someone reads them: the right object or a typed error, nothing else."""

import os
import threading
import time

import clients
import pytest
import raw_tree

import ana

UUID = clients.numbered_uuid(1)
VALUE = os.urandom(2_000_000)
"""Larger than one READ, so that a file can vanish between two of them."""
SERVER_SETTLE_SECONDS = 0.5
"""The server's cache of open files lets go of a deleted one a moment later."""


def load_while_held(lossy, act):
    """Load through the proxy; do something while the first READ is held. Returns the value or the error."""
    results = []

    def load():
        try:
            results.append(clients.load(lossy.folder.near, UUID))
        except ana.ANAError as error:
            results.append(error)

    # The store itself is read first: open the layer once before, so that its READ is not the one that's held.
    ana.DataLayer(pickle_dir=lossy.folder.near)
    lossy.send("hold READ")
    reader = threading.Thread(target=load)
    reader.start()
    deadline = time.monotonic() + 60
    while lossy.send("status")["held"] is None:
        assert time.monotonic() < deadline, "nothing was read"
        time.sleep(0.01)
    act()
    time.sleep(SERVER_SETTLE_SECONDS)
    lossy.send("release")
    reader.join()
    return results[0]


def test_a_file_deleted_under_the_reader_is_not_found(lossy):
    """ESTALE in the middle of a load: the file is opened again, and as it is gone, that is what is said."""
    clients.store(lossy.folder.far, VALUE, UUID)
    found = load_while_held(lossy, lambda: raw_tree.path_of(lossy.folder.far, UUID).unlink())
    assert isinstance(found, ana.StateNotFoundError)


def test_a_file_replaced_under_the_reader_is_read_anew(lossy):
    """ESTALE in the middle of a load: where the state has been stored again meanwhile, it is loaded."""
    clients.store(lossy.folder.far, VALUE, UUID)

    def replace():
        raw_tree.path_of(lossy.folder.far, UUID).unlink()
        clients.store(lossy.folder.far, VALUE, UUID)

    assert load_while_held(lossy, replace) == VALUE


def test_loads_during_deletions_are_right_or_not_found(shared, other):
    """While one client deletes and stores a state, the other's loads give its value or StateNotFoundError."""
    other.call(clients.store, shared.far, VALUE, UUID)
    other.start(clients.keep_replacing, shared.far, VALUE, UUID, 20)
    loads = 0
    for _ in range(20):
        try:
            assert clients.load(shared.near, UUID) == VALUE
            loads += 1
        except ana.StateNotFoundError:
            continue
    other.result()
    assert clients.load(shared.near, UUID) == VALUE
    assert loads
    assert raw_tree.strangers(shared.far) == []


def test_stores_during_deletions_leave_a_whole_state(shared, other):
    """While one client deletes a state, the other stores it: at the end it is there, whole."""
    other.call(clients.store, shared.far, VALUE, UUID)
    other.start(clients.keep_replacing, shared.far, VALUE, UUID, 15)
    for _ in range(15):
        clients.store(shared.near, VALUE, UUID)
    other.result()
    assert clients.load(shared.near, UUID) == other.call(clients.load, shared.far, UUID) == VALUE


@pytest.mark.parametrize("size_bytes", [1_000, 2_000_000])
def test_a_purged_state_is_missed_by_name(shared, other, size_bytes):
    """A state that the other client has deleted raises StateNotFoundError with its UUID."""
    uuid = clients.store(shared.near, os.urandom(size_bytes))
    other.call(os.unlink, raw_tree.path_of(shared.far, uuid))
    with pytest.raises(ana.StateNotFoundError) as raised:
        clients.load(shared.near, uuid)
    assert raised.value.uuid == uuid
