"""Reads exported files: a strict tar reader that goes from member to member and always ends.

Python's tarfile is not made for untrusted files: it reads headers of any size into memory, fails with any kind of
exception, and loops forever on negative sizes (CVE-2025-8194).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from ana.fs import files

__all__ = ["Member", "members", "part"]

BLOCK_BYTES = 512
MOST_EXTRA_BYTES = 64 << 10
"""The size limit of an extended header. Names in a store have at most 208 bytes."""

_OCTAL = re.compile(rb" *([0-7]{0,12})[ \0]*")
_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]*)=")
_PLAIN = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_EXTRA = (b"L", b"K", b"x", b"g")
"""Names as GNU tar writes long ones, and the extended headers of POSIX."""


class Member(NamedTuple):
    """A member of a tar file: its name, offset, size, and whether it is a regular file."""

    name: str
    offset: int
    size_bytes: int
    is_file: bool


def members(opened: files.Opened) -> Iterator[Member]:
    """Yield the members of a tar file in order. Each lies within the file.

    Raises ValueError, with the reason, if the file is cut short or damaged.
    """
    at = 0
    said: dict[bytes, bytes] = {}
    while (block := part(opened, at, BLOCK_BYTES)) != bytes(BLOCK_BYTES):
        name, size, kind = _header(block, at)
        at += BLOCK_BYTES
        if kind in _EXTRA:
            said |= _extra(part(opened, at, min(size, MOST_EXTRA_BYTES)), size, kind)
        else:
            name = said.get(b"path", name)
            size = _number(said[b"size"], rb"([0-9]{1,19})") if b"size" in said else size
            size = 0 if kind in _WITHOUT_DATA else size
            shown = name.decode("utf-8", "surrogateescape")
            if at + size > opened.size_bytes:
                msg = f"it is cut short: {shown!r} should have {size} bytes and has {opened.size_bytes - at}"
                raise ValueError(msg)
            yield Member(shown, at, size, kind in _PLAIN)
            said = {}
        at += size + -size % BLOCK_BYTES


def part(opened: files.Opened, offset: int, size_bytes: int) -> bytes:
    """Return a part of a file, shorter at its end. Raises StoreError."""
    data = bytearray(max(0, min(size_bytes, opened.size_bytes - offset)))
    opened.read(offset, [memoryview(data)])
    return bytes(data)


def _header(block: bytes, at: int) -> tuple[bytes, int, bytes]:
    if len(block) < BLOCK_BYTES:
        msg = f"it is cut short at byte {at}"
        raise ValueError(msg)
    # The checksum counts its own field as blanks.
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        msg = f"there is no tar header at byte {at}"
        raise ValueError(msg)
    kind = block[156:157]
    if kind == b"S":
        msg = f"at byte {at} is a sparse file, which ana export does not write"
        raise ValueError(msg)
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345] and kind not in _EXTRA:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    # Sizes too large for octal digits are binary, after 0x80.
    size = int.from_bytes(block[125:136], "big") if block[124] == 0x80 else _number(block[124:136])  # noqa: PLR2004 - see above
    return name, size, kind


def _number(field: bytes, pattern: bytes | re.Pattern[bytes] = _OCTAL) -> int:
    found = re.fullmatch(pattern, field)
    if found is None:
        msg = f"{field!r} is not a size"
        raise ValueError(msg)
    return int(found[1] or b"0", 8 if pattern is _OCTAL else 10)


def _extra(data: bytes, size: int, kind: bytes) -> dict[bytes, bytes]:
    """Return what an extended header says about the next member."""
    if len(data) < size:
        msg = f"an extended header claims to have {size} bytes"
        raise ValueError(msg)
    if kind == b"L":
        return {b"path": data.partition(b"\0")[0]}
    said = {}
    at = 0
    # Global headers and names of links are not needed.
    while kind == b"x" and at < size:
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found else 0
        if found is None or end <= found.end() or data[end - 1 : end] != b"\n":
            msg = "an extended header is malformed"
            raise ValueError(msg)
        if found[2].startswith(b"GNU.sparse."):
            msg = "it holds a sparse file, which ana export does not write"
            raise ValueError(msg)
        said[found[2]] = data[found.end() : end - 1]
        at = end
    return said
