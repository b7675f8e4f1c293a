"""Records in any mapping from strings to bytes: a dict, or a user's redis, fsspec or zict mapping."""

from collections.abc import MutableMapping
from typing import Any

from ana.format import chunks
from ana.stores.record_store import RecordStore

__all__ = ["SCHEME", "MemoryStore"]

SCHEME = "memory"
"""The scheme of their homes, which no other process can open."""


class MemoryStore(RecordStore):
    """A store in a mapping, as safe between threads and processes as the mapping's own item access."""

    missing_hint = (
        "this process stores in its own memory: to load what another one stored, choose its folder with "
        "set_dl(pickle_dir=...) or ANA_PICKLE_DIR"
    )

    def __init__(self, mapping: MutableMapping[str, Any], home: str, level: int = chunks.DEFAULT_LEVEL) -> None:
        super().__init__(home, level)
        self.mapping = mapping

    @property
    def process_local(self) -> bool:
        """Whether the mapping is a plain dict; any other mapping may be shared between processes."""
        return type(self.mapping) is dict

    def has_record(self, key: str) -> bool:
        """Return whether the mapping has the key."""
        return key in self.mapping

    def read_record(self, key: str) -> Any:
        """Return the mapping's item."""
        return self.mapping[key]

    def write_record(self, key: str, data: bytes, *, replace: bool) -> bool:
        """Set the item. In a mapping other than a dict, this may overwrite one: not all mappings can set atomically."""
        if self.process_local and not replace:
            return self.mapping.setdefault(key, data) is data
        self.mapping[key] = data
        return True
