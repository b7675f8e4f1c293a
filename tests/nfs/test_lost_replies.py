"""A server that acted and whose reply got lost (NFSv3): what was done counts as done."""

import os

import clients
import pytest
import raw_tree

import ana

UUID = clients.numbered_uuid(1)


def swallow(lossy, procedure):
    """Have the proxy lose the next reply to a procedure."""
    lossy.send("clear")
    lossy.send(f"swallow {procedure}")


def check_stored(lossy, other, uuid, value):
    """Check that another client finds the state, that it is there once, and that nothing else is there."""
    assert other.call(clients.load, lossy.folder.far, uuid) == value
    assert raw_tree.states(lossy.folder.far) == [f"{uuid}.pkl.zst"]
    assert raw_tree.strangers(lossy.folder.far) == []


@pytest.mark.parametrize("procedure", ["LOOKUP", "CREATE", "WRITE", "LINK", "REMOVE"])
def test_a_store_survives_a_lost_reply(lossy, other, procedure):
    """Whichever reply gets lost, the state is stored, and nobody is told of a conflict."""
    with ana.using_dl(pickle_dir=lossy.folder.near, strict=True):
        clients.Model("neighbour").ana_store()
        # Also marks the folder as known.
        clients.store(lossy.folder.near, "temporary", UUID)
        for name in raw_tree.states(lossy.folder.near):
            raw_tree.path_of(lossy.folder.near, name.removesuffix(".pkl.zst")).unlink()
        model = clients.Model("precious")
        model.make_uuid(UUID)
        swallow(lossy, procedure)
        assert model.ana_store() == UUID
        assert lossy.send("status")["swallowed"] == [procedure]
    check_stored(lossy, other, UUID, "precious")


def test_fresh_folders_survive_a_lost_reply(lossy, other):
    """MKDIR that says EEXIST has made the folder."""
    with ana.using_dl(pickle_dir=lossy.folder.near):
        swallow(lossy, "MKDIR")
        uuid = clients.Model("precious").ana_store()
        assert lossy.send("status")["swallowed"] == ["MKDIR"]
    check_stored(lossy, other, uuid, "precious")


@pytest.mark.parametrize("procedure", ["MKDIR", "CREATE", "LINK", "REMOVE"])
def test_a_new_store_survives_a_lost_reply(lossy, other, procedure):
    """The same while the store itself is made: it is usable, and it is the one that both clients use."""
    place = lossy.folder / "store"
    swallow(lossy, procedure)
    uuid = clients.store(place.near, "precious")
    assert lossy.send("status")["swallowed"] == [procedure]
    assert other.call(clients.load, place.far, uuid) == "precious"
    assert raw_tree.strangers(place.far) == []


def test_healing_survives_a_lost_reply(lossy, other):
    """RENAME that says ENOENT has set the damaged file aside."""
    uuid = clients.store(lossy.folder.near, "precious")
    path = raw_tree.path_of(lossy.folder.far, uuid)
    path.write_bytes(b"")
    swallow(lossy, "RENAME")
    with ana.using_dl(pickle_dir=lossy.folder.near):
        assert clients.Model("precious").ana_store() == uuid
        assert lossy.send("status")["swallowed"] == ["RENAME"]
    assert other.call(clients.load, lossy.folder.far, uuid) == "precious"
    [aside] = raw_tree.strangers(lossy.folder.far)
    assert os.path.basename(aside).startswith(".bad-")


@pytest.mark.parametrize("procedure", ["LOOKUP", "ACCESS", "READ"])
def test_a_load_survives_a_lost_reply(lossy, procedure):
    """Whichever reply gets lost, the right object comes."""
    clients.store(lossy.folder.far, "precious", UUID)
    with ana.using_dl(pickle_dir=lossy.folder.near):
        swallow(lossy, procedure)
        assert clients.Model.ana_load(UUID).value == "precious"
        assert lossy.send("status")["swallowed"] == [procedure]
