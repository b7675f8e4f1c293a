"""Finds a state's record: in a pack, in a file of its own, or in the trash; and again, if it changed meanwhile."""

import logging
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from ana.errors import CorruptedStateError, StateNotFoundError, StoreError
from ana.format import address
from ana.fs import files
from ana.runtime.counters import Counters
from ana.stores.directory import trash
from ana.stores.directory.packs import Packs
from ana.stores.directory.place import Place
from ana.stores.directory.tree import Tree

__all__ = ["FIRST_PAUSE_SECONDS", "SMALL_BYTES", "Finder"]

SMALL_BYTES = 256 << 10
"""Files up to this size are read in one go when they are opened."""
FIRST_PAUSE_SECONDS = 0.05

_BEGINNING = re.compile("[0-9a-f]{4}[0-9a-f-]{0,31}")
_log = logging.getLogger("ana.stores")

Result = TypeVar("Result")


class Finder:
    """Looks for the states of one store. Safe between threads; survives fork."""

    def __init__(self, tree: Tree, packs: Packs, counters: Counters) -> None:
        self._tree = tree
        self._packs = packs
        self.counters = counters
        self._check = tree.trust.check_file

    def watch(self, place: Place, attempt: Callable[[], Result]) -> Result:
        """Call `attempt`; retry once if bytes were wrong, and up to three times if the file was replaced meanwhile."""
        for _ in range(files.STALE_TRIES - 1):
            try:
                return attempt()
            except CorruptedStateError as error:
                self._packs.note_wrong(place.key, error.path)
                # Another host may have repaired it, and the name is another file now. Pause first: an NFSv3 client
                # notices changed names by the folder's mtime, and the server's clock advances in steps. With
                # jitter, because all tasks of a job find the damage at the same time and read all of it again.
                self._revalidate(place, files.jitter(2 * FIRST_PAUSE_SECONDS) if self._tree.is_remote else 0.0)
                break
            except StoreError as error:
                if not files.is_stale(error):
                    raise
                # An NFS server still opens a deleted file for about 10 ms, unless the folder is opened first.
                self._revalidate(place)
        return attempt()

    def open(self, place: Place, *, wait_seconds: float) -> files.Opened:
        """Open a state's file, or read its record in a pack; owner and mode are checked on the opened file.

        Waits up to `wait_seconds` for a state that another host may have just written, on a network filesystem.

        Raises:
            StateNotFoundError: There is no such state.
            StoreError: The system refused.
            UntrustedStoreError: The file, or a folder above it, belongs to somebody else.

        """
        packed = self._packs.open_state(place.key)
        if packed is not None:
            return packed
        opened = files.open_file(place.path, SMALL_BYTES, self._check) or self._find_late(place, wait_seconds)
        try:
            self._tree.check_folders(place)
        except BaseException:
            opened.close()
            raise
        return opened

    def _find_late(self, place: Place, wait_seconds: float) -> files.Opened:
        for number, pause_seconds in enumerate(self._pauses(wait_seconds)):
            opened = files.open_file(place.path, SMALL_BYTES, self._check) if number else None
            if opened is not None:
                return opened
            opened = self._find_packed(place.key) if self._packs.known else None
            if opened is not None:
                return opened
            # An NFS client caches that a name was missing: make it look again.
            there = self._revalidate(place, pause_seconds)
            # Look in the trash before the last look at the state's own name: a process that brings a state back
            # restores that name before it removes the one in the trash.
            opened = self._find_in_trash(place) if there and not number else None
            if opened is not None:
                return opened
        opened = files.open_file(place.path, SMALL_BYTES, self._check) or self._find_packed(place.key, last=True)
        if opened is None:
            self._packs.raise_unreadable()
            raise StateNotFoundError(place.key, self._tree.root, self._hint(place.key))
        return opened

    def _find_packed(self, key: str, *, last: bool = False) -> files.Opened | None:
        """Look for a state in packs that are new or have grown; at last, also in the trash and in damaged records."""
        if not address.is_content_uuid(key):
            return None
        if self._packs.refresh() or last:
            # A copy outside of the trash is better than one in it, and any better than a damaged one.
            ways = ((False, False), (True, False), (True, True)) if last else ((False, False),)
            found = (self._packs.open_state(key, trashed=trashed, wrong=wrong) for trashed, wrong in ways)
            return next(filter(None, found), None)
        return None

    def _find_in_trash(self, place: Place) -> files.Opened | None:
        """Open a state that a collection moved to the trash, and bring it back if permissions allow it."""
        opened = files.open_file(trash.trash_path(place.path), SMALL_BYTES, self._check)
        if opened is None:
            return None
        try:
            there = self.bring_back(place)
        except BaseException:
            opened.close()
            raise
        if there is False:
            # It was deleted at this moment, with all that it refers to, or another reader was first.
            opened.close()
            return None
        return opened

    def bring_back(self, place: Place) -> bool | None:
        """Bring a state back from the trash; return False if it is not there, None if permissions forbid it."""
        self._tree.check_folders(place)
        try:
            there = trash.bring_back(place.path)
        except StoreError as error:
            # It belongs to another user or is read-only: read it in the trash, or write it again.
            _log.info("left in the trash: %s", error)
            return None
        if there:
            _log.info("brought back from the trash: %s", place.path)
        return there

    def _revalidate(self, place: Place, pause_seconds: float = 0.0) -> bool:
        """Prepare to look up or read a file again; return whether its folder exists."""
        self.counters.retries += 1
        if pause_seconds:
            self.counters.note_wait(pause_seconds)
        return files.revalidate(place.folders(), pause_seconds)

    def _pauses(self, wait_seconds: float) -> Iterator[float]:
        """Yield the pauses between looks in s: first 0, then, on network filesystems, increasing ones.

        They have jitter, so that the tasks of a job do not all ask the server at the same moment.
        """
        yield 0.0
        if not wait_seconds or not self._tree.is_remote:
            return
        left, pause = wait_seconds, FIRST_PAUSE_SECONDS
        while left > 0:
            yield min(left, files.jitter(pause))
            left -= pause
            pause *= 2

    def _hint(self, key: str) -> str:
        if key != key.lower() and address.is_canonical(key.lower()):
            return "UUIDs are lower-case here"
        refused = next(iter(self._packs.unreadable.values()), None)
        if refused is not None:
            return f"but it may be in a pack that is refused: {refused}"
        if _BEGINNING.fullmatch(key):
            return f"a UUID has 36 characters: `ana -d {self._tree.root} show {key}` finds one by its beginning"
        return "it was never stored there, or was removed: is this the writer's folder (pickle_dir, ANA_PICKLE_DIR)?"
