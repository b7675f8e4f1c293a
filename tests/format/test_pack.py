"""Packs as bytes: indexes, hints, and records that are found whatever is torn or damaged around them."""

import itertools
import random

import blake3
import hypothesis
import pytest
from hypothesis import strategies as st
from support import raw_pack, raw_record

import ana
from ana.format import address, pack, record
from ana.format.pack import Spot
from ana.format.signature import Seal

pytestmark = pytest.mark.once

SEAL = Seal("store", [b"k" * 32])
NOISE = blake3.blake3(b"noise").digest(length=4096)


def made(number, *, seal=None, children=(), hints=(), data=None):
    """Return the key and the record of a small state."""
    content = record.content("mesh:Mesh", [memoryview(b"state %d" % number if data is None else data)])
    key = address.content_uuid(content.digest)
    return key, record.encode(key, content, children, record.Encoding(number, 3, seal, hints))


def joined(records):
    """Return the bytes of a pack without an index, and where each record lies."""
    offsets = itertools.accumulate((len(data) for _, data in records), initial=0)
    spots = {key: Spot(at, len(data)) for (key, data), at in zip(records, offsets, strict=False)}
    return b"".join(data for _, data in records), spots


RECORDS = [made(number) for number in range(5)]
BODY, SPOTS = joined(RECORDS)


def sealed(body=BODY, spots=SPOTS):
    """Return a whole pack with its index."""
    return body + pack.index_frame({pack.number_of(key): spot for key, spot in spots.items()}, len(body))


def index_of(data):
    """Return a pack's index as a reader gets it."""
    size = pack.trailer_size(data)
    return pack.read_index(data[len(data) - size :], len(data)) if 0 < size <= len(data) else None


# Index


def test_an_index_says_where_every_record_is():
    """What an independent reader finds in the index is what was put in; ana finds the same, and nothing else."""
    data = sealed()
    assert raw_pack.index(data) == SPOTS
    found = index_of(data)
    assert found.end == len(BODY)
    assert len(found) == len(SPOTS)
    assert {key: found.find(pack.number_of(key)) for key in SPOTS} == SPOTS
    assert {pack.key_of_number(number): spot for number, spot in found.items()} == SPOTS
    assert found.find(pack.number_of(made(99)[0])) is None


@hypothesis.given(st.dictionaries(st.integers(0, 2**128 - 1), st.integers(0, 2**20)))
def test_indexes_of_any_keys_come_back(offsets):
    """Keys that share halves, the smallest and the largest numbers: each is found, its neighbours are not."""
    spots = {number: Spot(offset, 200) for number, offset in offsets.items()}
    end = 2**21
    frame = pack.index_frame(spots, end)
    found = pack.read_index(frame, end + len(frame))
    assert dict(found.items()) == spots
    for number, spot in spots.items():
        assert found.find(number) == spot
        for near in (number - 1, number + 1, number ^ 1 << 64):
            assert not 0 <= near < 2**128 or found.find(near) == spots.get(near)


def test_an_empty_index_is_one():
    """A pack of no records: legal, and holds nothing."""
    found = index_of(sealed(b"", {}))
    assert len(found) == 0
    assert found.find(0) is None


def test_every_flipped_bit_of_an_index_is_noticed():
    """A damaged index is none: the records are found by walking then."""
    data = sealed()
    for bit in range(len(BODY) * 8, len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert index_of(bytes(changed)) is None
        assert dict(pack.records(changed, "there")) == SPOTS


def test_every_truncation_of_an_index_is_noticed():
    """Half an index, as a crash leaves it, is none."""
    data = sealed()
    for size in range(len(data)):
        assert index_of(data[:size]) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"version": 2},
        {"flags": 1},
        {"count": 0},
        {"count": 2**32 - 1},
        {"end": 0},
        {"end": 2**64 - 1},
        {"frame": 0},
        {"frame": 2**32 - 1},
        {"size": 0},
        {"size": 2**64 - 1},
        {"size": 100},
    ],
    ids=str,
)
def test_an_index_that_lies_about_itself_is_none(claims):
    """A digest that is right does not make it believable."""
    assert index_of(BODY + raw_pack.index_frame(SPOTS, len(BODY), **claims)) is None


