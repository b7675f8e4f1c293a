"""Maintenance of a store with packs: looking, verifying, moving, signing."""

import pytest
from support import care, memory, packed, raw_tree
from support.care import numbered, put, ran

import ana
from ana import maintenance
from ana.stores.directory.store import DirectoryStore


@pytest.fixture
def store():
    """An empty store in memory."""
    with memory.folder() as folder:
        yield care.store(folder / "store")


def readable(store, *states):
    """Return which of the states another process can load."""
    found = []
    target = DirectoryStore(str(store), wait_seconds=0)
    for number, (key, _) in enumerate(states):
        try:
            target.get(key).segments()
        except (ana.StateNotFoundError, ana.CorruptedStateError):
            continue
        found.append(number)
    return found


# Looking


def test_ls_and_show_say_where_a_state_lies(store, capfd):
    """`ana ls` lists states in files and in packs; `ana show` names the pack and the offset."""
    first, second = packed.state(1), packed.state(2, (packed.state(1).key,))
    put(store, numbered(1))
    path = packed.write(store, first, second)
    listed = {state.uuid: state for state in maintenance.ls(store)}
    assert {uuid: state.pack for uuid, state in listed.items()} == {
        numbered(1): "",
        first.key: path.name,
        second.key: path.name,
    }
    assert listed[second.key].children == 1
    assert listed[second.key].size_bytes == len(second.data)
    shown = maintenance.show(store, second.key[:9])
    assert (shown.path, shown.pack, shown.offset) == (str(path), path.name, len(first.data))
    assert f"offset {len(first.data)}" in " ".join(ran(capfd, "-d", store, "show", second.key).out.split())
    assert ran(capfd, "--json", "-d", store, "show", second.key).document["offset"] == len(first.data)


def test_a_state_in_a_trashed_pack_is_shown_and_stays_there(store):
    """Showing brings nothing back; `ana cat` does, as every read."""
    state = packed.state(1)
    path = packed.write(store, state, trashed=True)
    shown = maintenance.show(store, state.key)
    assert (shown.in_trash, shown.path) == (True, str(path))
    assert packed.names(store) == [path.name]
    assert b"".join(maintenance.cat(store, state.key)).startswith(b"\x80\x05B")
    assert path.name.removeprefix(".trash-") in packed.names(store)


def test_a_tree_across_packs_and_files(store):
    """`show --tree` follows references from a pack into a file and another pack, and tells what is missing."""
    low, lost = packed.state(1), packed.state(9)
    put(store, numbered(1), (low.key,))
    top = packed.state(2, (numbered(1), lost.key))
    packed.write(store, low)
    packed.write(store, top)
    tree = maintenance.tree(store, top.key)
    assert [child.uuid for child in tree.children] == [numbered(1), lost.key]
    assert tree.children[0].children[0].uuid == low.key
    assert tree.children[1].problem.kind == "missing"


def test_stats_count_packs_and_what_is_in_them(store, capfd):
    """Quick and exact counts agree; a state that lies twice is one; the trash is counted apart."""
    states = [packed.state(number) for number in range(6)]
    put(store, numbered(1))
    raw_tree.put(store, *states[0])
    packed.write(store, *states[:4])
    packed.write(store, *states[3:5])
    packed.write(store, states[5], trashed=True)
    quick, exact = maintenance.stats(store), maintenance.stats(store, exact=True)
    for counted in (quick, exact):
        assert (counted.states, counted.packs, counted.packed, counted.trash) == (6, 2, 5, 1)
        assert counted.inodes == 2 + 3 + counted.folders
    assert exact.summary.states == 6
    assert exact.summary.stored_bytes == sum(state.size_bytes for state in maintenance.ls(store))
    assert "5 states" in ran(capfd, "-d", store, "stats").out
    assert "6" in maintenance.report(store)


def test_a_pack_that_cannot_be_read_is_told(store, capfd):
    """`ls` and `stats` name a pack that others may write to, and go on; gc collects nothing."""
    path = packed.write(store, packed.state(1))
    put(store, numbered(1), age_days=9)
    path.chmod(0o666)
    done = ran(capfd, "-d", store, "ls")
    assert done.code == 4
    assert path.name in done.err
    assert maintenance.gc(store, maintenance.Scope(unreachable=True), without_roots=True).refused


