"""Import records into a store: verify them, copy them, verify the copies. For maintenance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ana.format import address, pack, record
from ana.format.chunks import Read
from ana.format.signature import Seal
from ana.fs import atomic, files
from ana.stores.directory import signing, stored_file, trash
from ana.stores.directory.store import DirectoryStore

__all__ = [
    "Source",
    "copy",
    "ingest",
    "opened",
    "read_header",
    "resealed",
    "set_aside",
    "sign_anew",
]

BLOCK_BYTES = 4 << 20
START_BYTES = 4096


def ingest(store: DirectoryStore, key: str, size_bytes: int, read: Read, where: str, seal: Seal | None = None) -> bool:
    """Store a record of `size_bytes` that `read` reads; return False if its key exists.

    The record is verified before it is copied, with `seal`, the key of its source. The copy is signed with this store's
    key and verified again. Raises CorruptedStateError, UnsupportedFormatError, StoreError.
    """
    header = read_header(key, size_bytes, read, where, seal)
    record.verify(header, read, where)
    if store.has(key):
        return False
    if seal is not store.seal:
        read = resealed(header, read, store.seal)
    if _goes_into_pack(store, header, size_bytes):
        store.packs.append([(key, bytes(_start(read, size_bytes)))])
        store.get(key, wait=False).verify()
        return True
    written = store.publish(store.tree.place(key), _copier(read, size_bytes))
    store.get(key, wait=False).verify()
    return written


def sign_anew(store: DirectoryStore, name: str, header: record.Header) -> bool:
    """Sign a state's file, given its name in the tree, with the store's current key; return False if it already is.

    The file is replaced by a copy. Readers that have it open keep the old one. Raises StoreError.
    """
    seal = store.seal
    if seal is None:
        return False
    path = f"{store.home}/{name}"
    file = files.open_file(path, START_BYTES, store.tree.trust.check_file)
    if file is None:
        return False
    with file:
        read = _reader(file)
        head = _start(read, header.header_bytes)
        if seal.number(header.key, *record.signed_parts(head)) == 0:
            return False
        atomic.publish(
            path.rpartition("/")[0],
            path.rpartition("/")[2],
            _copier(resealed(header, read, seal), file.size_bytes),
            atomic.Policy(durable=store.durable, access=store.tree.access),
            replace=True,
        )
    return True


def copy(source: DirectoryStore, target: DirectoryStore, key: str) -> bool:
    """Copy a state between stores; return False if `target` has it. Raises StateNotFoundError, and as `ingest`."""
    with opened(source, key) as record_file:
        return ingest(target, key, record_file.size_bytes, record_file.read, record_file.where, source.seal)


class Source(NamedTuple):
    """An open record: its size in bytes, a function that reads it, and its place, for messages."""

    size_bytes: int
    read: Read
    where: str


@contextmanager
def opened(store: DirectoryStore, key: str) -> Iterator[Source]:
    """Open a record, in a file or in a pack. Raises StateNotFoundError, StoreError."""
    with store.open_state(store.tree.place(key), wait=False) as file:
        yield Source(file.size_bytes, _reader(file), file.path)


def _goes_into_pack(store: DirectoryStore, header: record.Header, size_bytes: int) -> bool:
    fits = store.packs.takes(header.own_bytes) and size_bytes <= pack.MAX_RECORD_BYTES
    return fits and header.class_name != "" and address.is_content_uuid(header.key)


def set_aside(store: DirectoryStore, path: str) -> str | None:
    """Rename a state's file to `.bad-…` to free its name; return the new name, or None if the file is gone.

    Raises StoreError, and UntrustedStoreError if a wrong key may be the reason.
    """
    found = files.stat(path)
    if found is None:
        return None
    signing.check_key(store.tree, store.seal)
    aside = atomic.set_aside(path, found.identity)
    trash.forget(path, found.identity)
    return aside


class _Start(NamedTuple):
    size_bytes: int
    start: bytearray
    read: Read


def _reader(file: files.Opened) -> Read:
    # A small file is already closed, and all of it is in memory.
    return record.reader(file.start) if len(file.start) == file.size_bytes else file.read


def _copier(read: Read, size_bytes: int) -> Callable[[record.Write], None]:
    def fill(write: record.Write) -> None:
        for offset in range(0, size_bytes, BLOCK_BYTES):
            block = bytearray(min(BLOCK_BYTES, size_bytes - offset))
            read(offset, [memoryview(block)])
            write(offset, [memoryview(block)])

    return fill


def resealed(header: record.Header, read: Read, seal: Seal | None) -> Read:
    """Return a function that reads a record with its signature replaced by that of `seal`, or removed."""
    head = record.sealed_anew(bytes(_start(read, header.header_bytes)), header.key, seal)

    def read_resealed(offset: int, targets: Sequence[memoryview]) -> None:
        read(offset, targets)
        for target in targets:
            part = head[offset : offset + len(target)]
            target[: len(part)] = part
            offset += len(target)

    return read_resealed


def read_header(key: str, size_bytes: int, read: Read, where: str, seal: Seal | None = None) -> record.Header:
    """Return the verified header of a record. Raises CorruptedStateError, UnsupportedFormatError."""
    source = _Start(size_bytes, _start(read, min(size_bytes, START_BYTES)), read)
    return stored_file.read_header(source, key, where, seal)[0]


def _start(read: Read, size_bytes: int) -> bytearray:
    start = bytearray(size_bytes)
    targets: Sequence[memoryview] = [memoryview(start)]
    read(0, targets)
    return start
