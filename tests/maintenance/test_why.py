"""`ana why`, `ana rm` and `gc --all-but`: what keeps a state, and removing what nothing needs."""

import pickle
import time

import pytest
from support import care, raw_tree
from support.care import make_older, numbered, put, ran

import ana
from ana import maintenance
from ana.maintenance import InUseError, Scope

DAY_SECONDS = 86400.0
LOOSE_AND_PACKED = pytest.mark.parametrize("pack_bytes", [0, 65536])


@pytest.fixture
def store(tmp_path):
    """A chain 1 > 2 > 3 of old states, of which a root keeps the first; an old parent 4 of 3; nothing needs 4 and 5."""
    folder = care.store(tmp_path / "store")
    put(folder, numbered(1), (numbered(2),), age_days=9)
    put(folder, numbered(2), (numbered(3),), age_days=9)
    put(folder, numbered(3), age_days=9)
    put(folder, numbered(4), (numbered(3),), age_days=9)
    put(folder, numbered(5), age_days=9)
    maintenance.keep(folder, "paper", [numbered(1)])
    return folder


def reasons(store, key, **options):
    """Return what keeps a state: kinds, roots and paths."""
    return [(reason.kind, reason.root, reason.path) for reason in maintenance.why(store, key, **options).reasons]


def present(store):
    """Return the UUIDs of the states that are not in the trash."""
    return {state.uuid for state in maintenance.ls(store)}


# why


def test_each_root_with_the_shortest_path(store):
    """From the state that the root names down to the one that is asked for."""
    path = [numbered(1), numbered(2), numbered(3)]
    assert reasons(store, numbered(3)) == [("root", "paper", path)]
    maintenance.keep(store, "near", [numbered(4), numbered(1)], ttl="2d")
    found = maintenance.why(store, numbered(3))
    assert [(reason.root, reason.path) for reason in found.reasons] == [
        ("near", [numbered(4), numbered(3)]),
        ("paper", path),
    ]
    assert abs(found.reasons[0].until - time.time() - 2 * DAY_SECONDS) < 3600
    assert found.reasons[1].until is None
    assert found.referred_by == sorted([numbered(2), numbered(4)])


def test_the_youngest_state_that_leads_to_it(store):
    """Its own age, or that of a parent, whichever lasts longer."""
    assert reasons(store, numbered(5)) == []
    make_older(raw_tree.path_of(store, numbered(5)), 0.5)
    (found,) = maintenance.why(store, numbered(5)).reasons
    assert (found.kind, found.path) == ("age", [numbered(5)])
    assert abs(found.until - time.time() - 0.5 * DAY_SECONDS) < 3600
    put(store, numbered(6), (numbered(5),), age_days=0.1)
    assert reasons(store, numbered(5)) == [("age", "", [numbered(6), numbered(5)])]
    assert reasons(store, numbered(5), grace_seconds=3600) == []


def test_an_ended_root_keeps_nothing(store):
    """As for gc."""
    maintenance.keep(store, "sweep", [numbered(5)], ttl="1d")
    assert reasons(store, numbered(5)) == [("root", "sweep", [numbered(5)])]
    for path in (store / ".ana" / "roots").glob("sweep*"):
        make_older(path, 2)
    assert reasons(store, numbered(5)) == []


def test_why_and_gc_agree(store):
    """Whatever is asked for: gc takes just what nothing keeps, in files and packs, with cycles and named states."""
    put(store, "a name", ("another", numbered(5)), age_days=9)
    put(store, "another", ("a name",), age_days=0.2)
    for one, other in ((7, 8), (8, 7)):
        put(store, numbered(one), (numbered(other),), age_days=9)
    kept = {key for key in present(store) if reasons(store, key)}
    assert numbered(5) in kept
    maintenance.gc(store, Scope(unreachable=True))
    assert present(store) == kept


@pytest.mark.parametrize("command", ["why", "rm", "cat"])
def test_a_root_where_a_uuid_is_needed(store, capfd, command):
    """The message does not deny that there is such a root, and says what shows its UUIDs."""
    done = ran(capfd, "-d", store, command, "paper")
    assert done.code == 4
    assert "a root's name, and this needs a UUID: `ana show paper`" in done.err
    assert "neither" in ran(capfd, "-d", store, command, "papers").err


def test_a_state_in_the_trash(store, capfd):
    """It is said since when it is there; nothing brings it back."""
    maintenance.gc(store, Scope(unreachable=True))
    found = maintenance.why(store, numbered(5))
    assert found.in_trash
    assert abs(found.trashed - time.time()) < 3600
    assert numbered(5) not in present(store)
    assert "in the trash since" in ran(capfd, "-d", store, "why", numbered(5)).out
    assert ran(capfd, "-d", store, "why", numbered(99)).code == 4


def test_why_as_people_see_it(store, capfd):
    """One line for each reason, and UUIDs on lines of their own, which no terminal wraps."""
    said = ran(capfd, "-d", store, "why", numbered(3)[:8]).out
    lines = said.splitlines()
    assert lines[0] == numbered(3)
    assert "kept by the root paper, which has no end" in lines
    assert [line.strip() for line in lines[2:5]] == [numbered(1), numbered(2), numbered(3)]
    assert "nothing keeps it" in ran(capfd, "-d", store, "why", numbered(5)).out
    document = ran(capfd, "--json", "-d", store, "why", numbered(3)).document
    assert document["reasons"][0]["path"][0] == numbered(1)


# rm


