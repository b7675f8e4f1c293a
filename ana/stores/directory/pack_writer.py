"""Appends records to a pack. Each process has its own pack, so no lock is needed between processes.

A pack is `packs/HOST-PID-RANDOM.pack.zst` from its creation on. What has been appended counts as stored once it is
written and, if the store is durable or its server must see it, synced. Threads share a sync.
"""

import errno
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from ana.errors import StoreError
from ana.format import pack
from ana.format.pack import Spot
from ana.fs import files
from ana.fs.append_file import AppendFile, unique_name
from ana.fs.permissions import Access
from ana.stores.directory.pack_table import PackTable

__all__ = ["PackWriter"]

CHECK_SECONDS = 1.0
"""How long a writer believes that its pack still has its name and its size."""


class PackWriter:
    """One open pack. Safe between threads. A forked child must `abandon` it and make its own.

    Attributes:
        name: The pack's file name.
        path: The pack's path.

    """

    def __init__(self, folder: str, access: Access, *, durable: bool, synced: bool) -> None:
        """Create an empty pack in a folder.

        Args:
            folder: The path of the store's `packs` folder.
            access: The mode, group and owner of the file.
            durable: Whether to wait for the disk before a record counts as stored.
            synced: Whether to sync although the store is not durable, because readers elsewhere would not see it.

        Raises:
            StoreError: The system refused.

        """
        self.name: str = f"{unique_name()}{pack.SUFFIX}"
        self.path: str = f"{folder}/{self.name}"
        self._syncs = durable or synced
        self._written: dict[int, Spot] = {}
        self._end = self._synced = 0
        self._failure = errno.EIO
        self._takes_more = True
        self._changing = threading.Lock()
        self._syncing = threading.Lock()
        self._file = AppendFile(self.path, access, durable=durable)
        self._checked = time.monotonic()

    def find(self, number: int) -> Spot | None:
        """Return where the record of a key lies, given the key's number, if it counts as stored."""
        spot = self._written.get(number)
        return spot if spot is not None and (not self._syncs or spot.offset + spot.size <= self._synced) else None

    def table(self) -> PackTable:
        """Return what counts as stored so far, as other processes know it."""
        end = self._synced if self._syncs else self._end
        walked = {number: spot for number, spot in self._written.items() if spot.offset + spot.size <= end}
        # A thread of the parent may have written more, and not noted it yet.
        end = max((spot.offset + spot.size for spot in walked.values()), default=0)
        return PackTable(end, None, walked, end, 0.0)

    def append(self, records: Sequence[tuple[int, bytes]]) -> list[Spot] | None:
        """Append records, given with their keys' numbers; return where they lie once they count as stored.

        Returns None, and writes nothing, if the pack is full or no longer there: make another.

        Raises:
            StoreError: The system refused. None of them counts as stored, and the pack takes no more.

        """
        with self._changing:
            if not self._has_room(len(records), sum([len(data) for _, data in records])) or not self._is_there():
                self._takes_more = False
                return None
            spots = self._write(records)
            end = self._end
        if self._syncs:
            self._sync(end)
        return spots

    def seal(self) -> None:
        """Write the index after the records, and close the file. An empty pack is removed. Safe to call again.

        Raises:
            StoreError: The system refused. All records stay readable: a pack without an index is read record by record.

        """
        with self._syncing, self._changing:
            self._takes_more = False
            if not self._file.is_open:
                return
            try:
                if not self._written:
                    files.remove(self.path)
                elif self._is_there(now=True):
                    self._write_index()
            finally:
                self._file.close()

    def _write_index(self) -> None:
        try:
            self._file.write(self._end, [pack.index_frame(self._written, self._end)])
        except BaseException:
            self._file.cut(self._end)
            raise
        if self._syncs:
            try:
                self._file.sync()
            except StoreError as error:
                self._give_up(error)
                raise
            self._synced = self._end

    def end(self) -> None:
        """Take no more. The file is closed as it is once nobody uses this writer."""
        self._takes_more = False

    def abandon(self) -> None:
        """Close the file as it is: in a forked child, whose parent goes on with it."""
        self.end()
        self._file.close()

    def _has_room(self, count: int, size: int) -> bool:
        if not self._takes_more:
            return False
        fits = self._end + size <= pack.MAX_BYTES and len(self._written) + count <= pack.MAX_RECORDS
        return fits or not self._end

    def _is_there(self, *, now: bool = False) -> bool:
        """Return whether the pack still has its name and nobody has sealed it: looked up at most once a second.

        In between, only a pack that was deleted on this host is noticed.
        """
        if not now and time.monotonic() - self._checked < CHECK_SECONDS:
            return self._file.has_a_name()
        found = files.stat(self.path)
        self._checked = time.monotonic()
        return found is not None and found.identity == self._file.identity and found.size_bytes == self._end

    def _write(self, records: Sequence[tuple[int, bytes]]) -> list[Spot]:
        start = end = self._end
        spots, written = [], {}
        for number, data in records:
            spot = written[number] = Spot(end, len(data))
            spots.append(spot)
            end += len(data)
        try:
            self._file.write(start, [data for _, data in records])
        except BaseException:
            # Part of it may be there. Readers would stop at it, and nothing comes behind it.
            self._takes_more = False
            self._file.cut(start)
            raise
        # In this order: a signal handler may raise in between.
        self._end = end
        self._written.update(written)
        return spots

    def _sync(self, end: int) -> None:
        """Wait until all up to `end` is on the disk. One thread syncs for all that have written by then."""
        with self._syncing:
            if self._synced >= end:
                return
            with self._changing:
                if not self._file.is_open:
                    raise StoreError(self.path, self._failure, "another thread could not write to this pack: try again")
                reached = self._end
            try:
                # Only a holder of `_syncing` closes the file.
                self._file.sync()
            except StoreError as error:
                with self._changing:
                    self._give_up(error)
                raise
            self._synced = reached

    def _give_up(self, error: StoreError) -> None:
        """Let nobody find what was not synced: what the disk has of it is unknown. Called with both locks."""
        self._failure = error.errno or errno.EIO
        self._end = self._synced
        self._file.cut(self._end)
        self.abandon()
        if not self._end:
            with suppress(StoreError):
                files.remove(self.path)