@pytest.mark.parametrize(
    "spot",
    [
        (0, 0),
        (0, 2**32 - 1),
        (2**32 - 1, 200),
        (len(BODY), 200),
        (len(BODY) - 100, 200),
        (0, pack.MAX_RECORD_BYTES + 1),
    ],
)
def test_spots_that_make_no_sense_are_not_followed(spot):
    """An index of a hostile hand: what lies outside of the pack is not found, the rest is."""
    key = made(99)[0]
    found = index_of(BODY + raw_pack.index_frame({**SPOTS, key: spot}, len(BODY)))
    assert found.find(pack.number_of(key)) is None
    assert {pack.key_of_number(number): spot for number, spot in found.items()} == SPOTS


def test_an_index_of_another_pack_is_none():
    """Its bytes behind other records: it says how many bytes they have."""
    assert index_of(BODY + RECORDS[0][1] + sealed()[len(BODY) :]) is None


# Records


@pytest.mark.parametrize("tail", [b"", sealed()[len(BODY) :]], ids=["open", "sealed"])
def test_records_are_found_by_walking(tail):
    """With an index or without, all records are found, by ana and by an independent reader."""
    assert dict(pack.records(BODY + tail, "there")) == SPOTS
    assert {key: (at, size) for key, at, size in raw_pack.records(BODY)} == SPOTS


def test_every_torn_tail_ends_the_walk():
    """Cut after any byte, as by a crash: all that is whole is found, nothing else."""
    for size in range(len(BODY) + 1):
        whole = {key: spot for key, spot in SPOTS.items() if spot.offset + spot.size <= size}
        assert dict(pack.records(BODY[:size], "there")) == whole
        assert dict(pack.damaged_spots(BODY[:size], "there")) == whole