@LOOSE_AND_PACKED
def test_what_nothing_needs_is_removed(tmp_path, pack_bytes):
    """Young or old, from a file or a pack; the rest stays, and can be read."""
    folder = tmp_path / "store"
    with ana.using_dl(pickle_dir=folder, durable=False, pack_bytes=pack_bytes) as layer:
        uuids = layer.store_many([ana.Ref(("value", number)) for number in range(4)])
        layer.store.packs.seal()
    done = maintenance.remove(folder, uuids[:2])
    assert (done.uuids, done.failed) == (uuids[:2], {})
    assert done.size_bytes > 100
    assert present(folder) == set(uuids[2:])
    with ana.using_dl(pickle_dir=folder, errors="raise"):
        assert [ana.load(uuid).value for uuid in uuids[2:]] == [("value", 2), ("value", 3)]
        # Within the grace, a reader brings it back.
        assert ana.load(uuids[0]).value == ("value", 0)
    assert uuids[0] in present(folder)


def test_a_removed_state_is_deleted_a_grace_later(store):
    """By gc, as all that is in the trash."""
    maintenance.remove(store, [numbered(5)])
    (path,) = store.rglob(".trash-*")
    assert maintenance.gc(store, Scope(older_than_seconds=99 * DAY_SECONDS)).deleted == []
    make_older(path, 1.1)
    assert len(maintenance.gc(store, Scope(older_than_seconds=99 * DAY_SECONDS)).deleted) == 1


def test_what_others_need_is_not_removed(store, capfd):
    """All that needs it is named, and nothing at all is removed."""
    before = raw_tree.files(store)
    with pytest.raises(InUseError) as raised:
        maintenance.remove(store, [numbered(5), numbered(3), numbered(1)])
    assert raised.value.used_by == {numbered(3): sorted([numbered(2), numbered(4)]), numbered(1): ["the root paper"]}
    assert pickle.loads(pickle.dumps(raised.value)).used_by == raised.value.used_by
    refused = ran(capfd, "-d", store, "rm", numbered(5), numbered(3))
    assert refused.code == 1
    assert numbered(2) in refused.err
    assert [path for path in raw_tree.files(store) if "locks" not in path] == before


def test_parents_and_children_go_together(store):
    """What only refers to each other is no reason to stay."""
    for one, other in ((7, 8), (8, 7)):
        put(store, numbered(one), (numbered(other),), age_days=9)
    with pytest.raises(InUseError):
        maintenance.remove(store, [numbered(7)])
    assert maintenance.remove(store, [numbered(7), numbered(8), numbered(4)]).failed == {}
    assert present(store) == {numbered(number) for number in (1, 2, 3, 5)}


def test_a_dry_run_removes_nothing(store, capfd):
    """It says what it would do, or why not."""
    before = raw_tree.states(store)
    said = ran(capfd, "-d", store, "rm", "--dry-run", numbered(5))
    assert (said.code, "would be moved to the trash: 1 state," in said.out) == (0, True)
    assert ran(capfd, "-d", store, "rm", "--dry-run", numbered(1)).code == 1
    assert raw_tree.states(store) == before


def test_a_pack_that_is_being_written_is_left_alone(tmp_path, capfd):
    """Its writer may add to it at any moment: the state stays, and the reason is said."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False, pack_bytes=65536) as layer:
        uuids = layer.store_many([ana.Ref(number) for number in range(2)])
        done = ran(capfd, "-d", layer.home, "rm", uuids[0])
        assert (done.code, "still be adding" in done.err) == (1, True)
        assert done.out == "moved to the trash: 0 states, 0 B\n"
        layer.store.packs.seal()
    assert present(tmp_path / "store") == set(uuids)


def test_nothing_is_removed_if_something_cannot_be_read(store):
    """It may refer to anything."""
    raw_tree.path_of(store, numbered(4)).write_bytes(b"damaged")
    with pytest.raises(ana.ANAError, match="cannot be read"):
        maintenance.remove(store, [numbered(5)])
    assert len(maintenance.why(store, numbered(5)).problems) == 1
    assert len(raw_tree.states(store)) == 5


# gc --all-but


def test_all_but_one_root(store, capfd):
    """What the other roots keep goes, and they are forgotten; what is young stays."""
    maintenance.keep(store, "old", [numbered(5)])
    maintenance.keep(store, "job", [numbered(4)], ttl="14d")
    put(store, numbered(6))
    dry = ran(capfd, "--json", "-d", store, "gc", "--all-but", "paper", "--dry-run").document
    assert dry["forgotten"] == ["job", "old"]
    assert maintenance.root_names(store) == ["job", "old", "paper"]
    assert "roots forgotten" in ran(capfd, "-d", store, "gc", "--all-but", "paper").out
    assert maintenance.root_names(store) == ["paper"]
    assert present(store) == {numbered(number) for number in (1, 2, 3, 6)}


def test_a_root_that_does_not_exist_collects_nothing(store):
    """A typing error must not empty the store; nor must a root that has ended."""
    maintenance.keep(store, "sweep", [numbered(5)], ttl="1d")
    for path in (store / ".ana" / "roots").glob("sweep*"):
        make_older(path, 2)
    for name in ("papers", "sweep"):
        with pytest.raises(ValueError, match="no root"):
            maintenance.gc(store, Scope(all_but=("paper", name)))
    assert len(present(store)) == 5
    assert maintenance.root_names(store) == ["paper", "sweep"]


def test_several_roots_and_an_age(store):
    """All conditions hold: what is younger than the age stays, but all other roots are forgotten."""
    maintenance.keep(store, "one", [numbered(5)])
    maintenance.keep(store, "other", [numbered(4)])
    done = maintenance.gc(store, Scope(all_but=("paper", "one"), older_than_seconds=20 * DAY_SECONDS))
    assert (done.forgotten, done.trashed) == (["other"], [])
    done = maintenance.gc(store, Scope(all_but=("paper", "one")))
    assert len(done.trashed) == 1
    assert present(store) == {numbered(number) for number in (1, 2, 3, 5)}
