"""The contract of all stores, as tests. The tests check a store's raw bytes, too, not only its methods."""

import contextlib
import itertools
import threading
from pathlib import Path
from typing import Any, Protocol

import blake3
import pytest

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError
from ana.format import address, record
from ana.stores import parts, registry
from ana.stores.base import Put, Store
from ana.stores.record_store import RecordStore

__all__ = ["Place", "StoreContract"]

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

THREADS = 8


class Place(Protocol):
    """A place for a store: opens stores over it, and reads and writes their raw bytes."""

    def open(self) -> Store:
        """Return a new store over the place, with no memory of earlier ones."""

    def read(self, key: str) -> bytes:
        """Return a record's raw bytes."""

    def write(self, key: str, data: bytes) -> None:
        """Replace a record's raw bytes.

        Args:
            key: The record's key.
            data: The new bytes.
        """

    def remove(self, key: str) -> None:
        """Remove a record, as a purge does."""

    def picture(self) -> dict[str, bytes]:
        """Return a picture of everything stored, to compare later."""


class StoreContract:
    """The tests that every store must pass. Derive a class `Test...` that makes your store.

    For a `RecordStore`, `make_store` and `remove` are enough. For any other store also override `read`, `write` and
    `picture`, which access the raw bytes without the store's methods.

    Attributes:
        opens_by_home: Whether another process can open the store by its `home`, because its scheme is registered.
        atomic: Whether exactly one of several simultaneous writers is told that it wrote.

    Example:
        class TestShelf(StoreContract):
            def make_store(self, folder):
                return Shelf(folder / "shelf.db")

            def remove(self, folder, key):
                (folder / "shelf.db" / key).unlink()

    """

    opens_by_home = True
    atomic = True

    def make_store(self, folder: Path) -> Store:
        """Return a store in the folder. Called several times: all stores of one folder share their content."""
        raise NotImplementedError

    def remove(self, folder: Path, key: str) -> None:
        """Remove an existing record without the store's methods.

        Args:
            folder: The store's folder.
            key: The record's key.
        """
        raise NotImplementedError

    def read(self, folder: Path, key: str) -> bytes:
        """Return the raw bytes of an existing record.

        Args:
            folder: The store's folder.
            key: The record's key.
        """
        return bytes(self._records(folder).read_record(key))

    def write(self, folder: Path, key: str, data: bytes) -> None:
        """Replace a record by any bytes.

        Args:
            folder: The store's folder.
            key: The record's key.
            data: The new bytes.
        """
        self._records(folder).write_record(key, data, replace=True)

    def picture(self, folder: Path) -> dict[str, bytes]:
        """Return a picture of everything stored; by default, the records under the keys that the tests use."""
        store = self._records(folder)
        return {key: bytes(store.read_record(key)) for key in (*KEYS, OTHER) if store.has_record(key)}

    def _records(self, folder: Path) -> RecordStore:
        store = self.make_store(folder)
        if not isinstance(store, RecordStore):
            msg = f"{type(self).__name__} overrides read, write and picture: its store is not a RecordStore"
            raise TypeError(msg)
        return store

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """Return the place that one test uses."""
        return _Folder(self, tmp_path)

    @pytest.fixture
    def store(self, place: Place) -> Store:
        """Return a store over the place."""
        return place.open()

    # Put and get

    @pytest.mark.parametrize("content", CONTENTS)
    def test_what_is_put_can_be_got(self, place: Place, store: Store, content: str) -> None:
        """Segments of every size are returned unchanged, by this store and by one opened later."""
        assert put(store, KEY, *CONTENTS[content])
        assert get(store) == CONTENTS[content]
        assert get(place.open()) == CONTENTS[content]

    def test_what_is_put_is_a_record(self, place: Place, store: Store) -> None:
        """The raw bytes are a record with key, class, children and content that any ANA can read."""
        put(store, KEY, *CONTENTS["buffers"], children=(OTHER, "any string"))
        data = place.read(KEY)
        header = record.parse_header(data, len(data), KEY, "there")
        assert (header.key, header.class_name, header.children) == (KEY, "mesh:Mesh", (OTHER, "any string"))
        assert [bytes(part) for part in record.decode(header, record.reader(data), "there")] == CONTENTS["buffers"]

    def test_headers_are_known_before_the_content(self, store: Store) -> None:
        """`get` returns class, children and sizes without reading the content."""
        put(store, KEY, b"stream", b"b" * 5000, children=(OTHER,))
        found = store.get(KEY)
        assert (found.header.key, found.header.class_name, found.header.children) == (KEY, "mesh:Mesh", (OTHER,))
        assert (found.header.segments, found.header.raw_bytes) == ((6, 5000), 5006)
        found.release()

    @pytest.mark.parametrize("content", ["a word", "5 MiB of zeros", "a stream and 5 MiB of noise"])
    def test_segments_can_be_had_again(self, store: Store, content: str) -> None:
        """Content can be read again, also after one or two calls of `release`."""
        put(store, KEY, *CONTENTS[content])
        found = store.get(KEY)
        found.release()
        found.release()
        for _ in range(2):
            assert [bytes(segment) for segment in found.segments()] == CONTENTS[content]

    def test_large_buffers_come_back_from_their_parts(self, place: Place, store: Store) -> None:
        """A store that keeps records has a large buffer as a state of its own, and misses the state without it."""
        content = record.content(
            "mesh:Mesh", [memoryview(segment) for segment in CONTENTS["a stream and 5 MiB of noise"]]
        )
        assert parts.put(store, Put(KEY, content, (OTHER,), repair=False), MIB)
        reader = place.open()
        found = reader.get(KEY)
        whole = [bytes(segment) for segment in parts.segments(reader, found)]
        assert whole == CONTENTS["a stream and 5 MiB of noise"]
        assert [part.size for part in found.header.parts] == ([5 * MIB, MIB] if store.keeps_records else [])
        assert all(reader.is_whole(part.key) for part in found.header.parts)

    def test_what_is_not_there_is_not_found(self, place: Place, store: Store) -> None:
        """An empty store raises an error that names UUID and store, and asking changes nothing."""
        before = place.picture()
        assert not store.has(KEY)
        assert not store.is_whole(KEY)
        with pytest.raises(StateNotFoundError) as caught:
            store.get(KEY)
        assert caught.value.uuid == KEY
        assert store.home in str(caught.value)
        assert place.picture() == before

    def test_what_is_there_is_found(self, store: Store) -> None:
        """After a put, `has` and `is_whole` are true for this key alone."""
        put(store)
        assert store.has(KEY)
        assert store.is_whole(KEY)
        assert not store.has(OTHER)
        assert not store.is_whole(OTHER)

    def test_reading_changes_nothing(self, place: Place, store: Store) -> None:
        """`has`, `is_whole` and `get` change no byte."""
        put(store, KEY, *CONTENTS["buffers"])
        before = place.picture()
        store.has(KEY)
        store.is_whole(KEY)
        get(store)
        assert place.picture() == before

    def test_what_was_removed_is_gone_and_can_be_put_again(self, place: Place, store: Store) -> None:
        """A purged state is missed at the next look-up, and putting it again restores it."""
        put(store)
        place.remove(KEY)
        assert not store.has(KEY)
        with pytest.raises(StateNotFoundError):
            store.get(KEY)
        assert put(store)
        assert get(store) == [b"state"]

    def test_what_is_removed_while_it_is_held_is_not_found_or_whole(self, place: Place, store: Store) -> None:
        """Content purged after `get` is read completely or not at all."""
        content = CONTENTS["a stream and 5 MiB of noise"]
        put(store, KEY, *content)
        found = store.get(KEY)
        found.release()
        place.remove(KEY)
        with contextlib.suppress(StateNotFoundError):
            assert [bytes(segment) for segment in found.segments()] == content

    # The first writer wins

    def test_the_same_state_is_written_once(self, place: Place, store: Store) -> None:
        """A second put of the same state writes nothing and returns False, also from another store."""
        assert put(store)
        before = place.picture()
        assert not put(store)
        assert not put(place.open())
        assert not put(store, repair=True)
        assert place.picture() == before

    def test_the_first_content_under_a_key_stays(self, place: Place, store: Store) -> None:
        """Other content under the same key is not written, not even with `repair`."""
        put(store, KEY, b"first")
        before = place.picture()
        assert not put(store, KEY, b"second")
        assert not put(store, KEY, b"second", repair=True)
        assert get(store) == [b"first"]
        assert place.picture() == before

    def test_a_writer_that_saw_nothing_does_not_overwrite(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """If another process writes between a store's check and its own write, the other content stays."""
        if not (self.atomic and isinstance(store, RecordStore)):
            # This store has no separate check; the race below tests it.
            return
        put(store, KEY, b"first")
        monkeypatch.setattr(store, "has_record", lambda _: False)
        assert not put(store, KEY, b"second")
        assert get(store) == [b"first"]

    def test_of_many_writers_one_wins(self, place: Place) -> None:
        """If threads put different content under one key, one content is stored intact, and its writer is told so."""
        for number in range(5):
            key = f"contested {number}"
            written = run(lambda thread, key=key: put(place.open(), key, b"%d" % thread, NOISE[:5000]))
            winners = [thread for thread, wrote in written.items() if wrote]
            assert len(winners) == 1 if self.atomic else winners
            assert get(place.open(), key) in [[b"%d" % winner, NOISE[:5000]] for winner in winners]

    def test_keys_of_all_kinds_have_their_own_state(self, place: Place, store: Store) -> None:
        """No form of key collides with another key or escapes the store."""
        for number, key in enumerate(KEYS):
            assert put(store, key, b"state %d" % number)
        for number, key in enumerate(KEYS):
            assert get(place.open(), key) == [b"state %d" % number]
        assert len([data for data in place.picture().values() if b"ANA\x00PKL" in data[:20]]) == len(KEYS)

    def test_many_threads_put_and_get(self, place: Place, store: Store) -> None:
        """Eight threads put and read the same and different states, and every read is intact."""
        turns = range(10)

        def work(thread: int) -> None:
            for turn in turns:
                put(store, f"common {turn}", b"common" * turn, NOISE[:5000])
                put(store, f"own {thread} {turn}", NOISE[: 100 * turn])
                assert get(store, f"common {turn}") == [b"common" * turn, NOISE[:5000]]
                assert get(store, f"own {thread} {turn}") == [NOISE[: 100 * turn]]

        run(work)
        for thread, turn in itertools.product(range(THREADS), turns):
            assert get(place.open(), f"own {thread} {turn}") == [NOISE[: 100 * turn]]

    # Damage

    @pytest.mark.parametrize("content", ["a word", "buffers", "a stream and 5 MiB of noise"])
    @pytest.mark.parametrize("position", [0, 20, 100, -1])
    def test_damage_is_an_error_and_is_left(self, place: Place, store: Store, content: str, position: int) -> None:
        """A flipped bit anywhere raises CorruptedStateError with UUID and place, and the bytes stay for inspection."""
        put(store, KEY, *CONTENTS[content])
        place.write(KEY, flip(place.read(KEY), position))
        before = place.picture()
        for reader in (store, place.open()):
            with pytest.raises(CorruptedStateError) as caught:
                get(reader)
            assert caught.value.uuid == KEY
            assert caught.value.path in str(caught.value)
            assert not reader.is_whole(KEY)
        assert place.picture() == before

    @pytest.mark.parametrize("content", ["a word", "buffers", "a stream and 5 MiB of noise"])
    @pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "zeros", "longer", "other key"])
    def test_damage_is_repaired_by_putting_again(self, place: Place, store: Store, content: str, damage: str) -> None:
        """With `repair`, a record damaged in any way is written again, and then loads."""
        put(store, KEY, *CONTENTS[content])
        put(store, OTHER, b"other")
        good = place.read(KEY)
        damaged = {
            "flipped": flip(good, -1),
            "truncated": good[:-1],
            "empty": b"",
            "zeros": bytes(len(good)),
            "longer": good + b"\0",
            "other key": place.read(OTHER),
        }
        place.write(KEY, damaged[damage])
        assert put(place.open(), KEY, *CONTENTS[content], repair=True)
        assert get(store) == CONTENTS[content]
        assert get(place.open()) == CONTENTS[content]
        assert get(store, OTHER) == [b"other"]

    # Capabilities and counters

    def test_many_are_put_at_once(self, place: Place, store: Store) -> None:
        """`put_many` does what `put` does, and tells of each state once; those that are there are not written again."""
        puts = [_many(number) for number in range(40)]
        store.put(puts[7].key, puts[7].state, (), repair=False)
        told: dict[int, list[tuple[bool, Exception | None]]] = {}

        def done(number: int, *, written: bool = False, error: Exception | None = None) -> None:
            told.setdefault(number, []).append((written, error))

        store.put_many(puts, done)
        assert told == {number: [(number != 7, None)] for number in range(40)}
        other = place.open()
        for one in puts:
            assert get(other, one.key) == [bytes(view) for view in one.state.views]
            assert not store.put(one.key, one.state, (), repair=False)

    def test_the_home_leads_back(self, store: Store) -> None:
        """A registered home opens a store with the same states; an unregistered one opens nothing."""
        put(store)
        if not self.opens_by_home:
            with pytest.raises(ANAError):
                registry.open_home(store.home)
            return
        found = registry.open_home(store.home)
        assert found.home == store.home
        assert get(found) == [b"state"]
        assert store.is_same(found)

    def test_what_is_done_is_counted(self, store: Store) -> None:
        """The store's counters count states stored, found and loaded."""
        names = ("stored", "found", "from_store")
        for action, counted in ((put, (1, 0, 0)), (put, (1, 1, 0)), (get, (1, 1, 1))):
            action(store)
            assert tuple(store.counters.values()[name] for name in names) == counted


