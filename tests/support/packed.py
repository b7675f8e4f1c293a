"""Packs of made-up states, written straight into a store's folder."""

import json
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ana.format import address, pack, record
from ana.format.signature import Seal
from support.care import make_older

_numbers = count(1)


class State(NamedTuple):
    """A state: its key and its record."""

    key: str
    data: bytes


def state(number: int, children: tuple[str, ...] = (), *, size: int = 100, seal: Seal | None = None) -> State:
    """Return a state that is the same for each number and size; it unpickles into bytes."""
    data = b"\x80\x05B" + size.to_bytes(4, "little") + str(number).encode().ljust(size, b"x") + b"."
    content = record.content("made:Up", [memoryview(data)])
    key = address.content_uuid(content.digest)
    encoding = record.Encoding(time.time_ns(), level=0, seal=seal)
    return State(key, record.encode(key, content, children, encoding))


def write(tree: Path, *states: State, age_days: float = 0.0, sealed: bool = True, trashed: bool = False) -> Path:
    """Write a pack of these states, as old as that."""
    folder = tree / "packs"
    folder.mkdir(exist_ok=True)
    spots, end = {}, 0
    for key, data in states:
        spots[pack.number_of(key)] = pack.Spot(end, len(data))
        end += len(data)
    path = folder / f"{'.trash-' if trashed else ''}host-1-{next(_numbers):016x}.pack.zst"
    path.write_bytes(b"".join(data for _, data in states) + (pack.index_frame(spots, end) if sealed else b""))
    path.chmod(tree.stat().st_mode & 0o666)
    make_older(path, age_days)
    config = json.loads((tree / "ana.json").read_text())
    (tree / "ana.json").write_text(json.dumps(config | {"format": 2}))
    return path


def names(tree: Path) -> list[str]:
    """Return the names in the folder of the packs."""
    return sorted(path.name for path in (tree / "packs").iterdir()) if (tree / "packs").exists() else []


def damage(path: Path, offset: int) -> None:
    """Change a byte of a file, which stays as old as it is."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    changed = path.stat().st_mtime
    path.write_bytes(data)
    make_older(path, (time.time() - changed) / 86400)
