"""Staged states: tasks have them without the store, every byte is checked, and the store has what is not staged."""

import errno
import functools
import json
import logging
import os
import pickle
import random
import re
import shutil
import sys
import warnings

import numpy as np
import pytest
from support import processes, raw_record
from support.node import noise
from support.users import Trap

import ana
from ana import maintenance
from ana.errors import CorruptedStateError, StateNotFoundError, StoreError, UntrustedStoreError
from ana.format import pack
from ana.fs.ownership import EVERYDAY
from ana.runtime import counters
from ana.stores import staged
from ana.stores.staged import StagedFile, StagedStore

MIB = 1 << 20
SHARED_BYTES = 256 << 10
EXPLICIT = "run 7/3"


class Ring(ana.Storable):
    """Refers to itself through another one."""

    other = None


@functools.lru_cache
def large(size_bytes):
    """Return an array that does not compress."""
    return noise(1, size_bytes)


def values():
    """Return values whose states are small, large, with parts, and in circles."""
    ring, other = Ring(), Ring()
    ring.other, other.other = other, ring
    return {
        "small": [ana.Ref({"number": number}) for number in range(50)],
        "two": [ana.Ref([large(SHARED_BYTES), number]) for number in range(2)],
        "list": [*range(300_000)],
        "array": large(5 * MIB),
        "ring": ring,
    }


class Bed:
    """A store with states, and a file in which they are staged."""

    def __init__(self, folder):
        self.folder = folder
        self.tree = folder / "tree"
        self.file = folder / "sweep.ana"
        self.away = folder / "away"
        with ana.using_dl(pickle_dir=self.tree, durable=False, part_bytes=SHARED_BYTES) as layer:
            top = ana.Ref(values())
            named = ana.Ref("by a name")
            named.make_uuid(uuid=EXPLICIT)
            layer.keep("sweep", top, named)
            self.uuid = top.uuid
            self.references = pickle.dumps((top, named))
        self.staged = maintenance.stage_states(self.tree, ["sweep"], self.file)

    def take_away(self):
        """Take the store away, so that nothing of it can be read."""
        self.tree.rename(self.away)

    def bring_back(self):
        """Undo `take_away`."""
        self.away.rename(self.tree)


@pytest.fixture
def bed(tmp_path, monkeypatch):
    """A bed whose file is the one that tasks find."""
    made = Bed(tmp_path)
    monkeypatch.setenv("ANA_STAGED", str(made.file))
    return made


def load(references):
    """Load all that references lead to, in a layer that knows no object; return what was counted."""
    before = counted()
    with ana.using_dl(ana.DataLayer()):
        top, named = pickle.loads(references)
        check(top, named)
    return since(before)


def check(top, named):
    """Check all values."""
    found, expected = top.value, values()
    assert [ref.value for ref in found["small"]] == [ref.value for ref in expected["small"]]
    assert [one.value[1] for one in found["two"]] == [0, 1]
    assert all(np.array_equal(one.value[0], large(SHARED_BYTES)) for one in found["two"])
    assert np.array_equal(found["array"], large(5 * MIB))
    assert found["list"] == expected["list"]
    assert found["ring"].other.other is found["ring"]
    assert named.value == "by a name"


def counted():
    """Return from where this process's stores have loaded how much, by the stores' homes."""
    return {home: dict(values) for home, values in counters.snapshot().items() if home.startswith("/")}


def since(before):
    """Return how much was loaded from where since then. Homes that are not counted any more do not matter."""
    more = [(values, before.get(home, {})) for home, values in counted().items()]
    names = ("from_tier", "from_store", "damaged")
    return {name: sum(values[name] - earlier.get(name, 0) for values, earlier in more) for name in names}


TASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_staged
print(json.dumps(test_staged.load(bytes.fromhex(sys.argv[2]))))
"""


def task(bed, *wrapper, **variables):
    """Load everything in a process of its own; return its counts."""
    here = os.path.dirname(__file__)
    words = [*wrapper, sys.executable, "-c", TASK, here, bed.references.hex()]
    return json.loads(processes.run(*words, env=processes.environment(**variables)))


def test_tasks_need_nothing_of_the_store(bed):
    """With a staged file everything loads although the store is gone: small, large, parts, circles, by name."""
    bed.take_away()
    found = task(bed)
    assert found["from_tier"] > 55
    assert (found["from_store"], found["damaged"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace: apt-get install strace")
def test_no_system_call_names_the_store(bed):
    """A task with a staged file asks the system for nothing in the store's folder; without it, it does."""
    trace = bed.folder / "trace"
    wrapper = ("strace", "-f", "-o", trace, "-e", "trace=%file")
    for variables, named in (({}, False), ({"ANA_STAGED": ""}, True)):
        task(bed, *wrapper, **variables)
        calls = re.findall(rf'"{re.escape(str(bed.tree))}[/"].*', trace.read_text(encoding="utf-8", errors="replace"))
        assert bool(calls) is named, calls[:3]


