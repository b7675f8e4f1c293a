"""Parses the header of a record; `ana.format.draft` builds it. Pure: bytes in, bytes out.

`docs/format.md` describes it byte by byte.
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import blake3

from ana.errors import CorruptedStateError, UnsupportedFormatError
from ana.format import address, chunks, hint_texts, parts
from ana.format.chunks import PART, Chunk
from ana.format.hint_texts import text
from ana.format.parts import Part
from ana.format.segments import unmarked
from ana.format.signature import Seal

__all__ = [
    "MIN_RECORD_BYTES",
    "Brief",
    "Header",
    "brief_of",
    "header_size",
    "key_of",
    "parse_header",
    "record_size",
    "sealed_anew",
    "signed_parts",
]

VERSION = 1
SIGNED, WHOLES, HINTS, PARTS, SUMMARY = 1, 2, 4, 8, 16
"""Flags: the header ends with a signature, not a digest; some segments are `bytes` objects; it says in which packs the
children lie; some segments are parts; it says what the value is."""
_KNOWN = SIGNED | WHOLES | HINTS | PARTS | SUMMARY
MAGIC = b"ANA\x00PKL\n"
SKIPPABLE = 0x184D2A50
PREFIX = struct.Struct("<II")
FIXED = struct.Struct("<8sHHIIIHHIQQQ32s")
CHUNK = struct.Struct("<IIB7x32s")
_chunk: Callable[[tuple[object, ...]], Chunk] = partial(tuple.__new__, Chunk)
"""As `Chunk(*fields)`, without a Python call."""
DIGEST_BYTES = 32
FLAGS = struct.Struct("<H")
FLAGS_AT = PREFIX.size + struct.calcsize("<8sH")
"""Offset of the flags in a header: after the magic bytes and the version."""
FIXED_END = PREFIX.size + FIXED.size
"""Offset of the key: after the fixed part."""
MIN_RECORD_BYTES = FIXED_END + DIGEST_BYTES
MAX_HEADER_BYTES = 256 << 20
"""Readers reject a larger header. This suffices for the chunks of 20 TB, or for six million children."""

MAX_SUMMARY_BYTES = 200
MAX_CHILD_BYTES = 4 * address.MAX_KEY_CHARACTERS + 2 + 160
"""A key has up to 200 characters of up to four bytes; a hint has up to 160 bytes, and two for its size."""

Bytes = bytes | bytearray | memoryview


class Header(NamedTuple):
    """The fields of a record's header. Sizes in bytes, time in ns since 1970.

    `segments` holds the segments' sizes, `bytes_segments` the numbers of the segments that are `bytes` objects.
    """

    key: str
    class_name: str
    children: tuple[str, ...]
    segments: tuple[int, ...]
    bytes_segments: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    raw_bytes: int
    stored_bytes: int
    created_ns: int
    content: bytes
    header_bytes: int
    hints: tuple[str, ...] = ()
    """For each child, in which pack it lay when this state was stored, or ""; empty if no child lay in one."""
    parts: tuple[Part, ...] = ()
    """The segments that are states of their own. Their keys are the last of the children."""
    summary: str = ""
    """What people are told about the value, such as its type and shape; "" if the writer said nothing."""

    @property
    def own_segments(self) -> Sequence[int]:
        """The segments' sizes in this record: 0 for parts."""
        if not self.parts:
            return self.segments
        others = {part.segment for part in self.parts}
        return [0 if number in others else size for number, size in enumerate(self.segments)]

    @property
    def own_bytes(self) -> int:
        """The raw size without the parts."""
        return self.raw_bytes - sum([part.size for part in self.parts]) if self.parts else self.raw_bytes

    @property
    def objects(self) -> tuple[str, ...]:
        """The children that are not parts: the states that the pickle refers to."""
        if not self.parts:
            return self.children
        return self.children[: len(self.children) - len({part.key for part in self.parts})]


