"""Small states in packs: written, found, read, damaged, healed, removed; and whose packs are believed."""

import errno
import gc
import os
import pickle
import shutil
import time
from typing import ClassVar

import pytest
from support import places, raw_pack, raw_record, raw_tree
from support.classes import A

import ana
from ana.format import address, pack, record
from ana.format.pack import Spot
from ana.stores.base import Put
from ana.stores.directory import keyring, pack_files, packs
from ana.stores.directory.store import DirectoryStore
from ana.testing.contract import CONTENTS

pytestmark = pytest.mark.once

SMALL = {name: parts for name, parts in CONTENTS.items() if sum(map(len, parts)) <= places.PACK_BYTES}
WRONG = (ana.CorruptedStateError, ana.UnsupportedFormatError)


def content_of(*segments):
    """Return a state of some class, under its content address."""
    content = record.content("mesh:Mesh", list(map(memoryview, segments)))
    return address.content_uuid(content.digest), content


KEY, CONTENT = content_of(b"state")


def put(store, *segments, children=(), repair=False):
    """Put a state; return its key, or None if it was there."""
    key, content = content_of(*segments or (b"state",))
    return key if store.put(key, content, children, repair=repair) else None


def get(store, key=KEY):
    """Return a state's content."""
    return [bytes(segment) for segment in store.get(key).segments()]


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch):
    """Do not wait until a process looks again whether a pack is there."""
    monkeypatch.setattr(packs, "BELIEVE_SECONDS", 0)
    monkeypatch.setattr(pack_files, "BELIEVE_SECONDS", 0)


class Folder:
    """A store in a folder, opened by one writer after the other."""

    options: ClassVar[dict[str, object]] = {}

    def __init__(self, tree):
        self.tree = tree

    def open(self, **options):
        """Return a store that reads packs, as another process does."""
        return DirectoryStore(str(self.tree), durable=False, **self.options | options)

    def writer(self, **options):
        """Return a store that writes packs."""
        return places.packing(self.open(**options))

    def packs(self):
        """Return the packs there."""
        return raw_pack.packs(self.tree)


class Keyed(Folder):
    """The same, signed."""

    options: ClassVar[dict[str, object]] = {"trusted": keyring.Trusted(ring=keyring.from_option(b"k" * 32))}


@pytest.fixture
def folder(tmp_path):
    """A folder for a store."""
    return Folder(tmp_path / "tree")


@pytest.fixture(params=[Folder, Keyed])
def any_folder(request, tmp_path):
    """A folder for a store, without a key and with one."""
    return request.param(tmp_path / "tree")


# Written and read


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
@pytest.mark.parametrize("content", SMALL)
def test_what_is_put_can_be_got(any_folder, content, sealed):
    """By the writer, and by others that know nothing; with a hint and without; the pack sealed or not."""
    writer = any_folder.writer()
    key = put(writer, *SMALL[content])
    assert get(writer, key) == SMALL[content]
    if sealed:
        writer.packs.seal()
    assert raw_tree.states(any_folder.tree) == []
    assert get(any_folder.open(), key) == SMALL[content]
    by_hint = any_folder.open()
    by_hint.note_hint(key, writer.hint(key) or any_folder.open().hint(key))
    assert get(by_hint, key) == SMALL[content]


def test_what_is_put_is_a_record(folder):
    """Byte for byte what a file of its own would hold; the whole pack is a legal zstd file."""
    writer = folder.writer()
    for number in range(20):
        put(writer, b"%d" % number, children=("any string",))
    writer.packs.seal()
    (path,) = folder.packs()
    data = path.read_bytes()
    found = dict(raw_pack.index(data))
    assert len(found) == 20
    assert {key: (at, size) for key, at, size in raw_pack.records(data)} == found
    for key, (at, size) in found.items():
        part, segments = raw_record.read(data[at : at + size])
        assert (part.key, part.children) == (key, ("any string",))
        assert content_of(*segments)[0] == key
    assert raw_record.decompress(data) == b"".join(b"%d" % number for number in range(20))


