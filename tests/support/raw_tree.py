"""Looks at a store's files as any other program sees them, and puts files into it; knows nothing of ana."""

import json
import os
import re
from pathlib import Path

import blake3

SUFFIX = ".pkl.zst"
CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[48][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def path_of(tree: Path, key: str, levels: int = 2) -> Path:
    """Say where the state of a key (one whose name is not shortened) lies."""
    raw = key.encode("utf-8", "surrogatepass")
    digits = key.replace("-", "") if CANONICAL.fullmatch(key) else blake3.blake3(raw).hexdigest()
    name = "".join(chr(byte) if byte in PLAIN else f"%{byte:02X}" for byte in raw)
    return Path(tree, *(digits[2 * level : 2 * level + 2] for level in range(levels)), name + SUFFIX)


def files(tree: Path) -> list[str]:
    """List every file of a tree, hidden ones as well, by its path in the tree."""
    return sorted(os.path.relpath(f"{folder}/{name}", tree) for folder, _, names in os.walk(tree) for name in names)


def states(tree: Path) -> list[str]:
    """List the files that have a state's final name."""
    names = ((path, os.path.basename(path)) for path in files(tree))
    return [path for path, name in names if name.endswith(SUFFIX) and not name.startswith(".")]


def strangers(tree: Path) -> list[str]:
    """List what is neither `ana.json` nor a state nor a lock: temporaries, and files that were set aside."""
    known = {"ana.json", *states(tree)}
    return [path for path in files(tree) if path not in known and not path.startswith(".ana/")]


def config(tree: Path) -> dict[str, object]:
    """Return what `ana.json` says."""
    return json.loads((tree / "ana.json").read_text())


def put(tree: Path, key: str, data: bytes, levels: int = 2) -> Path:
    """Write a file under a key's name, whatever is there."""
    path = path_of(tree, key, levels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
