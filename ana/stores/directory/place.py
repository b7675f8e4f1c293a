"""Where a state's record lies: in a file of its own, or in a pack. Computed once per operation, then passed on."""

from typing import NamedTuple, Self

__all__ = ["Place"]


class Place(NamedTuple):
    """A key, and the file that holds its record, from `offset` on."""

    key: str
    shard: str
    """The key's folders below the root: "5f/3a", or "" in a tree without levels."""
    folder: str
    name: str
    path: str
    offset: int = 0
    size: int = -1
    """The record's size in bytes; -1: the whole file."""

    @classmethod
    def listed(cls, root: str, relative: str, key: str) -> Self:
        """Return the place of a file from its name in the tree, "5f/3a/...", and its key, "" if unknown."""
        shard, _, name = relative.rpartition("/")
        folder = f"{root}/{shard}" if shard else root
        return cls(key, shard, folder, name, f"{folder}/{name}")

    def folders(self) -> list[str]:
        """Return the root and the shard folders, outermost first."""
        depth = self.shard.count("/") + 1 if self.shard else 0
        return [self.folder.rsplit("/", depth - level)[0] for level in range(depth + 1)]
