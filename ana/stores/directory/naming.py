"""What an entry of a tree is, judged by its name: a folder for states, a state, a pack, or none of ANA's."""

import re
from functools import lru_cache

from ana.format import address, pack
from ana.fs import files
from ana.stores.directory.config import CONFIG, LEVELS

__all__ = ["IGNORED", "PACKS", "SHARD", "foreign", "is_pack", "is_packs", "is_shard", "lies_right", "pattern_of_uuids"]

PACKS = "packs"
"""The folder of the packs, in the root."""
SHARD = re.compile(r"[0-9a-f]{2}")
IGNORED = (files.TEMPORARY, files.BAD, files.TRASH, files.GONE, ".nfs", ".ana", ".snapshot", "lost+found")


@lru_cache(maxsize=8)
def pattern_of_uuids(levels: int) -> re.Pattern[str]:
    """Return the pattern of the names, relative to a tree of `levels`, of UUIDs' files in the right folder.

    Its last group is the UUID. One match takes a quarter of the time of `address.place`.
    """
    folders = "".join(f"(?P<d{level}>[0-9a-f]{{2}})/" for level in range(levels))
    same = "-?".join(f"(?P=d{level})" for level in range(levels))
    return re.compile(f"{folders}(?={same})({address.CANONICAL}){re.escape(address.SUFFIX)}", re.ASCII)


def is_shard(entry: files.Entry) -> bool:
    """Return whether an entry is a folder for states."""
    return entry.kind == "folder" and SHARD.fullmatch(entry.name) is not None


def is_packs(entry: files.Entry) -> bool:
    """Return whether an entry of a root is the folder of the packs."""
    return entry.kind == "folder" and entry.name == PACKS


def is_pack(entry: files.Entry) -> bool:
    """Return whether an entry of the packs' folder is a pack, in the trash or not."""
    return entry.kind == "file" and pack.is_name(entry.name.removeprefix(files.TRASH))


def lies_right(folder: str, entry: files.Entry) -> bool:
    """Return whether an entry of an innermost folder is a state that belongs in that folder."""
    key = address.key_of_name(entry.name.removeprefix(files.TRASH))
    return entry.kind == "file" and key is not None and address.place(key, LEVELS)[0] == folder.rstrip("/")


def foreign(entries: list[files.Entry]) -> list[str]:
    """Return the names that do not belong in a root; a root that lost its ana.json has only folders of states."""
    return sorted(
        entry.name
        for entry in entries
        if entry.name != CONFIG and not entry.name.startswith(IGNORED) and not (is_shard(entry) or is_packs(entry))
    )
