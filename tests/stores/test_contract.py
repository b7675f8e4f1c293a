"""The contract of all stores: what every place for states promises, checked past the store's own methods."""

import contextlib
import itertools
import threading
from dataclasses import replace

import blake3
import pytest
from support import places, raw_record
from support.limits import largest_file

import ana
from ana.errors import CorruptedStateError, StateNotFoundError, UnsupportedFormatError
from ana.format import record

KEY = "5f3ac0e1-1234-4123-9123-123456789abc"
OTHER = "5f3ac0e1-1234-4123-9123-123456789abd"
KIB = 1 << 10
MIB = 1 << 20
NOISE = blake3.blake3(b"noise").digest(length=5 * MIB)

CONTENTS = {
    "nothing": [b""],
    "a word": [b"word"],
    "a small pickle": [b"pickle " * 400],
    "a small pickle of noise": [NOISE[: 3 * KIB]],
    "buffers": [b"stream", NOISE[: 5 * KIB], b"", bytes(5 * KIB)],
    "just under 256 KiB": [NOISE[: 255 * KIB]],
    "5 MiB of zeros": [bytes(5 * MIB)],
    "a stream and 5 MiB of noise": [b"stream" * 100, NOISE, b"z" * MIB],
}

KEYS = [
    KEY,
    KEY.upper(),
    "x",
    "../../x",
    "/etc/passwd",
    ".hidden",
    "a b\n",
    "~",
    "%2F",
    "\udcff",
    "é",
    "e\u0301",
    "a" * 200,
    "a" * 199 + "b",
    "/" * 200,
    "/" * 199 + "b",
]


@pytest.fixture(params=places.PLACES)
def place(request, tmp_path):
    """One place of each kind."""
    return places.PLACES[request.param](tmp_path)


@pytest.fixture
def store(place):
    """A store over the place."""
    return place.open()


def _content(*segments, class_name="mesh:Mesh"):
    return record.content(class_name, [memoryview(segment) for segment in segments or (b"state",)])


def _put(store, key=KEY, *segments, children=(), repair=False):
    return store.put(key, _content(*segments), children, repair=repair)


def _get(store, key=KEY):
    return [bytes(segment) for segment in store.get(key).segments()]


def _flip(data, position):
    changed = bytearray(data)
    changed[position] ^= 0x10
    return bytes(changed)


# Put and get


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_put_can_be_got(place, store, content):
    """Segments of every size come back, from this store and from one opened later."""
    assert _put(store, KEY, *CONTENTS[content])
    assert _get(store) == CONTENTS[content]
    assert _get(place.open()) == CONTENTS[content]


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_put_is_a_record(place, store, content):
    """The bytes in the place are a record as documented, with key, class, children and content."""
    _put(store, KEY, *CONTENTS[content], children=(OTHER, "any string"))
    found, segments = raw_record.read(place.read(KEY))
    assert segments == CONTENTS[content]
    assert (found.key, found.class_name, found.children) == (KEY, "mesh:Mesh", (OTHER, "any string"))
    assert found.content == _content(*CONTENTS[content]).digest


def test_headers_are_known_before_the_content(store):
    """`get` tells class, children and sizes without the content being read."""
    _put(store, KEY, b"stream", b"b" * 5000, children=(OTHER,))
    found = store.get(KEY)
    assert (found.header.key, found.header.class_name, found.header.children) == (KEY, "mesh:Mesh", (OTHER,))
    assert (found.header.segments, found.header.raw_bytes) == ((6, 5000), 5006)
    found.release()


@pytest.mark.parametrize("content", ["a word", "5 MiB of zeros", "a stream and 5 MiB of noise"])
def test_segments_can_be_had_again(store, content):
    """Also after `release`, once or twice, and after the content was had already."""
    _put(store, KEY, *CONTENTS[content])
    found = store.get(KEY)
    found.release()
    found.release()
    for _ in range(2):
        assert [bytes(segment) for segment in found.segments()] == CONTENTS[content]


def test_what_is_not_there_is_not_found(place, store):
    """An empty store has nothing; the error names UUID and store; asking changes nothing."""
    before = place.picture()
    assert not store.has(KEY)
    assert not store.is_whole(KEY)
    with pytest.raises(StateNotFoundError) as caught:
        store.get(KEY)
    assert caught.value.uuid == KEY
    assert store.home in str(caught.value)
    assert place.picture() == before


