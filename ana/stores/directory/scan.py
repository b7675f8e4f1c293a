"""List the files of a tree without unpickling: names, sizes, ages, headers. For maintenance."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from ana.errors import ANAError, CorruptedStateError, StoreError
from ana.format import address, record
from ana.format.pack import Spot
from ana.fs import files
from ana.runtime import threads
from ana.stores.directory.config import CONFIG
from ana.stores.directory.naming import PACKS, is_pack, is_packs, is_shard, pattern_of_uuids
from ana.stores.directory.pack_survey import PackFile, PackSurvey, number_of_name
from ana.stores.directory.place import Place
from ana.stores.directory.state_files import StateFiles
from ana.stores.directory.store import DirectoryStore
from ana.stores.directory.stored_file import read_header
from ana.stores.directory.walking import Folder

__all__ = ["Answer", "Contents", "File", "Found", "Survey", "plain_name", "trash_name"]

START_BYTES = 4096
"""Read on open: enough for the header of a state, unless it has hundreds of children, chunks or buffers."""
UNKNOWN_UID = -1
BATCH = 1 << 17
"""How many states to look for in packs at a time."""

_KINDS = ((files.TRASH, "trash"), (files.GONE, "gone"), (files.BAD, "bad"))

Item = TypeVar("Item")
Result = TypeVar("Result")


class File(NamedTuple):
    """Where a state is: its name relative to the tree, its size, the time of last change in s since 1970.

    A state in a pack has the name that it would have as a file, and the pack's time.
    """

    name: str
    size_bytes: int
    modified: float
    pack: str = ""
    """The file name of its pack; "" if it has a file of its own."""
    offset: int = 0
    """Where its record begins in the pack."""
    uid: int = UNKNOWN_UID
    """The owner of its file or pack."""


class Contents(NamedTuple):
    """The names in a tree, relative to it, grouped by kind. Names in `gone` and `bad` keep their prefix.

    `states` and `trash` are files of one state each; the states in packs are in `Survey.packed`.
    """

    states: StateFiles
    trash: StateFiles
    """Files in the trash, by their former names."""
    gone: list[str]
    bad: list[str]
    temporary: list[str]
    foreign: list[str]
    packs: list[str]
    """Packs, in the trash or not."""
    gone_packs: list[str]
    folders: list[str]


Found = tuple[record.Header, File]
Told = tuple[record.Header | record.Brief, File]
Answer = tuple[record.Header | record.Brief, File, bool] | ANAError | None
"""What a state's header says, its file, and whether it is in the trash; why it cannot be read; None: it is nowhere."""


