"""Two clients that write at the same time: each state once and whole, and the first writer wins."""

import time

import clients
import pytest
import raw_tree

import ana

ROUNDS = 6
LEAD_SECONDS = 0.3
"""How long before both begin: enough for the request to reach the other process."""


def both(other, function, near, far):
    """Call a function with arguments here and with others in the other process, at the same moment."""
    moment = time.time() + LEAD_SECONDS
    other.start(clients.at, moment, function, *far)
    here = clients.at(moment, function, *near)
    return here, other.result()


@pytest.mark.parametrize("size_bytes", [1_000, 2_000_000])
def test_the_same_state_from_two_clients_is_there_once(shared, other, size_bytes):
    """Both get the same UUID, one file is there, whole, and nothing else."""
    values = [bytes([number]) * size_bytes for number in range(ROUNDS)]
    for number, value in enumerate(values, 1):
        near, far = both(other, clients.store, (shared.near, value), (shared.far, value))
        assert near == far
        assert len(raw_tree.states(shared.near)) == number
    uuids = [clients.store(shared.near, value) for value in values]
    assert clients.load_many(shared.near, uuids) == other.call(clients.load_many, shared.far, uuids) == values
    assert raw_tree.strangers(shared.near) == []


def test_different_states_under_one_uuid_first_writer_wins(shared, other):
    """One of the two is there, the same for both clients, and stays."""
    for number in range(ROUNDS):
        uuid = clients.numbered_uuid(number)
        both(other, clients.store, (shared.near, "near", uuid), (shared.far, "far", uuid))
        winner = clients.load(shared.near, uuid)
        assert winner in {"near", "far"}
        assert other.call(clients.load, shared.far, uuid) == winner
    assert len(raw_tree.states(shared.near)) == ROUNDS
    assert raw_tree.strangers(shared.near) == []


def test_strict_layers_tell_the_loser(shared, other):
    """With `strict=True` whoever comes second under an explicit UUID is told so."""
    uuid = clients.numbered_uuid(1)
    other.call(clients.store, shared.far, "first", uuid)
    with ana.using_dl(pickle_dir=shared.near, strict=True):
        model = clients.Model("second")
        model.make_uuid(uuid)
        with pytest.raises(ana.UUIDConflictError):
            model.ana_store()
    assert other.call(clients.load, shared.far, uuid) == "first"


def test_many_different_states_of_two_clients_are_all_there(shared, other):
    """Two clients that write many states at once, half of them common: each is there once, for both."""
    near_values = [{"number": number} for number in range(20)]
    far_values = [{"number": number} for number in range(10, 30)]
    near, far = both(other, clients.store_many, (shared.near, near_values), (shared.far, far_values))
    assert near[10:] == far[:10]
    assert clients.load_many(shared.near, far) == far_values
    assert other.call(clients.load_many, shared.far, near) == near_values
    assert len(raw_tree.states(shared.near)) == 30
    assert raw_tree.strangers(shared.near) == []


def test_a_damaged_file_is_healed_for_both_clients(shared, other):
    """A client that stores what lies there damaged replaces it; the damaged file is kept under another name."""
    uuid = clients.store(shared.near, "precious")
    path = raw_tree.path_of(shared.near, uuid)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ana.CorruptedStateError):
        other.call(clients.load, shared.far, uuid)
    assert other.call(clients.store, shared.far, "precious") == uuid
    assert clients.load(shared.near, uuid) == "precious"
    [aside] = raw_tree.strangers(shared.far)
    assert aside.rpartition("/")[2].startswith(".bad-")