def test_what_is_there_is_found(store):
    """After a put, `has` and `is_whole` say so, for this key alone."""
    _put(store)
    assert store.has(KEY)
    assert store.is_whole(KEY)
    assert not store.has(OTHER)
    assert not store.is_whole(OTHER)


def test_reading_changes_nothing(place, store):
    """`has`, `is_whole` and `get` leave every byte as it is."""
    _put(store, KEY, *CONTENTS["buffers"])
    before = place.picture()
    store.has(KEY)
    store.is_whole(KEY)
    _get(store)
    assert place.picture() == before


def test_what_was_removed_is_gone_and_can_be_put_again(place, store):
    """A purge is noticed at the next look; putting the state again makes it whole again."""
    _put(store)
    place.remove(KEY)
    assert not store.has(KEY)
    with pytest.raises(StateNotFoundError):
        store.get(KEY)
    assert _put(store)
    assert _get(store) == [b"state"]


def test_what_is_removed_while_it_is_held_is_not_found_or_whole(place, store):
    """Content that was found a moment ago comes whole or not at all."""
    content = CONTENTS["a stream and 5 MiB of noise"]
    _put(store, KEY, *content)
    found = store.get(KEY)
    found.release()
    place.remove(KEY)
    with contextlib.suppress(StateNotFoundError):
        assert [bytes(segment) for segment in found.segments()] == content


# The first writer wins


def test_the_same_state_is_written_once(place, store):
    """The second put says that nothing was written, and nothing was; also from another store."""
    assert _put(store)
    before = place.picture()
    assert not _put(store)
    assert not _put(place.open())
    assert not _put(store, repair=True)
    assert place.picture() == before


def test_the_first_content_under_a_key_stays(place, store):
    """Other content under the same key is not written, with `repair` neither."""
    _put(store, KEY, b"first")
    before = place.picture()
    assert not _put(store, KEY, b"second")
    assert not _put(store, KEY, b"second", repair=True)
    assert _get(store) == [b"first"]
    assert place.picture() == before


def test_keys_of_all_kinds_have_their_own_state(place, store):
    """Nothing that a key may look like makes it share or leave its place."""
    for number, key in enumerate(KEYS):
        assert _put(store, key, b"state %d" % number)
    for number, key in enumerate(KEYS):
        assert _get(place.open(), key) == [b"state %d" % number]
    assert len([data for data in place.picture().values() if b"ANA\x00PKL" in data[:20]]) == len(KEYS)


def test_many_threads_put_and_get(place, store):
    """Eight threads put the same and different states and read them: each is whole, every time."""
    problems = []
    start = threading.Barrier(8)

    def work(number):
        try:
            start.wait()
            for turn in range(20):
                _put(store, f"common {turn}", b"common" * turn, NOISE[:5000])
                _put(store, f"own {number} {turn}", NOISE[: 100 * turn])
                assert _get(store, f"common {turn}") == [b"common" * turn, NOISE[:5000]]
                assert _get(store, f"own {number} {turn}") == [NOISE[: 100 * turn]]
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for number, turn in itertools.product(range(8), range(20)):
        assert raw_record.read(place.read(f"own {number} {turn}"))[1] == [NOISE[: 100 * turn]]


# Damage


@pytest.mark.parametrize("content", ["a word", "buffers", "a stream and 5 MiB of noise"])
@pytest.mark.parametrize("position", [0, 20, 100, -1])
def test_damage_is_an_error_and_is_left_for_inspection(place, store, content, position):
    """A flipped bit anywhere: CorruptedStateError with UUID and place; the bytes stay as they are."""
    _put(store, KEY, *CONTENTS[content])
    place.write(KEY, _flip(place.read(KEY), position))
    before = place.picture()
    for reader in (store, place.open()):
        with pytest.raises(CorruptedStateError) as caught:
            _get(reader)
        assert caught.value.uuid == KEY
        assert caught.value.path in str(caught.value)
        assert not reader.is_whole(KEY)
    assert place.picture() == before


