"""The packs of a store as maintenance sees them: listed with their sizes and ages, their records read in bulk."""

from collections import Counter
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from ana.errors import ANAError, StoreError
from ana.format import address, pack, record
from ana.format.pack import Spot
from ana.fs import files
from ana.fs.append_file import KeptFile
from ana.stores.directory import trash
from ana.stores.directory.naming import PACKS
from ana.stores.directory.pack_table import Catalog, PackTable, read_table

if TYPE_CHECKING:
    from ana.stores.directory.store import DirectoryStore

__all__ = ["PackFile", "PackSurvey", "number_of_name"]

BLOCK_BYTES = 4 << 20
"""Read at a time where records are read one after the other."""
START_BYTES = 4096
"""Read of a record that is looked at alone: enough for most headers."""
SETTLED_SECONDS = 600.0
"""A pack that was changed more recently may show a part of an append before what lies in front of that part."""
NEAR_BYTES = 64 << 10
"""Records that lie no further apart are read together."""
PARTS = 16
"""Keys are compared a part at a time, which bounds the memory that it takes."""
KEPT = 32
"""How many packs are kept open."""


class PackFile(NamedTuple):
    """A pack: its name, whether it is in the trash, its size, when it was changed last, and where its records lie."""

    name: str
    path: str
    """Where the file is: in the trash, under its name there."""
    trashed: bool
    size_bytes: int
    modified: float
    """In s since 1970 by the server's clock: of its last append, or of its move into the trash."""
    table: PackTable
    uid: int
    """The file's owner."""

    @property
    def relative(self) -> str:
        """The pack's name relative to the store, without regard to the trash."""
        return f"{PACKS}/{self.name}"

    @property
    def own_path(self) -> str:
        """The path of the pack outside of the trash."""
        return f"{self.path.rpartition('/')[0]}/{self.name}"

    @property
    def gone(self) -> bool:
        """Whether it was being deleted when a collection was killed: readers do not find it any more."""
        return self.path.rpartition("/")[2].startswith(files.GONE)

    def moved(self, path: str) -> "PackFile":
        """Return the same pack under another name."""
        return self._replace(path=path)

    def where(self, spot: Spot) -> str:
        """Return the place of a record, for messages."""
        return f"{self.own_path}:{spot.offset}"


