"""The contract of all stores, run on ana's own; what an independent reader says of records; broken stores fail it."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from support import places, raw_record
from support.limits import largest_file

import ana
from ana import testing
from ana.errors import CorruptedStateError, UnsupportedFormatError
from ana.format import record
from ana.stores.directory.store import DirectoryStore
from ana.testing.contract import CONTENTS, KEY, NOISE, OTHER, get, put


@pytest.fixture(params=places.PLACES)
def place(request, tmp_path):
    """One place of each kind."""
    return places.PLACES[request.param](tmp_path)


@pytest.fixture
def store(place):
    """A store over the place."""
    return place.open()


class TestStores(testing.StoreContract):
    @pytest.fixture(params=places.PLACES)
    def place(self, request, tmp_path):
        """One place of each kind."""
        found = places.PLACES[request.param](tmp_path)
        self.atomic, self.opens_by_home = found.atomic, found.opens_by_home
        return found

    @pytest.fixture
    def store(self, place):
        """A store, whose pack is sealed at the end."""
        store = place.open()
        yield store
        if isinstance(store, DirectoryStore):
            store.packs.seal()

    @pytest.mark.parametrize("content", CONTENTS)
    def test_what_is_put_is_a_record(self, place, store, content):
        """The bytes in the place are a record as documented; a reader that shares no code with ana says so."""
        put(store, KEY, *CONTENTS[content], children=(OTHER, "any string"))
        found, segments = raw_record.read(place.read(KEY))
        assert segments == CONTENTS[content]
        assert (found.key, found.class_name, found.children) == (KEY, "mesh:Mesh", (OTHER, "any string"))
        assert found.content == record.content("mesh:Mesh", list(map(memoryview, segments))).digest


class TestStoresWithAKey(testing.StoreContract):
    opens_by_home = False

    @pytest.fixture
    def place(self, tmp_path):
        """A folder in which all is signed."""
        return places.KeyedPlace(tmp_path / "tree")

    def test_what_is_put_is_a_record(self, place, store):
        """The bytes in the place are a record that the key has signed."""
        put(store, KEY, *CONTENTS["buffers"], children=(OTHER, "any string"))
        data = place.read(KEY)
        header = record.parse_header(data, len(data), KEY, "there", store.seal)
        assert (header.key, header.class_name, header.children) == (KEY, "mesh:Mesh", (OTHER, "any string"))
        with pytest.raises(CorruptedStateError, match="signed"):
            record.parse_header(data, len(data), KEY, "there")


# What an independent reader says


@pytest.mark.parametrize("content", ["a word", "buffers", "a stream and 5 MiB of noise"])
def test_what_is_repaired_is_a_record(place, store, content):
    """Damage that was written over leaves no trace in the bytes."""
    put(store, KEY, *CONTENTS[content])
    place.write(KEY, bytes(len(place.read(KEY))))
    assert put(place.open(), KEY, *CONTENTS[content], repair=True)
    assert raw_record.read(place.read(KEY))[1] == CONTENTS[content]


def test_a_state_of_a_newer_format_is_left_alone(place, store):
    """UnsupportedFormatError names state and versions; healing does not throw away what a newer ana wrote."""
    put(store)
    part, _ = raw_record.read(place.read(KEY))
    place.write(KEY, raw_record.write(replace(part, version=2)))
    before = place.picture()
    with pytest.raises(UnsupportedFormatError) as caught:
        store.get(KEY)
    assert "2" in str(caught.value.found)
    assert caught.value.supported == 1
    assert KEY in str(caught.value)
    with pytest.raises(UnsupportedFormatError):
        put(store, repair=True)
    assert place.picture() == before


def test_an_unknown_flag_is_a_newer_format(place, store):
    """Flags say what a reader has to understand: an unknown one is refused, not ignored."""
    put(store)
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
    put(store, OTHER)
    before = place.picture()
    with largest_file(10_000), pytest.raises(OSError, match="File too large") as caught:
        put(store, KEY, NOISE[:200_000])
    assert kind != "directory" or isinstance(caught.value, ana.StoreError)
    assert place.picture() == before
    assert not store.has(KEY)
    assert put(store, KEY, NOISE[:200_000])
    assert get(store) == [NOISE[:200_000]]


# What is special about mappings


@pytest.mark.parametrize("wrap", [bytearray, memoryview])
def test_mappings_may_hand_out_any_kind_of_bytes(wrap):
    """What a user's mapping returns need not be `bytes`."""
    place = places.MappingPlace({})
    put(place.open())
    place.write(KEY, wrap(place.read(KEY)))
    assert get(place.open()) == [b"state"]


