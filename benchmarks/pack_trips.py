"""Round trips of packed states on NFS: calls to the server, which do not depend on the machine's load."""

import itertools
import os
import random
import shutil
import sys
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import ana
from benchmarks import nfs
from benchmarks.measure import median
from benchmarks.options import Options
from benchmarks.results import Row, Table
from benchmarks.workloads import WORKLOADS

__all__ = ["measured"]

PROTOCOLS = {"nfs": "NFSv3", "nfs4": "NFSv4"}
BATCHES = 5
_numbers = itertools.count()
"""Each state is another one."""

_Reference = Callable[[], Any]
"""Loads a state by its reference."""


class _Place(NamedTuple):
    """A new folder as two clients see it, with the mounts whose calls are counted: `near` stores, `far` loads."""

    near: Path
    far: Path
    near_mount: Path
    far_mount: Path


def measured(options: Options) -> Table:
    """Count on each pair of mounts."""
    sys.path.insert(0, str(nfs.LAB))
    # How long a miss waits for other hosts is not a matter of round trips.
    os.environ["ANA_WAIT"] = "0"
    rows: list[Row] = []
    for pair in os.environ[nfs.MOUNTS].split(","):
        near, far = map(Path, pair.split(":"))
        folder = f"ana-benchmark-{uuid.uuid4()}"
        place = _Place(near / folder, far / folder, near, far)
        place.near.mkdir()
        try:
            protocol = PROTOCOLS[import_module("mountstats").filesystem(near)]
            rows += _rows(place, protocol, options)
        finally:
            ana.set_dl()
            shutil.rmtree(place.near, ignore_errors=True)
    note = (
        "One client stores states of 1 kB and waits for the disk. Another one, with nothing in its cache, loads them "
        "by reference. Storing a single state and loading at random are medians, the others are means. Storing "
        "looks once a second whether the pack still has its name, which adds a call. On NFSv3, five calls are what any "
        "first read in a folder takes: two look-ups, two questions for access, one read."
    )
    return Table("packs-nfs", "Round trips per state on NFS", rows, note)


def _rows(place: _Place, protocol: str, options: Options) -> list[Row]:
    count = options.pick(40, 1000, 1000)
    one = _storing_one(place, options.pick(3, 30, 30))
    many, references = _storing_many(place, count)
    _, elsewhere = _storing_many(place, count)
    first, second, neighbours, at_random = _loading(place, references, elsewhere)
    return [
        _row(protocol, "store one, pack open", one, 1),
        _row(protocol, f"store {count:,} by `store_many`, pack open", many, 0.01),
        _row(protocol, "cold load by reference: the first of a process", first, 4),
        _row(protocol, "cold load by reference: the first of another pack", second, 4),
        _row(protocol, "cold load by reference: its neighbours", neighbours, 0.1),
        _row(protocol, "cold load by reference: at random", at_random, 1),
    ]


def _state(number: int) -> Any:
    return WORKLOADS["dict"].make(number, 0)


def _trips(mount: Path, action: Callable[[], object]) -> int:
    with import_module("mountstats").RoundTrips(mount) as trips:
        action()
    return int(trips.total)


def _storing_one(place: _Place, count: int) -> float:
    """Store into a pack that is open."""
    with ana.using_dl(pickle_dir=place.near / "tree", pack_bytes="64k"):
        ana.Ref(None).make_uuid()
        refs = [ana.Ref(_state(next(_numbers))) for _ in range(count)]
        return median(_trips(place.near_mount, ref.make_uuid) for ref in refs)


def _storing_many(place: _Place, count: int) -> tuple[float, list[_Reference]]:
    """Store in bulk, several times; return the trips per state, and the references as the other client sees them."""
    found = []
    references: list[_Reference] = []
    with ana.using_dl(pickle_dir=place.near / "many", pack_bytes="64k") as layer:
        ana.Ref(None).make_uuid()
        for _ in range(BATCHES):
            refs = [ana.Ref(_state(next(_numbers))) for _ in range(count)]
            found.append(_trips(place.near_mount, partial(layer.store_many, refs)) / count)
            references += [_seen_from(place.far / "many", ref) for ref in refs]
    return median(found), references


def _seen_from(home: Path, ref: "ana.Ref[Any]") -> _Reference:
    function, (cls, key, _, hint) = ref.__reduce_ex__(5)
    return partial(function, cls, key, str(home), hint)


def _loading(place: _Place, references: list[_Reference], elsewhere: list[_Reference]) -> tuple[float, ...]:
    """Load a state of a pack, one of another pack, some of those behind the first, and then others at random."""
    near = len(references) // 10
    with ana.using_dl(pickle_dir=place.far / "many", keep_bytes=0):
        first = _trips(place.far_mount, lambda: _use(references[:1]))
        second = _trips(place.far_mount, lambda: _use(elsewhere[:1]))
        neighbours = _trips(place.far_mount, lambda: _use(references[1:near]))
        chosen = random.Random(0).sample(references[2 * near :], near)
        at_random = median(_trips(place.far_mount, partial(_use, [one])) for one in chosen[:50])
    return first, second, neighbours / (near - 1), at_random


def _use(references: Sequence[_Reference]) -> None:
    for reference in references:
        loaded: Any = reference().value
        del loaded


def _row(protocol: str, what: str, value: float, most: float) -> Row:
    return {
        "way": protocol,
        "what": what,
        "round trips": value,
        "target": f"≤ {most:g}",
        "met": value <= most,
    }
