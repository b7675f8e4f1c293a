"""Entries of the node cache: a record's header, and its content laid out for mapping. Pure.

`docs/node-cache.md` describes the layout. An entry is valid on one node until its next boot, and only for this version
of ANA. A file that differs in any way from the expected layout is not an entry.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import blake3

from ana.errors import ANAError
from ana.format import address, header
from ana.format.draft import Draft
from ana.format.header import Header

__all__ = ["FIRST_BYTES", "Entry", "Origin", "draft", "header_size", "parse"]

MAGIC = b"ANA\x00NODE"
VERSION = 2
"""Entries of version 1 were made without checking their content."""
FIXED = struct.Struct("<8sIIQQ16s32s")
DIGEST_BYTES = 32
FIRST_BYTES = 16 << 10
"""How much of an entry is read first: enough for the header of a state of 1.3 GB."""
PAGE_BYTES = 4096
LARGE_BYTES = 64 << 10
"""Buffers of at least this size start on a page; smaller ones are packed closely to save padding."""
ALIGNMENT_BYTES = 64


class Origin(NamedTuple):
    """The boot (16 bytes) and the store that an entry belongs to; it is not used with any other."""

    boot: bytes
    store: str

    @property
    def digest(self) -> bytes:
        """A digest of the store's name, of fixed size."""
        return blake3.blake3(address.key_bytes(self.store)).digest()


class Entry(NamedTuple):
    """An entry's header: its record's header, the offset of each segment, and the file's size in bytes."""

    header: Header
    offsets: Sequence[int]
    size_bytes: int


class _Described(NamedTuple):
    class_name: str
    digest: bytes
    sizes: Sequence[int]
    bytes_segments: Sequence[int]
    describe: Callable[[], str]


def draft(found: Header, origin: Origin) -> tuple[Entry, bytes]:
    """Return the entry for a record, and the first bytes of its file."""
    described = _Described(found.class_name, found.content, found.segments, found.bytes_segments, lambda: found.summary)
    draft = Draft(found.key, described, len(found.chunks), found.children)
    record = draft.header(found.chunks, found.created_ns)
    header_bytes = FIXED.size + len(record) + DIGEST_BYTES
    offsets, size_bytes = _lay_out(found.own_segments, header_bytes)
    record_bytes = found.header_bytes + found.stored_bytes
    head = FIXED.pack(MAGIC, VERSION, header_bytes, size_bytes, record_bytes, origin.boot, origin.digest) + record
    return Entry(found, offsets, size_bytes), head + blake3.blake3(head).digest()


def header_size(start: bytes) -> int:
    """Return the size of an entry's header from its first bytes; 0 if it is not an entry of this version."""
    if len(start) < FIXED.size:
        return 0
    magic, version, header_bytes, *_ = FIXED.unpack_from(start)
    return int(header_bytes) if (magic, version) == (MAGIC, VERSION) else 0


def parse(data: bytes, size_bytes: int, key: str, origin: Origin) -> Entry | None:
    """Return the entry of `key` from the header in `data` and the file's `size_bytes`; None if it is not valid."""
    header_bytes = header_size(data)
    if not FIXED.size + DIGEST_BYTES < header_bytes <= len(data):
        return None
    head, digest = data[: header_bytes - DIGEST_BYTES], data[header_bytes - DIGEST_BYTES : header_bytes]
    _, _, _, claimed_bytes, record_bytes, boot, store = FIXED.unpack_from(data)
    if blake3.blake3(head).digest() != digest or (boot, store) != (origin.boot, origin.digest):
        return None
    try:
        found = header.parse_header(head[FIXED.size :], record_bytes, key, "an entry of the node cache")
    except ANAError:
        return None
    offsets, expected_bytes = _lay_out(found.own_segments, header_bytes)
    if not size_bytes == claimed_bytes == expected_bytes:
        return None
    if address.is_content_uuid(key) and address.content_uuid(found.content) != key:
        return None
    return Entry(found, offsets, size_bytes)


def _lay_out(lengths: Sequence[int], start: int) -> tuple[list[int], int]:
    """Return the offset of each segment, and the end of the last one."""
    offsets = []
    for length in lengths:
        alignment = PAGE_BYTES if length >= LARGE_BYTES else ALIGNMENT_BYTES
        start += -start % alignment
        offsets.append(start)
        start += length
    return offsets, start
