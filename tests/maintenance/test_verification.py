"""What `ana verify` leaves for `ana stats` and the report: what is damaged, and when that was checked last."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from support import care, mounts, packed, raw_tree
from support.care import numbered, put, ran
from support.users import user

from ana import maintenance
from ana.maintenance import saved
from ana.maintenance.verification import LISTED

FILE = ".ana/verified.json"
OTHER = 12345
"""A user that this host does not know."""


@pytest.fixture
def store(tmp_path):
    """A store of ten states, all older than a day but one."""
    tree = care.store(tmp_path / "store")
    for number in range(10):
        put(tree, numbered(number), age_days=2 * number)
    return tree


def spoil(store, number):
    """Flip a bit of a state's content; its header stays whole. Return what mends it."""
    path = raw_tree.path_of(store, numbered(number))
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    care.make_older(path, 2 * number)
    return lambda: path.write_bytes(data)


def known(store):
    """Return the UUIDs that the last verification knows to be wrong."""
    return [wrong.uuid for wrong in maintenance.last_verification(store).problems]


def test_a_store_that_was_never_verified_has_no_record(store):
    """None is said, until somebody looked."""
    assert maintenance.last_verification(store) is None
    maintenance.verify(store)
    last = maintenance.last_verification(store)
    assert (last.states, last.checked, last.problems, last.whole_taken) == (10, 10, [], last.taken)


def test_damage_is_known_until_a_look_shows_that_it_is_gone(store):
    """A look at other states does not forget it; one after it was mended does."""
    mend = spoil(store, 0)
    maintenance.verify(store)
    assert known(store) == [numbered(0)]
    whole = maintenance.last_verification(store).whole_taken
    # State 0 is too young to be read here.
    maintenance.verify(store, older_than_seconds=86400)
    last = maintenance.last_verification(store)
    assert (known(store), last.checked, last.whole_taken) == ([numbered(0)], 9, whole)
    assert last.taken > whole
    spoil(store, 5)
    maintenance.verify(store, older_than_seconds=86400)
    assert known(store) == [numbered(5), numbered(0)]
    mend()
    maintenance.verify(store, older_than_seconds=86400)
    assert known(store) == [numbered(5)]
    # It is lost by that; from the next look on, only states that refer to it are wrong.
    maintenance.verify(store, set_aside=True)
    assert known(store) == [numbered(5)]
    maintenance.verify(store, older_than_seconds=86400)
    assert known(store) == []


def test_damage_in_a_pack_is_known_until_it_is_gone(store):
    """A look at the files alone does not forget it, and a whole copy elsewhere mends it."""
    one, other = packed.state(1, size=5000), packed.state(2, size=5000)
    path = packed.write(store, one, other)
    packed.damage(path, len(one.data) + len(other.data) - 3)
    maintenance.verify(store)
    assert known(store) == [other.key]
    maintenance.verify(store, older_than_seconds=86400)
    assert known(store) == [other.key]
    packed.write(store, other)
    maintenance.verify(store, older_than_seconds=86400)
    assert known(store) == []


def test_damage_whose_state_is_unknown_is_known_as_long_as_its_pack(store):
    """Without an index nobody can say which state it was; the place in the pack is named."""
    one, other = packed.state(1, size=5000), packed.state(2, size=5000)
    path = packed.write(store, one, other, sealed=False, age_days=3)
    packed.damage(path, 20)
    found = maintenance.verify(store).problems
    assert [(wrong.uuid, wrong.name.partition(":")[0]) for wrong in found] == [("", f"packs/{path.name}")]
    maintenance.verify(store, older_than_seconds=10 * 86400)
    assert maintenance.last_verification(store).problems == found
    path.unlink()
    maintenance.verify(store, older_than_seconds=10 * 86400)
    assert maintenance.last_verification(store).problems == []


@pytest.mark.parametrize("cure", ["remove", "store"])
def test_missing_states_are_known_until_they_are_there(store, cure):
    """A state that another one refers to, and that is not there, is a problem until it is; so is one set aside."""
    top = put(store, numbered(20), (numbered(21),))
    maintenance.verify(store)
    assert known(store) == [numbered(21)]
    maintenance.verify(store, older_than_seconds=86400)
    assert known(store) == [numbered(21)]
    if cure == "store":
        put(store, numbered(21))
        maintenance.verify(store, older_than_seconds=86400)
    else:
        top.unlink()
        maintenance.verify(store)
    assert known(store) == []


