"""Records as files in a sharded tree on a shared filesystem. `docs/format.md` draws the tree."""

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from ana import address, chunks, files, locks, mounts, publishing, record
from ana.errors import (
    CorruptedStateError,
    StateNotFoundError,
    StoreError,
    UnsupportedFormatError,
    UntrustedStoreError,
)

__all__ = ["DirectoryStore", "Stray"]

CONFIG = "ana.json"
FORMAT = 1
LEVELS = 2
CONFIG_LIMIT_BYTES = 64 << 10
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

_SHARD = re.compile(r"[0-9a-f]{2}")
_IGNORED = (files.TEMPORARY, files.BAD, ".nfs", ".ana", ".snapshot", "lost+found")


class Config(NamedTuple):
    """What `ana.json` records once and for all: the format's version, the folder levels, the store's id."""

    format: int
    levels: int
    id: str


class Stray(NamedTuple):
    """Something in a tree that is no state; the name is relative to the tree."""

    name: str
    temporary: bool
    age_seconds: float


class DirectoryStore:
    """A tree of records. Safe between threads, processes and hosts; survives fork (it holds nothing open)."""

    def __init__(self, root: str, *, durable: bool = True, create: bool = True, wait_seconds: float = 2.0) -> None:
        """Open the tree at the absolute path `root`, making it where it is missing and `create` says so.

        Raises StoreError, UntrustedStoreError (a folder that is no tree), UnsupportedFormatError
        (a newer tree) before anything is written. `wait_seconds`: how long a network filesystem is given
        to show a state that another host has just written.
        """
        self.root = root
        self.wait_seconds = wait_seconds
        self.durable = durable
        self._suspects: set[str] = set()
        self.config = self._open(create=create)

    private = False

    @property
    def home(self) -> str:
        """The tree's absolute path."""
        return self.root

    def path(self, key: str) -> str:
        """Return the path of a key's file."""
        return "/".join((self.root, *address.shard(key, self.config.levels), address.file_name(key)))

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
        if size_bytes < LOCKED_BYTES and found.damaged is None:
            return self._write(key, path, state, children)
        # Many tasks may be storing this very state now, or healing it: one does, the others wait and find it.
        lock = f"{self.root}/.ana/locks/{address.shard(key, 1)[0]}.lock"
        with locks.saving_work(lock, LOCK_SECONDS + size_bytes / SLOW_BYTES_PER_SECOND):
            found = self._look(key, path, check=thorough)
            if found.there:
                return False
            self._make_room(key, path, found)
            return self._write(key, path, state, children)

    def strays(self) -> Iterator[Stray]:
        """List what is in the tree and is no state: temporary files, and what does not belong there.

        Raises StoreError where the tree cannot be read.
        """
        now = files.server_now(self.root)
        yield from self._strays("", self.config.levels, now)

    def remove_temporary(self, name: str) -> None:
        """Remove a temporary file that `strays` has named. Raises StoreError; ValueError for another file's name."""
        if not name.rpartition("/")[2].startswith(files.TEMPORARY):
            msg = f"{name!r} is no temporary file"
            raise ValueError(msg)
        files.remove(f"{self.root}/{name}")

    def _strays(self, folder: str, levels: int, now: float) -> Iterator[Stray]:
        for entry in files.list_folder(f"{self.root}/{folder}"):
            name = f"{folder}{entry.name}"
            if entry.kind == "folder" and levels and _SHARD.fullmatch(entry.name):
                yield from self._strays(f"{name}/", levels - 1, now)
            elif entry.kind == "file" and entry.name.startswith(files.TEMPORARY):
                found = files.look(f"{self.root}/{name}")
                if found is not None:
                    yield Stray(name, temporary=True, age_seconds=now - found.modified)
            elif not _belongs(entry, folder, levels):
                yield Stray(name, temporary=False, age_seconds=0.0)

    def _write(self, key: str, path: str, state: record.Content, children: tuple[str, ...]) -> bool:
        parts = record.encode(key, state, children, created_ns=files.now_ns())
        for _ in range(TRIES):
            if self._publish(key, parts):
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
                # Perhaps healed by another host: then the name is another file now.
                files.look_anew(self._folders(key))
                break
            except StoreError as error:
                if not files.is_stale(error):
                    raise
                # An NFS server goes on opening a deleted file for some 10 ms, unless the folder is opened first.
                files.look_anew(self._folders(key))
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
        for pause_seconds in self._pauses(patient=patient):
            opened = files.open_file(path)
            if opened is not None:
                return opened
            # An NFS client answers from memory that a name was not there: make it look again.
            files.look_anew(self._folders(key), pause_seconds)
        opened = files.open_file(path)
        if opened is None:
            raise StateNotFoundError(key, self.root, self._hint(key))
        return opened

    def _pauses(self, *, patient: bool) -> Iterator[float]:
        """Yield how long to wait between looks, in s: once not at all, then, on network filesystems, longer and longer.

        With jitter, so that the tasks of a job do not all ask the server at the same moment.
        """
        yield 0.0
        if not patient or not self.wait_seconds or not mounts.is_network(self.root):
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

    def _publish(self, key: str, parts: list[memoryview | bytes]) -> bool:
        return publishing.publish(
            self._folder(key),
            address.file_name(key),
            parts,
            durable=self.durable,
            make_folders=lambda: self._make_folders(key),
        )

    def _make_folders(self, key: str) -> None:
        folders = self._folders(key)
        if files.look(f"{self.root}/{CONFIG}") is None:
            # The whole tree was removed or purged under us.
            self.config = self._open(create=True)
        for folder in folders[1:]:
            publishing.make_folder(folder, durable=self.durable)

    def _settle(self, path: str, found: files.Status) -> bool:
        """Wait for the disk on behalf of another writer who may not have: stored must mean durable. False if gone."""
        return not self.may_be_lost(found.modified) or publishing.sync_file(path)

    def may_be_lost(self, written: float) -> bool:
        """Say whether a file that was written then (s since 1970) may not be on the disk yet, though it should be."""
        fresh = files.now_ns() / 1e9 - written < FRESH_SECONDS
        return self.durable and fresh and not mounts.is_network(self.root)

    def _folder(self, key: str) -> str:
        return "/".join((self.root, *address.shard(key, self.config.levels)))

    def _folders(self, key: str) -> list[str]:
        """Return the root and the key's shard folders, outermost first."""
        folders = [self.root]
        for part in address.shard(key, self.config.levels):
            folders.append(f"{folders[-1]}/{part}")
        return folders

    def _open(self, *, create: bool) -> Config:
        config = self._read_config()
        if config is None:
            # Another host may have made it since this one looked.
            files.look_anew([self.root.rpartition("/")[0] or "/", self.root])
            config = self._read_config()
        if config is not None:
            return config
        if not create:
            raise StoreError(self.root, 2, "there is no ANA store at this place on this host")
        publishing.make_folders(self.root)
        self._refuse_foreign()
        made = json.dumps({"format": FORMAT, "levels": LEVELS, "id": str(uuid.uuid4())}).encode() + b"\n"
        # Durable in any case: without it, the states of others would be lost with it.
        publishing.publish(self.root, CONFIG, [made], durable=True, make_folders=lambda: None)
        publishing.sync_folder(self.root.rpartition("/")[0] or "/")
        # Another process may have been first: its word counts.
        config = self._read_config()
        if config is None:
            msg = f"{self.root}/{CONFIG}"
            raise StoreError(msg, 2, "it vanished while the store was being made")
        return config

    def _read_config(self) -> Config | None:
        path = f"{self.root}/{CONFIG}"
        data = files.read_whole(path, CONFIG_LIMIT_BYTES)
        if data is None:
            return None
        try:
            fields = json.loads(data)
            config = Config(int(fields["format"]), int(fields.get("levels", 0)), str(fields.get("id", "")))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise UnsupportedFormatError(path, "an unreadable kind", FORMAT) from None
        if config.format != FORMAT:
            raise UnsupportedFormatError(path, config.format, FORMAT)
        if not 0 <= config.levels <= 8:  # noqa: PLR2004 - a content digest has no more digits to spare
            found = f"{config.format} with {config.levels} folder levels"
            raise UnsupportedFormatError(path, found, FORMAT)
        return config

    def _refuse_foreign(self) -> None:
        """Refuse a folder that holds something else, lest two programs write into each other's files."""
        foreign = sorted(
            entry.name
            for entry in files.list_folder(self.root)
            # A tree whose ana.json was purged still has nothing but shard folders.
            if entry.name != CONFIG
            and not entry.name.startswith(_IGNORED)
            and not (entry.kind == "folder" and _SHARD.fullmatch(entry.name))
        )
        if not foreign or self._read_config() is not None:
            # What is there may be the tree that another process has made since we looked for its ana.json.
            return
        reason = f"it is not empty and no ANA store (it holds {foreign[0]!r} and {len(foreign) - 1} more)"
        if any(name.endswith(".p") for name in foreign):
            reason += "; it looks like a store of the original ANA, whose files this version does not read"
        raise UntrustedStoreError(self.root, f"{reason}: choose an empty folder or a store")