# Verifying


def test_verify_reads_every_record(store):
    """Damage in any record of any pack is found, and told with the UUID, the pack and the offset."""
    states = [packed.state(number) for number in range(30)]
    paths = [packed.write(store, *states[:10]), packed.write(store, *states[10:], sealed=False)]
    assert maintenance.verify(store).checked == 30
    packed.damage(paths[0], len(states[0].data) + len(states[1].data) - 3)
    done = maintenance.verify(store)
    assert (done.states, done.checked) == (30, 30)
    (wrong,) = done.problems
    assert (wrong.uuid, wrong.kind) == (states[1].key, "damaged")
    assert wrong.name == f"packs/{paths[0].name}:{len(states[0].data)}"


@pytest.mark.parametrize("other", ["a pack", "a file"])
def test_damage_is_no_problem_if_another_copy_is_whole(store, other):
    """Readers find the other copy; and if that is damaged, too, it is a problem."""
    states = [packed.state(1), packed.state(2)]
    path = packed.write(store, *states)
    copy = packed.write(store, states[0]) if other == "a pack" else raw_tree.put(store, *states[0])
    packed.damage(path, len(states[0].data) - 3)
    assert maintenance.verify(store).problems == []
    assert readable(store, *states) == [0, 1]
    packed.damage(copy, len(states[0].data) - 3)
    assert {wrong.uuid for wrong in maintenance.verify(store).problems} == {states[0].key}


def test_set_aside_saves_what_is_whole(store):
    """The whole records move into a new pack, the damaged pack is renamed; what was damaged can be stored again."""
    states = [packed.state(number) for number in range(10)]
    path = packed.write(store, *states, age_days=5)
    changed = path.stat().st_mtime
    packed.damage(path, len(states[0].data) - 3)
    done = maintenance.verify(store, set_aside=True)
    (aside,) = done.set_aside
    assert aside.startswith("packs/.bad-")
    assert aside.endswith(path.name)
    assert readable(store, *states) == list(range(1, 10))
    (new,) = [name for name in packed.names(store) if not name.startswith(".")]
    assert abs((store / "packs" / new).stat().st_mtime - changed) < 1
    assert maintenance.verify(store).problems == []
    assert maintenance.stats(store).damaged == 1
    raw_tree.put(store, *states[0])
    assert readable(store, *states) == list(range(10))


def test_records_behind_damage_in_an_unsealed_pack_are_saved(store):
    """Readers walk to them; `--set-aside` gives them a pack with an index once no writer can be at work."""
    states = [packed.state(number) for number in range(6)]
    path = packed.write(store, *states, sealed=False)
    packed.damage(path, len(states[0].data) + 50)
    assert readable(store, *states) == [0, 2, 3, 4, 5]
    # Its writer may be in the middle of an append.
    assert maintenance.verify(store).problems == []
    care.make_older(path, 0.5)
    (wrong,) = maintenance.verify(store).problems
    assert "4 states" in wrong.reason
    refused = maintenance.verify(store, set_aside=True)
    assert [wrong.kind for wrong in refused.problems] == ["damaged", "failed"]
    assert packed.names(store) == [path.name]
    care.make_older(path, 3)
    assert maintenance.verify(store, set_aside=True).problems == []
    assert readable(store, *states) == [0, 2, 3, 4, 5]


def test_repair_from_another_store(store, tmp_path):
    """Damaged and missing states come from the other store, into packs if this store packs."""
    low = packed.state(1)
    states = [low, packed.state(2, (low.key,)), packed.state(3), packed.state(4, (numbered(7),))]
    path = packed.write(store, *states)
    put(store, numbered(1), (packed.state(5).key,))
    other = care.store(tmp_path / "other")
    packed.write(other, *states, packed.state(5))
    put(other, numbered(7))
    packed.damage(path, len(low.data) + len(states[1].data) - 3)
    target = DirectoryStore(str(store), wait_seconds=0)
    target.packs.pack_bytes = 1000
    done = maintenance.verify(target, repair_from=other)
    assert done.problems == []
    assert sorted(done.repaired) == sorted([states[1].key, packed.state(5).key, numbered(7)])
    assert readable(store, *states, packed.state(5)) == [0, 1, 2, 3, 4]
    assert not raw_tree.path_of(store, states[1].key).exists()
    assert maintenance.verify(store).problems == []


