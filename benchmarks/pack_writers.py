"""Many writers and two readers at once: in packs, and with a file for each state."""

import pickle
import random
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import ana
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Row, Table
from benchmarks.workloads import WORKLOADS

__all__ = ["measured"]

START_SECONDS = 300
READERS = 2
BATCH = 50
"""After how many states a writer hands over their references to the readers."""
TARGET = 3.0
PACKS, FILES = "64k", "0"
DONE = "done"


def measured(options: Options) -> Table:
    """Let all writers store at once, with and without waiting for the disk."""
    writers = options.pick(2, 16, 16)
    rows = [
        _row(options, writers, options.pick(20, 1000, 10_000), durable=False),
        _row(options, writers, options.pick(20, 100, 1000), durable=True),
    ]
    note = (
        "states/s of all writers together, medians of the rounds. Each writer stores states of its own, one at a time. "
        f"Meanwhile {READERS} readers load at random what has been stored. In the end they load every state by its "
        "reference and compare it: the benchmark stops if one is missing."
    )
    return Table("packs-writers", f"{writers} writers, {READERS} readers", rows, note)


def _row(options: Options, writers: int, count: int, *, durable: bool) -> Row:
    found = measure.in_turns(
        {way: partial(_rate, options.folder, way, writers, count, durable=durable) for way in (PACKS, FILES)},
        options.round_count(3),
        warm=0,
    )
    ratio = measure.ratio(found[PACKS], found[FILES])
    return {
        "what": f"many writers, {'waiting' if durable else 'without waiting'} for the disk",
        "writers": writers,
        "states each": count,
        "packs states/s": measure.median(found[PACKS]),
        "files states/s": measure.median(found[FILES]),
        "rounds": len(found[PACKS]),
        "ratio": ratio,
        "target": f"≥ {TARGET:g}",
        "met": ratio >= TARGET,
    }


def _rate(folder: Path, pack_bytes: str, writers: int, count: int, *, durable: bool) -> float:
    """Return the states per second, from the first writer's start to the last one's end."""
    with measure.emptied(folder / "writers") as place:
        ana.set_dl(pickle_dir=place / "tree", durable=False)
        ana.set_dl()
        context = get_context("spawn")
        barrier = context.Barrier(writers + READERS, timeout=START_SECONDS)
        times: Any = context.SimpleQueue()
        loaded: Any = context.SimpleQueue()
        writing = [
            context.Process(target=_write, args=(place, pack_bytes, durable, number * count, count, barrier, times))
            for number in range(writers)
        ]
        reading = [context.Process(target=_read, args=(place, number, barrier, loaded)) for number in range(READERS)]
        for process in (*writing, *reading):
            process.start()
        _join(writing)
        found = [times.get() for _ in writing]
        (place / DONE).touch()
        _join(reading)
        seen = sum(loaded.get() for _ in reading)
        times.close()
        loaded.close()
    if seen != writers * count:
        msg = f"the readers loaded {seen} states, not {writers * count}"
        raise AssertionError(msg)
    seconds: float = max(end for _, end in found) - min(begin for begin, _ in found)
    return writers * count / seconds


def _join(processes: list[Any]) -> None:
    for process in processes:
        process.join()
        if process.exitcode:
            msg = f"a process ended with {process.exitcode}"
            raise AssertionError(msg)


def _state(number: int) -> Any:
    return WORKLOADS["dict"].make(number, 0)


def _write(place: Path, pack_bytes: str, durable: bool, first: int, count: int, barrier: Barrier, times: Any) -> None:  # noqa: FBT001, PLR0913 - a process's arguments
    states = [_state(first + number) for number in range(count)]
    ana.set_dl(pickle_dir=place / "tree", pack_bytes=pack_bytes, durable=durable)
    with open(place / f"references-{first}", "ab", buffering=0) as file:
        barrier.wait()
        begin = time.perf_counter()
        lines: list[bytes] = []
        for number, state in enumerate(states, first):
            ref = ana.Ref(state)
            ref.make_uuid()
            lines.append(b"%d %s\n" % (number, pickle.dumps(ref).hex().encode()))
            if len(lines) == BATCH:
                file.write(b"".join(lines))
                lines.clear()
        file.write(b"".join(lines))
        end = time.perf_counter()
    times.put((begin, end))


def _read(place: Path, reader: int, barrier: Barrier, loaded: Any) -> None:
    """Load at random until the writers are done, then load this reader's share of all states."""
    ana.set_dl(pickle_dir=place / "tree", keep_bytes=0)
    chance = random.Random(reader)
    barrier.wait()
    handed_over = _References(place)
    while not (place / DONE).exists():
        handed_over.look()
        for _ in range(BATCH if handed_over.found else 0):
            _check(*chance.choice(handed_over.found))
    handed_over.look()
    mine = [(number, reference) for number, reference in handed_over.found if number % READERS == reader]
    for number, reference in mine:
        _check(number, reference)
    loaded.put(len(mine))


class _References:
    """The states that the writers have handed over: their numbers and references."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.found: list[tuple[int, bytes]] = []
        self._read: dict[Path, int] = {}

    def look(self) -> None:
        """Take over what is new."""
        for path in self.place.glob("references-*"):
            self.found += self._new(path)

    def _new(self, path: Path) -> Iterator[tuple[int, bytes]]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        for line in whole.splitlines():
            number, reference = line.split()
            yield int(number), bytes.fromhex(reference.decode())


def _check(number: int, reference: bytes) -> None:
    if pickle.loads(reference).value["name"] != _name(number):
        msg = f"state {number} is another one"
        raise AssertionError(msg)


def _name(number: int) -> str:
    return f"parameters-{number:08}"
