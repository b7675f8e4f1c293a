"""Addresses: content to UUID, key to path. Whatever the key, its file is its own, and inside of the tree."""

import os
import re
import string
import struct
import uuid

import blake3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ana.format import address, record
from ana.fs import files

NAME_MAX = 255
"""Bytes that a file's name may have on every filesystem in use (pathconf(3))."""

CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[48][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

NASTY = [
    "../../x",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\0b",
    ".tmp-x",
    ".bad-x",
    ".nfs0001",
    "~",
    "%2F",
    "%",
    "x.pkl.zst",
    "ana.json",
    "-",
    " ",
    "\n",
    "\udcff",
    "\ud83d\ude00",
    "\U0001f600",
    "é",
    "e\u0301",
    "{5f3ac0e1-0000-8000-8000-000000000001}",
    "urn:uuid:5f3ac0e1-0000-8000-8000-000000000001",
    "5F3AC0E1-0000-8000-8000-000000000001",
    "5f3ac0e1-0000-1000-8000-000000000001",
    "5f3ac0e1-0000-8000-c000-000000000001",
    "5f3ac0e1-0000-8000-8000-000000000001",
    "5f3ac0e1-0000-8000-8000-000000000001\n",
    "\u0665f3ac0e1-0000-8000-8000-000000000001",
    "a" * 200,
    "a" * 199 + "b",
    "é" * 200,
    "\U0001f600" * 200,
    "%" * 66 + "ab",
    "%" * 66 + "abc",
]

any_key = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(codec=None), min_size=1, max_size=200),
    st.text(st.sampled_from("aZ0_-%~./\\\0\n é\udc80"), min_size=1, max_size=200),
    st.uuids(version=4).map(str),
    st.uuids().map(str),
    st.integers(0, 2**128 - 1).map(lambda number: address.content_uuid(number.to_bytes(16, "big"))),
)
"""Keys of all kinds: also lone surrogates, and strings that are nearly UUIDs."""

leaf = st.binary(min_size=32, max_size=32)


def _digest_by_hand(class_name: str, lengths: list[int], leaves: list[bytes]) -> bytes:
    """Do what docs/format.md says, with nothing of ana."""
    parts = [
        b"ana content address v1",
        class_name.encode("utf-8", "surrogatepass"),
        struct.pack(f"<{len(lengths)}Q", *lengths),
        b"".join(leaves),
    ]
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(struct.pack("<Q", len(part)))
        hasher.update(part)
    return hasher.digest()


# Keys to paths


@given(any_key, st.integers(0, 8))
def test_every_key_has_its_path_inside_of_the_tree(key, levels):
    """Any string of 1 to 200 characters gets one plain file name and folders of two hex digits."""
    name = address.file_name(address.check_key(key))
    folders = address.shard(key, levels)
    assert len(folders) == levels
    assert all(re.fullmatch("[0-9a-f]{2}", folder) for folder in folders)
    path = os.path.join("/tree", *folders, name)
    assert os.path.normpath(path) == path
    assert path.startswith("/tree/")
    assert path.count("/") == 2 + levels


@given(any_key)
def test_file_names_are_safe_on_every_filesystem(key):
    """No leading dot, no slash, nothing but printable ASCII, and room for a temporary's prefix."""
    name = address.file_name(key)
    assert set(name) <= set(string.ascii_letters + string.digits + "_-%~.")
    assert not name.startswith(".")
    assert name.endswith(".pkl.zst")
    assert "." not in name.removesuffix(".pkl.zst")
    set_aside = f"{files.BAD}{'f' * 8}-{name}"
    assert len(set_aside.encode()) <= NAME_MAX


@given(st.lists(any_key, min_size=2, max_size=20, unique=True))
@example(NASTY)
@example(["a" * length for length in range(1, 201)])
@example(["é" * length for length in range(1, 201)])
def test_no_two_keys_share_a_file(keys):
    """The mapping is injective, also where a long name had to be shortened."""
    names = [address.file_name(key) for key in keys]
    assert len(set(names)) == len(keys)


@given(any_key)
@example("/")
@example("%2F")
@example("/" * 100)
def test_escapes_cannot_be_forged(key):
    """A key that spells out another key's file name, escapes and all, does not get that file."""
    forged = address.file_name(key).removesuffix(".pkl.zst")
    if forged != key:
        assert address.file_name(forged) != address.file_name(key)


@given(any_key)
def test_names_tell_their_keys(key):
    """The key comes back from the file's name, unless the name had to be shortened: then nothing does."""
    name = address.file_name(key)
    found = address.key_of_name(name)
    assert found == (None if "~" in name else key)


