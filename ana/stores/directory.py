"""Records as files in a sharded tree on a shared filesystem. `docs/format.md` draws the tree."""

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple, TypeVar

from ana import address, chunks, files, locks, mounts, publishing, record, trash
from ana.errors import CorruptedStateError, StateNotFoundError, StoreError, UntrustedStoreError
from ana.stores.tree import Config, Tree

__all__ = ["DirectoryStore"]

SMALL_BYTES = 256 << 10
"""Files up to this size are read in one go when they are opened."""
FRESH_SECONDS = 60.0
"""A file younger than this may not be on the disk yet, if its writer did not wait for that."""
TRIES = 50
"""How often a name may be taken when we publish, and free or damaged when we look, while others write and remove."""
LOCKED_BYTES = 1 << 20
"""From this raw size on, writers of the same state wait for each other."""
LOCK_SECONDS = 10.0
SLOW_BYTES_PER_SECOND = 50e6
"""How slowly another writer may be writing a state before we write it too."""
FIRST_PAUSE_SECONDS = 0.05

_log = logging.getLogger("ana.stores")

Result = TypeVar("Result")


class DirectoryStore:
    """A tree of records. Safe between threads, processes and hosts; survives fork (it holds nothing open)."""

    private = False

    def __init__(
        self,
        root: str,
        *,
        durable: bool = True,
        create: bool = True,
        wait_seconds: float = 2.0,
        level: int = chunks.DEFAULT_LEVEL,
    ) -> None:
        """Open the tree at the absolute path `root`, making it where it is missing and `create` says so.

        Raises StoreError, UntrustedStoreError (a folder that is no tree), UnsupportedFormatError
        (a newer tree) before anything is written. `wait_seconds`: how long a network filesystem is given
        to show a state that another host has just written. `level`: see `ana.chunks.encode`.
        """
        self.tree = Tree(root, durable=durable, create=create)
        self.durable = durable
        self.wait_seconds = wait_seconds
        self.level = level
        self._suspects: set[str] = set()

    @property
    def home(self) -> str:
        """The tree's absolute path."""
        return self.tree.root

    @cached_property
    def _on_network(self) -> bool:
        return mounts.is_network(self.tree.root)

    @property
    def config(self) -> Config:
        """What the tree's `ana.json` says."""
        return self.tree.config

    def path(self, key: str) -> str:
        """Return the path of a key's file."""
        folder, name = self.tree.place(key)
        return f"{folder}/{name}"

    def has(self, key: str) -> bool:
        """Say, after one look-up, whether a file that can be a record is there; after reading it, if it was damaged."""
        if key in self._suspects:
            return self.is_whole(key)
        path = self.path(key)
        found = files.look(path)
        if found is None:
            return False
        _refuse_special(path, found)
        return found.size_bytes >= record.MIN_RECORD_BYTES and self._settle(path, found)

    def is_whole(self, key: str) -> bool:
        """Read and verify all of a state."""
        try:
            self.get(key).verify()
        except (StateNotFoundError, CorruptedStateError):
            return False
        self._suspects.discard(key)
        return True

    def get(self, key: str, *, patient: bool = True) -> "_Found":
        """Find a state and verify its header."""
        path = self.path(key)
        return self.watch(key, lambda: _Found(self, key, path, self._find(key, path, patient=patient)))

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, heal: bool) -> bool:
        """Store a state unless there is one: one look-up, then compression, then the publishing."""
        path = self.path(key)
        thorough = heal or key in self._suspects
        found = self._look(key, path, check=thorough)
        if found.there:
            return False
        size_bytes = sum(map(len, state.segments))
        if self._is_worth_finding(key, size_bytes) and found.damaged is None and _bring_back(path):
            found = self._look(key, path, check=thorough)
            if found.there:
                return False
        if size_bytes < LOCKED_BYTES and found.damaged is None:
            return self._write(key, path, state, children)
        # Many tasks may be storing this very state now, or healing it: one does, the others wait and find it.
        lock = f"{self.tree.root}/.ana/locks/{address.shard(key, 1)[0]}.lock"
        with locks.saving_work(lock, LOCK_SECONDS + size_bytes / SLOW_BYTES_PER_SECOND):
            found = self._look(key, path, check=thorough)
            if found.there:
                return False
            self._make_room(key, path, found)
            return self._write(key, path, state, children)

    def _write(self, key: str, path: str, state: record.Content, children: tuple[str, ...]) -> bool:
        created_ns = files.now_ns()
        for _ in range(TRIES):
            if self.publish(
                key,
                lambda write: record.write(write, key, state, children, created_ns=created_ns, level=self.level),
            ):
                return True
            # Another writer was first: what it wrote has to be whole.
            found = self._look(key, path, check=True)
            if found.there:
                return False
            self._make_room(key, path, found)
        raise StoreError(path, 0, "others keep writing and removing it, or writing it damaged: look for who does")

    def watch(self, key: str, attempt: Callable[[], Result]) -> Result:
        """Do it; once more where bytes were wrong, and up to three times where the file was replaced meanwhile.

        What is still wrong then is remembered, so that this process does not take it for stored.
        """
        for _ in range(files.STALE_TRIES - 1):
            try:
                return attempt()
            except CorruptedStateError:
                # Perhaps healed by another host: then the name is another file now. A pause, as an NFSv3 client
                # sees by the folder's mtime that names have changed, which its server's clock gives in steps.
                files.look_anew(self.tree.folders(key), FIRST_PAUSE_SECONDS if self._on_network else 0.0)
                break
            except StoreError as error:
                if not files.is_stale(error):
                    raise
                # An NFS server goes on opening a deleted file for some 10 ms, unless the folder is opened first.
                files.look_anew(self.tree.folders(key))
        try:
            return attempt()
        except CorruptedStateError:
            self._suspects.add(key)
            raise

    def _look(self, key: str, path: str, *, check: bool) -> "_Look":
        """Look for a state: by its file's size, after one look-up; with `check`, by reading and verifying all of it."""
        found = files.look(path)
        if found is None:
            return _Look(there=False)
        _refuse_special(path, found)
        if found.size_bytes < record.MIN_RECORD_BYTES:
            return _Look(there=False, damaged=found)
        damaged = self._is_damaged(key) if check else False
        if damaged:
            return _Look(there=False, damaged=found)
        return _Look(there=damaged is not None and self._settle(path, found))

    def _make_room(self, key: str, path: str, found: "_Look") -> None:
        """Set a damaged file aside, so that its name is free; it is kept."""
        if found.damaged is not None:
            aside = publishing.set_aside(path, found.damaged.identity)
            trash.forget(path, found.damaged.identity)
            _log.warning("state %r is damaged: %s is set aside as %s", key, path, aside)
        self._suspects.discard(key)

    def _is_damaged(self, key: str) -> bool | None:
        """Read and verify all of a state; None if it is gone meanwhile."""
        try:
            self.get(key, patient=False).verify()
        except CorruptedStateError:
            return True
        except StateNotFoundError:
            return None
        return False

    def _find(self, key: str, path: str, *, patient: bool) -> files.Opened:
        opened = files.open_file(path, SMALL_BYTES)
        if opened is not None:
            return opened
        for number, pause_seconds in enumerate(self._pauses(patient=patient)):
            opened = files.open_file(path, SMALL_BYTES) if number else None
            if opened is not None:
                return opened
            # An NFS client answers from memory that a name was not there: make it look again.
            there = files.look_anew(self.tree.folders(key), pause_seconds)
            # Before the last look at its own name: who brings it back gives it that one before it loses the other.
            opened = self._find_in_trash(path) if there and not number else None
            if opened is not None:
                return opened
        opened = files.open_file(path, SMALL_BYTES)
        if opened is None:
            raise StateNotFoundError(key, self.tree.root, self._hint(key))
        return opened

    def _find_in_trash(self, path: str) -> files.Opened | None:
        """Open a state that a collection has moved away, and bring it back, where that is allowed."""
        opened = files.open_file(trash.trash_path(path), SMALL_BYTES)
        if opened is None:
            return None
        if _bring_back(path) is False:
            # Deleted this very moment, and with it what it refers to; or another reader was first.
            opened.close()
            return None
        return opened

    @staticmethod
    def _is_worth_finding(key: str, size_bytes: int) -> bool:
        """Say whether to look in the trash before writing a state: under a UUID that was given the first wins."""
        return size_bytes >= LOCKED_BYTES or not address.is_content_uuid(key)

    def _pauses(self, *, patient: bool) -> Iterator[float]:
        """Yield how long to wait between looks, in s: once not at all, then, on network filesystems, longer and longer.

        With jitter, so that the tasks of a job do not all ask the server at the same moment.
        """
        yield 0.0
        if not patient or not self.wait_seconds or not self._on_network:
            return
        left, pause = self.wait_seconds, FIRST_PAUSE_SECONDS
        while left > 0:
            yield min(left, files.jitter(pause))
            left -= pause
            pause *= 2

    def _hint(self, key: str) -> str:
        if key != key.lower() and address.is_canonical(key.lower()):
            return "UUIDs are lower-case here"
        return ""

    def publish(self, key: str, fill: Callable[[record.Write], None]) -> bool:
        """Have a record written under a key; False if there is a file of that name already. Raises StoreError."""
        folder, name = self.tree.place(key)
        return publishing.publish(
            folder,
            name,
            fill,
            durable=self.durable,
            make_folders=lambda: self.tree.make_folders(key),
        )

    def _settle(self, path: str, found: files.Status) -> bool:
        """Wait for the disk on behalf of another writer who may not have: stored must mean durable. False if gone."""
        return not self.may_be_lost(found.modified) or publishing.sync_file(path)

    def may_be_lost(self, written: float) -> bool:
        """Say whether a file that was written then (s since 1970) may not be on the disk yet, though it should be."""
        return self.durable and files.now_ns() / 1e9 - written < FRESH_SECONDS and not self._on_network