class _Folder:
    """A contract's store in one folder."""

    def __init__(self, contract: StoreContract, folder: Path) -> None:
        self._contract = contract
        self._folder = folder

    def open(self) -> Store:
        return self._contract.make_store(self._folder)

    def read(self, key: str) -> bytes:
        return self._contract.read(self._folder, key)

    def write(self, key: str, data: bytes) -> None:
        self._contract.write(self._folder, key, data)

    def remove(self, key: str) -> None:
        self._contract.remove(self._folder, key)

    def picture(self) -> dict[str, bytes]:
        return self._contract.picture(self._folder)


def put(store: Store, key: str = KEY, *segments: bytes, children: tuple[str, ...] = (), repair: bool = False) -> bool:
    """Put a state of some class."""
    content = record.content("mesh:Mesh", [memoryview(segment) for segment in segments or (b"state",)])
    return store.put(key, content, children, repair=repair)


def _many(number: int) -> Put:
    content = record.content("mesh:Mesh", [memoryview(b"state %d" % number * (1 + number * 300))])
    return Put(address.content_uuid(content.digest), content, (), repair=False)


def get(store: Store, key: str = KEY) -> list[bytes]:
    """Return a state's content."""
    return [bytes(segment) for segment in store.get(key).segments()]


def flip(data: bytes, position: int) -> bytes:
    """Return data with a bit flipped."""
    changed = bytearray(data)
    changed[position] ^= 0x10
    return bytes(changed)


def run(work: Any) -> dict[int, Any]:
    """Call a function in threads that start together, with the thread's number; return all results."""
    results: dict[int, Any] = {}
    problems: list[BaseException] = []
    start = threading.Barrier(THREADS)

    def call(number: int) -> None:
        try:
            start.wait()
            results[number] = work(number)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            problems.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for problem in problems:
        raise problem
    return results