def test_layers_with_options_find_it_too(bed):
    """`set_dl` over the store's folder opens nothing until something is needed that is not staged."""
    bed.take_away()
    with ana.using_dl(pickle_dir=bed.tree, durable=False, keep_bytes=0):
        assert ana.load(bed.uuid).value["list"][:3] == [0, 1, 2]
        with pytest.raises(StoreError, match="there is no ANA store"):
            ana.get_dl().store.store.tree
        assert not bed.tree.exists()
        bed.bring_back()
        assert ana.Ref("new").make_uuid()


def test_what_is_not_staged_comes_from_the_store(bed):
    """States that were stored later are loaded from the store, and new ones are stored there."""
    with ana.using_dl(ana.DirDataLayer(bed.tree)):
        later = ana.Ref("later").make_uuid()
    ana.set_dl(pickle_dir=bed.tree)
    assert ana.load(later).value == "later"
    holder = ana.Ref([ana.load(bed.uuid), "result"])
    holder.make_uuid()
    assert maintenance.show(bed.tree, holder.uuid).children == [bed.uuid]


def test_a_staged_state_does_not_count_as_stored(bed):
    """An object from a staged file is stored again before anything refers to it, if the store has lost it."""
    ana.set_dl(pickle_dir=bed.tree)
    small = ana.load(bed.uuid).value["small"][0]
    small.value
    path = bed.tree / maintenance.show(bed.tree, small.uuid).path.removeprefix(f"{bed.tree}/")
    path.unlink()
    pickle.dumps(small)
    assert path.exists()


def flip(path, at, bit):
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.slow
def test_damage_is_noticed_and_the_store_has_the_state(bed, caplog):
    """Whatever bit of the file is flipped, all values are right: the store has what the file has no more."""
    caplog.set_level(logging.CRITICAL)
    whole = bed.file.read_bytes()
    chance = random.Random(7)
    index = pack.trailer_size(whole)
    places = [chance.randrange(len(whole) - index) for _ in range(20)]
    places += [chance.randrange(len(whole) - index, len(whole)) for _ in range(20)]
    # Of the small records, which are most of the states and few of the bytes.
    places += [chance.randrange(40_000) for _ in range(20)]
    for at in places:
        flip(bed.file, at, at % 8)
        load(bed.references)
        bed.file.write_bytes(whole)


def test_damage_without_the_store_is_an_error(bed):
    """If neither the file nor the store has a state's right bytes, that is an error, never other bytes."""
    spot = spot_of(bed, EXPLICIT)
    flip(bed.file, spot.offset + spot.size - 3, 0)
    bed.take_away()
    with ana.using_dl(ana.DataLayer()):
        _, named = pickle.loads(bed.references)
        with pytest.raises((CorruptedStateError, StoreError)):
            named.value


def spot_of(bed, key):
    """Return where the record of a key lies in the staged file."""
    data = bed.file.read_bytes()
    found = pack.read_index(data[-pack.trailer_size(data) :], len(data)).find(pack.wide_number_of(key))
    record, _ = raw_record.read(data[found.offset : found.offset + found.size])
    assert record.key == key
    return found


def test_the_index_says_where_records_are(bed):
    """An independent reader finds a whole record of each state where the index says; the rest is a tar archive."""
    assert set(bed.staged.states) >= {bed.uuid, EXPLICIT}
    for key in bed.staged.states:
        spot_of(bed, key)


# What cannot be used


def warned(act, *arguments):
    """Call a function, twice; return its result, and the one thing that it warned of."""

    def twice():
        return act(*arguments), act(*arguments)

    with pytest.warns(RuntimeWarning) as found:
        result, _ = twice()
    (one,) = found
    assert one.filename == __file__
    assert "ANA_STAGED" in str(one.message)
    return result, str(one.message)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_half_a_file_is_not_used(bed, kept):
    """A file that is cut short is named in a warning, and everything comes from the store."""
    size = bed.file.stat().st_size
    os.truncate(bed.file, int(size * kept) if 0 <= kept < 1 else size + kept if kept < 0 else kept)
    found, warning = warned(load, bed.references)
    assert found["from_tier"] == 0
    assert f"{bed.file} (" in warning
    assert "cut short" in warning


