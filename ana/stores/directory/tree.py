"""The folder tree of a directory store: its `ana.json`, its folders, and files that do not belong there.

`docs/format.md` draws the tree.
"""

import errno
import logging
import math
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

from ana.errors import ANAError, StoreError, UntrustedStoreError
from ana.format import address
from ana.fs import atomic, files, mounts
from ana.fs.ownership import Trust
from ana.fs.permissions import Access, adjust
from ana.runtime import threads
from ana.stores.directory import config, keyring, signing, trash, walking
from ana.stores.directory.config import CONFIG, LEVELS, PACKED_FORMAT, Config
from ana.stores.directory.naming import IGNORED, PACKS, foreign, is_pack, is_packs, is_shard, lies_right
from ana.stores.directory.place import Place
from ana.stores.directory.walking import Folder

__all__ = ["Tree"]

_LOOKED_INTO = 1024
"""The most folders to list when checking what a tree holds."""
_GONE = (
    "the store that was opened here has gone: it was moved or removed, or its filesystem is no longer mounted; "
    "no new store is created here: bring it back, or open another (set_dl)"
)

_log = logging.getLogger("ana.stores")


class _Seen(NamedTuple):
    """The tree as it was when this process last looked."""

    config_file: tuple[int, ...] | None
    """What identifies the `ana.json` file; None if it has only been read, not looked at."""
    id: str
    root: tuple[int, int] | None
    """The root's device and inode."""


