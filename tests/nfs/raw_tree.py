"""Looks at a store's files without ana: names, sizes and bytes, as any other program sees them."""

import os
from pathlib import Path

STATE_SUFFIX = ".pkl.zst"


def names(place: Path) -> list[str]:
    """List every file of a tree by its path in the tree.

    Left out are `.ana`, and `.nfs…`: an NFS client's name for a file that was removed while still in use.
    """
    found = []
    for folder, folders, files in os.walk(place):
        if ".ana" in folders:
            folders.remove(".ana")
        found += [os.path.relpath(f"{folder}/{name}", place) for name in files if not name.startswith(".nfs")]
    return sorted(found)


def states(place: Path) -> list[str]:
    """List the names of the states in a tree: whatever has not got its final name yet is not among them."""
    base_names = [os.path.basename(name) for name in names(place)]
    return [name for name in base_names if name.endswith(STATE_SUFFIX) and not name.startswith(".")]


def strangers(place: Path) -> list[str]:
    """List what is in a tree besides `ana.json` and states: temporaries, and files that were set aside."""
    return [name for name in names(place) if os.path.basename(name) not in {"ana.json", *states(place)}]


def path_of(place: Path, uuid: str) -> Path:
    """Say where a state of a canonical UUID lies."""
    return place / uuid[:2] / uuid[2:4] / f"{uuid}{STATE_SUFFIX}"