@pytest.mark.parametrize("content", [name for name in CONTENTS if name not in SMALL])
def test_large_states_have_files_of_their_own(folder, content):
    """As ever."""
    writer = folder.writer()
    key = put(writer, *CONTENTS[content])
    assert raw_tree.path_of(folder.tree, key).exists()
    assert folder.packs() == []
    assert get(folder.open(), key) == CONTENTS[content]


def test_keys_that_are_no_content_addresses_are_never_sought_in_packs(folder):
    """Of 36 characters as well, in capitals as well: they are what they are, and not found if they are not there."""
    writer = folder.writer()
    put(writer)
    for key in ("x" * 36, "-" * 36, KEY.upper(), "{" + KEY[1:], " " * 36, "\u0661" * 36, "ff" * 18):
        for store in (writer, folder.open()):
            store.note_hint(key, writer.hint(KEY))
            assert not store.has(key)
            assert store.hint(key) == ""
            with pytest.raises(ana.StateNotFoundError):
                store.get(key)
        assert writer.put(key, CONTENT, (), repair=False)
        assert get(folder.open(), key) == [b"state"]


def test_a_state_is_written_once_into_a_pack(folder):
    """The same writer knows what it has written; `repair` knows what anybody has written, loose or packed."""
    writer = folder.writer()
    put(writer)
    size = folder.packs()[0].stat().st_size
    assert put(writer) is None
    assert put(writer, repair=True) is None
    other = folder.writer()
    assert put(other, repair=True) is None
    assert other.has(KEY)
    assert put(other) is None
    assert put(folder.open(), repair=True) is None
    assert [path.stat().st_size for path in folder.packs()] == [size]
    loose = put(folder.open(), b"loose")
    assert put(folder.writer(), b"loose", repair=True) is None
    assert raw_pack.find(folder.tree, loose) is None


def _puts(*contents):
    return [Put(*content_of(content), (), repair=False) for content in contents]


def _put_many(store, puts):
    told = {}

    def done(number, *, written=False, error=None):
        assert number not in told
        told[number] = error if error is not None else written

    store.put_many(puts, done)
    return [told[number] for number in range(len(puts))]


def test_many_are_put_at_once(folder):
    """Large ones, small ones, the same twice, those that are there, given UUIDs: each is answered, and is there."""
    writer = folder.writer()
    put(writer, b"there")
    given = Put("named", CONTENT, (), repair=False)
    puts = [*_puts(b"a", b"there", b"b", bytes(100_000), b"b"), given]
    assert _put_many(writer, puts)[:4] == [True, False, True, True]
    assert _put_many(writer, puts) == [False] * 6
    reader = folder.open()
    for put_ in puts:
        assert get(reader, put_.key) == [bytes(view) for view in put_.state.views]


def test_one_that_cannot_be_put_does_not_keep_others_from_it(folder, monkeypatch):
    """Of many states one cannot be written: it alone is told so."""
    writer = folder.writer()
    encode = record.encode

    def picky(key, content, *rest):
        if bytes(content.views[0]) == b"bad":
            raise ana.StateChangedError(key, "mesh:Mesh", "changed")
        return encode(key, content, *rest)

    monkeypatch.setattr(record, "encode", picky)
    puts = _puts(b"good", b"bad", b"also good")
    told = _put_many(writer, puts)
    assert [type(one) for one in told] == [bool, ana.StateChangedError, bool]
    assert get(folder.open(), puts[2].key) == [b"also good"]