class Survey:
    """Inspects the files of a store. Safe while others write to it: files that vanish meanwhile are skipped.

    A state is named by its file, relative to the tree. In a pack it has the name that its file would have.
    """

    def __init__(self, store: DirectoryStore) -> None:
        self.store = store
        self.root: str = store.tree.root
        self.unreadable: dict[str, ANAError] = {}
        """Folders that could not be listed and packs that could not be read; their contents are unknown."""
        self.packed: PackSurvey = PackSurvey(store)
        self._pattern = pattern_of_uuids(store.config.levels)
        self._at_once = threads.WAITING if store.high_latency else 1

    def contents(self) -> Contents:
        """List each folder of the tree once, without opening states. Raises StoreError if the root cannot be listed."""
        levels = self.store.config.levels
        found = Contents(StateFiles(levels), StateFiles(levels), [], [], [], [], [], [], [])
        for folder in self.store.tree.walk(unreadable=self.unreadable):
            if folder.name:
                found.folders.append(folder.name)
            kinds: dict[str, list[str]] = {}
            for entry in folder.entries:
                kind = _kind(entry, folder)
                if kind is not None:
                    kinds.setdefault(kind, []).append(entry.name)
            found.states.add(folder.name, kinds.pop("states", ()))
            found.trash.add(folder.name, map(plain_name, kinds.pop("trash", ())))
            for kind, names in kinds.items():
                getattr(found, kind).extend([f"{folder.name}{name}" for name in names])
        for entry in self.packed.look(self.unreadable):
            getattr(found, _pack_kind(entry)).append(f"{PACKS}/{entry.name}")
        return found

    def count(self, names: Collection[str]) -> int:
        """Return the number of states with files of these names, or in packs."""
        if not self.packed.files:
            return len(names)
        both = sum(1 for name in names if self.packed.first(number_of_name(name)) is not None)
        return len(names) - both + self.packed.count()

    def states(self, digits: str = "", *, trash: bool = False) -> Iterator[str]:
        """Yield the names of states, folder by folder: of all UUIDs that begin with `digits`, and of a few others.

        With `trash`, states in the trash are included, under their former names. Raises StoreError.
        """
        yield from filter(self._is_only_loose, self.loose(digits, trash=trash))
        for trashed in (False, True) if trash else (False,):
            yield from map(self.name_of, self.packed.keys(digits.replace("-", ""), trashed=trashed))

    def loose(self, digits: str = "", *, trash: bool = False) -> Iterator[str]:
        """Yield as `states` does, but only of states with a file of their own."""
        self.packed.look_once(self.unreadable)
        for folder in self.store.tree.walk(digits, self.unreadable):
            for entry in folder.entries:
                kind = _kind(entry, folder)
                if kind == "states" or (trash and kind == "trash"):
                    yield plain_name(f"{folder.name}{entry.name}")

    def _is_only_loose(self, name: str) -> bool:
        return not self.packed.files or self.packed.first(number_of_name(name)) is None

    def names_to_sign(self) -> Iterator[str]:
        """Yield the current names of all files that hold one state, including those in the trash. Raises StoreError."""
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
        """Return a state's size and age after one look-up; None if it is gone or is not a regular file."""
        found = files.stat(f"{self.root}/{name}")
        if found is not None:
            return File(name, found.size_bytes, found.modified, uid=found.stat.st_uid) if found.is_file else None
        place = next(self._in_packs(name), None)
        return None if place is None else _packed(name, *place)

    def header(self, name: str) -> Found | None:
        """Return the verified header of a state, which may be in the trash, under its name there; None if it is gone.

        Raises CorruptedStateError (also for a record under another key's name), UnsupportedFormatError, StoreError.
        """
        wrong: CorruptedStateError | None = None
        for one, spot in self._in_packs(name):
            try:
                header = self.packed.header(one, _key(name), spot)
            except CorruptedStateError as error:
                wrong = error
            else:
                if header is not None:
                    return header, _packed(name, one, spot)
        found = self.header_of_file(name)
        if found is None and wrong is not None:
            raise wrong
        return found

    def header_of_file(self, name: str, *, whole: bool = False) -> Found | None:
        """Return as `header` does, but only of a state with a file of its own; with `whole`, verify all of the file."""
        plain, key = plain_name(name), _key(name)
        place = Place.listed(self.root, name, key)
        if whole:
            self.store.tree.check_folders(place)
        found = self.store.watch(place, lambda: _read_header(self.store, place, name, whole=whole))
        if found is not None and self.name_of(found[0].key) != plain:
            raise CorruptedStateError(
                key or plain, place.path, f"it is the record of {found[0].key!r}, under another name"
            )
        return found

    def brief_of_file(self, name: str) -> Told | None:
        """Return what a state's header says, and its place, as `header_of_file` does, but in a third of the time."""
        match = self._pattern.fullmatch(name)
        if match is not None:
            path = f"{self.root}/{name}"
            try:
                found = files.read_start(path, START_BYTES, self.store.tree.trust.check_file)
                if found is None:
                    return None
                start, status = found
                brief = record.brief_of(start, status.st_size, match[match.re.groups], path, self.store.seal)
            except (CorruptedStateError, StoreError):
                # Perhaps a long header, or a file that was just replaced; else this says what is wrong.
                pass
            else:
                return brief, File(name, status.st_size, status.st_mtime, uid=status.st_uid)
        return self.header_of_file(name)

    def headers(self) -> Iterator[tuple[str, Told | ANAError | None]]:
        """Yield the name of each state, and its header or why it cannot be read. Packs are read from end to end."""
        yield from self.each(filter(self._is_only_loose, self.loose()), self.brief_of_file)
        for one in self.packed.files:
            if not one.trashed:
                yield from self._headers_of(one)

    def _headers_of(self, one: PackFile) -> Iterator[tuple[str, Told | ANAError | None]]:
        mine = (item for item in one.table.items() if self.packed.is_first(one, item[0]))
        try:
            for key, spot, brief in self.packed.briefs(one, mine):
                name = self.name_of(key)
                if isinstance(brief, record.Brief):
                    yield name, (brief, _packed(name, one, spot))
                else:
                    # Another copy may be whole, or the pack has just gone into the trash of another collection.
                    yield name, self._all([name], self.header)[0]
        except ANAError as error:
            self.unreadable[one.relative] = error

    def find(self, names: Iterable[str]) -> Iterator[tuple[str, Answer]]:
        """Yield the headers of states, in any order: those in packs are read many at a time."""
        self.packed.look_once(self.unreadable)
        if not self.packed.files:
            yield from self.each(names, self._look_for_file)
            return
        iterator = iter(names)
        while batch := list(islice(iterator, BATCH)):
            alone = []
            by_pack: dict[str, list[tuple[int, Spot]]] = {}
            packs = {}
            for name in batch:
                number = number_of_name(name)
                place = self.packed.first(number)
                if place is None:
                    alone.append(name)
                else:
                    packs[place[0].path] = place[0]
                    by_pack.setdefault(place[0].path, []).append((number, place[1]))
            for path, spots in by_pack.items():
                yield from self.find_in(packs[path], spots)
            yield from self.each(alone, self._look_for_file)

    def _look_for_file(self, name: str) -> Answer:
        found = self.brief_of_file(name)
        return self.look_into(name) if found is None else (*found, False)

    def find_in(self, one: PackFile, spots: Collection[tuple[int, Spot]]) -> Iterator[tuple[str, Answer]]:
        """Yield the headers of states in a pack; of those that cannot be read there, as they are elsewhere."""
        left = []
        for key, spot, brief in self.packed.briefs(one, spots):
            name = self.name_of(key)
            if isinstance(brief, record.Brief):
                yield name, (brief, _packed(name, one, spot), one.trashed)
            else:
                left.append(name)
        yield from self.each(left, self.look_into)

    def look_into(self, name: str) -> tuple[record.Header, File, bool] | None:
        """Return a state's header and place, and whether it is in the trash; None if it is nowhere."""
        for _ in range(2):
            for place, trashed in ((name, False), (trash_name(name), True)):
                found = self.header(place)
                if found is not None:
                    return *found, trashed
            # A reader may have brought it back between the two look-ups.
        return None

    def _in_packs(self, name: str) -> Iterator[tuple[PackFile, Spot]]:
        self.packed.look_once(self.unreadable)
        plain = plain_name(name)
        return self.packed.find(number_of_name(plain), trashed=plain != name)

    def each(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result | ANAError]]:
        """Yield each item in order, with the result or error of `work`; runs many at once on a network filesystem."""
        if self._at_once == 1:
            for item in items:
                yield item, _tried(work, item)
            return
        iterator = iter(items)
        window = self._at_once * 8
        while batch := list(islice(iterator, window)):
            yield from zip(batch, self._all(batch, work), strict=True)

    def _all(self, batch: Sequence[Item], work: Callable[[Item], Result]) -> "list[Result | ANAError]":
        results: dict[int, Result | ANAError] = {}

        def one(number: int) -> None:
            results[number] = _tried(work, batch[number])

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


