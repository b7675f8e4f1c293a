"""A 4 MiB export that fills up: a typed error, nothing half-written, and usable again once there is room."""

import errno
import os
import time

import clients
import pytest
import raw_tree

import ana

STATE_BYTES = 300_000


def fill(place):
    """Store states that don't compress until one doesn't fit; returns those that did, and the one that didn't."""
    stored = []
    with ana.using_dl(pickle_dir=place):
        while True:
            model = clients.Model(os.urandom(STATE_BYTES))
            try:
                model.make_uuid()
            except ana.StoreError as error:
                return stored, model, error
            stored.append((model.uuid, model.value))


def free(place, uuids):
    """Delete states, and wait until the server has their space back: it keeps files open for a moment."""
    for uuid in uuids:
        raw_tree.path_of(place, uuid).unlink()
    wait_for_space(place, len(uuids) * STATE_BYTES)


def wait_for_space(place, size_bytes):
    """Wait until that much space is free."""
    deadline = time.monotonic() + 60
    while True:
        status = os.statvfs(place)
        if status.f_bavail * status.f_frsize >= size_bytes:
            return
        assert time.monotonic() < deadline, "the server keeps the space of deleted files"
        time.sleep(0.01)


def test_a_full_store_says_so(small_export):
    """The error is a StoreError with ENOSPC, the path, and what to do; the object has no address then."""
    stored, model, error = fill(small_export)
    assert len(stored) > 5
    assert error.errno == errno.ENOSPC
    assert error.path.startswith(str(small_export))
    assert error.hint
    assert model.uuid is None


def test_a_full_store_holds_whole_states_only(small_export, other):
    """Every state that was acknowledged is there, for a new process too; nothing else is."""
    stored, _, _ = fill(small_export)
    assert raw_tree.states(small_export) == sorted(f"{uuid}.pkl.zst" for uuid, _ in stored)
    assert raw_tree.strangers(small_export) == []
    uuids, values = zip(*stored, strict=True)
    assert other.call(clients.load_many, small_export, list(uuids)) == list(values)


def test_a_store_is_usable_again_when_there_is_room(small_export, other):
    """The same object is stored by the next attempt, once space has been freed."""
    stored, model, _ = fill(small_export)
    free(small_export, [uuid for uuid, _ in stored[:3]])
    with ana.using_dl(pickle_dir=small_export):
        uuid = model.make_uuid()
    assert other.call(clients.load, small_export, uuid) == model.value
    assert raw_tree.strangers(small_export) == []


def test_an_object_with_a_given_uuid_is_not_taken_for_stored(small_export, other):
    """After a failed `ana_store` the next one tries again, and a pickle isn't made of what is not there."""
    stored, _, _ = fill(small_export)
    with ana.using_dl(pickle_dir=small_export):
        model = clients.Model(os.urandom(STATE_BYTES))
        model.make_uuid(clients.numbered_uuid(1))
        for _ in range(2):
            with pytest.raises(ana.StoreError) as raised:
                model.ana_store()
            assert raised.value.errno == errno.ENOSPC
        free(small_export, [uuid for uuid, _ in stored[:3]])
        assert model.ana_store() == model.uuid
    assert other.call(clients.load, small_export, model.uuid) == model.value


def test_a_state_larger_than_the_export_leaves_no_trace(small_export):
    """A state that never fits leaves the space free for those that do."""
    with ana.using_dl(pickle_dir=small_export):
        for _ in range(3):
            with pytest.raises(ana.StoreError) as raised:
                clients.Model(os.urandom(6 << 20)).make_uuid()
            assert raised.value.errno == errno.ENOSPC
        assert raw_tree.names(small_export) == ["ana.json"]
        wait_for_space(small_export, STATE_BYTES)
        uuid = clients.Model("small").make_uuid()
    assert clients.load(small_export, uuid) == "small"
