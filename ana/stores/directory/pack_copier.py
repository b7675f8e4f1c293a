"""Copies records into new packs. For maintenance."""

import math
from collections.abc import Sequence

from ana.format import pack
from ana.fs import files, mounts
from ana.stores.directory.pack_writer import PackWriter
from ana.stores.directory.store import DirectoryStore

__all__ = ["PackCopier"]

BATCH_BYTES = 4 << 20
BATCH_RECORDS = 1024
"""How much is written and synced at a time."""


class PackCopier:
    """Appends verified records to packs of its own. A full pack is sealed. For one thread.

    A pack's time of last change becomes that of the youngest record in it, since `gc` judges age by it.

    Attributes:
        packs: How many packs were made.
        names: Their names.

    """

    def __init__(self, store: DirectoryStore) -> None:
        self.names: list[str] = []
        self._store = store
        self._writer: PackWriter | None = None
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._youngest = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether enough waits to be written."""
        return self._waiting_bytes >= BATCH_BYTES or len(self._waiting) >= BATCH_RECORDS

    def add(self, key: str, data: bytes, modified: float) -> None:
        """Add a whole, verified record, last changed at `modified` (s since 1970). It waits for `write`."""
        self._waiting.append((pack.number_of(key), data))
        self._waiting_bytes += len(data)
        self._youngest = max(self._youngest, modified)

    def write(self) -> None:
        """Write what waits; it is stored, and on the disk, afterwards. Raises StoreError."""
        records, self._waiting, self._waiting_bytes = self._waiting, [], 0
        while records and not self._append(records):
            self.seal()

    def seal(self) -> None:
        """Write what waits, and seal the pack. Raises StoreError."""
        self.write()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.seal()
        youngest, self._youngest = self._youngest, -math.inf
        files.set_modified(writer.path, youngest)

    def _append(self, records: Sequence[tuple[int, bytes]]) -> bool:
        if self._writer is None:
            self._store.tree.begin_packs()
            remote = mounts.waits_at_close(self._store.home)
            packs = self._store.packs
            self._writer = PackWriter(packs.folder, self._store.tree.access, durable=True, synced=remote)
            self.names.append(self._writer.name)
        return self._writer.append(records) is not None
