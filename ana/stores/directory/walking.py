"""Lists the folders of a tree."""

from collections.abc import Iterator
from typing import NamedTuple

from ana.errors import ANAError, StoreError, UntrustedStoreError
from ana.fs import files
from ana.fs.ownership import PLANTED
from ana.runtime import threads
from ana.stores.directory.naming import SHARD, is_shard

__all__ = ["Folder", "walk"]


class Folder(NamedTuple):
    """A listed folder: its name in the tree ("" or "5f/3a/"), whether states belong in it, and its entries."""

    name: str
    innermost: bool
    entries: list[files.Entry]


def walk(
    root: str, levels: int, digits: str = "", at_once: int = 1, unreadable: dict[str, ANAError] | None = None
) -> Iterator[Folder]:
    """List each folder of a tree once, those with states in the order of their names.

    The root comes first. Shard folders that vanish meanwhile are skipped.

    Args:
        root: The tree's path.
        levels: Its number of folder levels.
        digits: List only the folders of names that begin with these hex digits.
        at_once: How many to list at the same time.
        unreadable: Gets the error of each folder below the root that cannot be listed; None: it is raised.

    """
    return _below(root, [""], levels, digits, at_once, unreadable)


def _below(
    root: str, names: list[str], levels: int, digits: str, at_once: int, unreadable: dict[str, ANAError] | None
) -> Iterator[Folder]:
    found = _listed(root, names, at_once, unreadable)
    for name in names:
        entries = found.pop(name, [])
        yield Folder(name, not levels, entries)
        if not levels:
            # Where most folders are.
            continue
        named = [entry for entry in entries if digits.startswith(entry.name[: len(digits)])]
        if unreadable is not None:
            unreadable.update(_planted(root, name, named))
        inner = sorted(f"{name}{entry.name}/" for entry in named if is_shard(entry))
        if inner:
            yield from _below(root, inner, levels - 1, digits[2:], at_once, unreadable)


def _listed(
    root: str, names: list[str], at_once: int, unreadable: dict[str, ANAError] | None
) -> dict[str, list[files.Entry]]:
    found: dict[str, list[files.Entry]] = {}

    def look_into(name: str) -> None:
        try:
            found[name] = files.list_folder(f"{root}/{name}")
        except (StoreError, UntrustedStoreError) as error:
            if name and isinstance(error, StoreError) and files.is_missing(error):
                return
            if not name or unreadable is None:
                raise
            unreadable[name] = error

    threads.run(look_into, names, at_once)
    return found


def _planted(root: str, name: str, entries: list[files.Entry]) -> dict[str, ANAError]:
    """Return an error for each link that has the name of a shard folder; links are not followed."""
    links = [entry.name for entry in entries if entry.kind == "symlink" and SHARD.fullmatch(entry.name)]
    return {f"{name}{link}": UntrustedStoreError(f"{root}/{name}{link}", PLANTED) for link in links}