class Brief(NamedTuple):
    """What a header says of a state, without its content: enough for lists, sums, and what refers to what."""

    key: str
    class_name: str
    children: tuple[str, ...]
    raw_bytes: int
    parts: tuple[Part, ...] = ()
    summary: str = ""

    @property
    def own_bytes(self) -> int:
        """The raw size without the parts."""
        return self.raw_bytes - sum([part.size for part in self.parts]) if self.parts else self.raw_bytes


class _Fixed(NamedTuple):
    """The fields of a header's fixed part, in the order of `FIXED`."""

    magic: bytes
    version: int
    flags: int
    n_children: int
    n_segments: int
    n_chunks: int
    key_size: int
    class_size: int
    reserved: int
    raw_bytes: int
    stored_bytes: int
    created_ns: int
    content: bytes


def header_size(prefix: Bytes, size_bytes: int, key: str, where: str) -> int:
    """Return the header's size in bytes (frame header included) from a record's first 128 bytes.

    Raises CorruptedStateError if the size is implausible for a file of `size_bytes`.
    """
    return _fixed_part(prefix, size_bytes, key, where)[0]


def record_size(start: Bytes, key: str, where: str) -> int:
    """Return the size in bytes of the record that begins like this, as far as its first 128 bytes tell.

    Raises CorruptedStateError if no record begins like this. Only `parse_header` verifies the size.
    """
    end, fixed = _fixed_part(start, len(start), key, where)
    if fixed.magic != MAGIC:
        raise CorruptedStateError(key, where, "it is not a record of ana")
    return end + fixed.stored_bytes


def sealed_anew(head: bytes, key: str, seal: Seal | None) -> bytes:
    """Return a record's verified header with another signature, or with a plain digest."""
    bare = bytearray(head[:-DIGEST_BYTES])
    FLAGS.pack_into(bare, FLAGS_AT, _flags(head) & ~SIGNED | (0 if seal is None else SIGNED))
    return bytes(bare) + (blake3.blake3(bare).digest() if seal is None else seal.sign(key, bytes(bare)))


def signed_parts(head: Bytes) -> tuple[memoryview, memoryview]:
    """Split a whole header into the signed part and the signature."""
    view = memoryview(head)
    return view[:-DIGEST_BYTES], view[-DIGEST_BYTES:]


def is_signed(head: Bytes) -> bool:
    """Return whether a whole header says that it is signed."""
    return bool(_flags(head) & SIGNED)


def _flags(head: Bytes) -> int:
    flags: int = FLAGS.unpack_from(head, FLAGS_AT)[0]
    return flags


def key_of(prefix: Bytes) -> str:
    """Return the key that a record claims, from its first 1,024 bytes; `parse_header` verifies it."""
    if len(prefix) < MIN_RECORD_BYTES:
        return ""
    fixed = _Fixed(*FIXED.unpack_from(prefix, PREFIX.size))
    return str(prefix[FIXED_END : FIXED_END + fixed.key_size], "utf-8", "replace")


def parse_header(data: Bytes, size_bytes: int, key: str, where: str, seal: Seal | None = None) -> Header:
    """Return the verified header of the record of `key`; `data` holds all of it, `size_bytes` is the file's size.

    With a seal, only headers that it has signed are accepted. All sizes are checked against each other and the file
    before anything is allocated for them. Raises CorruptedStateError, or UnsupportedFormatError for an unknown version
    or flag.
    """
    end, fixed = _fixed_part(data, size_bytes, key, where)
    if fixed.magic != MAGIC:
        raise CorruptedStateError(key, where, "it is not a record of ana")
    view = memoryview(data)[:end]
    if fixed.version != VERSION or fixed.flags & ~_KNOWN:
        # Raise this before the checksum is checked, because a newer version may use another checksum.
        raise UnsupportedFormatError(where, f"{fixed.version} (flags {fixed.flags:#x})", VERSION)
    if seal is None and not fixed.flags & SIGNED:
        if not _has_digest(view):
            raise CorruptedStateError(key, where, "its header does not match its checksum")
    else:
        _check_signature(view, fixed.flags & SIGNED, key, where, seal)
    header = _parse_fields(view, fixed, key, where)
    _check_sums(header, size_bytes, key, where)
    if header.key != key:
        raise CorruptedStateError(key, where, f"it is the record of {header.key!r}, under another name")
    return header