def test_a_missing_file_is_no_error(bed, monkeypatch):
    """On a node that has no such file, everything comes from the store, and a warning says so and what to do."""
    monkeypatch.setenv("ANA_STAGED", str(bed.folder / "other.ana"))
    _, warning = warned(load, bed.references)
    assert f"{bed.folder}/other.ana (" in warning
    assert "no such file on this node. Copy the store's file from ana stage to this node, or unset" in warning


def test_an_exported_file_is_not_a_staged_one(bed, monkeypatch):
    """`ana export` writes no index: its file is named as the wrong one."""
    maintenance.export_states(bed.tree, ["sweep"], bed.folder / "exported.ana")
    monkeypatch.setenv("ANA_STAGED", str(bed.folder / "exported.ana"))
    assert "not a file of ana stage" in warned(load, bed.references)[1]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_not_used(bed, mode):
    """A file that somebody else could have written is refused."""
    bed.file.chmod(mode)
    found, warning = warned(load, bed.references)
    assert found["from_tier"] == 0
    assert "may write to it" in warning
    assert f"chmod -R go-w {bed.file}" in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user plants the file")
def test_a_file_of_another_user_is_not_used(bed):
    """A file that another user has planted is refused."""
    os.chown(bed.file, 12345, 12345)
    found, warning = warned(load, bed.references)
    assert found["from_tier"] == 0
    assert "another user" in warning


def test_a_file_that_may_not_be_read(bed, monkeypatch):
    """What the system says is passed on."""

    def refuse(path, *arguments, **options):
        if os.fspath(path) == str(bed.file):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opening(path, *arguments, **options)

    opening = os.open
    monkeypatch.setattr(os, "open", refuse)
    found, warning = warned(load, bed.references)
    assert found["from_tier"] == 0
    assert f"{bed.file} (" in warning
    assert "Permission denied" in warning


def test_damage_in_the_midst_is_said_once(bed, caplog):
    """Each damaged state is counted and logged; the warning is one for the file, whose cure is a new copy."""
    for key in [key for key in bed.staged.states if key not in (bed.uuid, EXPLICIT)][:20]:
        flip(bed.file, spot_of(bed, key).offset + 60, 0)
    found, warning = warned(load, bed.references)
    assert found["from_store"] == found["damaged"] == 20
    assert caplog.text.count("is damaged") == 20
    assert f"{bed.file}:" in warning
    assert "ana_store" not in warning


def test_the_file_of_another_store_is_no_secret(bed):
    """A job that reads another store is told that its states are not staged, wherever it first opens the store."""
    other = bed.folder / "other"
    del os.environ["ANA_STAGED"]
    with ana.using_dl(pickle_dir=other):
        made = ana.Ref("other")
        uuid, reference = made.make_uuid(), pickle.dumps(made)
    os.environ["ANA_STAGED"] = str(bed.file)

    def use(value):
        with ana.using_dl(pickle_dir=other):
            assert ana.load(uuid).value == value
        with ana.using_dl(ana.DataLayer()):
            assert pickle.loads(reference).value == value

    warning = warned(use, "other")[1]
    assert f"{bed.file} holds states of the store {bed.tree}, not of {other}. Copy the store's file" in warning


def test_a_second_store_need_not_be_staged(bed, tmp_path):
    """A program that reads the staged store, and another one, is told nothing."""
    with ana.using_dl(pickle_dir=tmp_path / "results"):
        ana.Ref("a result").make_uuid()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(bed.references)
        with ana.using_dl(pickle_dir=tmp_path / "results"):
            ana.Ref("a result").make_uuid()
    assert not [said for said in staged._told if str(bed.file) in said]


def test_ana_info_says_what_is_not_used(bed, monkeypatch):
    """A look at the store on the node shows it before any task runs."""
    assert [one for one in maintenance.info(bed.tree).findings if "ANA_STAGED" in one.what] == []
    with ana.using_dl(pickle_dir=bed.folder / "other"):
        ana.Ref("other").make_uuid()
    for store, file, reason in (
        (bed.folder / "other", bed.file, "holds states of the store"),
        (bed.tree, bed.folder / "none", "no such file"),
    ):
        monkeypatch.setenv("ANA_STAGED", str(file))
        (found,) = (one for one in maintenance.info(store).findings if "ANA_STAGED" in one.what)
        assert (found.kind, found.cure) == ("slow", staged.CURE)
        assert reason in found.what


# Other paths, other stores


def test_the_same_store_by_another_path(bed):
    """A store that is reached by a link is the one that was staged: its ana.json is read, its states are not."""
    before = counted()
    link = bed.folder / "link"
    link.symlink_to(bed.tree)
    with ana.using_dl(pickle_dir=link):
        assert ana.load(bed.uuid).value["list"][-1] == 299_999
    found = since(before)
    assert found["from_store"] == 0
    assert found["from_tier"] > 0


