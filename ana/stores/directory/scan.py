"""List the files of a tree without unpickling: names, sizes, ages, headers. For maintenance."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from ana.errors import ANAError, CorruptedStateError
from ana.format import address, record
from ana.fs import files
from ana.runtime import threads
from ana.stores.directory.config import CONFIG
from ana.stores.directory.place import Place
from ana.stores.directory.store import DirectoryStore
from ana.stores.directory.stored_file import read_header
from ana.stores.directory.tree import Folder, is_shard

__all__ = ["Contents", "File", "Survey", "plain_name", "trash_name"]

START_BYTES = 4096
"""Read on open: enough for the header of a state, unless it has hundreds of children, chunks or buffers."""
AT_ONCE = 32
"""How many files to read at the same time on a network filesystem."""
WINDOW = 1024

_KINDS = ((files.TRASH, "trash"), (files.GONE, "gone"), (files.BAD, "bad"))

Item = TypeVar("Item")
Result = TypeVar("Result")


class File(NamedTuple):
    """A state's file: its name relative to the tree, its size, its time of last change in s since 1970."""

    name: str
    size_bytes: int
    modified: float


class Contents(NamedTuple):
    """The names in a tree, relative to it, grouped by kind. Names in `trash`, `gone` and `bad` keep their prefix."""

    states: list[str]
    trash: list[str]
    gone: list[str]
    bad: list[str]
    temporary: list[str]
    foreign: list[str]
    folders: list[str]


class Survey:
    """Inspects the files of a store. Safe while others write to it: files that vanish meanwhile are skipped."""

    def __init__(self, store: DirectoryStore) -> None:
        self.store = store
        self.root = store.tree.root
        self.unreadable: dict[str, ANAError] = {}
        """Shard folders that could not be listed, with their errors; their contents are unknown."""
        self._at_once = AT_ONCE if store.high_latency else 1

    def contents(self) -> Contents:
        """List each folder of the tree once, without opening files. Raises StoreError if the root cannot be listed."""
        found = Contents([], [], [], [], [], [], [])
        for folder in self.store.tree.walk(unreadable=self.unreadable):
            if folder.name:
                found.folders.append(folder.name)
            for entry in folder.entries:
                kind = _kind(entry, folder)
                if kind is not None:
                    getattr(found, kind).append(f"{folder.name}{entry.name}")
        return found

    def states(self, digits: str = "", *, trash: bool = False) -> Iterator[str]:
        """Yield the names of states, folder by folder: of all UUIDs that begin with `digits`, and of a few others.

        With `trash`, states in the trash are included, under their former names. Raises StoreError.
        """
        for folder in self.store.tree.walk(digits, self.unreadable):
            for entry in folder.entries:
                kind = _kind(entry, folder)
                if kind == "states" or (trash and kind == "trash"):
                    yield plain_name(f"{folder.name}{entry.name}")

    def names_to_sign(self) -> Iterator[str]:
        """Yield the current names of all files that hold a state, including those in the trash. Raises StoreError."""
        for folder in self.store.tree.walk(unreadable=self.unreadable):
            for entry in folder.entries:
                if _kind(entry, folder) in ("states", "trash"):
                    yield f"{folder.name}{entry.name}"

    def name_of(self, key: str) -> str:
        """Return the name of a key's file, relative to the tree."""
        folder, name = address.place(key, self.store.config.levels)
        return f"{folder}/{name}" if folder else name

    def is_there(self, key: str) -> bool:
        """Return whether a state exists or is in the trash, from which a reader brings it back. Raises StoreError."""
        name = self.name_of(key)
        return any(self.stat(found) is not None for found in (name, trash_name(name)))

    def stat(self, name: str) -> File | None:
        """Return a file's size and age after one look-up; None if it is gone or is not a regular file."""
        found = files.stat(f"{self.root}/{name}")
        return File(name, found.size_bytes, found.modified) if found is not None and found.is_file else None

    def header(self, name: str) -> tuple[record.Header, File] | None:
        """Return the verified header of a state's file, which may be in the trash; None if the file is gone.

        Raises CorruptedStateError (also for a record under another key's name), UnsupportedFormatError, StoreError.
        """
        plain = plain_name(name)
        key = address.key_of_name(plain.rpartition("/")[2]) or ""
        place = Place.listed(self.root, name, key)
        path = place.path
        found = self.store.watch(place, lambda: _read_header(self.store, path, key))
        if found is not None and self.name_of(found[0].key) != plain:
            raise CorruptedStateError(key or plain, path, f"it is the record of {found[0].key!r}, under another name")
        return None if found is None else (found[0], File(name, found[1], found[2]))

    def each(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result | ANAError]]:
        """Yield each item in order, with the result or error of `work`; runs many at once on a network filesystem."""
        iterator = iter(items)
        window = self._at_once * 8 if self._at_once > 1 else 1
        while batch := list(islice(iterator, window)):
            yield from zip(batch, self._all(batch, work), strict=True)

    def _all(self, batch: Sequence[Item], work: Callable[[Item], Result]) -> "list[Result | ANAError]":
        results: dict[int, Result | ANAError] = {}

        def one(number: int) -> None:
            try:
                results[number] = work(batch[number])
            except ANAError as error:
                results[number] = error

        threads.run(one, range(len(batch)), self._at_once)
        return [results[number] for number in range(len(batch))]


def plain_name(name: str) -> str:
    """Return the former name of a state that is in the trash or half deleted."""
    folder, slash, last = name.rpartition("/")
    if last.startswith(files.TRASH):
        return f"{folder}{slash}{last.removeprefix(files.TRASH)}"
    if last.startswith(files.GONE):
        return f"{folder}{slash}{last.removeprefix(files.GONE).partition('-')[2]}"
    return name


def trash_name(name: str) -> str:
    """Return the name of a state in the trash; it follows from the state's own name."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{files.TRASH}{last}"


def _read_header(store: DirectoryStore, path: str, key: str) -> tuple[record.Header, int, float] | None:
    opened = files.open_file(path, START_BYTES, store.tree.trust.check_file)
    if opened is None:
        return None
    with opened:
        # A shortened name does not reveal the key.
        header, _ = read_header(opened, key or record.key_of(opened.start), path, store.seal)
        return header, opened.size_bytes, opened.modified


def _kind(entry: files.Entry, folder: Folder) -> str | None:
    """Return the field of `Contents` that an entry belongs to; None for the tree's own entries."""
    if is_shard(entry) and not folder.innermost:
        return None
    if entry.kind != "file":
        return None if not folder.name and entry.name == ".ana" else "foreign"
    if entry.name.startswith(files.TEMPORARY):
        return "temporary"
    if folder.innermost:
        for prefix, kind in _KINDS:
            if entry.name.startswith(prefix):
                return kind
        if address.is_file_name(entry.name):
            return "states"
    return None if not folder.name and entry.name == CONFIG else "foreign"
