"""The packs of a store: which there are, where in them a state lies, and this process's own.

What is known of a pack is kept in memory: the index of a sealed one, and of one that may still grow the records up to
the size that was seen last. Packs are immutable but for growing, so that what is known stays true until the pack goes.
"""

import math
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from ana.errors import ANAError, StoreError
from ana.format import address, pack
from ana.format.pack import Spot
from ana.format.signature import Seal
from ana.fs import files, mounts
from ana.fs.append_file import KeptFile
from ana.runtime import process_end
from ana.stores.directory.naming import PACKS
from ana.stores.directory.pack_files import PackFiles, without_frames
from ana.stores.directory.pack_table import Catalog, PackTable, read_table
from ana.stores.directory.pack_writer import PackWriter
from ana.stores.directory.tree import Tree

__all__ = ["Packs"]

HINTS = 1 << 14
"""How many hints of references are remembered until they are used."""
BELIEVE_SECONDS = 1.0
"""How long a pack is taken to be there without looking."""


class Packs:
    """The packs of one store. Safe between threads; survives fork."""

    def __init__(self, tree: Tree, begin: Callable[[], None], *, durable: bool) -> None:
        """Begin without looking at the folder: it is listed when a state is not found otherwise.

        Args:
            tree: The store's tree.
            begin: Called before a pack is made: checks that the store is the one that was opened.
            durable: Whether to wait for the disk before a record counts as stored.

        """
        self.tree = tree
        self.folder: str = f"{tree.root}/{PACKS}"
        self.pack_bytes: int = tree.config.pack_bytes
        """States of at most this raw size, in bytes, go into packs; 0: none do."""
        self.catalog: Catalog = Catalog()
        """What is known of the packs, this process's own excepted."""
        self.known: bool = False
        """Whether a look-up in memory could find anything."""
        self.unreadable: dict[str, ANAError] = {}
        """Packs that could not be read when they were looked at last."""
        self._begin = begin
        self._durable = durable
        self._seal: Seal | None = None
        self._hints: OrderedDict[str, tuple[str, Spot]] = OrderedDict()
        self._wrong: set[tuple[str, str, Spot]] = set()
        self._seen: dict[str, tuple[float, int]] = {}
        """When each pack was last seen under its name, and how much of it is on the disk for sure, in bytes."""
        self._writer: PackWriter | None = None
        self._lock = threading.RLock()
        self.files: PackFiles = PackFiles(tree)
        _all.add(self)

    def use_seal(self, seal: Seal | None) -> None:
        """Have the records of unsealed packs checked with the store's key."""
        self._seal = seal

    # Finding

    @property
    def tables(self) -> dict[str, PackTable]:
        """What is known of each pack, by its name, this process's own excepted."""
        return self.catalog.tables

    def note_hint(self, key: str, said: object) -> None:
        """Remember where a state lies, as a reference says. Anything senseless is ignored."""
        found = pack.parse_hint(said)
        if found is None:
            return
        self._hints[key] = found
        self.known = True
        if len(self._hints) > HINTS:
            with suppress(KeyError):
                self._hints.popitem(last=False)

    def hint(self, key: str) -> str:
        """Return where a state lies, for references; "" if it is in no pack, as far as is known in memory."""
        if not (self.known and address.is_content_uuid(key)):
            return ""
        found = self._hints.get(key) or next(iter(self.spots(key)), None)
        return "" if found is None else pack.hint(*found)

    def spots(self, key: str) -> list[tuple[str, Spot]]:
        """Return the packs that have a state's record, and where, as far as is known in memory."""
        number = pack.number_of(key)
        found = self.catalog.find(number)
        writer = self._writer
        if writer is not None:
            spot = writer.find(number)
            if spot is not None:
                found.insert(0, (writer.name, spot))
        return found

    def has(self, key: str, settle: Callable[[str, files.Status], bool]) -> bool:
        """Return whether a pack that still exists has a state's record, as far as is known in memory.

        Args:
            key: The state's UUID.
            settle: Called with the path and status of another process's pack, unless it was for this size: waits for
                the disk if the other process may not have, and returns whether the pack exists.

        Raises:
            StoreError: The system refused.
            UntrustedStoreError: The pack belongs to somebody else.

        """
        if not (self.known and address.is_content_uuid(key)):
            return False
        spots = self.spots(key)
        now = time.monotonic() if spots else 0.0
        for name, spot in spots:
            if self._wrong and (key, name, spot) in self._wrong:
                continue
            seen, settled = self._seen.get(name, (-math.inf, 0))
            if settled >= spot.offset + spot.size and now - seen < BELIEVE_SECONDS:
                return True
            path = f"{self.folder}/{name}"
            found = files.stat(path)
            if found is None or found.size_bytes < spot.offset + spot.size:
                # It has gone, or its writer cut off what the disk did not take.
                self._forget(name)
                continue
            self.tree.trust.check_file(path, found.stat)
            if self._is_own(name) or settled >= spot.offset + spot.size or settle(path, found):
                self._seen[name] = now, found.size_bytes
                return True
        return False

    def open_state(self, key: str, *, trashed: bool = False, wrong: bool = False) -> files.Opened | None:
        """Read a state's record from a known pack; None if there is none.

        Args:
            key: The state's UUID.
            trashed: Look in the trash, too, and bring a pack back that is found there.
            wrong: Read records, too, that were found damaged, and raise what kept others from being read.

        Raises:
            StoreError: The system refused.
            UntrustedStoreError: The pack belongs to somebody else.

        """
        if not (self.known and address.is_content_uuid(key)):
            return None
        hinted = self._hints.pop(key, None)
        refused = None
        for name, spot in self._places(key, hinted):
            if not wrong and (key, name, spot) in self._wrong:
                continue
            try:
                opened = self.files.read(name, spot, trashed=trashed)
            except ANAError as error:
                # The state may lie elsewhere, too.
                refused = error
                continue
            if opened is not None:
                return opened
        if refused is not None and wrong:
            raise refused
        return None

    def _places(self, key: str, hinted: tuple[str, Spot] | None) -> Iterator[tuple[str, Spot]]:
        """Yield where a state's record may lie: as a reference said, then as is known."""
        if hinted is not None:
            yield hinted
        yield from self.spots(key)

    def note_wrong(self, key: str, where: str) -> None:
        """Remember that a state's record is damaged, or a hint wrong: it is read again only if there is no other."""
        found = self.files.parse_where(where)
        if found is not None:
            self._wrong.add((key, *found))
            self.files.close(found[0])

    def _is_own(self, name: str) -> bool:
        writer = self._writer
        return writer is not None and writer.name == name

    def refresh(self) -> bool:
        """Look for new packs, and for what others have appended to those that were there; return whether anything is.

        Raises:
            StoreError: The folder cannot be listed.
            UntrustedStoreError: Others may have planted files in it.

        """
        with self._lock:
            found = self.names()
            for name in self.tables.keys() - found.keys():
                self._forget(name)
            for name in self.unreadable.keys() - found.keys():
                self.unreadable.pop(name, None)
            changed = False
            # Most are sealed, and there may be hundreds.
            sealed = {name for name, table in self.tables.items() if table.said is not None}
            for name in found:
                if name not in sealed and not self._is_own(name):
                    changed |= self._look_into(name, self.tables.get(name))
            return changed

    def survey(self) -> dict[str, PackTable]:
        """Return what is known of each pack now, this process's own included: for maintenance. Raises as `refresh`."""
        self.refresh()
        found = dict(self.tables)
        writer = self._writer
        file = None if writer is None else KeptFile.open(writer.path, self.tree.trust.check_file)
        if writer is not None and file is not None:
            found[writer.name] = read_table(file, None, self._seal)
        return found

    def raise_unreadable(self) -> None:
        """Raise the system's error if a pack could not be read: a state that is not found may be in it."""
        for error in list(self.unreadable.values()):
            if isinstance(error, StoreError):
                raise without_frames(error)

    def names(self) -> dict[str, bool]:
        """Return the names of all packs, and whether each is in the trash. Raises as `refresh`."""
        return self.files.names()

    def _look_into(self, name: str, table: PackTable | None) -> bool:
        try:
            newer = self.files.table(name, table, self._seal)
        except ANAError as error:
            self.unreadable[name] = without_frames(error)
            return False
        if newer is None:
            return False
        self.unreadable.pop(name, None)
        if newer is table:
            return False
        self.catalog.put(name, newer)
        self.known = True
        return True

    def _forget(self, name: str) -> None:
        with self._lock:
            self.catalog.drop(name)
            self._seen.pop(name, None)
            self.files.close(name)
            if self._is_own(name):
                self._drop_writer()

    def _drop_writer(self) -> None:
        # It is closed once no thread appends to it any more: before that, its descriptor could become another file's.
        writer = self._take_writer()
        if writer is not None:
            writer.end()

    def _take_writer(self) -> PackWriter | None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._at_end.detach()
        return writer

    # Writing

    def takes(self, raw_bytes: int) -> bool:
        """Return whether a state of this raw size goes into a pack."""
        return raw_bytes <= self.pack_bytes and self.pack_bytes > 0

    def append(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Append records to this process's pack, given with their keys; return once they are stored.

        Raises:
            StoreError: The system refused; none of them counts as stored.

        """
        numbered = [(pack.number_of(key), data) for key, data in records]
        tries = files.STALE_TRIES
        while True:
            writer = self._writer_for_more()
            try:
                spots = writer.append(numbered)
            except BaseException as error:
                self._retire(writer)
                tries -= 1
                # Another NFS client may have deleted the pack.
                if not (tries and isinstance(error, StoreError) and files.is_stale(error)):
                    raise
                continue
            if spots is not None:
                return
            self._retire(writer)

    def seal(self) -> None:
        """Seal this process's pack, if it has one. The next record begins another. Raises StoreError."""
        with self._lock:
            writer = self._take_writer()
        if writer is not None:
            writer.seal()

    def _writer_for_more(self) -> PackWriter:
        with self._lock:
            if self._writer is None:
                self._begin()
                self.tree.begin_packs()
                synced = mounts.waits_at_close(self.tree.root)
                self._writer = PackWriter(self.folder, self.tree.access, durable=self._durable, synced=synced)
                self.known = True
                # A layer that is no longer used: its pack gets its index, so that nobody has to read all of it.
                self._at_end = weakref.finalize(self, _seal, self._writer)
                self._at_end.atexit = False
                process_end.call(_seal_all)
            return self._writer

    def _retire(self, writer: PackWriter) -> None:
        """Seal a pack that takes no more, and look its records up like anybody else's."""
        with self._lock:
            if self._writer is not writer:
                return
            self._take_writer()
            with suppress(StoreError):
                writer.seal()
            self._look_into(writer.name, None)

    def forget_all(self) -> None:
        """Forget all packs: another store has taken this one's place."""
        with self._lock:
            self.catalog = Catalog()
            self._hints.clear()
            self._wrong.clear()
            self._seen.clear()
            self.files.reset()
            self._drop_writer()

    def leave_to_parent(self) -> None:
        """In a forked child: the pack is the parent's, and what is in it so far is found like others' states."""
        writer = self._take_writer()
        # Threads that are not here may have held the locks.
        self._lock = threading.RLock()
        self.files.reset()
        if writer is not None:
            self.catalog.put(writer.name, writer.table())
            writer.abandon()


_all: "weakref.WeakSet[Packs]" = weakref.WeakSet()


def _seal_all() -> None:
    for one in list(_all):
        with suppress(Exception):
            one.seal()


def _seal(writer: PackWriter) -> None:
    with suppress(Exception):
        writer.seal()


def _after_fork() -> None:
    for one in list(_all):
        one.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