class Tree:
    """The tree of a store. Safe between threads, processes and hosts; it keeps no file open."""

    def __init__(
        self,
        root: str,
        *,
        durable: bool = True,
        create: bool = True,
        trusted: keyring.Trusted,
    ) -> None:
        """Open the tree at the absolute path `root`; with `create`, create it if it is missing.

        A new tree gets the keys of `trusted`. Raises StoreError, UntrustedStoreError (the folder is not a tree, or
        others can write to it) or UnsupportedFormatError (a newer tree) before anything is written.
        """
        self.root = root
        self.durable = durable
        trust, self._ring = trusted
        self._told: dict[_Seen, object] = {}
        self._root_identity: tuple[int, int] | None = None
        self.is_purged: bool = False
        """Whether `ana.json` was purged and, because this process only reads, has not been written again."""
        self.trust: Trust = trust.within(root)
        self.access: Access = Access(trust.new_mode, shared=trust.shared)
        """The root's permissions; everything created below it gets the same."""
        self._believed: set[str] = set()
        self.config: Config = self._open(create=create)
        self._seen = _Seen(None, self.config.id, self._root_identity)

    @cached_property
    def identity(self) -> tuple[int, int] | None:
        """The folder's device and inode, the same for every path that leads to it; None if they cannot be read."""
        try:
            found = files.stat(f"{self.root}/.")
        except StoreError:
            return None
        return None if found is None else found.identity

    @cached_property
    def is_remote(self) -> bool:
        """Whether it is on a network filesystem."""
        return mounts.is_network(self.root, self._root_identity[0] if self._root_identity else None)

    def place(self, key: str) -> Place:
        """Return the place of a key."""
        shard, name = address.place(key, self.config.levels)
        folder = f"{self.root}/{shard}" if shard else self.root
        # The same as `Place(...)` without a Python call, because every look-up runs this.
        return tuple.__new__(Place, (key, shard, folder, name, f"{folder}/{name}", 0, -1))

    @property
    def mode(self) -> int:
        """The root's mode, from which the modes of its folders and files follow."""
        return self.access.mode

    def own_folder(self, name: str) -> str:
        """Return one of the tree's own folders, such as ".ana/roots"; create it with the root's mode if it is missing.

        Raises StoreError, and UntrustedStoreError if others may have planted files in it.
        """
        path = self.root
        for part in name.split("/"):
            path = f"{path}/{part}"
            found = files.status_of(path)
            if found is None:
                atomic.make_folder(path, durable=True, access=self.access)
                found = files.status_of(path)
            if found is not None:
                # Older versions created it with the mode of the first process that needed it.
                self.trust.check_folder(path, adjust(path, found, self.access))
        return path

    def check_own(self, name: str) -> files.Status | None:
        """Refuse one of the tree's own folders if others may have changed it; return its status, None if missing."""
        path = self.root
        found: files.Status | None = None
        for part in name.split("/"):
            path = f"{path}/{part}"
            found = files.stat(path)
            if found is None:
                return None
            self.trust.check_folder(path, found.stat)
        return found

    def begin_packs(self, pack_bytes: int = 0) -> None:
        """Make the folder of the packs, and mark the store as one that has packs, which an older ANA refuses.

        With `pack_bytes`, note that states of at most this raw size go into packs. Raises StoreError,
        UntrustedStoreError.
        """
        self.own_folder(PACKS)
        if self.config.format < PACKED_FORMAT or pack_bytes:
            said = {"pack_bytes": pack_bytes} if pack_bytes else {}
            self.amend(format=PACKED_FORMAT, **said)

    def check_folders(self, place: Place) -> None:
        """Refuse a place's folders if others may have planted files: links, folders of another owner, open to all.

        Each folder is checked once.
        Raises UntrustedStoreError, StoreError.
        """
        shard = place.shard
        believed = self._believed
        if shard in believed:
            return
        at = 0
        while at >= 0:
            at = shard.find("/", at + 1)
            part = shard if at < 0 else shard[:at]
            if part not in believed:
                folder = f"{self.root}/{part}"
                found = files.status_of(folder)
                if found is None:
                    return
                self.trust.check_folder(folder, found)
                believed.add(part)

    def make_folders(self, place: Place) -> None:
        """Create the folders of a place that are missing."""
        folders = place.folders()
        try:
            # Usually the parent exists. On NFS, threads that create folders in the same parent wait for each other.
            atomic.make_folder(folders[-1], durable=self.durable, access=self.access)
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise
            self._make_all(folders[1:])

    def _make_all(self, folders: list[str]) -> None:
        for number in range(files.STALE_TRIES):
            try:
                for folder in folders:
                    atomic.make_folder(folder, durable=self.durable, access=self.access)
            except StoreError as error:
                # Maintenance may remove a folder that is still empty.
                if error.errno != errno.ENOENT or number == files.STALE_TRIES - 1:
                    raise
            else:
                return

    def is_same(self) -> bool:
        """Return whether this is still the tree that was opened, judged by one look at its `ana.json`.

        Returns False if `ana.json` was purged (it is written again, unchanged), or if another tree has taken this
        one's place (that tree is used from now on). Raises StoreError if the tree has gone: no new one is created,
        because the path may be the empty folder under a lost mount.
        """
        # One value, because several threads may notice at the same moment and each change what the others see.
        before, which = self._seen, self._look_at_config()
        if which is not None and which == before.config_file:
            return True
        said = None if which is None else self._read_config()
        self.__dict__.pop("identity", None)
        moved = self.identity != before.root
        if said is None and (moved or self.identity is None):
            raise StoreError(self.root, errno.ENOENT, _GONE)
        self._check_root()
        if said is None:
            self.config = self._make()
            which = self._look_at_config()
        else:
            self.config = said
        self._seen = _Seen(which, self.config.id, self._root_identity)
        if said is not None and said.id == before.id and not moved and before not in self._told:
            return True
        self._believed.clear()
        # Of the threads that notice this at the same moment, one logs it.
        me = object()
        if self._told.setdefault(before, me) is me:
            fields = {"event": "store replaced", "store": self.root}
            text = "the store at %s was purged or replaced (id %s): what was believed to be there is stored again"
            _log.warning(text, self.root, self.config.id, extra=fields)
        return False

    def _look_at_config(self) -> tuple[int, ...] | None:
        """Return what identifies this `ana.json` file; None if it is missing."""
        seen = files.stat(f"{self.root}/{CONFIG}")
        # Inode numbers are reused; with the time of change, they identify the file.
        return None if seen is None else (*seen.identity, seen.stat.st_ctime_ns)

    def walk(self, digits: str = "", unreadable: dict[str, ANAError] | None = None) -> Iterator[Folder]:
        """List each folder of the tree once, the root first; several at a time on network filesystems.

        With `digits`, list only the folders of names that begin with them. Shard folders that vanish meanwhile are
        skipped. A folder that cannot be listed is noted in `unreadable`; without `unreadable`, its error is raised.
        """
        at_once = threads.WAITING if self.is_remote else 1
        return walking.walk(self.root, self.config.levels, digits, at_once, unreadable)

    def _open(self, *, create: bool) -> Config:
        try:
            self._check_root()
        except UntrustedStoreError:
            # `chmod -R`, the cure for a store, is none for a folder of other files.
            with suppress(StoreError):
                if files.stat(f"{self.root}/{CONFIG}") is None:
                    self._refuse_foreign()
            raise
        found = self._read_config()
        if found is None:
            # Another host may have created it since this one looked.
            files.revalidate([self.root.rpartition("/")[0] or "/", self.root])
            self._check_root()
            found = self._read_config()
        if found is not None:
            if self._root_identity is None:
                # Another process has just created it, after the look at the root.
                self._check_root()
            return found
        if not create:
            if not self._looks_purged():
                raise StoreError(self.root, 2, f"there is no ANA store at this path on this host{self._store_above()}")
            # A reader writes nothing; the next writer writes `ana.json` again.
            self.is_purged = True
            return config.of_fields(self._with_packs(signing.fields_again(self, "", self._ring)))
        return self._make()

    def _make(self) -> Config:
        """Create the tree, or write its `ana.json` again; return what `ana.json` says."""
        missing = files.stat(self.root) is None
        atomic.make_folders(self.root, self.access)
        try:
            self._check_root()
        except UntrustedStoreError:
            if missing:
                # For example, the mount dictates all modes. Undo the attempt.
                trash.remove_empty_folder(self.root, math.inf)
            raise
        self._refuse_foreign()
        fields = self._first_fields()
        config.publish(self.root, fields, self.access)
        atomic.sync_folder(self.root.rpartition("/")[0] or "/")
        # Another process may have been first; then its `ana.json` counts.
        found = self._read_config()
        if found is None:
            msg = f"{self.root}/{CONFIG}"
            raise StoreError(msg, 2, "it vanished while the store was being made")
        if self._ring is not None and found.id == fields["id"]:
            keyring.note_store(self._ring, found.id, self.root)
        return found

    def _first_fields(self) -> dict[str, object]:
        """Return the fields for the `ana.json` of a new tree, or of a tree that lost its own."""
        known: Config | None = getattr(self, "config", None)
        if known is not None and known.id:
            # Purged while the store was open, so all its fields are known.
            return self._with_packs(config.fields_of(known))
        if self._holds_states() is True:
            return self._with_packs(signing.fields_again(self, address.random_uuid(), self._ring))
        ring = self._ring
        if ring is not None and ring.folders and self.root not in ring.folders:
            reason = f"{ring.path} is the key of the store {ring.folders[0]}, not of a new store here"
            raise UntrustedStoreError(self.root, f"{reason}: make a key for it (ana key new, ana init --keyed)")
        return signing.fields_of((ring.store_id if ring is not None else "") or address.random_uuid(), ring)

    def _with_packs(self, fields: dict[str, object]) -> dict[str, object]:
        """Return the fields of `ana.json`, marked as those of a store with packs if there are any."""
        return fields | {"format": PACKED_FORMAT} if any(self.pack_paths()) else fields

    def pack_paths(self) -> Iterator[str]:
        """Yield the paths of all packs, including those in the trash. Raises StoreError."""
        if any(map(is_packs, files.list_folder(self.root))):
            for entry in files.list_folder(f"{self.root}/{PACKS}"):
                if is_pack(entry):
                    yield f"{self.root}/{PACKS}/{entry.name}"

    def state_paths(self) -> Iterator[str]:
        """Yield the paths of all states, assuming the usual number of levels. Raises StoreError."""
        for folder in walking.walk(self.root, LEVELS, unreadable={}):
            for entry in folder.entries:
                if folder.innermost and lies_right(folder.name, entry):
                    yield f"{self.root}/{folder.name}{entry.name}"

    def _check_root(self) -> None:
        """Refuse a root in which others may have planted files; adopt its mode."""
        found = files.stat(self.root)
        if found is not None:
            # It may be a link, which is fine if it is the user's own.
            self.trust.check_root(self.root, found.stat)
            found = files.stat(self.root, follow=True)
        if found is None:
            return
        self._root_identity = found.identity
        self.trust.check_root(self.root, found.stat)
        # Never grant more than the checks above accept.
        mode = stat.S_IMODE(found.stat.st_mode) | 0o700
        mode &= 0o2775 if mode & stat.S_IWGRP else 0o2755
        self.access = Access.of(mode, found.stat)

    def _read_config(self) -> Config | None:
        return config.read(self.root, self.trust)

    def amend(self, **fields: object) -> None:
        """Add or change fields of `ana.json`. Raises StoreError, UntrustedStoreError."""
        self.config = config.amend(self.root, fields, self.access, self.trust)

    def _looks_purged(self) -> bool:
        """Return whether this store lost its ana.json: a scratch filesystem purges the oldest file first."""
        try:
            return not foreign(files.list_folder(self.root)) and self._holds_states() is True
        except StoreError:
            return False

    def _holds_states(self) -> bool | None:
        """Return True if states lie where a tree keeps them, False if other files do, None if neither is found."""
        found = None
        for folder in islice(self._inside(), _LOOKED_INTO):
            right = is_pack if folder.name == f"{PACKS}/" else partial(lies_right, folder.name)
            for entry in folder.entries:
                if folder.innermost and right(entry):
                    return True
                if folder.name and not is_shard(entry) and not entry.name.startswith(IGNORED):
                    found = False
        return found

    def _inside(self) -> Iterator[Folder]:
        """List the folders of a tree of the usual number of levels, and that of its packs."""
        for folder in walking.walk(self.root, LEVELS, unreadable={}):
            yield folder
            if not folder.name and any(map(is_packs, folder.entries)):
                yield Folder(f"{PACKS}/", innermost=True, entries=files.list_folder(f"{self.root}/{PACKS}"))

    def _store_above(self) -> str:
        """Return a hint if this folder lies in a store, as after one TAB too many."""
        above = self.root
        for _ in range(LEVELS):
            above = above.rpartition("/")[0]
            with suppress(StoreError):
                if files.stat(f"{above}/{CONFIG}") is not None:
                    return f"; it lies in the store {above}"
        return ""

    def _refuse_foreign(self) -> None:
        """Refuse a folder that holds foreign files, so that two programs do not write into each other's files."""
        entries = files.list_folder(self.root)
        strangers = foreign(entries)
        ours = any(is_shard(entry) or is_packs(entry) for entry in entries)
        others = not strangers and ours and self._holds_states() is False
        if not (strangers or others) or self._read_config() is not None:
            # Another process may have created the tree since we looked for its ana.json.
            return
        held = repr(strangers[0]) if strangers else "folders with files that are not states"
        if len(strangers) > 1:
            held += f" and {len(strangers) - 1} more"
        reason = f"it is not empty and not an ANA store (it holds {held}{self._store_above()})"
        if any(name.endswith(".p") for name in strangers):
            reason += "; it looks like a store of the original ANA: `ana -d NEW import` imports it"
        raise UntrustedStoreError(self.root, f"{reason}: choose an empty folder or a store") from None
