"""Packing: small states that have files of their own go into packs, small packs into larger ones; and back."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Unpack

from ana.errors import ANAError, CorruptedStateError, StoreError
from ana.format import address, pack, record
from ana.fs import files
from ana.maintenance.common import (
    LOCK_SECONDS,
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    Work,
    locked,
    now,
    open_store,
    problem,
    unlisted,
)
from ana.maintenance.sweep import LEFTOVER_SECONDS
from ana.stores.directory import ingest, stored_file, trash
from ana.stores.directory.pack_copier import PackCopier
from ana.stores.directory.pack_survey import PackFile
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Packed", "Unpacked", "pack_states", "unpack_states"]

OLDER_SECONDS = 600.0
SMALL_PACK_BYTES = pack.MAX_BYTES // 4
"""Packs smaller than this are merged."""
SLACK_BYTES = 64 << 10
"""A file is read whole if it is larger than the largest raw state by at most this."""


@dataclass
class Packed:
    """What packing did or, in a dry run, would do."""

    packed: int = 0
    """States that had files of their own and are in packs now."""
    packed_bytes: int = 0
    """The size of their files."""
    files_removed: int = 0
    """Files of states, of states that had been packed before, and of packs that were merged."""
    folders_removed: int = 0
    """Empty shard folders that were removed."""
    merged: int = 0
    """Packs whose records are in larger ones now."""
    new_packs: int = 0
    """Packs that were written."""
    problems: list[Problem] = field(default_factory=list)
    """Damaged states, which were left where they are, and what could not be read."""
    dry_run: bool = False
    """Whether nothing was changed."""


@dataclass
class Unpacked:
    """What unpacking did."""

    states: int = 0
    """States that have files of their own now."""
    size_bytes: int = 0
    """The size of these files."""
    packs_removed: int = 0
    """Packs that were removed."""
    problems: list[Problem] = field(default_factory=list)
    """States that stay in their packs, with the reason."""


def pack_states(
    pickle_dir: StoreOrPath,
    *,
    smaller_bytes: int = 64_000,
    older_than_seconds: float = OLDER_SECONDS,
    dry_run: bool = False,
    **work: Unpack[Work],
) -> Packed:
    """Move small states into packs, and the records of small packs into larger ones. Safe while jobs run.

    Each record is verified, and on the disk in its new place before its file is removed. Can be killed at any moment
    and run again. Memory does not grow with the number of files.

    Args:
        pickle_dir: The store.
        smaller_bytes: The largest raw state to pack.
        older_than_seconds: Only what was last changed longer ago, by the file server's clock.
        dry_run: Only report what would be done.
        **work: `on_progress` and `lock_seconds`, see `Work`.

    Returns:
        What was done.

    Raises:
        ValueError: The size is not between 1 byte and 1 MiB, or the age is negative.
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
        LockTimeoutError: Other maintenance holds the lock.
    """
    if not 0 < smaller_bytes <= 1 << 20 or older_than_seconds < 0:
        msg = f"smaller_bytes ({smaller_bytes}) is 1 to {1 << 20}, older_than_seconds ({older_than_seconds}) 0 or more"
        raise ValueError(msg)
    store = open_store(pickle_dir)
    with nullcontext() if dry_run else locked(store, work.get("lock_seconds", LOCK_SECONDS)):
        before = now(store, writable=not dry_run) - older_than_seconds
        packing = _Packing(store, before, work.get("on_progress", lambda _: None), dry_run=dry_run)
        packing.pack_files(smaller_bytes)
        packing.merge()
        packing.finish()
        return packing.done


def unpack_states(pickle_dir: StoreOrPath, **work: Unpack[Work]) -> Unpacked:
    """Give each state in a pack a file of its own again, and remove the packs. Safe while jobs run.

    The store no longer packs by itself (`ana init --pack-bytes`); programs that say `pack_bytes` still do. Otherwise as
    `pack_states`.

    Args:
        pickle_dir: The store.
        **work: `on_progress` and `lock_seconds`, see `Work`.

    Returns:
        What was done.

    Raises:
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
        LockTimeoutError: Other maintenance holds the lock.
    """
    store = open_store(pickle_dir)
    with locked(store, work.get("lock_seconds", LOCK_SECONDS)):
        if store.config.pack_bytes:
            store.tree.amend(pack_bytes=0)
        return _unpacked(store, now(store), work.get("on_progress", lambda _: None))


class _Packing:
    """One run over a store."""

    def __init__(self, store: DirectoryStore, before: float, on_progress: OnProgress, *, dry_run: bool) -> None:
        self.store = store
        self.survey = Survey(store)
        self.before = before
        self.on_progress = on_progress
        self.done = Packed(dry_run=dry_run)
        self._copier = PackCopier(store)
        self._written: list[tuple[str, files.Status]] = []

    # States that have files of their own

    def pack_files(self, smaller_bytes: int) -> None:
        """Pack the small states."""
        for name, found in self.survey.each(self.survey.loose(), lambda name: self._read(name, smaller_bytes)):
            if isinstance(found, ANAError):
                self.done.problems.append(problem(found, name=name))
                continue
            if found is not None:
                self._take(name, *found)
        self._write()

    def _take(self, name: str, key: str, data: bytes, status: files.Status) -> None:
        self.done.packed += 1
        self.done.packed_bytes += len(data)
        self.on_progress(Progress("packing", self.done.packed, None, self.done.packed_bytes))
        if self.done.dry_run:
            self.done.files_removed += 1
            return
        if not self._is_packed(key):
            self._copier.add(key, data, status.modified)
        self._written.append((name, status))
        if self._copier.is_due or len(self._written) >= pack.MAX_RECORDS:
            self._write()

    def _read(self, name: str, smaller_bytes: int) -> tuple[str, bytes, files.Status] | None:
        """Return the key, the verified record and the file's status of a state that is to be packed, else None."""
        key = address.key_of_name(name.rpartition("/")[2]) or ""
        path = f"{self.store.home}/{name}"
        status = files.stat(path) if address.is_content_uuid(key) else None
        if status is None or status.modified >= self.before or status.size_bytes > smaller_bytes + SLACK_BYTES:
            return None
        opened = files.open_file(path, smaller_bytes + SLACK_BYTES, self.store.tree.trust.check_file)
        if opened is None or len(opened.start) != opened.size_bytes:
            return None
        header, data = stored_file.read_header(opened, key, path, self.store.seal)
        if header.own_bytes > smaller_bytes or not header.class_name:
            return None
        record.verify(header, record.reader(data), path)
        return key, bytes(data), status

    def _is_packed(self, key: str) -> bool:
        """Return whether a whole copy is in a pack already, as after a run that was killed, and on the disk by now."""
        found = self.survey.packed.first(pack.number_of(key))
        if found is None or found[0].modified >= self.before:
            return False
        one, spot = found
        data = self.survey.packed.read(one, spot)
        return data is not None and _is_whole(self.store, key, data, one.where(spot))

    def _write(self) -> None:
        """Write what waits, then remove the files whose states are in packs now."""
        self._copier.write()
        for name, status in self._written:
            path = f"{self.store.home}/{name}"
            found = files.stat(path)
            if found is not None and (found.identity, found.size_bytes) == (status.identity, status.size_bytes):
                files.remove(path)
                self.done.files_removed += 1
        emptied = {name.rpartition("/")[0] for name, _ in self._written}
        while emptied := emptied - {""}:
            # From the inside out. A writer that wants one of them makes it again.
            for folder in emptied:
                self.done.folders_removed += trash.remove_empty_folder(f"{self.store.home}/{folder}", math.inf)
            emptied = {folder.rpartition("/")[0] for folder in emptied}
        self._written.clear()

    # Small packs

    def merge(self) -> None:
        """Merge small packs, if there are several."""
        small = [one for one in self.survey.packed.files if self._is_small(one)]
        if len(small) < 2:  # noqa: PLR2004 - nothing to merge
            return
        copied = []
        for one in small:
            try:
                if self._copy(one):
                    copied.append(one)
            except ANAError as error:
                self.done.problems.append(problem(error, name=one.relative))
        if not self.done.dry_run:
            self._copier.seal()
        for one in copied:
            self.done.merged += 1
            self.done.files_removed += self.done.dry_run or _remove(one, self.before)

    def _is_small(self, one: PackFile) -> bool:
        return not one.trashed and one.size_bytes < SMALL_PACK_BYTES and one.modified < self.before

    def _copy(self, one: PackFile) -> bool:
        """Copy a pack's records into the new one; return False if one is damaged: then the pack stays."""
        for number, spot, data in self.survey.packed.records(one, one.table.items()):
            key, where = pack.key_of_number(number), one.where(spot)
            if data is None:
                return False
            if not _is_whole(self.store, key, data, where):
                self.done.problems.append(Problem(key, one.relative, "damaged", f"the record at {where}"))
                return False
            if not self.done.dry_run:
                self._copier.add(key, bytes(data), one.modified)
                if self._copier.is_due:
                    self._copier.write()
        return not self.survey.packed.hidden(one)

    def finish(self) -> None:
        """Seal the last pack."""
        if not self.done.dry_run:
            self._copier.seal()
        self.done.new_packs = len(self._copier.names)
        self.done.problems += unlisted(self.survey.unreadable)


