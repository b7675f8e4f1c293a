"""Builds the header of a record. Pure: what `ana.format.header` parses."""

import struct
from collections.abc import Iterable, Sequence
from itertools import starmap

import blake3

from ana.format import address, hint_texts
from ana.format.chunks import PART, Chunk
from ana.format.header import (
    CHUNK,
    FIXED,
    HINTS,
    MAGIC,
    MAX_HEADER_BYTES,
    MIN_RECORD_BYTES,
    PARTS,
    PREFIX,
    SIGNED,
    SKIPPABLE,
    SUMMARY,
    VERSION,
    WHOLES,
    summary_bytes,
)
from ana.format.segments import Described, marked
from ana.format.signature import Seal

__all__ = ["Draft"]


class Draft:
    """A record's header without its chunk table. The header's size is known before the chunks' sizes."""

    def __init__(
        self, key: str, content: Described, n_chunks: int, children: Sequence[str], hints: Sequence[str] = ()
    ) -> None:
        segments, bytes_segments = content.sizes, content.bytes_segments
        self.digest: bytes = content.digest
        self.raw_bytes: int = sum(segments)
        self.n_children: int = len(children)
        self.children: bytes = _prefixed(map(address.key_bytes, children)) if children else b""
        self.hints: bytes = (
            _prefixed(said.encode("ascii") for said in hint_texts.shortened(hints)) if any(hints) else b""
        )
        summary = content.describe()
        said = summary_bytes(summary) if summary else b""
        self.summary: bytes = len(said).to_bytes(2, "little") + said if said else b""
        self.flags = (WHOLES if bytes_segments else 0) | (HINTS if self.hints else 0) | (SUMMARY if self.summary else 0)
        self.segments: Sequence[int] = marked(segments, bytes_segments) if bytes_segments else segments
        self.name = key
        self.key: bytes = address.key_bytes(key)
        self.class_name: bytes = address.key_bytes(content.class_name)
        named = len(self.summary) + len(self.children) + len(self.hints) + len(self.key) + len(self.class_name)
        numbered = 8 * len(segments) + CHUNK.size * n_chunks
        self.header_bytes: int = MIN_RECORD_BYTES + named + numbered
        if self.header_bytes > MAX_HEADER_BYTES:
            counts = f"{len(segments)} buffers with {len(children)} references"
            msg = f"a state of {counts} has too large a header: use fewer"
            raise ValueError(msg)

    def header(self, table: Sequence[Chunk], created_ns: int, seal: Seal | None = None) -> bytes:
        """Return the header of a record with these chunks, signed if there is a seal."""
        flags, stored_bytes = self.flags if seal is None else self.flags | SIGNED, 0
        for chunk in table:
            stored_bytes += chunk.stored
            if chunk.method == PART:
                flags |= PARTS
        head = b"".join(
            [
                PREFIX.pack(SKIPPABLE, self.header_bytes - PREFIX.size),
                FIXED.pack(
                    MAGIC,
                    VERSION,
                    flags,
                    self.n_children,
                    len(self.segments),
                    len(table),
                    len(self.key),
                    len(self.class_name),
                    0,
                    self.raw_bytes,
                    stored_bytes,
                    # The host's clock may be set before 1970.
                    max(0, created_ns),
                    self.digest,
                ),
                self.key,
                self.class_name,
                self.summary,
                self.children,
                struct.pack(f"<{len(self.segments)}Q", *self.segments),
                *starmap(CHUNK.pack, table),
                self.hints,
            ]
        )
        digest = blake3.blake3(head).digest() if seal is None else seal.sign(self.name, head)
        return head + digest


def _prefixed(texts: Iterable[bytes]) -> bytes:
    return b"".join([len(text).to_bytes(2, "little") + text for text in texts])
