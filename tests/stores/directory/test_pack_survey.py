"""Packs as maintenance sees them: what is in the store's folder, which states there are, and their headers."""

import json
import random

import pytest
from support import care, memory, packed, raw_tree
from support.care import numbered, put

import ana
from ana import maintenance
from ana.format import address, pack
from ana.format.signature import Seal
from ana.maintenance import open_store
from ana.stores.directory import keyring, pack_survey, signing, strays
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore


@pytest.fixture
def store():
    """An empty store in memory."""
    with memory.folder() as folder:
        yield care.store(folder / "store")


def survey_of(store):
    """Look at a store anew."""
    return Survey(open_store(store))


def test_states_in_packs_have_the_names_of_their_files(store):
    """A state is listed once, under one name, whether it has a file, lies in a pack, in several, or in both."""
    states = [packed.state(number) for number in range(5)]
    put(store, numbered(1))
    packed.write(store, *states[:3])
    packed.write(store, *states[2:4], sealed=False)
    packed.write(store, states[4], trashed=True)
    raw_tree.put(store, *states[0])
    survey = survey_of(store)
    live = sorted([numbered(1), *(key for key, _ in states[:4])])
    assert sorted(survey.states()) == sorted(map(survey.name_of, live))
    assert sorted(survey.states(trash=True)) == sorted(map(survey.name_of, [*live, states[4].key]))
    assert sorted(name for name, _ in survey.headers()) == sorted(map(survey.name_of, live))
    assert [survey.is_there(key) for key, _ in states] == [True] * 5
    assert survey.packed.count() == 4


def test_a_packed_state_is_as_large_as_its_record_and_as_old_as_its_pack(store):
    """The header, the size, the age and the place are those of the record in its pack."""
    first, second = packed.state(1), packed.state(2, (packed.state(1).key,))
    path = packed.write(store, first, second, age_days=3)
    survey = survey_of(store)
    name = survey.name_of(second.key)
    header, file = survey.header(name)
    assert header.key == second.key
    assert header.children == (first.key,)
    owner = path.stat().st_uid
    assert file == (name, len(second.data), path.stat().st_mtime, path.name, len(first.data), owner)
    assert survey.stat(name) == file


@pytest.mark.parametrize("packs", [1, 3, 40])
def test_each_state_is_found_among_many_packs(store, packs):
    """Whether packs are searched one after the other or by an index: each state is found, and only what is there."""
    states = [packed.state(number) for number in range(200)]
    for number in range(packs):
        packed.write(store, *states[number:150:packs])
    packed.write(store, *states[100:120])
    survey = survey_of(store)
    survey.contents()
    found = [survey.packed.first(pack.number_of(key)) for key, _ in states]
    assert [one is not None for one in found] == [True] * 150 + [False] * 50
    assert survey.packed.count() == 150
    for key, _ in random.sample(states[:150], 20):
        assert list(survey.packed.keys(key[:8])) == [key]