@pytest.mark.parametrize("value", [None, "text", 7, {}, []])
def test_mappings_that_hold_something_else_are_damaged(value):
    """What is no bytes at all: CorruptedStateError, and it can be healed."""
    place = places.MappingPlace({KEY: value})
    store = place.open()
    with pytest.raises(CorruptedStateError, match=type(value).__name__):
        store.get(KEY)
    assert put(store, repair=True)
    assert get(store) == [b"state"]


def test_mappings_get_plain_bytes():
    """What a user's mapping is given are `str` and `bytes`, ready for any database."""
    mapping = {}
    put(places.MappingPlace(mapping).open())
    assert [(type(key), type(value)) for key, value in mapping.items()] == [(str, bytes)]


def test_errors_of_a_mapping_are_store_errors():
    """A database that is down is no state that is missing: StoreError, with key and cause."""

    class Down(dict):
        def __getitem__(self, key):
            raise ConnectionError("the database is down")

        __contains__ = __setitem__ = __getitem__

    store = places.MappingPlace(Down()).open()
    for attempt in (store.get, store.has, store.is_whole, lambda key: put(store, key)):
        with pytest.raises(ana.StoreError, match="the database is down") as caught:
            attempt(KEY)
        assert isinstance(caught.value.__cause__, ConnectionError)
        assert KEY in str(caught.value)


# Stores that break it

BROKEN = """
from ana import stores
from ana.testing import StoreContract

class Shelf(stores.RecordStore):
    places = {}

    def __init__(self, folder):
        super().__init__(f"shelf:{folder}")
        self.shelf = self.places.setdefault(str(folder), {})

    def read_record(self, key):
        return self.shelf[key]

    def write_record(self, key, data, *, replace):
        if not replace:
            return self.shelf.setdefault(key, data) is data
        self.shelf[key] = data
        return True

stores.register("shelf", lambda home: Shelf(home.removeprefix("shelf:")))

class TestSound(StoreContract):
    kind = Shelf

    def make_store(self, folder):
        return self.kind(folder)

    def remove(self, folder, key):
        del Shelf.places[str(folder)][key]

def broken(kind):
    globals()["Test" + kind.__name__] = type("Test" + kind.__name__, (TestSound,), {"kind": kind})

@broken
class Overwrites(Shelf):
    def write_record(self, key, data, *, replace):
        self.shelf[key] = data
        return True

@broken
class Loses(Shelf):
    def write_record(self, key, data, *, replace):
        return True

@broken
class ForgetsAtTheEnd(Shelf):
    def __init__(self, folder):
        super().__init__(folder)
        self.shelf = {}

@broken
class ReturnsOtherBytes(Shelf):
    def read_record(self, key):
        return super().read_record(key)[:-1] + b"?"

@broken
class MixesKeys(Shelf):
    def read_record(self, key):
        return super().read_record(key.lower())

    def write_record(self, key, data, *, replace):
        return super().write_record(key.lower(), data, replace=replace)

@broken
class SeesWhatIsNotThere(Shelf):
    def has_record(self, key):
        return True

@broken
class SharesAllKeys(Shelf):
    def read_record(self, key):
        return next(iter(self.shelf.values()), None) or {}[key]

@broken
class LeadsElsewhere(Shelf):
    def __init__(self, folder):
        super().__init__(folder)
        self.home = f"attic:{folder}"
"""


@pytest.mark.slow
def test_stores_that_break_the_contract_fail_it(tmp_path):
    """A store over a dict passes in any program; one that overwrites, loses, mixes up or misleads does not."""
    (tmp_path / "test_shelves.py").write_text(BROKEN, encoding="utf-8")
    chosen = "not damage and (word or stays or overwrite or kinds or not_there or leads)"
    options = ["-q", "--tb=no", "-rf", "-p", "no:cacheprovider", "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, "."]
    # Plugins that happen to be installed take seconds to import.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    failed = set(re.findall(r"^FAILED test_shelves.py::Test(\w+)::", done.stdout, re.MULTILINE))
    assert failed == set(re.findall(r"^@broken\nclass (\w+)", BROKEN, re.MULTILINE)), done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