def _unpacked(store: DirectoryStore, right_now: float, on_progress: OnProgress) -> Unpacked:
    survey, done = Survey(store), Unpacked()
    survey.packed.look(survey.unreadable)
    for one in [one for one in survey.packed.files if not one.trashed]:
        whole = not survey.packed.hidden(one)
        for key, data in _records(survey, one, done):
            if data is None:
                whole = False
                continue
            try:
                _publish(store, key, data)
            except ANAError as error:
                done.problems.append(problem(error, key, survey.name_of(key)))
                whole = False
            else:
                done.states += 1
                done.size_bytes += len(data)
                on_progress(Progress("unpacking", done.states, None, done.size_bytes))
        if whole:
            done.packs_removed += _remove(one, right_now)
    done.problems += unlisted(survey.unreadable)
    return done


def _records(survey: Survey, one: PackFile, done: Unpacked) -> Iterator[tuple[str, bytes | None]]:
    for number, spot, data in survey.packed.records(one, one.table.items()):
        key, where = pack.key_of_number(number), one.where(spot)
        if data is not None and _is_whole(survey.store, key, data, where):
            yield key, bytes(data)
        else:
            done.problems.append(Problem(key, one.relative, "damaged", f"the record at {where}"))
            yield key, None


def _publish(store: DirectoryStore, key: str, data: bytes) -> None:
    """Give a state a file of its own, unless it has one that is whole."""
    place = store.tree.place(key)
    for _ in range(2):
        if store.publish(place, lambda write: write(0, [data])):
            return
        opened = files.open_file(place.path, pack.MAX_RECORD_BYTES, store.tree.trust.check_file)
        if opened is not None and _is_whole(store, key, opened.start, place.path):
            return
        ingest.set_aside(store, place.path)
    raise StoreError(place.path, 0, "other processes keep writing it damaged: find out which")


def _is_whole(store: DirectoryStore, key: str, data: bytes | bytearray | memoryview, where: str) -> bool:
    try:
        header = record.parse_header(data, len(data), key, where, store.seal)
        record.verify(header, record.reader(data), where)
    except CorruptedStateError:
        return False
    return True


def _remove(one: PackFile, before: float) -> bool:
    """Remove a pack whose records have all been copied; one that its writer may still append to goes to the trash."""
    if one.table.sealed or one.modified < before - LEFTOVER_SECONDS:
        files.remove(one.path)
        return True
    return trash.discard(one.path, before) == trash.MOVED