@given(any_key)
def test_names_that_are_not_shortened_are_short_enough_to_be_read(key):
    """Keys of up to 66 bytes keep their names, whatever they consist of."""
    if len(address.key_bytes(key)) <= 66:
        assert address.key_of_name(address.file_name(key)) == key


@pytest.mark.slow
@given(st.one_of(st.text(max_size=60), st.text(max_size=60).map(lambda text: text + ".pkl.zst")))
@example(".pkl.zst")
@example("%2f.pkl.zst")
@example("%61.pkl.zst")
@example("%.pkl.zst")
@example("%FF.pkl.zst")
@example("%2.pkl.zst")
@example("% 1.pkl.zst")
@example("a b.pkl.zst")
@example("a.pkl.zst.pkl.zst")
@example(".tmp-host-1-0000000000000000")
@example(".bad-00000000-a.pkl.zst")
@example("é.pkl.zst")
@example("a" * 201 + ".pkl.zst")
def test_only_names_that_ana_would_give_are_states(name):
    """Foreign files in a tree are nobody's state: a name has a key only if that key has the name."""
    key = address.key_of_name(name)
    assert key is None or address.file_name(key) == name


@pytest.mark.parametrize("name", [".tmp-node7-12-00ff.pkl.zst", ".bad-0a0b0c0d-a.pkl.zst", ".trash-1-a.pkl.zst"])
def test_leftovers_are_no_states(name):
    """Files with ana's own prefixes are not mistaken for states, also with the suffix."""
    assert address.key_of_name(name) is None


def test_canonical_uuids_lie_under_their_own_digits():
    """A lower-case UUID of version 4 or 8 keeps its name, in the folders of its first hex digits."""
    key = "5f3ac0e1-1234-8123-9123-123456789abc"
    assert address.file_name(key) == f"{key}.pkl.zst"
    assert address.shard(key, 0) == ()
    assert address.shard(key, 1) == ("5f",)
    assert address.shard(key, 2) == ("5f", "3a")
    assert address.shard(key, 3) == ("5f", "3a", "c0")


@pytest.mark.parametrize("key", [key for key in NASTY if not CANONICAL.fullmatch(key)])
def test_all_other_keys_are_spread_by_their_hash(key):
    """The folders of any other key are the first digits of blake3 over its UTF-8 bytes."""
    digits = blake3.blake3(key.encode("utf-8", "surrogatepass")).hexdigest()
    assert address.shard(key, 2) == (digits[:2], digits[2:4])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("my-model_1", "my-model_1.pkl.zst"),
        ("../../x", "%2E%2E%2F%2E%2E%2Fx.pkl.zst"),
        (".hidden", "%2Ehidden.pkl.zst"),
        ("a b", "a%20b.pkl.zst"),
        ("~", "%7E.pkl.zst"),
        ("%2F", "%252F.pkl.zst"),
        ("é", "%C3%A9.pkl.zst"),
        ("\udcff", "%ED%B3%BF.pkl.zst"),
        ("5F3AC0E1-0000-8000-8000-000000000001", "5F3AC0E1-0000-8000-8000-000000000001.pkl.zst"),
        ("a" * 200, "a" * 200 + ".pkl.zst"),
    ],
)
def test_names_of_other_keys_are_percent_encoded(key, name):
    """Letters, digits, "_" and "-" stay as they are; every other byte is %XX."""
    assert address.file_name(key) == name


def test_long_names_are_shortened_to_their_hash():
    """A name of over 200 bytes keeps its first 120, then "~" and 16 bytes of blake3 over the key."""
    key = "/" * 100
    digits = blake3.blake3(b"/" * 100).hexdigest(length=16)
    assert address.file_name(key) == f"{'%2F' * 40}~{digits}.pkl.zst"


# What is a key


@given(any_key)
def test_keys_stay_what_they_are(key):
    """A string of 1 to 200 characters is taken as it is."""
    assert address.check_key(key) == key


def test_uuid_objects_are_keys():
    """uuid.UUID counts as its canonical string."""
    key = uuid.UUID("5F3AC0E1-0000-8000-8000-000000000001")
    assert address.check_key(key) == "5f3ac0e1-0000-8000-8000-000000000001"


@pytest.mark.parametrize("key", ["", "a" * 201, "\U0001f600" * 201])
def test_keys_of_a_wrong_length_are_refused(key):
    """An empty string or more than 200 characters: ValueError, with the limit in it."""
    with pytest.raises(ValueError, match=r"1 to 200 characters"):
        address.check_key(key)