@pytest.mark.parametrize("size", [1, 3, 16, 200, 5000])
@pytest.mark.parametrize("kind", ["zeros", "ones", "noise", "starts"])
def test_garbage_between_records_is_skipped(kind, size):
    """`records` stops there; `damaged_spots` goes on behind it."""
    start = BODY[:4] * (size // 4 + 1)
    garbage = {"zeros": bytes(size), "ones": b"\xff" * size, "noise": NOISE[:size], "starts": start[:size]}[kind]
    for cut in range(len(RECORDS) + 1):
        head, spots = joined(RECORDS[:cut])
        tail, behind = joined(RECORDS[cut:])
        data = head + garbage + tail
        moved = {key: Spot(spot.offset + len(head) + len(garbage), spot.size) for key, spot in behind.items()}
        assert dict(pack.records(data, "there")) == spots
        assert dict(pack.damaged_spots(data, "there")) == spots | moved


def test_a_flipped_bit_costs_one_record():
    """Wherever it is: that record is not found, all others are."""
    for bit in range(0, len(BODY) * 8, 5):
        changed = bytearray(BODY)
        changed[bit // 8] ^= 1 << bit % 8
        whole = {key: spot for key, spot in SPOTS.items() if not spot.offset <= bit // 8 < spot.offset + spot.size}
        assert dict(pack.damaged_spots(changed, "there")) == whole


def test_a_record_inside_of_a_state_is_no_record():
    """A state's content may be a copy of another state's record: a walk passes over it."""
    inner = RECORDS[0][1]
    outer = made(7, data=inner * 3)
    data, spots = joined([outer, RECORDS[1]])
    assert dict(pack.records(data, "there")) == spots


def test_noise_holds_no_records():
    """Whatever the bytes are, nothing is found and nothing raised."""
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(BODY)
        for _ in range(chance.randrange(1, 400)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert set(pack.damaged_spots(data, "there")) <= set(SPOTS.items())


@pytest.mark.parametrize("claims", [{"frame": 2**32 - 1}, {"stored_bytes": 2**63}, {"n_chunks": 2**32 - 1}], ids=str)
def test_records_that_claim_to_be_huge_are_none(claims):
    """A header's claims are checked against the file before anything is read for them."""
    part, _ = raw_record.read(RECORDS[0][1])
    hostile = raw_record.write(raw_record.Record(**{**part.__dict__, "claims": claims}))
    data = hostile + RECORDS[1][1]
    assert list(pack.records(data, "there")) == []
    assert dict(pack.damaged_spots(data, "there")) == {RECORDS[1][0]: Spot(len(hostile), len(RECORDS[1][1]))}


def test_states_with_given_uuids_are_passed_over_only_as_damage():
    """Only content addresses lie in packs: a record of another key is none."""
    content = record.content("mesh:Mesh", [memoryview(b"state")])
    foreign = record.encode("named", content)
    data = foreign + RECORDS[0][1]
    assert list(pack.records(data, "there")) == []
    assert dict(pack.damaged_spots(data, "there")) == {RECORDS[0][0]: Spot(len(foreign), len(RECORDS[0][1]))}


def test_only_signed_records_are_found_with_a_key():
    """In a store with a key, neither unsigned records are found, nor those of another key."""
    ours, plain, theirs = made(1, seal=SEAL), made(2), made(3, seal=Seal("store", [b"x" * 32]))
    data, _ = joined([ours, plain, theirs, ours])
    assert dict(pack.records(data, "there", SEAL)) == {ours[0]: Spot(0, len(ours[1]))}
    assert [key for key, _ in pack.damaged_spots(data, "there", SEAL)] == [ours[0]] * 2
    assert [key for key, _ in pack.damaged_spots(data, "there")] == [plain[0]]


# Hints


def test_hints_come_back():
    """What is written into references is what is read."""
    name, spot = f"host-1-abc{pack.SUFFIX}", Spot(123_456, 789)
    assert pack.parse_hint(pack.hint(name, spot)) == (name, spot)
    assert len(pack.hint("x" * 120 + pack.SUFFIX, Spot(pack.MAX_BYTES, pack.MAX_RECORD_BYTES))) <= 160


@pytest.mark.parametrize(
    "said",
    [
        None,
        7,
        b"host:0:200",
        "",
        ":",
        "::",
        "host",
        "host:0",
        "host:0:",
        "host:0:200:",
        "host:0:200\n",
        "host:-1:200",
        "host:0:1",
        "host:0x0:200",
        "host:\u0660:\u0662\u0660\u0660",
        "host:99999999999:200",
        "host:0:99999999",
        f"host:{pack.MAX_BYTES}:200",
        "../host:0:200",
        "a/b:0:200",
        "/etc/passwd:0:200",
        ".hidden:0:200",
        "h\0st:0:200",
        "x" * 121 + ":0:200",
        "é:0:200",
    ],
    ids=repr,
)
def test_hints_that_are_nonsense_are_none(said):
    """Anything may stand in a reference: no error, and no path outside of the store."""
    assert pack.parse_hint(said) is None


@pytest.mark.parametrize(
    "name", ["x.pkl.zst", ".trash-x.pack.zst", "x.pack.zst.tmp", "a/x.pack.zst", "x.pack.zst\n", ".pack.zst"]
)
def test_other_names_are_no_packs(name):
    """Only what a writer would have called so is a pack."""
    assert not pack.is_name(name)


HINTS = ["host-1-a:0:200", "host-1-a:200:300", "", "other:5:200", "", "other:205:200", "host-1-a:0:200"]


@pytest.mark.parametrize("seal", [None, SEAL], ids=["plain", "signed"])
@pytest.mark.parametrize("hints", [HINTS, HINTS[:1], HINTS[2:4], [""] * 3, []], ids=str)
def test_headers_carry_hints_for_children(hints, seal):
    """One for each child, shortened on the disk, written out when read; the address does not depend on them."""
    children = [made(number)[0] for number in range(len(hints))]
    key, data = made(9, children=children, hints=hints, seal=seal)
    parsed = record.parse_header(data, len(data), key, "there", seal)
    assert parsed.children == tuple(children)
    assert parsed.hints == (tuple(hints) if any(hints) else ())
    assert key == made(9)[0]


def test_hostile_hints_in_headers_are_harmless():
    """A hint that begins with a colon where none came before, or is no ASCII: a record with hints that are nonsense."""
    key, data = made(9, children=[made(1)[0]], hints=["a:0:200"])
    for said in (b":0:200", b"..:0:20"):
        assert all(pack.parse_hint(hint) is None for hint in _hints_with(key, data, said))
    with pytest.raises(ana.CorruptedStateError):
        _hints_with(key, data, b"\xff:0:200")


def _hints_with(key, data, said):
    """Return the hints of a record's header in which others stand, signed by whoever put them there."""
    changed = bytearray(data)
    at = changed.index(b"a:0:200")
    changed[at : at + 7] = said[:7].ljust(7, b"0")
    end = record.header_size(data, len(data), key, "there")
    changed[end - 32 : end] = raw_record.digest(bytes(changed[: end - 32]))
    return record.parse_header(changed, len(changed), key, "there").hints