def brief_of(data: Bytes, size_bytes: int, key: str, where: str, seal: Seal | None = None) -> Brief:
    """Return what the verified header of the record of `key` says, in half the time of `parse_header`.

    What the header says of the content is not checked. Raises as `parse_header`.
    """
    end, fixed = _fixed_part(data, size_bytes, key, where)
    view = memoryview(data)[:end]
    if seal is None and end + fixed.stored_bytes == size_bytes and _is_plain(view, fixed, key):
        try:
            class_name, at = text(view, FIXED_END + fixed.key_size, fixed.class_size)
            summary, at = _summary(view, at) if fixed.flags & SUMMARY else ("", at)
            children = _children(view, at, fixed.n_children)[0] if fixed.n_children else ()
        except ValueError:
            pass
        else:
            return Brief(key, class_name, children, fixed.raw_bytes, (), summary)
    # Signed, or with parts, or something is wrong with it: this says what.
    header = parse_header(data, size_bytes, key, where, seal)
    return Brief(key, header.class_name, header.children, header.raw_bytes, header.parts, header.summary)


def summary_bytes(summary: str) -> bytes:
    """Return a summary as a header holds it: shortened if it is too long."""
    said = summary.encode("utf-8", "replace")
    return said if len(said) <= MAX_SUMMARY_BYTES else said[:MAX_SUMMARY_BYTES].decode("utf-8", "ignore").encode()


def _summary(view: memoryview, at: int) -> tuple[str, int]:
    """Return the summary of the value, and where it ends. Raises ValueError."""
    return text(view, at + 2, int.from_bytes(view[at : at + 2], "little"))


def _children(view: memoryview, at: int, count: int) -> tuple[tuple[str, ...], int]:
    """Return the children's keys, and where they end. Raises ValueError."""
    children = []
    for _ in range(count):
        child, at = text(view, at + 2, int.from_bytes(view[at : at + 2], "little"))
        children.append(child)
    return tuple(children), at


def _is_plain(view: memoryview, fixed: _Fixed, key: str) -> bool:
    """Return whether a header is an unsigned one of this version and key, without parts, and has its digest."""
    known = fixed.magic == MAGIC and fixed.version == VERSION and not fixed.flags & ~(WHOLES | HINTS | SUMMARY)
    named = bytes(view[FIXED_END : FIXED_END + fixed.key_size]) == address.key_bytes(key)
    return known and named and _has_digest(view)


def _has_digest(view: memoryview) -> bool:
    """Return whether an unsigned header has its digest."""
    # As `bytes`: Python compares a memoryview item by item, which takes longer than the hash.
    return blake3.blake3(view[:-DIGEST_BYTES]).digest() == bytes(view[-DIGEST_BYTES:])


def _check_signature(view: memoryview, flags: int, key: str, where: str, seal: Seal | None) -> None:
    if seal is None:
        raise CorruptedStateError(key, where, "it is signed with a key, and this store has none")
    if not flags:
        raise CorruptedStateError(key, where, "it is not signed, and this store accepts only what its key has signed")
    if not seal.accepts(key, view[:-DIGEST_BYTES], view[-DIGEST_BYTES:]):
        reason = "its signature is not by this store's key for this UUID: it was damaged, moved, or forged"
        raise CorruptedStateError(key, where, reason)