@pytest.mark.parametrize("key", [None, 7, b"bytes", ["x"], ("x",), object(), 1.5, bytearray(b"x")])
def test_keys_of_a_wrong_type_are_refused(key):
    """What is no string: TypeError, with the type in it."""
    with pytest.raises(TypeError, match=type(key).__name__):
        address.check_key(key)


def test_a_string_that_changes_its_mind_is_read_once():
    """A subclass of str becomes a plain string before anything is computed from it."""

    class Shifty(str):
        __slots__ = ()

        def encode(self, *_):
            return b"elsewhere"

        def __str__(self):
            return "../../x"

    checked = address.check_key(Shifty("honest"))
    assert type(checked) is str
    assert address.file_name(checked) == "honest.pkl.zst"


# Content to UUID


@given(st.binary(min_size=32, max_size=32))
@example(b"\x00" * 32)
@example(b"\xff" * 32)
def test_content_uuids_are_version_8(digest):
    """RFC 9562: version 8, variant 10; the other 122 bits are the digest's own."""
    found = address.content_uuid(digest)
    assert CANONICAL.fullmatch(found)
    parsed = uuid.UUID(found)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    mask = ~((0xF << 76) | (0x3 << 62))
    assert parsed.int & mask == int.from_bytes(digest[:16], "big") & mask
    assert address.is_canonical(found)


def test_a_known_uuid():
    """Known answers, so that the address of a content never changes by accident."""
    digest = bytes.fromhex("00112233445566778899aabbccddeeff" + "00" * 16)
    assert address.content_uuid(digest) == "00112233-4455-8677-8899-aabbccddeeff"
    assert address.content_uuid(b"\xff" * 32) == "ffffffff-ffff-8fff-bfff-ffffffffffff"
    assert address.content_uuid(b"\x00" * 32) == "00000000-0000-8000-8000-000000000000"


@given(st.text(st.characters(codec=None), max_size=40), st.lists(st.integers(0, 2**64 - 1), max_size=4), st.lists(leaf))
def test_content_digests_are_as_documented(class_name, lengths, leaves):
    """blake3 over label, class, lengths and leaf digests, each with its length before it."""
    assert address.content_digest(class_name, lengths, leaves) == _digest_by_hand(class_name, lengths, leaves)


def test_the_address_of_a_small_state_by_hand():
    """One stream of five bytes: one piece, whose blake3 is the only leaf."""
    stream = b"\x80\x05K\x07."
    expected = _digest_by_hand("mesh:Mesh", [5], [blake3.blake3(stream).digest()])
    assert record.content("mesh:Mesh", [memoryview(stream)]).digest == expected
    assert expected.hex() == "5880394c6ac451b2ba41bd911827e74b4b8bbb9ba51f7a30d4213ad9126198da"
    assert address.content_uuid(expected) == "5880394c-6ac4-81b2-ba41-bd911827e74b"


parts = st.tuples(
    st.text(st.sampled_from("ab:."), max_size=3),
    st.lists(st.integers(0, 3), max_size=3),
    st.lists(st.sampled_from([b"\x00" * 32, b"a" * 32]), max_size=3),
)


@given(parts, parts)
@example(("a", [], []), ("", [], []))
@example(("", [0], []), ("", [], []))
@example(("", [0, 0, 0, 0], []), ("", [], [b"\x00" * 32]))
@example(("a" * 8, [], []), ("", [int.from_bytes(b"a" * 8, "little")], []))
def test_different_parts_have_different_digests(one, other):
    """No byte can wander from one part into the next: every part is length-prefixed."""
    assert (address.content_digest(*one) == address.content_digest(*other)) == (one == other)


segments = st.lists(st.binary(max_size=5), min_size=1, max_size=4)


@given(segments, segments)
@example([b"ab", b""], [b"a", b"b"])
@example([b""], [b"", b""])
def test_cutting_a_state_differently_makes_another_address(one, other):
    """The same bytes in other segments are another state."""
    digests = [record.content("m:C", [memoryview(part) for part in state]).digest for state in (one, other)]
    assert (digests[0] == digests[1]) == (one == other)


@given(st.text(st.characters(codec=None), max_size=10), st.text(st.characters(codec=None), max_size=10))
def test_the_class_is_part_of_the_address(one, other):
    """The same state of another class has another address."""
    digests = [record.content(name, [memoryview(b"state")]).digest for name in (one, other)]
    assert (digests[0] == digests[1]) == (one == other)


def test_random_uuids_are_version_4_and_differ():
    """Objects without an address of their own get a canonical UUIDv4."""
    made = {address.random_uuid() for _ in range(100)}
    assert len(made) == 100
    assert all(uuid.UUID(key).version == 4 and CANONICAL.fullmatch(key) for key in made)
