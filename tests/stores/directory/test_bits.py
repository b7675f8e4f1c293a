"""Damage of every kind: an error of the right kind, never wrong bytes; the file stays, and can be healed."""

import contextlib
import os
import pickle
import resource

import blake3
import pytest
from support import limits, raw_record, raw_tree
from test_directory import Part

import ana
from ana.format import record
from ana.stores.directory import store
from ana.stores.directory.store import DirectoryStore

pytestmark = pytest.mark.once

KIB = 1 << 10
NOISE = blake3.blake3(b"noise").digest(length=600 * KIB)

SMALL = {"compressed": "state " * 100, "raw blocks": NOISE[:200], "next to nothing": None}
"""States whose records are so small that every bit can be tried."""

LARGE = [pickle.PickleBuffer(NOISE), pickle.PickleBuffer(NOISE[: 5 * KIB]), bytes(600 * KIB)]
"""A state with a compressed chunk for the stream, chunks of raw blocks for a buffer, and one for another."""


class DictPlace:
    """A state of one object in a dict, and its bytes."""

    def __init__(self, value):
        self.mapping = {}
        with self.layer():
            self.uuid = Part(value).make_uuid()
        self.good = self.mapping[self.uuid]

    def layer(self):
        return ana.using_dl(ana.DictDataLayer(self.mapping))

    def write(self, data):
        self.mapping[self.uuid] = data

    def flip(self, bit):
        self.mapping[self.uuid] = _flipped(self.mapping[self.uuid], bit)

    def read(self):
        return self.mapping[self.uuid]


class TreePlace:
    """A state of one object in a tree, and its bytes; nothing waits for the disk."""

    def __init__(self, value, tree):
        self.tree = tree
        with self.layer():
            self.uuid = Part(value).make_uuid()
        self.path = raw_tree.path_of(tree, self.uuid)
        self.good = self.path.read_bytes()

    def layer(self):
        return ana.using_dl(pickle_dir=self.tree, durable=False)

    def write(self, data):
        self.path.write_bytes(data)

    def flip(self, bit):
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(bit // 8)
            (byte,) = file.read(1)
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))

    def read(self):
        return self.path.read_bytes()


@pytest.fixture(params=["dict", "tree"])
def make_place(request, tmp_path):
    """Makes places with the state of one object, of each kind of store."""
    if request.param == "dict":
        return DictPlace
    return lambda value: TreePlace(value, tmp_path)


def _verdict(uuid):
    """Load an object of the current layer; return the error's class, or what was loaded."""
    try:
        return Part.ana_load(uuid).value
    except ana.ANAError as error:
        return type(error)


def _is_right(verdict):
    return verdict in {ana.CorruptedStateError, ana.UnsupportedFormatError}


def _flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _unnoticed(place, bits):
    """Load with each bit flipped; return those bits that were not answered by the right error."""
    wrong = []
    with place.layer():
        for bit in bits:
            place.flip(bit)
            verdict = _verdict(place.uuid)
            place.flip(bit)
            if not _is_right(verdict):
                wrong.append((bit, verdict))
        # Nothing was changed by anybody but us.
        assert place.read() == place.good
    return wrong


def _wrong(place, damages):
    """Load with each damage; return those that were not answered by the right error, or changed the file."""
    wrong = []
    with place.layer():
        for name, data in damages:
            place.write(data)
            verdict = _verdict(place.uuid)
            if not _is_right(verdict) or place.read() != data:
                wrong.append((name, verdict))
    return wrong


def _in_version_or_flags(bit):
    """Say whether a bit of a record is one of those that name its format (docs/format.md)."""
    return 16 * 8 <= bit < 20 * 8


# Errors of the right kind