def _fixed_part(prefix: Bytes, size_bytes: int, key: str, where: str) -> tuple[int, _Fixed]:
    """Return the size of a header and the fields of its fixed part, after checking that they are plausible."""
    if size_bytes < MIN_RECORD_BYTES:
        raise CorruptedStateError(key, where, f"{size_bytes} bytes are too few for a record")
    magic, frame = PREFIX.unpack_from(prefix)
    if magic != SKIPPABLE:
        raise CorruptedStateError(key, where, "it does not begin with a record's header")
    total: int = PREFIX.size + frame
    if not MIN_RECORD_BYTES <= total <= size_bytes or total > MAX_HEADER_BYTES:
        raise CorruptedStateError(key, where, f"its header claims {total} bytes of {size_bytes}")
    # The same as `_Fixed(*...)` without a Python call, because every load runs this.
    fixed = tuple.__new__(_Fixed, FIXED.unpack_from(prefix, PREFIX.size))
    named = fixed.key_size + fixed.class_size + 2 * fixed.n_children
    least = MIN_RECORD_BYTES + named + 8 * fixed.n_segments + CHUNK.size * fixed.n_chunks
    most = least + MAX_CHILD_BYTES * fixed.n_children + (2 + MAX_SUMMARY_BYTES if fixed.flags & SUMMARY else 0)
    # The layout of a newer version is unknown.
    if fixed.magic == MAGIC and fixed.version == VERSION and not least <= total <= most:
        raise CorruptedStateError(key, where, f"its header's counts do not fit into {total} bytes")
    return total, fixed


def _parse_fields(view: memoryview, fixed: _Fixed, key: str, where: str) -> Header:
    """Parse the variable parts of a header; its counts have been checked against its size."""
    at = FIXED_END
    try:
        found, at = text(view, at, fixed.key_size)
        class_name, at = text(view, at, fixed.class_size)
        summary, at = _summary(view, at) if fixed.flags & SUMMARY else ("", at)
        children, at = _children(view, at, fixed.n_children) if fixed.n_children else ((), at)
        written = struct.unpack_from(f"<{fixed.n_segments}Q", view, at)
        segments, bytes_segments = unmarked(written) if fixed.flags & WHOLES else (written, ())
        at += 8 * fixed.n_segments
        end = at + CHUNK.size * fixed.n_chunks
        table = tuple(map(_chunk, CHUNK.iter_unpack(view[at:end])))
        hints, end = hint_texts.parse(view, end, fixed.n_children) if fixed.flags & HINTS else ((), end)
        found_parts = _parts(children, segments, bytes_segments, table) if fixed.flags & PARTS else ()
    except (ValueError, struct.error) as error:
        raise CorruptedStateError(key, where, f"its header cannot be read ({error})") from None
    if end != len(view) - DIGEST_BYTES or len(table) != fixed.n_chunks:
        raise CorruptedStateError(key, where, "its header's parts do not add up")
    return Header(
        found,
        class_name,
        children,
        segments,
        bytes_segments,
        table,
        fixed.raw_bytes,
        fixed.stored_bytes,
        fixed.created_ns,
        fixed.content,
        len(view),
        hints,
        found_parts,
        summary,
    )


def _parts(
    children: Sequence[str], segments: Sequence[int], bytes_segments: Sequence[int], table: Sequence[Chunk]
) -> tuple[Part, ...]:
    """Return the parts, which must be the last children."""
    found = parts.in_table(segments, bytes_segments, table)
    keys = list(dict.fromkeys(part.key for part in found))
    if not keys or list(children[-len(keys) :]) != keys:
        msg = "its parts are not its last children"
        raise ValueError(msg)
    return found


def _check_sums(header: Header, size_bytes: int, key: str, where: str) -> None:
    """Reject sizes that do not add up, before anything is allocated for them."""
    raw_bytes = stored_bytes = 0
    for chunk in header.chunks:
        if not chunks.is_possible(chunk) or (chunk.method == PART and not header.parts):
            raise CorruptedStateError(key, where, "its chunk table holds impossible sizes")
        raw_bytes += chunk.raw
        stored_bytes += chunk.stored
    fit = header.segments and sum(header.segments) == raw_bytes == header.raw_bytes
    if not fit or header.stored_bytes != stored_bytes:
        raise CorruptedStateError(key, where, "its sizes do not add up")
    expected = header.header_bytes + stored_bytes
    if expected != size_bytes:
        raise CorruptedStateError(key, where, f"it has {size_bytes} bytes instead of {expected}")