class PackSurvey:
    """The packs of a store, as they were when `look` was called last; before that, there are none.

    Safe between threads, but for `look`.
    """

    def __init__(self, store: "DirectoryStore") -> None:
        self.store = store
        self.files: list[PackFile] = []
        """All packs, those in the trash last."""
        self._catalog = Catalog()
        self._by_path: dict[str, PackFile] = {}
        self._repeats: dict[int, int] | None = None
        self._kept: dict[str, KeptFile] = {}
        self._looked = False

    def look(self, unreadable: dict[str, ANAError]) -> list[files.Entry]:
        """List the packs and read their indexes; return all entries of their folder.

        A folder that cannot be listed and packs that cannot be read are noted in `unreadable`.
        """
        packs = self.store.packs
        self._catalog, self._looked, self.files, self._repeats = Catalog(), True, [], None
        self._kept.clear()
        try:
            tables = packs.survey()
            entries = files.list_folder(packs.folder) if tables or self.store.tree.check_own(PACKS) else []
            found = [*(self._file(name, table) for name, table in tables.items()), *map(self._gone, entries)]
            self.files = sorted(filter(None, found), key=_order)
        except ANAError as error:
            if not (isinstance(error, StoreError) and files.is_missing(error)):
                unreadable[PACKS] = error
            return []
        self._by_path = {one.path: one for one in self.files}
        for one in self.files:
            self._catalog.put(one.path, one.table)
        unreadable |= {f"{PACKS}/{name}": error for name, error in packs.unreadable.items()}
        return entries

    def look_once(self, unreadable: dict[str, ANAError]) -> None:
        """List the packs unless that was done before."""
        if not self._looked:
            self.look(unreadable)

    def _file(self, name: str, table: PackTable) -> PackFile | None:
        path = f"{self.store.packs.folder}/{name}"
        for place, trashed in ((path, False), (trash.trash_path(path), True), (path, False)):
            found = files.stat(place)
            if found is not None:
                return PackFile(name, place, trashed, found.size_bytes, found.modified, table, found.stat.st_uid)
        return None

    def _gone(self, entry: files.Entry) -> PackFile | None:
        name = entry.name.removeprefix(files.GONE).partition("-")[2]
        if not (entry.name.startswith(files.GONE) and pack.is_name(name)):
            return None
        path = f"{self.store.packs.folder}/{entry.name}"
        file = KeptFile.open(path, self.store.tree.trust.check_file)
        if file is None:
            return None
        table = read_table(file, None, self.store.seal)
        uid = file.status.stat.st_uid
        return PackFile(name, path, True, table.size_bytes, table.modified, table, uid)  # noqa: FBT003 - a field

    # Which records there are

    def find(self, number: int, *, trashed: bool) -> Iterator[tuple[PackFile, Spot]]:
        """Yield the packs, in the trash or outside of it, that have a record, and where, given its key's number."""
        # In an order that does not change when the catalog merges its indexes.
        for path, spot in sorted(self._catalog.find(number)):
            one = self._by_path[path]
            if one.trashed == trashed:
                yield one, spot

    def first(self, number: int) -> tuple[PackFile, Spot] | None:
        """Return a pack outside of the trash that has a record, and where."""
        return next(self.find(number, trashed=False), None)

    def keys(self, digits: str = "", *, trashed: bool = False) -> Iterator[str]:
        """Yield the keys that begin with these hex digits, of records in packs outside of the trash, or in it.

        A key may be yielded more than once only of packs in the trash.
        """
        first = int(digits.ljust(32, "0"), 16)
        last = int(digits.ljust(32, "f"), 16)
        for one in self.files:
            if one.trashed == trashed:
                for number, _ in one.table.between(first, last):
                    if trashed or self.is_first(one, number):
                        yield pack.key_of_number(number)

    def count(self) -> int:
        """Return the number of different keys in packs outside of the trash."""
        copies = sum(times - 1 for times in self._repeated().values())
        return sum(len(one.table) for one in self.files if not one.trashed) - copies

    def is_first(self, one: PackFile, number: int) -> bool:
        """Return whether a pack outside of the trash is the one that counts for a record, of those that have it."""
        if number not in self._repeated():
            return True
        found = self.first(number)
        return found is not None and found[0] is one

    def _repeated(self) -> dict[int, int]:
        """Return how often those records lie in packs outside of the trash that lie there more than once."""
        if self._repeats is None:
            tables = [one.table for one in self.files if not one.trashed]
            found: Counter[int] = Counter()
            for part in range(PARTS if len(tables) > 1 else 0):
                found.update(_repeats(tables, (part << 64) // PARTS, ((part + 1) << 64) // PARTS - 1))
            self._repeats = found
        return self._repeats

    # Reading

    def records(
        self, one: PackFile, spots: Iterable[tuple[int, Spot]]
    ) -> Iterator[tuple[int, Spot, memoryview | None]]:
        """Yield records of a pack with their keys' numbers, in the order in which they lie; None if the pack has gone.

        Several are read at a time. Raises StoreError, UntrustedStoreError.
        """
        file = self._open(one)
        block, start = memoryview(b""), 0
        ordered = sorted(spots, key=itemgetter(1))
        for at, (number, spot) in enumerate(ordered):
            if file is not None and not start <= spot.offset <= spot.offset + spot.size <= start + len(block):
                start = spot.offset
                block = memoryview(file.read(start, _together(ordered, at)))
            data = block[spot.offset - start : spot.offset - start + spot.size]
            yield number, spot, data if len(data) == spot.size else None

    def briefs(
        self, one: PackFile, spots: Iterable[tuple[int, Spot]]
    ) -> Iterator[tuple[str, Spot, record.Brief | ANAError | None]]:
        """Yield what headers say with their keys, as `records` does; for one that cannot be read, its error."""
        seal, path = self.store.seal, one.own_path
        for number, spot, data in self.records(one, spots):
            key = pack.key_of_number(number)
            found: record.Brief | ANAError | None = None
            if data is not None:
                try:
                    found = record.brief_of(data, spot.size, key, f"{path}:{spot.offset}", seal)
                except ANAError as error:
                    found = error
            yield key, spot, found

    def header(self, one: PackFile, key: str, spot: Spot) -> record.Header | None:
        """Return a record's verified header; None if the pack has gone.

        Raises CorruptedStateError, UnsupportedFormatError, StoreError.
        """
        file = self._open(one)
        size = min(spot.size, START_BYTES)
        data = b"" if file is None else file.read(spot.offset, size)
        if file is None or len(data) < size:
            return None
        where = one.where(spot)
        end = record.header_size(data, spot.size, key, where)
        if end > size:
            data = file.read(spot.offset, end)
            if len(data) < end:
                return None
        return record.parse_header(data, spot.size, key, where, self.store.seal)

    def read(self, one: PackFile, spot: Spot) -> bytearray | None:
        """Return a record; None if the pack has gone. Raises StoreError, UntrustedStoreError."""
        file = self._open(one)
        data = None if file is None else file.read(*spot)
        return data if data is not None and len(data) == spot.size else None

    def lost(self, one: PackFile, right_now: float) -> list[tuple[str, Spot]]:
        """Return as `hidden` does, but nothing for a pack that may be in the middle of an append."""
        return self.hidden(one) if one.modified < right_now - SETTLED_SECONDS else []

    def hidden(self, one: PackFile) -> list[tuple[str, Spot]]:
        """Return whole records behind a damaged part of a pack that is not sealed, which readers have to walk to.

        What a crash has torn has nothing behind it. Raises StoreError, UntrustedStoreError.
        """
        end = one.table.end
        if one.table.sealed or one.size_bytes - end <= pack.TRAILER_BYTES:
            return []
        file = self._open(one)
        rest = b"" if file is None else file.read(end, one.size_bytes - end)
        found = pack.damaged_spots(rest, one.own_path, self.store.seal)
        return [(key, Spot(end + spot.offset, spot.size)) for key, spot in found]

    def _open(self, one: PackFile) -> KeptFile | None:
        kept = self._kept.get(one.path)
        if kept is not None:
            return kept
        check = self.store.tree.trust.check_file
        for path in (one.path, one.own_path, trash.trash_path(one.own_path), one.own_path):
            kept = KeptFile.open(path, check)
            if kept is not None:
                if len(self._kept) >= KEPT:
                    self._kept.clear()
                self._kept[one.path] = kept
                return kept
        return None


def number_of_name(name: str) -> int:
    """Return the number of the key in a state's name; -1 if it is no content address, so that no pack has it."""
    last = name.rpartition("/")[2]
    key = last.removesuffix(address.SUFFIX)
    return pack.number_of(key) if key != last and address.is_content_uuid(key) else -1


def _together(ordered: list[tuple[int, Spot]], at: int) -> int:
    """Return how many bytes to read from a record on, so that its neighbours are read, too."""
    start = ordered[at][1].offset
    end = start + ordered[at][1].size
    for _, spot in ordered[at + 1 : at + 1 + BLOCK_BYTES // record.MIN_RECORD_BYTES]:
        if spot.offset > end + NEAR_BYTES or spot.offset + spot.size > start + BLOCK_BYTES:
            break
        end = max(end, spot.offset + spot.size)
    return end - start


def _repeats(tables: list[PackTable], first: int, last: int) -> dict[int, int]:
    """Return how often records lie in tables, of those that do more than once and whose keys begin in this range."""
    highs = [high for table in tables for high in table.highs_between(first, last)]
    if len(set(highs)) == len(highs):
        return {}
    all_of_them = (table.between(first << 64, (last << 64) + (1 << 64) - 1) for table in tables)
    times = Counter(number for items in all_of_them for number, _ in items)
    return {number: count for number, count in times.items() if count > 1}


def _order(one: PackFile) -> tuple[bool, str]:
    return one.trashed, one.name