@pytest.mark.parametrize("value", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("share", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed(make_place, value, share):
    """No single bit of a record can be wrong without an error; the damaged bytes stay for inspection.

    In an everyday run: none of a record in memory, a seventh of those of a file, each byte among them.
    """
    place = make_place(value)
    step = 7 if share == "some" and isinstance(place, TreePlace) else 1
    assert _unnoticed(place, range(0, len(place.good) * 8, step)) == []


@pytest.mark.slow
def test_flipped_bits_of_a_large_record_are_noticed(make_place):
    """Every bit of the header, of the blocks' own headers, and a sample of all others."""
    place = make_place(LARGE)
    head = len(place.good) - sum(len(chunk.frame) for chunk in raw_record.read(place.good)[0].chunks)
    bits = [*range(head * 8), *range(head * 8, len(place.good) * 8, 49_999), len(place.good) * 8 - 1]
    assert _unnoticed(place, bits) == []
    blocks = _block_headers(place.good, head)
    assert len(blocks) >= 5
    assert (
        _wrong(place, ((bit, _flipped(place.good, bit)) for at in blocks for bit in range(at * 8, at * 8 + 24))) == []
    )


def _block_headers(data, head):
    """Return where the headers of the raw blocks lie: three bytes before each 128 KiB of the noise."""
    found = []
    for start in range(0, len(NOISE), 128 * KIB):
        at = data.find(NOISE[start : start + 64], head)
        assert at > 0
        found.append(at - 3)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("value", SMALL.values(), ids=SMALL)
def test_every_truncation_is_noticed(make_place, value):
    """A record that ends too early, after any number of bytes, is damaged."""
    place = make_place(value)
    lengths = range(len(place.good))
    assert _wrong(place, ((length, place.good[:length]) for length in lengths)) == []


def test_truncations_of_a_large_record_are_noticed(make_place):
    """The same for a sample of a large record's lengths."""
    place = make_place(LARGE)
    lengths = [*range(0, 2000, 7), *range(2000, len(place.good), 99_991), len(place.good) - 1]
    assert _wrong(place, ((length, place.good[:length]) for length in lengths)) == []


@pytest.mark.parametrize("value", [*SMALL.values(), LARGE], ids=[*SMALL, "large"])
def test_appended_bytes_are_noticed(make_place, value):
    """A record is as long as it says: what follows is damage, also if it is legal zstd or a record."""
    place = make_place(value)
    tails = {
        **{f"{number} zeros": bytes(number) for number in (*range(1, 65), 4096)},
        "ones": b"\xff" * 7,
        "a frame": raw_record.zstd_chunk(b"more").frame,
        "a skippable frame": raw_record.PREFIX.pack(raw_record.SKIPPABLE, 0),
        "itself": place.good,
    }
    assert _wrong(place, ((name, place.good + tail) for name, tail in tails.items())) == []


@pytest.mark.parametrize("value", [*SMALL.values(), LARGE], ids=[*SMALL, "large"])
def test_bytes_of_something_else_are_noticed(make_place, value):
    """Zeros, ones, text, plain zstd, plain pickles, holes in the middle, parts that changed places."""
    place = make_place(value)
    good, size = place.good, len(place.good)
    half = size // 2
    damages = {
        "nothing": b"",
        "zeros": bytes(size),
        "few zeros": bytes(100),
        "many zeros": bytes(1 << 20),
        "ones": b"\xff" * size,
        "text": (b"<html>Not Found</html>" * size)[:size],
        "zstd": raw_record.zstd_chunk(b"state").frame,
        "a pickle": pickle.dumps({"value": 1}),
        "a zero head": bytes(half) + good[half:],
        "a zero tail": good[:half] + bytes(size - half),
        "a zero end": good[:-16] + bytes(16),
        "halves exchanged": good[half:] + good[:half],
        "reversed": good[::-1],
    }
    damages = {name: data for name, data in damages.items() if data != good}
    assert _wrong(place, damages.items()) == []


def test_a_record_under_another_key_is_noticed(tmp_path):
    """A whole record that was copied or renamed to another state's name is not that state."""
    with ana.using_dl(pickle_dir=tmp_path) as layer:
        uuids = [Part("one").make_uuid(), Part("two").make_uuid()]
        for name in ("named", "also named"):
            layer.store_state(name, name)
        records = {key: raw_tree.path_of(tmp_path, key).read_bytes() for key in (*uuids, "named", "also named")}
    for key, other in ((uuids[0], uuids[1]), (uuids[0], "named"), ("named", uuids[1]), ("named", "also named")):
        raw_tree.path_of(tmp_path, key).write_bytes(records[other])
        with ana.using_dl(pickle_dir=tmp_path) as layer, pytest.raises(ana.CorruptedStateError) as caught:
            layer.load_state(key)
        assert caught.value.uuid == key
        assert repr(other) in caught.value.reason
        assert raw_tree.path_of(tmp_path, key).read_bytes() == records[other]


def test_damage_after_the_look_is_noticed(tmp_path):
    """Content that changes between the header's reading and its own is not returned."""
    place = TreePlace(LARGE, tmp_path)
    found = DirectoryStore(str(tmp_path)).get(place.uuid)
    with open(place.path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))
    with pytest.raises(ana.CorruptedStateError):
        found.segments()
    found.release()


def test_a_reference_to_a_damaged_state_raises_when_it_is_used(tmp_path):
    """Unpickling works; the first use raises CorruptedStateError; healed, the same object works."""
    with ana.using_dl(pickle_dir=tmp_path):
        part = Part("state")
        pickled = pickle.dumps(part) if part.make_uuid() else b""
        path = raw_tree.path_of(tmp_path, part.uuid)
        good = path.read_bytes()
        del part
    path.write_bytes(_flipped(good, len(good) * 8 - 1))
    with ana.using_dl(pickle_dir=tmp_path):
        broken = pickle.loads(pickled)
        for _ in range(2):
            with pytest.raises(ana.CorruptedStateError):
                broken.value
        path.write_bytes(good)
        assert broken.value == "state"


@pytest.mark.parametrize("value", [*SMALL.values(), LARGE], ids=[*SMALL, "large"])
def test_bytes_that_were_wrong_once_are_read_again(tmp_path, monkeypatch, value):
    """A single bad read (a flaky cable, a cache) is no damaged state: the second look decides."""
    place = TreePlace(value, tmp_path)
    preadv = os.preadv
    # Counts down the reads of the state's file until the one that goes wrong.
    until = [0]

    def flaky(descriptor, buffers, offset):
        got = preadv(descriptor, buffers, offset)
        if os.fstat(descriptor).st_size == len(place.good):
            until[0] -= 1
            if until[0] == 0:
                buffers[-1][-1] ^= 1
        return got

    monkeypatch.setattr(os, "preadv", flaky)
    for number in range(1, 9):
        until[0] = number
        with place.layer():
            assert _plain(Part.ana_load(place.uuid).value) == _plain(value)
    assert until[0] > 0, "each of the reads has been wrong once"


def _plain(value):
    return [bytes(part) for part in value] if isinstance(value, list) else value


# Healing


@pytest.mark.slow
@pytest.mark.parametrize("value", SMALL.values(), ids=SMALL)
def test_storing_again_heals_every_damage(tmp_path, value):
    """`ana_store()` of an equal object: the state is whole again, the damaged file kept as it was as `.bad-…`."""
    place = TreePlace(value, tmp_path)
    damages = [
        *(_flipped(place.good, bit) for bit in range(0, len(place.good) * 8, 37) if not _in_version_or_flags(bit)),
        *(place.good[:length] for length in range(0, len(place.good), 29)),
        place.good + b"\0",
        bytes(len(place.good)),
    ]
    for damaged in damages:
        place.write(damaged)
        with place.layer():
            assert Part(value).ana_store() == place.uuid
        assert raw_record.read(place.read())[0].key == place.uuid
    kept = [(tmp_path / name).read_bytes() for name in raw_tree.strangers(tmp_path)]
    assert sorted(kept) == sorted(damages)
    assert all(os.path.basename(name).startswith(".bad-") for name in raw_tree.strangers(tmp_path))
    with place.layer():
        assert Part.ana_load(place.uuid).value == value


def test_the_object_itself_heals_its_state(make_place):
    """An object that is alive and was stored finds the damage at `ana_store()`, and writes its state again."""
    place = make_place("state")
    with place.layer():
        part = Part("state")
        part.make_uuid()
        place.write(_flipped(place.good, len(place.good) * 8 - 1))
        assert part.ana_store() == place.uuid
    assert raw_record.read(place.read())[1] == raw_record.read(place.good)[1]


def test_a_record_that_may_be_of_a_newer_format_is_not_replaced(tmp_path):
    """Where version or flags are unknown nobody can say that it is damage: it stays, and the error says so."""
    place = TreePlace("state", tmp_path)
    known = {18 * 8 + bit for bit in range(5)}  # flags: signed, with `bytes` objects, hints, parts, a summary
    for bit in {*range(16 * 8, 20 * 8)} - known:
        damaged = _flipped(place.good, bit)
        place.write(damaged)
        with place.layer(), pytest.raises(ana.UnsupportedFormatError) as caught:
            Part("state").ana_store()
        assert caught.value.path == str(place.path)
        assert place.read() == damaged
    assert raw_tree.strangers(tmp_path) == []


def test_healing_that_fails_says_so(tmp_path):
    """Where there is no room to write the state again, `ana_store()` raises and does not claim success."""
    place = TreePlace(NOISE, tmp_path)
    place.write(_flipped(place.good, len(place.good) * 8 - 1))
    with place.layer():
        part = Part(NOISE)
        with limits.largest_file(100 * KIB), pytest.raises(ana.StoreError):
            part.ana_store()
        part.ana_store()
        assert raw_record.read(place.read())[0].key == place.uuid


def test_what_another_has_healed_meanwhile_is_not_taken_away(tmp_path, monkeypatch):
    """Two find the same damage. The slower one does not set the quicker one's whole state aside for good."""
    place = TreePlace("state", tmp_path)
    place.write(_flipped(place.good, len(place.good) * 8 - 1))
    slow, quick = DirectoryStore(str(tmp_path)), DirectoryStore(str(tmp_path))
    part, segments = raw_record.read(place.good)
    content = record.content(part.class_name, [memoryview(segment) for segment in segments])
    rename = os.rename

    def rename_late(*names):
        monkeypatch.setattr(os, "rename", rename)
        # For the lock that the slow one holds; locks that lie are what this is about.
        monkeypatch.setattr(store, "LOCK_SECONDS", 0.5)
        assert quick.put(place.uuid, content, (), repair=True)
        rename(*names)
        # From here on the slow one cannot write any more: what the quick one acknowledged has to be there.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    monkeypatch.setattr(os, "rename", rename_late)
    with limits.largest_file(1 << 30), contextlib.suppress(ana.StoreError):
        slow.put(place.uuid, content, (), repair=True)
    assert os.rename is rename, "it was set aside"
    with place.layer():
        assert _verdict(place.uuid) == "state"