def test_paths_of_another_site_are_mapped(bed, monkeypatch):
    """ANA_PATH_MAP translates the path of the store that was staged, as it does those of references."""
    monkeypatch.setenv("ANA_PATH_MAP", f"{bed.tree}={bed.folder}/mounted")
    bed.take_away()
    assert load(bed.references)["from_store"] == 0


def test_other_stores_are_as_ever(bed):
    """A staged file says nothing about other stores, also not about one with the same states."""
    with ana.using_dl(pickle_dir=bed.folder / "other"):
        with pytest.raises(StateNotFoundError):
            ana.load(bed.uuid)
        assert not isinstance(ana.get_dl().store, StagedStore)


def test_a_forked_child_reads_it_too(bed):
    """Parent and child use the same open file."""
    bed.take_away()
    with ana.using_dl(pickle_dir=bed.tree, keep_bytes=0):
        ana.load(bed.uuid)
        child = os.fork()
        if not child:
            ok = ana.load(bed.uuid).value["list"][-1] == 299_999
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0


# Signed stores


@pytest.fixture
def keyed(tmp_path, monkeypatch):
    """A bed whose store has a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ANA_KEY_FILE", raising=False)
    maintenance.init(tmp_path / "tree", keyed=True)
    made = Bed(tmp_path)
    monkeypatch.setenv("ANA_STAGED", str(made.file))
    return made


def test_staged_records_keep_their_signatures(keyed):
    """Records of a signed store are signed in the file, too, and are used without the store."""
    keyed.take_away()
    assert load(keyed.references)["from_store"] == 0


def test_nothing_unsigned_is_believed(keyed, tmp_path, monkeypatch, caplog):
    """A file without signatures, or of another key, is not used, whatever it says of the store that it is from."""
    forged = tmp_path / "forged"
    with ana.using_dl(pickle_dir=forged):
        trap = ana.Ref(Trap(tmp_path / "sprung"))
        trap.make_uuid(uuid=EXPLICIT)
        trap.ana_store()
    fields = json.loads((keyed.tree / "ana.json").read_text())
    for claims in ({"id": fields["id"]}, fields, {**fields, "key": "00" * 8}, {**fields, "id": "another"}):
        plant(forged, tmp_path / "planted.ana", home=str(keyed.tree), **claims)
        monkeypatch.setenv("ANA_STAGED", str(tmp_path / "planted.ana"))
        assert load(keyed.references)["from_tier"] == 0
        assert not (tmp_path / "sprung").exists()
        (tmp_path / "planted.ana").unlink()


def plant(tree, path, **claims):
    """Write the staged file of a store, and have it claim to be another's."""
    maintenance.stage_states(tree, [EXPLICIT], path)
    data = path.read_bytes()
    size = pack.trailer_size(data)
    index = pack.read_index(data[-size:], len(data))
    about = {**json.loads(index.about), **claims}
    path.write_bytes(data[:-size] + pack.wide_index_frame(dict(index.items()), index.end, json.dumps(about).encode()))


def test_a_process_without_the_key_gets_nothing(keyed, monkeypatch, tmp_path):
    """Without the key, a signed staged file is as useless as the store."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no config"))
    with ana.using_dl(ana.DataLayer()):
        top, _ = pickle.loads(keyed.references)
        with pytest.raises((StateNotFoundError, UntrustedStoreError)):
            top.value


# The index


@pytest.mark.once
def test_wide_indexes_have_no_limits():
    """Records of any size lie anywhere in the file, under any key; what the index says of its file comes back."""
    keys = ["a", EXPLICIT, "é" * 200]
    spots = {pack.wide_number_of(key): pack.Spot(at << 40, 1 << 41) for at, key in enumerate(keys)}
    end = 1 << 43
    frame = pack.wide_index_frame(spots, end, b"about")
    found = pack.read_index(frame, end + len(frame))
    assert (dict(found.items()), found.about, found.end) == (spots, b"about", end)
    for at in range(len(frame)):
        assert pack.read_index(frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :], end + len(frame)) is None
    assert pack.wide_number_of("6d470032-7a96-8dcb-b627-c4f4f22a69eb") == 0x6D4700327A968DCBB627C4F4F22A69EB


def test_a_folder_is_not_a_staged_file(tmp_path):
    """Whatever the path leads to, the error says what is wrong."""
    for path, kind in ((tmp_path, UntrustedStoreError), (tmp_path / "none", StoreError)):
        with pytest.raises(kind) as found:
            StagedFile.open(str(path), EVERYDAY.check_file)
        assert str(path) in str(found.value)
    assert found.value.errno == errno.ENOENT
