"""What one client has stored is there for the other, even where that one looked too early."""

import json
import os
import pickle
import time

import clients
import pytest
import raw_tree

import ana

UUID = clients.numbered_uuid(1)


def test_a_state_stored_after_a_failed_look_up_is_found_at_once(shared, other):
    """A client that has asked for a state before it was there loads it as soon as the other has stored it."""
    with ana.using_dl(pickle_dir=shared.near):
        # The folders are there, and known: only the file itself is remembered as missing.
        clients.store(shared.near, "neighbour", clients.numbered_uuid(2))
        with pytest.raises(ana.StateNotFoundError):
            clients.Model.ana_load(UUID)
        other.call(clients.store, shared.far, "late", UUID)
        assert clients.Model.ana_load(UUID).value == "late"


def test_a_shard_folder_made_after_a_failed_look_up_is_found_at_once(shared, other):
    """The same, where the folders of the state were missing too."""
    with ana.using_dl(pickle_dir=shared.near):
        with pytest.raises(ana.StateNotFoundError):
            clients.Model.ana_load(UUID)
        other.call(clients.store, shared.far, "late", UUID)
        assert clients.Model.ana_load(UUID).value == "late"


def test_a_state_published_while_a_client_looks_is_found(shared):
    """No look-up hits a moment after which the client stays blind to the state.

    Between a change of the folder and the link, all within one tick of the server's clock: then the
    folder's time of change, by which NFSv3 clients notice anything, doesn't move. Published by hand,
    because no program can be stopped there.
    """
    place = shared / "store"
    clients.store(place.near, "neighbour", UUID)
    for number in range(2, 22):
        uuid = clients.numbered_uuid(number)
        clients.store(shared.far / "source", number, uuid)
        record = raw_tree.path_of(shared.far / "source", uuid).read_bytes()
        path = raw_tree.path_of(place.far, uuid)
        temporary = path.with_name(".tmp-by-hand")
        temporary.write_bytes(record)
        early = raw_tree.path_of(place.near, uuid)
        change_at_next_tick(path.parent)
        # Twice, as every program does that knows of remembered misses.
        assert not early.exists()
        assert not early.exists()
        os.link(temporary, path)
        os.unlink(temporary)
        assert clients.load(place.near, uuid) == number


def change_at_next_tick(folder):
    """Change a folder just after the server's clock, which counts in ticks, has moved."""
    probe = folder / ".probe"
    probe.touch()
    before = probe.stat().st_mtime_ns
    deadline = time.monotonic() + 10
    while probe.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline, "the server's clock stands still"
        os.utime(probe)
    probe.unlink()


def test_a_reference_that_came_too_early_works_once_the_state_is_there(shared, other):
    """An object that was unpickled before its state was stored loads on first use after that."""
    with ana.using_dl(pickle_dir=shared.far):
        elsewhere = clients.Model("late")
        elsewhere.make_uuid(UUID)
        reference = pickle.dumps(elsewhere)
        raw_tree.path_of(shared.far, UUID).unlink()
        del elsewhere
    with ana.using_dl(pickle_dir=shared.near):
        early = pickle.loads(reference)
        other.call(clients.store, shared.far, "late", UUID)
        assert early.value == "late"


def test_both_clients_use_the_store_that_was_made_first(shared, other):
    """A client that has seen that there was no store takes the one that the other has made meanwhile."""
    place = shared / "store"
    assert not place.near.exists()
    uuid = other.call(clients.store, place.far, "first")
    made = json.loads((place.far / "ana.json").read_text())
    assert clients.load(place.near, uuid) == "first"
    assert json.loads((place.near / "ana.json").read_text()) == made


def test_a_state_stored_by_the_other_client_is_not_stored_again(shared, other):
    """Equal content has one address: the second client finds the first one's file, whatever it saw before."""
    with ana.using_dl(pickle_dir=shared.near):
        early = clients.Model(["same", "content"])
        uuid = other.call(clients.store, shared.far, ["same", "content"])
        [name] = raw_tree.states(shared.far)
        before = raw_tree.path_of(shared.far, uuid).stat()
        assert early.make_uuid() == uuid
    assert raw_tree.states(shared.far) == [name]
    assert raw_tree.path_of(shared.far, uuid).stat().st_ino == before.st_ino


def test_a_state_that_the_other_client_deleted_is_stored_again(shared, other):
    """`ana_store` looks again, and not into the client's memory: what was purged is written anew."""
    with ana.using_dl(pickle_dir=shared.near):
        model = clients.Model("purged")
        uuid = model.ana_store()
        other.call(os.unlink, raw_tree.path_of(shared.far, uuid))
        assert model.ana_store() == uuid
    assert other.call(clients.load, shared.far, uuid) == "purged"