class _Look(NamedTuple):
    """What a look for a state found: it, nothing, or a damaged file in its place."""

    there: bool
    damaged: files.Status | None = None


def _refuse_special(path: str, found: files.Status) -> None:
    if not found.is_file:
        raise UntrustedStoreError(path, "it is not a regular file")


def _belongs(entry: files.Entry, folder: str, levels: int) -> bool:
    """Say whether a name is where a tree has it: states in the innermost folders, its own things in the root."""
    if entry.kind == "file" and not levels and address.is_file_name(entry.name):
        return True
    return not folder and (entry.name, entry.kind) in {(CONFIG, "file"), (".ana", "folder")}


class _Found:
    """A state in a tree: small ones in memory, large ones as an open file that can be opened again."""

    def __init__(self, store: DirectoryStore, key: str, where: str, opened: files.Opened) -> None:
        self.where = where
        self._store = store
        self._key = key
        self._opened: files.Opened | None = opened
        try:
            self.header, self._data = self._read_header(opened)
        except BaseException:
            opened.close()
            raise
        if self._data is not None:
            self.release()

    @property
    def may_be_lost(self) -> bool:
        """Whether a power cut may still take it: its writer may not have waited for the disk."""
        return self._store.may_be_lost(self.header.created_ns / 1e9)

    def segments(self) -> list[bytearray | bytes]:
        """Read, verify and decompress; a digest that fails is read once more from the file."""
        if self._data is not None:
            data, self._data = self._data, None
            try:
                return record.decode(self.header, record.reader(data), self.where)
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
            if again:
                self.header, _ = self._read_header(opened)
            return work(self.header, opened.read, self.where)

    def _read_header(self, opened: files.Opened) -> tuple[record.Header, bytearray | None]:
        """Return the verified header, and the whole file if it is small."""
        size = opened.size_bytes
        start = bytearray(min(size, SMALL_BYTES))
        opened.read(0, [memoryview(start)])
        end = record.header_size(start, size, self._key, self.where)
        if end > len(start):
            start = bytearray(end)
            opened.read(0, [memoryview(start)])
        header = record.parse_header(start, size, self._key, self.where)
        return header, start if size <= len(start) else None