def _tried(work: Callable[[Item], Result], item: Item) -> "Result | ANAError":
    try:
        return work(item)
    except ANAError as error:
        return error


def _read_header(store: DirectoryStore, place: Place, name: str, *, whole: bool) -> Found | None:
    path = place.path
    opened = files.open_file(path, START_BYTES, store.tree.trust.check_file)
    if opened is None:
        return None
    with opened:
        # A shortened name does not reveal the key.
        header, start = read_header(opened, place.key or record.key_of(opened.start), path, store.seal)
        if whole:
            read = record.reader(start) if len(start) == opened.size_bytes else opened.read
            record.verify(header, read, path)
        return header, File(name, opened.size_bytes, opened.modified, uid=opened.uid)


def _key(name: str) -> str:
    """Return the key in a state's name, in the trash or not; "" if the name was shortened."""
    return address.key_of_name(plain_name(name).rpartition("/")[2]) or ""


def _packed(name: str, one: PackFile, spot: Spot) -> File:
    return File(name, spot.size, one.modified, one.name, spot.offset, one.uid)


def _pack_kind(entry: files.Entry) -> str:
    """Return the field of `Contents` that an entry of the packs' folder belongs to."""
    if entry.kind != "file":
        return "foreign"
    for prefix, kind in ((files.TEMPORARY, "temporary"), (files.GONE, "gone_packs"), (files.BAD, "bad")):
        if entry.name.startswith(prefix):
            return kind
    return "packs" if is_pack(entry) else "foreign"


def _kind(entry: files.Entry, folder: Folder) -> str | None:
    """Return the field of `Contents` that an entry belongs to; None for the tree's own entries."""
    if folder.innermost and entry.kind == "file" and address.is_file_name(entry.name):
        return "states"
    if is_shard(entry) and not folder.innermost:
        return None
    if entry.kind != "file":
        return None if not folder.name and (entry.name == ".ana" or is_packs(entry)) else "foreign"
    if entry.name.startswith(files.TEMPORARY):
        return "temporary"
    if folder.innermost:
        for prefix, kind in _KINDS:
            if entry.name.startswith(prefix):
                return kind
    return None if not folder.name and entry.name == CONFIG else "foreign"
