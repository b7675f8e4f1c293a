"""The packs of a store that are open for reading."""

import errno
import threading
import time
from collections import OrderedDict

from ana.errors import ANAError, StoreError
from ana.format import pack
from ana.format.pack import Spot
from ana.format.signature import Seal
from ana.fs import files
from ana.fs.append_file import KeptFile
from ana.stores.directory import trash
from ana.stores.directory.naming import PACKS
from ana.stores.directory.pack_table import PackTable, read_table
from ana.stores.directory.tree import Tree

__all__ = ["PackFiles", "without_frames"]

OPEN_PACKS = 32
"""How many packs are kept open."""
BELIEVE_SECONDS = 1.0
"""How long an open pack is read without looking whether it still has its name."""
STEADY_SECONDS = 3.0
"""A folder that has been as it is for so long is listed again only when its times change, which take steps of up to 2 s
(FAT). Not on a network, where an NFS client may have cached the times."""


class _OpenPack:
    """A pack that is open, and when it was last seen under its name."""

    __slots__ = ("believed", "file")

    def __init__(self, file: KeptFile) -> None:
        self.file = file
        self.believed = time.monotonic()


class PackFiles:
    """Packs that are open for reading. Safe between threads; a forked child must `reset` it."""

    def __init__(self, tree: Tree) -> None:
        """Begin without opening anything."""
        self._tree = tree
        self._folder = f"{tree.root}/{PACKS}"
        self.reset()

    def reset(self) -> None:
        """Close all, and look at the folder again before anything in it is opened."""
        self._open: OrderedDict[str, _OpenPack] = OrderedDict()
        self._lock = threading.Lock()
        self._checked = False
        self._listed: tuple[object, dict[str, bool]] = (None, {})
        """The folder's times when it was listed, None if they say nothing, and what it held."""

    def names(self) -> dict[str, bool]:
        """Return the names of all packs, and whether each is in the trash. Raises as `Packs.refresh`."""
        now_ns = files.now_ns()
        folder = self._tree.check_own(PACKS) or self._appeared()
        if folder is None:
            return {}
        # The time of change cannot be set, as that of modification can.
        stamp = folder.identity, folder.stat.st_mtime_ns, folder.stat.st_ctime_ns
        listed, found = self._listed
        if listed != stamp:
            found = self._list()
            steady = now_ns - max(stamp[1:]) >= STEADY_SECONDS * 1e9 and not self._tree.is_remote
            self._listed = (stamp if steady else None), found
        return found

    def _list(self) -> dict[str, bool]:
        found: dict[str, bool] = {}
        try:
            entries = files.list_folder(self._folder)
        except StoreError as error:
            if files.is_missing(error):
                return {}
            raise
        for entry in entries:
            plain = entry.name.removeprefix(files.TRASH)
            if entry.kind == "file" and pack.is_name(plain):
                found[plain] = entry.name != plain and found.get(plain, True)
        return found

    def _appeared(self) -> files.Status | None:
        """Return the folder's status if it is there after all: an NFS client remembers that it was not."""
        if not self._tree.is_remote:
            return None
        files.revalidate([self._tree.root])
        return self._tree.check_own(PACKS)

    def read(self, name: str, spot: Spot, *, trashed: bool = False) -> files.Opened | None:
        """Read a record; None if the pack has gone, or is too short. Raises as `open`."""
        end = spot.offset + spot.size
        for again in (False, True):
            if again:
                self.close(name)
            opened = self.open(name, trashed=trashed)
            if opened is None:
                return None
            # An NFS client sees that a file has grown when it opens it again; and the time of its last change, as it
            # was seen when it was opened, says nothing about what was appended since.
            if opened.status.size_bytes < end:
                continue
            data = opened.read(*spot)
            if len(data) == spot.size:
                return files.Opened(self.where(name, spot), -1, spot.size, opened.status.stat, data)
        if opened is not None and opened.status.size_bytes >= end:
            raise StoreError(self.where(name, spot), errno.ESTALE, "it keeps becoming shorter: try again")
        return None

    def where(self, name: str, spot: Spot) -> str:
        """Return the place of a record, for messages and as its name."""
        return f"{self._folder}/{name}:{spot.offset}+{spot.size}"

    def parse_where(self, where: str) -> tuple[str, Spot] | None:
        """Return the pack and the spot that `where` made a name of; None if it is the name of something else."""
        path, _, said = where.rpartition(":")
        folder, _, name = path.rpartition("/")
        offset, _, size = said.partition("+")
        if folder != self._folder or not (offset.isdigit() and size.isdigit()):
            return None
        return name, Spot(int(offset), int(size))

    def table(self, name: str, known: PackTable | None, seal: Seal | None) -> PackTable | None:
        """Return where the records of a pack lie now, as `read_table` does; None if it has gone. Raises as `open`."""
        for last in (False, True):
            self.close(name)
            opened = self.open(name, trashed=True, bring_back=False)
            try:
                return None if opened is None else read_table(opened, known, seal)
            except StoreError as error:
                # It was deleted, or cut by its writer, and the next look sees that.
                if last or not files.is_stale(error):
                    raise
        return None

    def open(self, name: str, *, trashed: bool = False, bring_back: bool = True) -> KeptFile | None:
        """Return a pack, open for reading; None if it is not there.

        Args:
            name: The pack's name.
            trashed: Look in the trash, too.
            bring_back: Give a pack that is found in the trash its name back.

        Raises:
            StoreError: The system refused.
            UntrustedStoreError: Others may have planted the pack, or files in the folder.

        """
        path = f"{self._folder}/{name}"
        opened = self._open.get(name)
        if opened is not None:
            if time.monotonic() - opened.believed < BELIEVE_SECONDS:
                return opened.file
            found = files.stat(path)
            opened.believed = time.monotonic()
            if found is not None and found.identity == opened.file.status.identity:
                return opened.file
            self.close(name)
        if not self._checked:
            # Others may have planted the folder. It is checked once.
            self._checked = self._tree.check_own(PACKS) is not None
        check = self._tree.trust.check_file
        file = KeptFile.open(path, check) or (self._open_trashed(path, bring_back=bring_back) if trashed else None)
        if file is not None and file.path == path:
            # One in the trash is not kept open: the next read is to bring it back.
            with self._lock:
                self._open[name] = _OpenPack(file)
                while len(self._open) > OPEN_PACKS:
                    self._open.popitem(last=False)
        return file

    def _open_trashed(self, path: str, *, bring_back: bool) -> KeptFile | None:
        file = KeptFile.open(trash.trash_path(path), self._tree.trust.check_file)
        if file is None or not bring_back:
            return file
        try:
            there = trash.bring_back(path)
        except StoreError:
            # It belongs to another user, or is read-only: it is read in the trash.
            return file
        return file if there else None

    def close(self, name: str) -> None:
        """Close a pack, once nobody reads it any more."""
        with self._lock:
            self._open.pop(name, None)


def without_frames(error: ANAError) -> ANAError:
    """Return an error that is to be kept without the frames that raised it, which would keep the pack open."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