def test_a_record_too_large_for_packs_gets_a_file(folder, monkeypatch):
    """Its content is small, its header is not: whoever reads a pack would not believe such a record."""
    monkeypatch.setattr(pack, "MAX_RECORD_BYTES", 2000)
    writer = folder.writer()
    many = tuple(f"child {number}" for number in range(500))
    key, content = content_of(b"alone")
    assert writer.put(key, content, many, repair=False)
    puts = [Put(*content_of(b"one of many"), many, repair=False), *_puts(b"small")]
    assert _put_many(writer, puts) == [True, True]
    assert sorted(raw_tree.states(folder.tree)) == sorted(
        str(raw_tree.path_of(folder.tree, one).relative_to(folder.tree)) for one in (key, puts[0].key)
    )
    for one in (key, puts[0].key, puts[1].key):
        folder.open().get(one).verify()


def test_a_full_pack_is_sealed_and_another_begun(folder, monkeypatch):
    """Full by bytes or by records; all states are found, with their packs sealed but for the last."""
    monkeypatch.setattr(pack, "MAX_RECORDS", 10)
    writer = folder.writer()
    keys = [put(writer, b"%d" % number) for number in range(25)]
    monkeypatch.setattr(pack, "MAX_BYTES", 1000)
    keys += [put(writer, b"large %d" % number, os.urandom(300)) for number in range(5)]
    sealed = [raw_pack.index(path.read_bytes()) for path in folder.packs()]
    assert sum(found is None for found in sealed) <= 1
    assert len(sealed) >= 5
    reader = folder.open()
    for key in keys:
        assert reader.has(key)
        reader.get(key).verify()


def test_a_pack_is_sealed_when_its_store_is_forgotten(folder):
    """A layer that is no longer used leaves no open file, and a pack that need not be walked."""
    writer = folder.writer()
    put(writer)
    before = len(os.listdir("/proc/self/fd"))
    del writer
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before
    (path,) = folder.packs()
    assert list(raw_pack.index(path.read_bytes())) == [KEY]


def test_a_pack_without_records_leaves_no_file(folder):
    """An object whose store failed before anything was written."""
    writer = folder.writer()
    writer.packs._writer_for_more()
    assert len(folder.packs()) == 1
    writer.packs.seal()
    assert folder.packs() == []


# Hints


def nonsense(right):
    """Return hints that are wrong, given the right one."""
    name, at, size = right.rsplit(":", 2)
    return {
        "another record": f"{name}:0:{size}",
        "the middle of one": f"{name}:{int(at) + 3}:{size}",
        "too short": f"{name}:{at}:{int(size) - 1}",
        "too long": f"{name}:{at}:{int(size) + 1}",
        "much too long": f"{name}:{at}:{pack.MAX_RECORD_BYTES}",
        "behind the end": f"{name}:{10 * int(at)}:{size}",
        "another pack": f"gone-1-abc:{at}:{size}",
        "no hint": "nonsense",
        "a path": f"../packs/{name}:{at}:{size}",
        "none": "",
    }


@pytest.mark.parametrize("kind", nonsense("name:1:1"))
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_a_wrong_hint_costs_a_look_up(any_folder, kind, sealed):
    """Whatever a reference says of the place: the state is found, stays found, and is not taken for damaged."""
    writer = any_folder.writer()
    put(writer, b"first")
    put(writer)
    said = nonsense(writer.hint(KEY))[kind]
    if sealed:
        writer.packs.seal()
    reader = any_folder.open()
    for _ in range(2):
        reader.note_hint(KEY, said)
        assert get(reader) == [b"state"]
        assert reader.has(KEY)
        assert reader.is_whole(KEY)
    assert reader.counters.values()["damaged"] == 0


def test_a_wrong_hint_to_a_loose_state(folder):
    """The state has been unpacked, or never was in a pack."""
    put(folder.open())
    other = folder.writer()
    put(other, b"another")
    for said in nonsense(other.hint(content_of(b"another")[0]).replace(":0:", ":0000:")).values():
        reader = folder.open()
        reader.note_hint(KEY, said)
        assert get(reader) == [b"state"]