def test_the_record_is_bounded(store):
    """However many states are damaged, a hundred are named, and all are counted."""
    for number in range(LISTED + 5):
        put(store, numbered(number))
        spoil(store, number)
    assert len(maintenance.verify(store).problems) == LISTED + 5
    last = maintenance.last_verification(store)
    assert (len(last.problems), last.n_problems) == (LISTED, LISTED + 5)


def test_nothing_is_saved_where_nobody_may_write(store, tmp_path):
    """A read-only store is verified as ever; the record stays as it was."""
    maintenance.verify(store)
    before = (store / FILE).read_bytes()
    spoil(store, 3)
    with mounts.read_only(store, tmp_path / "ro") as place:
        assert len(maintenance.verify(place).problems) == 1
    assert (store / FILE).read_bytes() == before


@pytest.fixture
def place():
    """A folder that all users can reach."""
    with tempfile.TemporaryDirectory(prefix="ana-verification-") as found:
        Path(found).chmod(0o755)
        yield Path(found)


@pytest.fixture
def opened(place):
    """A store of the root user's with three states, one of which is another user's; all may read it."""
    mounts.need("mount")
    (place / "store").mkdir(mode=0o755)
    tree = care.store(place / "store")
    for number in range(3):
        put(tree, numbered(number), size=1000)
    os.chown(raw_tree.path_of(tree, numbered(2)), OTHER, OTHER)
    return tree


def test_another_user_verifies_without_a_record(opened):
    """Whoever may only read a store gets the result, and leaves no file."""
    with user(OTHER):
        assert maintenance.verify(opened).checked == 3
    assert not (opened / ".ana").exists()


def test_bytes_are_counted_by_owner(opened):
    """By the owner's name, or number if this host knows none; in a pack, all states are its owner's."""
    packed.write(opened, packed.state(1), packed.state(2))
    with user(OTHER):
        groups = maintenance.stats(opened, exact=True).summary.by_user
    size = raw_tree.path_of(opened, numbered(2)).stat().st_size
    assert {group.name: group.states for group in groups} == {"root": 4, f"uid {OTHER}": 1}
    assert [group.stored_bytes for group in groups if group.name != "root"] == [size]


SENSELESS = [
    b"",
    b"\xff",
    b"[]",
    b'{"taken": 1}',
    b'{"taken": "1", "states": 1, "checked": 1, "size_bytes": 1}',
    b'{"taken": 1, "states": 1, "checked": 1, "size_bytes": 1, "problems": 7}',
    b'{"taken": 1, "states": 1, "checked": 1, "size_bytes": 1, "problems": [7]}',
    b'{"taken": 1, "states": 1, "checked": 1, "size_bytes": 1, "problems": [{"uuid": 7}]}',
    b'{"taken": 1, "states": 1, "checked": 1, "size_bytes": 1, "whole_taken": []}',
    b'{"taken": true, "states": 1, "checked": 1, "size_bytes": 1}',
    b'{"taken": 1e999, "states": 1, "checked": 1, "size_bytes": 1}',
]


@pytest.mark.parametrize("text", SENSELESS, ids=repr)
def test_a_record_that_makes_no_sense_is_none(store, capfd, text):
    """Anybody may have written it: then it is as if there was none, and the next verification replaces it."""
    maintenance.verify(store)
    (store / FILE).write_bytes(text)
    assert maintenance.last_verification(store) is None
    assert ran(capfd, "-d", store, "stats").code == 0
    maintenance.verify(store, sample=0.5)
    assert maintenance.last_verification(store).whole_taken is None


def test_other_versions_may_write_other_fields(store):
    """Fields that are missing have their defaults, and unknown ones are passed over."""
    maintenance.verify(store)
    written = json.loads((store / FILE).read_bytes())
    del written["problems"]
    (store / FILE).write_text(json.dumps({**written, "n_problems": 0, "mood": "good"}))
    assert maintenance.last_verification(store).problems == []
    with pytest.raises(TypeError, match="states"):
        saved.made(maintenance.Verification, {**written, "states": "many"})


def test_it_is_shown(store, capfd):
    """`ana stats` says when it was, and what was found."""
    assert "ana verify reads every byte" in ran(capfd, "-d", store, "stats").out
    spoil(store, 3)
    assert ran(capfd, "-d", store, "verify").code == 4
    out = ran(capfd, "-d", store, "stats").out
    assert "1 problem " in out
    assert "10 of 10 states on 20" in out
    document = ran(capfd, "-d", store, "--json", "stats").document["verification"]
    assert [wrong["uuid"] for wrong in document["problems"]] == [numbered(3)]
    assert document["taken_iso"].endswith("Z")
