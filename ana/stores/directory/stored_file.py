"""A state in a tree: a verified header, and content that is read on demand."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ana.errors import CorruptedStateError
from ana.format import chunks, record
from ana.format.signature import Seal
from ana.fs import files

if TYPE_CHECKING:
    from ana.stores.directory.place import Place
    from ana.stores.directory.store import DirectoryStore

__all__ = ["Source", "StoredFile", "read_header"]

_log = logging.getLogger("ana.stores")

Result = TypeVar("Result")


class Source(Protocol):
    """What a record is read from: `files.Opened`, or part of another file."""

    @property
    def size_bytes(self) -> int:
        """The record's size in bytes."""

    @property
    def start(self) -> bytearray:
        """The record's first bytes: at least 4 KiB, or all of a smaller record."""

    @property
    def read(self) -> chunks.Read:
        """The function that reads more of the record."""


def read_header(source: Source, key: str, where: str, seal: Seal | None) -> tuple[record.Header, bytearray]:
    """Return a record's verified header and the bytes it was read from: `source.start`, or more if it was too short.

    Raises CorruptedStateError, UnsupportedFormatError, and whatever `source.read` raises.
    """
    start, size = source.start, source.size_bytes
    if len(start) < size:
        end = record.header_size(start, size, key, where)
        if end > len(start):
            start = bytearray(end)
            source.read(0, [memoryview(start)])
    return record.parse_header(start, size, key, where, seal), start


class StoredFile:
    """A state in a tree: a small one is held in memory, a large one as an open file, reopened if needed."""

    header: record.Header

    def __init__(self, store: "DirectoryStore", key: str, opened: files.Opened) -> None:
        self.where: str = opened.path
        self._store = store
        self._key = key
        self._opened: files.Opened | None = opened
        self._modified = opened.modified
        try:
            self.header, self._data = self._read_header(opened)
        except BaseException:
            opened.close()
            raise
        if self._data is not None:
            self._opened = None

    @property
    def may_be_lost(self) -> bool:
        """Whether a power cut may still lose the state, because its writer may not have waited for the disk."""
        return self._store.may_be_lost(self._modified)

    def segments(self) -> list[bytes | memoryview]:
        """Read, verify and decompress the content; if a digest does not match, read the file once more."""
        began = time.perf_counter()
        segments = self._segments()
        self._note_loaded(began)
        return segments

    def _note_loaded(self, began: float) -> None:
        header = self.header
        file_bytes = header.header_bytes + header.stored_bytes
        self._store.counters.note_loaded(self._key, header.own_bytes, file_bytes, began)

    def _segments(self) -> list[bytes | memoryview]:
        if self._data is not None:
            data, self._data = self._data, None
            try:
                return record.decode_small(self.header, data, self.where)
            except CorruptedStateError as error:
                self._store.counters.retries += 1
                _log.debug("reading again: %s", error)
        return self._watch(lambda: self._with_file(record.decode))

    def copy(self, offsets: Sequence[int], put: record.PutBytes) -> None:
        """Read, verify and decompress a piece at a time; if a digest does not match, read the file once more."""
        began = time.perf_counter()
        content = self.header.content

        def work(header: record.Header, read: chunks.Read, where: str) -> None:
            if header.content != content:
                raise CorruptedStateError(self._key, where, "it was replaced by another state while it was read")
            record.copy(header, read, where, offsets, put)

        self._watch(lambda: self._with_file(work))
        self._note_loaded(began)

    def verify(self) -> None:
        """Read all of the content and check its digests; if one does not match, read the file once more."""
        self._watch(lambda: self._with_file(record.verify))

    @property
    def _place(self) -> "Place":
        return self._store.tree.place(self._key)

    def _watch(self, attempt: Callable[[], Result]) -> Result:
        return self._store.watch(self._place, attempt)

    def release(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _with_file(self, work: Callable[[record.Header, chunks.Read, str], Result]) -> Result:
        opened, self._opened = self._opened, None
        again = opened is None
        with opened or self._store.open_state(self._place, wait=True) as opened:
            self.where = opened.path
            data = None
            if again:
                self.header, data = self._read_header(opened)
            return work(self.header, opened.read if data is None else record.reader(data), self.where)

    def _read_header(self, opened: files.Opened) -> tuple[record.Header, bytearray | None]:
        """Return the verified header, with the whole file if it is small, else None."""
        header, start = read_header(opened, self._key, self.where, self._store.seal)
        return header, start if len(start) == opened.size_bytes else None