class _Look(NamedTuple):
    """What a look for a state found: it, nothing, or a damaged file in its place."""

    there: bool
    damaged: files.Status | None = None


def _bring_back(path: str) -> bool | None:
    """Bring a state back from the trash; False if there is none, None where that is not allowed."""
    try:
        there = trash.bring_back(path)
    except StoreError as error:
        # Somebody else's, or read-only: it is read where it lies, or written anew.
        _log.info("left in the trash: %s", error)
        return None
    if there:
        _log.info("brought back from the trash: %s", path)
    return there


def _refuse_special(path: str, found: files.Status) -> None:
    if not found.is_file:
        raise UntrustedStoreError(path, "it is not a regular file")


class _Found:
    """A state in a tree: small ones in memory, large ones as an open file that can be opened again."""

    def __init__(self, store: DirectoryStore, key: str, where: str, opened: files.Opened) -> None:
        self.where = where
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
        """Whether a power cut may still take it: its writer may not have waited for the disk."""
        return self._store.may_be_lost(self._modified)

    def segments(self) -> list[bytes | memoryview]:
        """Read, verify and decompress; a digest that fails is read once more from the file."""
        if self._data is not None:
            data, self._data = self._data, None
            try:
                return record.decode_small(self.header, data, self.where)
            except CorruptedStateError as error:
                _log.debug("reading again: %s", error)
        return self._store.watch(self._key, lambda: self._with_file(record.decode))

    def verify(self) -> None:
        """Read all of the content and check its digests; what fails is read once more from the file."""
        self._store.watch(self._key, lambda: self._with_file(record.verify))

    def release(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _with_file(self, work: Callable[[record.Header, chunks.Read, str], Result]) -> Result:
        opened, self._opened = self._opened, None
        again = opened is None
        with opened or self._store._find(self._key, self.where, patient=True) as opened:  # noqa: SLF001 - its own part
            data = None
            if again:
                self.header, data = self._read_header(opened)
            return work(self.header, opened.read if data is None else record.reader(data), self.where)

    def _read_header(self, opened: files.Opened) -> tuple[record.Header, bytearray | None]:
        """Return the verified header, and the whole file if it is small."""
        size, start = opened.size_bytes, opened.start
        if size == len(start):
            return record.parse_header(start, size, self._key, self.where), start
        end = record.header_size(start, size, self._key, self.where)
        if end > len(start):
            start = bytearray(end)
            opened.read(0, [memoryview(start)])
        return record.parse_header(start, size, self._key, self.where), None