def test_headers_are_read_many_at_a_time(store, monkeypatch):
    """A pack of a thousand small states is read at once; of states that lie far apart, what is between is not read."""
    states = [packed.state(number) for number in range(1000)]
    path = packed.write(store, *states)
    survey = survey_of(store)
    survey.contents()
    reads = []
    real = pack_survey.KeptFile.read
    monkeypatch.setattr(pack_survey.KeptFile, "read", lambda file, *said: reads.append(said) or real(file, *said))
    (one,) = survey.packed.files
    assert len(list(survey.packed.briefs(one, one.table.items()))) == 1000
    assert len(reads) == 1
    monkeypatch.setattr(pack_survey, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(pack_survey, "NEAR_BYTES", 0)
    reads.clear()
    some = [item for number, item in enumerate(one.table.items()) if number % 10 == 0]
    assert len(list(survey.packed.briefs(one, some))) == 100
    assert sum(size for _, size in reads) < path.stat().st_size / 2


def test_a_header_that_is_longer_than_most(store):
    """A state with hundreds of children has a header that is read in two steps."""
    children = tuple(packed.state(number).key for number in range(500))
    parent = packed.state(1000, children)
    packed.write(store, packed.state(1), parent)
    survey = survey_of(store)
    assert survey.header(survey.name_of(parent.key))[0].children == children


def test_a_damaged_record_is_read_from_another_pack(store):
    """A damaged header is an error only if there is no other copy."""
    states = [packed.state(1), packed.state(2)]
    packed.damage(packed.write(store, *states), 50)
    survey = survey_of(store)
    with pytest.raises(ana.CorruptedStateError):
        survey.header(survey.name_of(states[0].key))
    packed.write(store, states[0])
    survey = survey_of(store)
    assert survey.header(survey.name_of(states[0].key))[0].key == states[0].key
    assert [isinstance(found, tuple) for _, found in survey.headers()] == [True, True]


def test_a_pack_that_is_open_for_writing_here(store):
    """The records that this very process has appended are seen, too."""
    target = DirectoryStore(str(store), durable=False)
    target.packs.pack_bytes = 1000
    key, data = packed.state(1)
    target.packs.append([(key, data)])
    assert list(Survey(target).states()) == [Survey(target).name_of(key)]
    target.packs.seal()
    assert list(Survey(target).states()) == [Survey(target).name_of(key)]


def test_what_a_pack_hides_behind_damage(store):
    """Whole records behind a damaged one in an unsealed pack are told; a torn end has none."""
    states = [packed.state(number) for number in range(4)]
    path = packed.write(store, *states, sealed=False)
    path.write_bytes(path.read_bytes()[:-20])
    survey = survey_of(store)
    survey.contents()
    assert survey.packed.hidden(survey.packed.files[0]) == []
    packed.damage(path, len(states[0].data) + 50)
    survey = survey_of(store)
    survey.contents()
    offset = len(states[0].data) + len(states[1].data)
    assert survey.packed.hidden(survey.packed.files[0]) == [(states[2].key, (offset, len(states[2].data)))]


def test_the_folder_of_the_packs_is_the_stores_own(store):
    """Packs are no strangers; temporary files among them are swept, anything else is told."""
    path = packed.write(store, packed.state(1))
    packed.write(store, packed.state(2), trashed=True)
    (store / "packs" / "notes.txt").write_text("mine")
    (store / "packs" / ".tmp-host-1-00").write_text("x")
    (store / "packs" / f".bad-00-{path.name}").write_text("x")
    found = list(strays.strays(open_store(store).tree, 0.0, {}))
    assert {stray.name: stray.temporary for stray in found} == {
        "packs/.tmp-host-1-00": True,
        "packs/notes.txt": False,
        f"packs/.bad-00-{path.name}": False,
    }
    counted = maintenance.stats(store)
    assert (counted.foreign, counted.temporaries, counted.damaged) == (1, 1, 1)
    assert maintenance.sweep(store, older_than_seconds=0).removed == ["packs/.tmp-host-1-00"]


def test_a_store_of_packs_that_lost_its_ana_json(store):
    """Its format is that of a store with packs again, for readers and writers."""
    key, _ = packed.state(1)
    packed.write(store, packed.state(1))
    (store / "ana.json").unlink()
    reader = open_store(store)
    assert reader.tree.is_purged
    assert reader.config.format == 2
    assert reader.get(key).header.key == key
    with ana.using_dl(pickle_dir=store):
        pass
    assert json.loads((store / "ana.json").read_text())["format"] == 2


def test_a_store_that_is_purged_while_it_is_open(store):
    """A process that writes `ana.json` again notes packs that others have made since it opened the store."""
    tree = DirectoryStore(str(store), durable=False).tree
    packed.write(store, packed.state(1))
    (store / "ana.json").unlink()
    assert not tree.is_same()
    assert json.loads((store / "ana.json").read_text())["format"] == 2


def test_a_key_is_known_by_packed_states(store, tmp_path):
    """A keyed store that lost its `ana.json` is known by the signatures in its packs, and a wrong key is refused."""
    ring = keyring.make(str(tmp_path / "key"), address.random_uuid(), [str(store)])
    seal = Seal(ring.store_id, ring.keys)
    packed.write(store, packed.state(1, seal=seal), packed.state(2, seal=seal))
    tree = open_store(store).tree
    assert signing.has_signed(tree, seal)
    assert not signing.has_signed(tree, Seal(ring.store_id, (bytes(32),)))
    (store / "ana.json").unlink()
    found = signing.fields_again(tree, "", ring)
    assert (found["id"], found["keyed"]) == (ring.store_id, True)


def test_a_folder_called_packs_with_something_else(store, tmp_path):
    """A folder of that name that holds other files is no store."""
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "suitcase.txt").write_text("socks")
    with pytest.raises(ana.UntrustedStoreError, match="not an ANA store"):
        DirectoryStore(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packs"]