@pytest.mark.parametrize("content", ["a word", "buffers", "a stream and 5 MiB of noise"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "zeros", "longer", "other key"])
def test_damage_is_healed_by_putting_the_state_again(place, store, content, damage):
    """With `repair`, what is damaged in whatever way is written again; then all is well."""
    _put(store, KEY, *CONTENTS[content])
    _put(store, OTHER, b"other")
    good = place.read(KEY)
    damaged = {
        "flipped": _flip(good, -1),
        "truncated": good[:-1],
        "empty": b"",
        "zeros": bytes(len(good)),
        "longer": good + b"\0",
        "other key": place.read(OTHER),
    }
    place.write(KEY, damaged[damage])
    assert _put(place.open(), KEY, *CONTENTS[content], repair=True)
    assert _get(store) == CONTENTS[content]
    assert raw_record.read(place.read(KEY))[1] == CONTENTS[content]
    assert _get(store, OTHER) == [b"other"]


def test_a_state_of_a_newer_format_is_left_alone(place, store):
    """UnsupportedFormatError names state and versions; healing does not throw away what a newer ana wrote."""
    _put(store)
    part, _ = raw_record.read(place.read(KEY))
    place.write(KEY, raw_record.write(replace(part, version=2)))
    before = place.picture()
    with pytest.raises(UnsupportedFormatError) as caught:
        store.get(KEY)
    assert "2" in str(caught.value.found)
    assert caught.value.supported == 1
    assert KEY in str(caught.value)
    with pytest.raises(UnsupportedFormatError):
        _put(store, repair=True)
    assert place.picture() == before


def test_an_unknown_flag_is_a_newer_format(place, store):
    """Flags say what a reader has to understand: an unknown one is refused, not ignored."""
    _put(store)
    part, _ = raw_record.read(place.read(KEY))
    place.write(KEY, raw_record.write(replace(part, flags=0x8000)))
    with pytest.raises(UnsupportedFormatError):
        store.get(KEY)


# Failing writers


@pytest.mark.parametrize("kind", [kind for kind in places.PLACES if kind != "dict"])
def test_a_write_that_fails_leaves_nothing(kind, tmp_path):
    """A file that may not grow: an OSError, no state, nothing left over, and the next put works."""
    place = places.PLACES[kind](tmp_path)
    store = place.open()
    _put(store, OTHER)
    before = place.picture()
    with largest_file(10_000), pytest.raises(OSError, match="File too large") as caught:
        _put(store, KEY, NOISE[:200_000])
    assert kind != "directory" or isinstance(caught.value, ana.StoreError)
    assert place.picture() == before
    assert not store.has(KEY)
    assert _put(store, KEY, NOISE[:200_000])
    assert _get(store) == [NOISE[:200_000]]


# What is special about mappings


@pytest.mark.parametrize("wrap", [bytearray, memoryview])
def test_mappings_may_hand_out_any_kind_of_bytes(wrap):
    """What a user's mapping returns need not be `bytes`."""
    place = places.MappingPlace({})
    _put(place.open())
    place.write(KEY, wrap(place.read(KEY)))
    assert _get(place.open()) == [b"state"]


@pytest.mark.parametrize("value", [None, "text", 7, {}, []])
def test_mappings_that_hold_something_else_are_damaged(value):
    """What is no bytes at all: CorruptedStateError, and it can be healed."""
    place = places.MappingPlace({KEY: value})
    store = place.open()
    with pytest.raises(CorruptedStateError, match=type(value).__name__):
        store.get(KEY)
    assert _put(store, repair=True)
    assert _get(store) == [b"state"]


def test_mappings_get_plain_bytes():
    """What a user's mapping is given are `str` and `bytes`, ready for any database."""
    mapping = {}
    _put(places.MappingPlace(mapping).open())
    assert [(type(key), type(value)) for key, value in mapping.items()] == [(str, bytes)]


def test_errors_of_a_mapping_are_store_errors():
    """A database that is down is no state that is missing: StoreError, with key and cause."""

    class Down(dict):
        def __getitem__(self, key):
            raise ConnectionError("the database is down")

        __contains__ = __setitem__ = __getitem__

    store = places.MappingPlace(Down()).open()
    for attempt in (store.get, store.has, store.is_whole, lambda key: _put(store, key)):
        with pytest.raises(ana.StoreError, match="the database is down") as caught:
            attempt(KEY)
        assert isinstance(caught.value.__cause__, ConnectionError)
        assert KEY in str(caught.value)