def test_references_and_headers_carry_hints(tmp_path):
    """A load by reference opens the pack that it names and lists nothing; so do the loads of what that state holds."""
    with ana.using_dl(pickle_dir=tmp_path, pack_bytes="64k", durable=False):
        parent = A([A(number) for number in range(5)])
        for child in parent.x:
            child.make_uuid()
        data = pickle.dumps(parent) if parent.make_uuid() else b""
    listed = []
    with ana.using_dl(pickle_dir=tmp_path) as layer:
        store = layer._store if hasattr(layer, "_store") else layer.store
        store.packs.refresh = lambda: listed.append(1) or False
        assert [child.x for child in pickle.loads(data).x] == list(range(5))
    assert listed == []


# Damage


def flip(path, bit):
    """Flip a bit of a file."""
    data = path.read_bytes()[bit // 8]
    raw_pack.overwrite(path, bit // 8, bytes([data ^ 1 << bit % 8]))


def verdict(store, key=KEY):
    """Return what a load returns, or the class of its error."""
    try:
        return get(store, key)
    except ana.ANAError as error:
        return type(error)


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["hint", "index"])
def test_every_flipped_bit_is_noticed(any_folder, sealed, step, how):
    """Never wrong data, whichever way it was found; the states before and behind it load."""
    writer = any_folder.writer()
    before, key, behind = put(writer, b"before"), put(writer, b"state " * 20), put(writer, b"behind")
    said = writer.hint(key)
    if sealed:
        writer.packs.seal()
    path, at, size = raw_pack.find(any_folder.tree, key)
    good = path.read_bytes()
    wrong = []
    for bit in range(at * 8, (at + size) * 8, step):
        flip(path, bit)
        reader = any_folder.open()
        if how == "hint":
            reader.note_hint(key, said)
        found = verdict(reader, key)
        # In a pack without an index, what is not whole is no record.
        if found not in {*WRONG, *(() if sealed else (ana.StateNotFoundError,))}:
            wrong.append((bit, found))
        if (get(reader, before), get(reader, behind)) != ([b"before"], [b"behind"]):
            wrong.append((bit, "its neighbours"))
        flip(path, bit)
    assert wrong == []
    assert path.read_bytes() == good


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_every_truncation_is_noticed(any_folder, sealed):
    """A pack that ends anywhere: what is whole is read, what is not is not found; a put stores it again."""
    writer = any_folder.writer()
    keys = [put(writer, b"%d" % number) for number in range(3)]
    if sealed:
        writer.packs.seal()
    (path,) = any_folder.packs()
    good = path.read_bytes()
    ends = {key: at + size for key, at, size in raw_pack.records(good)}
    del writer
    for size in range(0, len(good), 3):
        path.write_bytes(good[:size])
        reader = any_folder.open()
        found = {key: verdict(reader, key) for key in keys}
        assert found == {
            key: [b"%d" % number] if ends[key] <= size else ana.StateNotFoundError for number, key in enumerate(keys)
        }
        assert [reader.has(key) for key in keys] == [ends[key] <= size for key in keys]


def test_a_pack_that_became_shorter_is_not_believed(folder):
    """A reader knew what has been cut off since: it says no, and a writer among them stores it again."""
    writer, reader, another = folder.writer(), folder.open(), folder.writer()
    put(writer, b"first")
    put(writer)
    assert reader.has(KEY)
    assert another.has(KEY)
    path, at, _ = raw_pack.find(folder.tree, KEY)
    os.truncate(path, at + 10)
    assert not reader.has(KEY)
    assert verdict(reader) is ana.StateNotFoundError
    assert verdict(reader, content_of(b"first")[0]) == [b"first"]
    assert put(another) == KEY
    assert get(reader) == [b"state"]


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_storing_again_heals(any_folder, sealed):
    """For this process, for one that has seen the damage, for one that knows nothing; the damage stays as it was."""
    writer = any_folder.writer()
    put(writer, b"before")
    put(writer)
    put(writer, b"behind")
    if sealed:
        writer.packs.seal()
    witness = any_folder.open()
    assert witness.has(KEY)
    path, at, size = raw_pack.find(any_folder.tree, KEY)
    flip(path, (at + size) * 8 - 1)
    damaged = path.read_bytes()
    assert verdict(witness) is ana.CorruptedStateError
    assert not witness.is_whole(KEY)
    assert verdict(writer) is ana.CorruptedStateError
    healer = any_folder.writer()
    assert put(healer, repair=True) == KEY
    for store in (healer, witness, writer, any_folder.open()):
        assert get(store) == [b"state"]
        assert store.is_whole(KEY)
        assert store.has(KEY)
    assert path.read_bytes().startswith(damaged[: at + size])
    assert put(healer, repair=True) is None
    assert put(any_folder.writer(), repair=True) is None
    assert put(any_folder.open(), repair=True) is None


def test_a_writer_heals_what_it_has_written_itself(folder):
    """Its own pack is damaged behind its back: the second record of the key is the one that counts."""
    writer = folder.writer()
    put(writer)
    path, at, size = raw_pack.find(folder.tree, KEY)
    flip(path, (at + size) * 8 - 1)
    assert verdict(writer) is ana.CorruptedStateError
    assert put(writer, repair=True) == KEY
    assert get(writer) == [b"state"]
    assert get(folder.open()) == [b"state"]
    writer.packs.seal()
    assert get(folder.open()) == [b"state"]


@pytest.mark.parametrize("packing", [False, True], ids=["by a file", "by a pack"])
def test_a_damaged_loose_state_is_healed(folder, packing):
    """Readers that know no packs find it: it is set aside, whoever heals it."""
    put(folder.open())
    path = raw_tree.path_of(folder.tree, KEY)
    flip(path, path.stat().st_size * 8 - 1)
    healer = folder.writer() if packing else folder.open()
    assert put(healer, repair=True) == KEY
    for store in (healer, folder.open()):
        assert get(store) == [b"state"]


def test_a_damaged_packed_state_is_healed_by_a_writer_of_files(folder):
    """Who writes no packs puts a file beside it."""
    put(folder.writer())
    path, at, size = raw_pack.find(folder.tree, KEY)
    flip(path, (at + size) * 8 - 1)
    assert put(folder.open(), repair=True) == KEY
    for _ in range(2):
        assert get(folder.open()) == [b"state"]


def test_states_behind_damage_are_found(folder):
    """In a pack whose writer was killed, garbage between two records hides neither, nor what comes later."""
    writer = folder.writer()
    keys = [put(writer, b"%d" % number) for number in range(4)]
    path = folder.packs()[0]
    spots = {key: (at, size) for key, at, size in raw_pack.records(path.read_bytes())}
    raw_pack.overwrite(path, spots[keys[1]][0], b"garbage")
    reader = folder.open()
    assert [reader.has(key) for key in keys] == [True, False, True, True]
    late = put(writer, b"late")
    assert get(reader, late) == [b"late"]
    assert get(reader, keys[3]) == [b"3"]


def test_a_record_that_is_not_whole_yet_is_found_later(folder):
    """A reader looked when part of a write was there, and the next write already: it is found once it is whole."""
    writer = folder.writer()
    keys = [put(writer, b"%d" % number) for number in range(3)]
    path = folder.packs()[0]
    good = path.read_bytes()
    del writer
    _, at, size = raw_pack.find(folder.tree, keys[1])
    path.write_bytes(good[:at] + bytes(size) + good[at + size :])
    reader = folder.open()
    assert [reader.has(key) for key in keys] == [True, False, True]
    path.write_bytes(good + b"torn")
    assert [reader.has(key) for key in keys] == [True] * 3


# Packs that go


def test_a_pack_that_is_deleted_under_a_reader(folder):
    """`has` says no at once, a load that it is not there; what is stored again is found."""
    writer, reader = folder.writer(), folder.open()
    put(writer)
    writer.packs.seal()
    assert get(reader) == [b"state"]
    folder.packs()[0].unlink()
    assert not reader.has(KEY)
    assert verdict(reader) is ana.StateNotFoundError
    assert put(folder.writer()) == KEY
    assert get(reader) == [b"state"]


def test_a_pack_that_is_deleted_under_its_writer(folder):
    """`has` says no; what is stored from then on is there, at once, in another pack."""
    writer = folder.writer()
    put(writer)
    folder.packs()[0].unlink()
    new = put(writer, b"new")
    assert get(folder.open(), new) == [b"new"]
    assert not writer.has(KEY)
    assert put(writer) == KEY
    assert get(folder.open()) == [b"state"]
    assert len(folder.packs()) == 1


def test_what_is_purged_is_stored_again(tmp_path):
    """An object that believes itself stored looks again; and all that it refers to is there then."""
    with ana.using_dl(pickle_dir=tmp_path, pack_bytes="64k", durable=False, recheck_seconds=0):
        parent = A(A("child"))
        parent.x.make_uuid()
        parent.make_uuid()
        shutil.rmtree(tmp_path / "packs")
        data = pickle.dumps(parent)
        parent.x.ana_store()
    with ana.using_dl(pickle_dir=tmp_path):
        assert pickle.loads(data).x.x == "child"


def test_a_store_that_is_replaced(folder):
    """The writer is told that another has taken the old one's place, and begins its next pack in the new store."""
    writer = folder.writer()
    put(writer)
    shutil.rmtree(folder.tree)
    folder.open()
    key, content = content_of(b"new")
    with pytest.raises(ana.StoreError, match="try again"):
        writer.put(key, content, (), repair=False)
    assert not writer.has(KEY)
    assert put(writer, b"new") == key
    assert get(folder.open(), key) == [b"new"]


def test_objects_follow_a_store_that_is_replaced(tmp_path):
    """One by one, and in bulk: what is acknowledged is in the new store."""
    tree = tmp_path / "tree"
    for store_all in (lambda _, parts: [part.make_uuid() for part in parts], ana.DirDataLayer.store_many):
        with ana.using_dl(pickle_dir=tree, pack_bytes="64k", durable=False) as layer:
            A("old").make_uuid()
            shutil.rmtree(tree)
            ana.DirDataLayer(tree)
            parts = [A(["new", number]) for number in range(5)]
            uuids = store_all(layer, parts)
        with ana.using_dl(pickle_dir=tree):
            assert [A.ana_load(uuid).x for uuid in uuids] == [["new", number] for number in range(5)]
        shutil.rmtree(tree)


# Whose packs are believed


def test_a_pack_that_others_can_write_to_is_refused(folder):
    """The error names it, by hint or without; a state of the same key elsewhere is found all the same."""
    writer = folder.writer()
    put(writer)
    said = writer.hint(KEY)
    path = folder.packs()[0]
    path.chmod(0o622)
    for hint in ("", said):
        reader = folder.open()
        reader.note_hint(KEY, hint)
        with pytest.raises(ana.ANAError, match="go-w") as caught:
            get(reader)
        assert path.name in str(caught.value)
        assert not folder.open().has(KEY)
    assert put(folder.writer()) == KEY
    reader = folder.open()
    reader.note_hint(KEY, said)
    assert get(reader) == [b"state"]


@pytest.mark.parametrize("kind", ["link", "open to all"])
def test_a_folder_of_packs_that_others_may_have_planted_is_refused(folder, kind):
    """A link that leads out of the store, or a folder in which anyone can put packs: not read, not written into."""
    writer = folder.writer()
    put(writer)
    said = writer.hint(KEY)
    place = folder.tree / "packs"
    if kind == "link":
        elsewhere = folder.tree.with_name("elsewhere")
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
    else:
        place.chmod(0o777)
    for hint in ("", said):
        reader = folder.open()
        reader.note_hint(KEY, hint)
        with pytest.raises(ana.UntrustedStoreError, match="packs"):
            get(reader)
    if kind == "link":
        with pytest.raises(ana.UntrustedStoreError, match="packs"):
            put(folder.writer(), b"new")


def test_a_folder_of_packs_is_listed_when_it_has_changed(folder, monkeypatch):
    """Not for each state that is not there; but just after a change its times may be those of the next one, too."""
    listed = []
    whole = pack_files.files.list_folder
    monkeypatch.setattr(pack_files.files, "list_folder", lambda path: listed.append(path) or whole(path))

    def misses(store):
        listed.clear()
        assert not any(store.has(content_of(b"absent %d" % number)[0]) for number in range(3))
        return len(listed)

    writer = folder.writer()
    put(writer)
    reader = folder.open()
    assert misses(reader) == 3
    monkeypatch.setattr(pack_files, "STEADY_SECONDS", 0.05)
    for number in range(3):
        time.sleep(0.1)
        assert misses(reader) == 1
        assert misses(reader) == 0
        # In the pack that is known, and in a new one.
        key = put(writer, b"grown %d" % number)
        assert reader.has(key)
        key = put(folder.writer(), b"new %d" % number)
        assert reader.has(key)
    # Now again with the times of the last change.
    os.utime(folder.tree / "packs", (0, 0))
    path = folder.packs()[-1]
    path.rename(path.with_name(f"{path.name}.elsewhere"))
    os.utime(folder.tree / "packs", (0, 0))
    assert len(reader.packs.names()) == 3
    remote = folder.open()
    monkeypatch.setattr(remote.tree, "is_remote", True)
    time.sleep(0.1)
    assert misses(remote) == 3


def test_links_and_folders_with_the_name_of_a_pack_are_none(folder):
    """They are not followed; nor is a FIFO waited for."""
    writer = folder.writer()
    put(writer)
    said = writer.hint(KEY)
    path = folder.packs()[0]
    elsewhere = folder.tree.with_name("elsewhere")
    path.rename(elsewhere)
    for make in (lambda: path.symlink_to(elsewhere), path.mkdir, lambda: os.mkfifo(path)):
        make()
        for hint in ("", said):
            reader = folder.open()
            reader.note_hint(KEY, hint)
            assert issubclass(verdict(reader), (ana.UntrustedStoreError, ana.StateNotFoundError, ana.StoreError))
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_an_unreadable_pack_is_an_error_not_a_miss(folder, monkeypatch):
    """The disk fails: nobody can say that the state is not there."""
    put(folder.writer())
    real = os.open

    def failing(path, *rest, **options):
        if str(path).endswith(pack.SUFFIX):
            raise OSError(errno.EIO, "the disk failed")
        return real(path, *rest, **options)

    reader = folder.open()
    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(ana.StoreError) as caught:
        get(reader)
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()
    assert get(reader) == [b"state"]


def test_signed_stores_believe_no_index(tmp_path):
    """An index locates, and no more: an unsigned record that it leads to is refused."""
    keyed = Keyed(tmp_path / "tree")
    put(keyed.writer(), b"ours")
    data = record.encode(KEY, CONTENT)
    planted = keyed.tree / "packs" / f"planted{pack.SUFFIX}"
    planted.write_bytes(data + raw_pack.index_frame({KEY: (0, len(data))}, len(data)))
    planted.chmod(0o600)
    reader = keyed.open()
    assert verdict(reader) is ana.CorruptedStateError
    reader = keyed.open()
    reader.note_hint(KEY, pack.hint(planted.name, Spot(0, len(data))))
    assert verdict(reader) is ana.CorruptedStateError
    planted.write_bytes(data)
    assert verdict(keyed.open()) is ana.StateNotFoundError
