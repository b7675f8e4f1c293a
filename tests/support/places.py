"""Places where states can be, one for each store: how to open it, and how to get at its bytes past ana."""

import contextlib
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from ana import maintenance
from ana.errors import StoreError
from ana.fs.ownership import EVERYDAY
from ana.stores.base import Store
from ana.stores.directory import keyring
from ana.stores.directory.store import DirectoryStore
from ana.stores.memory import MemoryStore
from ana.stores.node_cache.store import TieredStore
from ana.stores.staged import StagedFile, StagedStore
from support import raw_pack, raw_tree

PACK_BYTES = 64 << 10


class FileMapping(MutableMapping[str, bytes]):
    """A user's own mapping: one file for each key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def _path(self, key: str) -> Path:
        # Keys have up to 200 characters, a file's name up to 255 bytes: so one folder for each 100 bytes.
        digits = key.encode("utf-8", "surrogatepass").hex()
        parts = [digits[start : start + 200] for start in range(0, len(digits), 200)]
        return Path(self.folder, *(f"{part}-" for part in parts[:-1]), parts[-1])

    def __getitem__(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: bytes) -> None:
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        new = self._path(key).with_name(f"new {threading.get_ident()}")
        try:
            new.write_bytes(value)
            new.replace(self._path(key))
        finally:
            new.unlink(missing_ok=True)

    def __delitem__(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        for path in self.folder.rglob("*"):
            if path.is_file():
                digits = str(path.relative_to(self.folder)).replace("-/", "")
                yield bytes.fromhex(digits).decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return sum(1 for _ in self)


class MappingPlace:
    """A mapping, and stores over it."""

    opens_by_home = False

    def __init__(self, mapping: MutableMapping[str, bytes]) -> None:
        self.mapping = mapping
        self.atomic = type(mapping) is dict

    def open(self) -> Store:
        """Return a store that knows nothing of earlier ones."""
        return MemoryStore(self.mapping, "memory:place")

    def read(self, key: str) -> bytes:
        """Return a state's bytes as they lie there."""
        return self.mapping[key]

    def write(self, key: str, data: bytes) -> None:
        """Put any bytes under a key."""
        self.mapping[key] = data

    def remove(self, key: str) -> None:
        """Remove a state, as a purge does."""
        del self.mapping[key]

    def picture(self) -> dict[str, bytes]:
        """Return all there is, to see that nothing changed."""
        return dict(self.mapping)


class TreePlace:
    """A folder, and stores over it."""

    atomic = opens_by_home = True

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def open(self) -> Store:
        """Return a store that knows nothing of earlier ones."""
        return DirectoryStore(str(self.tree))

    def read(self, key: str) -> bytes:
        """Return a state's bytes as they lie there."""
        return raw_tree.path_of(self.tree, key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        """Put any bytes under a key."""
        raw_tree.put(self.tree, key, data)

    def remove(self, key: str) -> None:
        """Remove a state, as a purge does."""
        raw_tree.path_of(self.tree, key).unlink()

    def picture(self) -> dict[str, bytes]:
        """Return all there is, to see that nothing changed."""
        return {path: (self.tree / path).read_bytes() for path in raw_tree.files(self.tree)}


class PackedPlace(TreePlace):
    """A folder whose small states lie in packs, except those with UUIDs that were given."""

    def open(self) -> Store:
        """Return a store that knows nothing of earlier ones, and begins a pack of its own."""
        return packing(DirectoryStore(str(self.tree)))

    def read(self, key: str) -> bytes:
        """Return a state's bytes as they lie there."""
        return raw_pack.read(self.tree, key) or super().read(key)

    def write(self, key: str, data: bytes) -> None:
        """Put any bytes where a state lies; in a pack, as many as lay there."""
        spot = raw_pack.find(self.tree, key)
        if spot is None:
            super().write(key, data)
        else:
            path, at, size = spot
            raw_pack.overwrite(path, at, data[:size].ljust(size, b"\0"))


def packing(store: DirectoryStore) -> DirectoryStore:
    """Have a store put small states into packs."""
    store.packs.pack_bytes = PACK_BYTES
    return store


class KeyedPlace(TreePlace):
    """A folder in which all is signed with a key that is in no file."""

    def open(self) -> Store:
        """Return a store that knows nothing of earlier ones."""
        return DirectoryStore(str(self.tree), trusted=keyring.Trusted(ring=keyring.from_option(b"k" * 32)))


class TieredPlace(TreePlace):
    """A folder with a node-local tier in front of it."""

    def __init__(self, tree: Path, cache: Path) -> None:
        super().__init__(tree)
        self.cache = cache

    def open(self) -> Store:
        """Return a store that knows nothing of earlier ones."""
        return TieredStore(DirectoryStore(str(self.tree)), str(self.cache), verify=False)


class StagedPlace(TreePlace):
    """A folder with a staged file in front of it, in which nothing is."""

    def open(self) -> Store:
        """Return a store that knows nothing of earlier ones."""
        path = self.tree.with_suffix(".staged")
        # Another thread may make it, too.
        with contextlib.suppress(StoreError):
            maintenance.stage_states(DirectoryStore(str(self.tree)), [], path)
        staged = StagedFile.open(str(path), EVERYDAY.check_file)
        return StagedStore(str(self.tree), [staged], lambda: DirectoryStore(str(self.tree)))


PLACES = {
    "dict": lambda folder: MappingPlace({}),
    "file mapping": lambda folder: MappingPlace(FileMapping(folder / "mapping")),
    "directory": lambda folder: TreePlace(folder / "tree"),
    "directory with packs": lambda folder: PackedPlace(folder / "tree"),
    "directory with a staged file": lambda folder: StagedPlace(folder / "tree"),
    "directory with a node cache": lambda folder: TieredPlace(folder / "tree", folder / "cache"),
}
"""A new store is one line here: then all of the contract is checked for it."""