def test_a_sample_of_records(store):
    """A sample takes some records of each pack, and old ones only on request."""
    states = [packed.state(number) for number in range(400)]
    packed.write(store, *states[:200], age_days=9)
    packed.write(store, *states[200:])
    assert 20 < maintenance.verify(store, sample=0.25).checked < 200
    assert maintenance.verify(store, older_than_seconds=86400).checked == 200


# To another store, and roots


def test_export_and_import(store, tmp_path):
    """What is in packs is exported as files are; an import into a store that packs writes packs."""
    low = packed.state(1)
    top = packed.state(2, (low.key, numbered(1)))
    packed.write(store, low)
    packed.write(store, top, sealed=False)
    put(store, numbered(1))
    done = maintenance.export_states(store, [top.key], tmp_path / "file")
    assert set(done.states) == {low.key, top.key, numbered(1)}
    maintenance.import_file(tmp_path / "loose", tmp_path / "file")
    assert raw_tree.path_of(tmp_path / "loose", top.key).read_bytes() == top.data
    target = DirectoryStore(str(tmp_path / "packed"))
    target.packs.pack_bytes = 1000
    assert len(maintenance.import_file(target, tmp_path / "file").imported) == 3
    assert len(packed.names(tmp_path / "packed")) == 1
    assert not raw_tree.path_of(tmp_path / "packed", top.key).exists()
    assert maintenance.verify(tmp_path / "packed").problems == []
    assert [state.pack != "" for state in maintenance.ls(tmp_path / "packed")].count(True) == 2


def test_roots_of_packed_states(store):
    """Packed states are kept like others, and what is missing is told."""
    state = packed.state(1)
    packed.write(store, state)
    maintenance.keep(store, "mine", [state.key[:10]])
    (root,) = maintenance.roots(store)
    assert (root.uuids, root.missing) == ([state.key], [])


# Keys


def test_a_rotation_signs_packs_anew(store, tmp_path, monkeypatch):
    """After a rotation all packed states are signed with the new key, which is all that readers need."""
    folder = store.parent / "keyed"
    key_file = maintenance.init(folder, keyed=True, key_file=tmp_path / "key").key_file
    monkeypatch.setenv("ANA_KEY_FILE", str(key_file))
    target = DirectoryStore(str(folder), wait_seconds=0)
    states = [packed.state(number, seal=target.seal) for number in range(9)]
    old = [packed.write(folder, *states[:4], age_days=5), packed.write(folder, *states[4:8], sealed=False)]
    packed.write(folder, states[8], trashed=True)
    changed = old[0].stat().st_mtime
    done = maintenance.rotate_key(folder)
    assert (done.states, done.signed, done.finished, done.problems) == (8, 9, True, [])
    assert readable(folder, *states) == list(range(9))
    assert maintenance.verify(folder).problems == []
    live = [folder / "packs" / name for name in packed.names(folder) if not name.startswith(".")]
    assert len(live) == 3
    assert any(abs(path.stat().st_mtime - changed) < 1 for path in live)
    assert maintenance.rotate_key(folder).signed == 9
    assert readable(folder, *states) == list(range(9))


def test_a_rotation_leaves_damaged_records_alone(store, tmp_path, monkeypatch):
    """What is damaged is told, and its pack stays; everything else is signed."""
    folder = store.parent / "keyed"
    monkeypatch.setenv("ANA_KEY_FILE", str(maintenance.init(folder, keyed=True, key_file=tmp_path / "key").key_file))
    target = DirectoryStore(str(folder), wait_seconds=0)
    states = [packed.state(number, seal=target.seal) for number in range(3)]
    path = packed.write(folder, *states)
    packed.damage(path, 50)
    done = maintenance.rotate_key(folder)
    assert [wrong.name for wrong in done.problems] == [f"packs/{path.name}:0"]
    assert path.exists()
    assert readable(folder, *states) == [1, 2]
    assert [wrong.uuid for wrong in maintenance.verify(folder).problems] == [states[0].key]
