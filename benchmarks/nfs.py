"""ANA and plain pickle files on real NFS: limited to 1 Gbit/s, and with latency.

In the lab (tests/nfs/lab) this part sets the network's speed. On a cluster it measures the network as it is:

    ANA_TEST_MOUNTS=/mnt/a:/mnt/b python -m benchmarks nfs    # two mounts of one export, with separate caches
"""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import ana
from benchmarks import measure, results
from benchmarks.measure import median
from benchmarks.options import CannotRunError, Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["IN_LAB", "LAB", "MOUNTS", "in_the_lab", "run"]

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "tests" / "nfs"
MOUNTS = "ANA_TEST_MOUNTS"
IN_LAB = "ANA_TEST_EXPORT"
LAB_MEMORY = "4G"
LAB_SECONDS = 1800
WIRE_TARGET = 0.4
GIGABIT = "rate 1gbit"
UNLIMITED = ""
DELAYS = ("delay 0ms", "delay 1ms")
ELSEWHERE = "as it is"
TOUCH_BYTES = 64 << 20


class Pair(NamedTuple):
    """One export, mounted by two clients: `near` stores, `far` loads."""

    near: Path
    far: Path


def run(options: Options) -> Result:
    """Measure here if there are mounts, otherwise in the lab. Raises CannotRunError."""
    if os.environ.get(MOUNTS):
        return _here(options)
    return in_the_lab("nfs", options)


def in_the_lab(part: str, options: Options) -> Result:
    """Run a part in the lab, and read its results. Raises CannotRunError."""
    sys.path.insert(0, str(LAB))
    problem = import_module("lab_host").missing()
    if problem:
        msg = f"{part}: {problem}; or set {MOUNTS}=/mnt/a:/mnt/b (two mounts of one export)"
        raise CannotRunError(msg)
    # Not in the requested folder: the guest must see it, and it has its own /tmp and /run.
    with tempfile.TemporaryDirectory(prefix=".nfs-benchmark-", dir=ROOT) as folder:
        answer = Path(folder) / "nfs.json"
        command = [str(LAB / "lab"), f"--memory={LAB_MEMORY}", f"--seconds={LAB_SECONDS}"]
        command += [sys.executable, "-m", "benchmarks", part, f"--size={options.size}", f"--json={answer}"]
        command += [f"--rounds={options.rounds}"] if options.rounds else []
        done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            msg = f"{part}: the lab ended with status {done.returncode}\n{done.stdout}"
            raise CannotRunError(msg)
        (result,) = results.load(answer)
    outside = machine(options.folder)
    result.machine |= {"CPU": f"user-mode-linux with one processor, on {outside['CPU']}"}
    result.command = f"tests/nfs/lab --memory={LAB_MEMORY} {result.command.partition(' --json')[0]}"
    return result


def _here(options: Options) -> Result:
    touching = measure.seconds(lambda: bytearray(b"x" * TOUCH_BYTES)) / 2
    measure.recycled_memory()
    pair = Pair(*map(Path, os.environ[MOUNTS].split(",")[0].split(":")))
    folder = f"ana-benchmark-{uuid.uuid4()}"
    place = Pair(pair.near / folder, pair.far / folder)
    place.near.mkdir()
    try:
        tables = [_wire(options, place), _latency(options, place, pair)]
    finally:
        _network("")
        ana.set_dl()
        shutil.rmtree(place.near, ignore_errors=True)
    found = machine(pair.near)
    if IN_LAB in os.environ:
        found["filesystem"] = f"NFS 4.2 ({found['filesystem']}), server and clients in one kernel"
        # The first write to memory is far slower here than on hardware, and would hide the network's time.
        tables[0].note += (
            f" Arrays are loaded into memory that the process has used before: the first use of "
            f"{TOUCH_BYTES >> 20} MiB takes {touching:.2g} s in this kernel, which maps memory without hardware "
            "support."
        )
    return Result("nfs", options.size, tables, found)


def _network(netem: str) -> str:
    """Set the speed of the lab's loopback device; returns the name of that network."""
    if IN_LAB not in os.environ:
        return ELSEWHERE
    action = ["replace", "dev", "lo", "root", "netem", *netem.split()] if netem else ["del", "dev", "lo", "root"]
    subprocess.run(["tc", "qdisc", *action], check=bool(netem), capture_output=not netem)
    return netem


@contextmanager
def _round(place: Pair) -> Iterator[Pair]:
    """Make a folder for one round: the far client has never seen it, so it must ask the server."""
    name = str(uuid.uuid4())
    pair = Pair(place.near / name, place.far / name)
    pair.near.mkdir()
    try:
        yield pair
    finally:
        ana.set_dl()
        shutil.rmtree(pair.near, ignore_errors=True)


class _Ways:
    """Stores and loads a workload's states both ways, in a folder that two clients see."""

    def __init__(self, workload: Workload, place: Pair, *, durable: bool) -> None:
        self.states = workload.states()
        self.place = place
        self.durable = durable

    def open(self, client: Path) -> None:
        """Start afresh, through that client."""
        ana.set_dl(pickle_dir=client / "tree", keep_bytes=0, durable=self.durable)

    def ana_store(self) -> list[str]:
        """Store through the near client."""
        return [ana.Ref(state).make_uuid() for state in self.states]

    def plain_store(self, place: Pair) -> None:
        """Pickle through the near client: closing a file sends it."""
        for number, state in enumerate(self.states):
            with open(place.near / f"{number}.p", "wb") as file:
                pickle.dump(state, file, protocol=5)
                if self.durable:
                    file.flush()
                    os.fsync(file.fileno())

    def ana_load(self, uuids: list[str]) -> None:
        """Load through the far client."""
        for key in uuids:
            loaded: Any = ana.Ref.ana_load(key).value
            del loaded

    def plain_load(self, place: Pair) -> None:
        """Unpickle through the far client."""
        for number in range(len(self.states)):
            with open(place.far / f"{number}.p", "rb") as file:
                loaded = pickle.load(file)
            del loaded

    def once(self, number: int) -> dict[str, float]:
        """Store and load everything once, both ways; returns seconds per state."""
        with _round(self.place) as place:
            uuids: list[str] = []
            self.open(place.near)
            storing: dict[str, Callable[[], float]] = {
                "ANA store": lambda: measure.seconds(lambda: uuids.extend(self.ana_store())),
                "plain store": lambda: measure.seconds(lambda: self.plain_store(place)),
            }
            found = measure.take_turns(storing, number)
            self.open(place.far)
            loading: dict[str, Callable[[], float]] = {
                "ANA load": lambda: measure.seconds(lambda: self.ana_load(uuids)),
                "plain load": lambda: measure.seconds(lambda: self.plain_load(place)),
            }
            found |= measure.take_turns(loading, number)
        return {name: value / len(self.states) for name, value in found.items()}

    def rounds(self, count: int) -> dict[str, list[float]]:
        """Measure `count` rounds, after a warm-up round."""
        found = [self.once(number) for number in range(count + 1)][1:]
        return {name: [figures[name] for figures in found] for name in found[0]}


def _wire(options: Options, place: Pair) -> Table:
    """Send compressible data over a slow network."""
    workload = WORKLOADS["integers"].scaled(options.size)
    rows: list[Row] = []
    # First without a limit, to show how much of the later times is the processor's.
    unlimited = [(UNLIMITED, False)] if IN_LAB in os.environ else []
    for netem, durable in (*unlimited, (GIGABIT, False), (GIGABIT, True)):
        network = _network(netem)
        found = _Ways(workload, place, durable=durable).rounds(options.round_count(5))
        for what in ("store", "load")[: 1 if durable else 2]:
            ours, theirs = found[f"ANA {what}"], found[f"plain {what}"]
            ratio = measure.ratio(ours, theirs)
            row: Row = {
                "state": workload.name,
                "network": "no limit" if network == UNLIMITED else network,
                "what": f"{what}, waiting for the disk" if durable else what,
                "ANA s": median(ours),
                "pickle file s": median(theirs),
                "rounds": len(ours),
                "ratio": ratio,
            }
            if network == GIGABIT:
                row |= {"target": f"≤ {WIRE_TARGET:g}", "met": ratio <= WIRE_TARGET}
            rows.append(row)
    note = (
        "One client stores. Another client, with nothing in its cache, loads, so everything crosses the network. Rows "
        "without a limit show the time that is not the network's: the lab has a single processor for both clients and "
        "the server."
    )
    return Table("wire", "NFS behind 1 Gbit/s", rows, note)


def _latency(options: Options, place: Pair, mounts: Pair) -> Table:
    """Store and load small states over a network with latency, and count round trips."""
    full = WORKLOADS["dict"]
    workload = full.resized(full.size_bytes, options.pick(2, 20, 50))
    rows: list[Row] = []
    trips = _trips(workload, place, mounts)
    for delay in DELAYS if IN_LAB in os.environ else ("",):
        network = _network(delay)
        for durable in (False, True):
            found = _Ways(workload, place, durable=durable).rounds(options.round_count(5))
            for what in ("store", "load")[: 1 if durable else 2]:
                ours, theirs = found[f"ANA {what}"], found[f"plain {what}"]
                rows.append({
                    "network": f"{network} each way" if network != ELSEWHERE else network,
                    "what": f"{what}, waiting for the disk" if durable else what,
                    "ANA ms": median(ours) * 1000,
                    "pickle file ms": median(theirs) * 1000,
                    "ratio": measure.ratio(ours, theirs),
                    "ANA round trips": trips.get(("ANA", what, durable)),
                    "pickle file round trips": trips.get(("plain", what, durable)),
                })  # fmt: skip
    note = (
        f"Medians per state of {workload.count} states of 1 kB. The tree is empty, so ANA makes new folders, two for "
        "most states. The pickle files go into one existing folder. Round trips are calls to the server, per state."
    )
    return Table("latency", "Small states on NFS", rows, note)


def _trips(workload: Workload, place: Pair, mounts: Pair) -> dict[tuple[str, str, bool], float]:
    """Count the calls to the server per state."""
    sys.path.insert(0, str(LAB))
    round_trips: Any = import_module("mountstats").RoundTrips
    found = {}
    for durable in (False, True):
        ways = _Ways(workload, place, durable=durable)
        with _round(place) as folder:
            uuids: list[str] = []
            ways.open(folder.near)
            with round_trips(mounts.near) as trips:
                uuids += ways.ana_store()
            found["ANA", "store", durable] = trips.total / workload.count
            with round_trips(mounts.near) as trips:
                ways.plain_store(folder)
            found["plain", "store", durable] = trips.total / workload.count
            ways.open(folder.far)
            with round_trips(mounts.far) as trips:
                ways.ana_load(uuids)
            found["ANA", "load", durable] = trips.total / workload.count
            with round_trips(mounts.far) as trips:
                ways.plain_load(folder)
            found["plain", "load", durable] = trips.total / workload.count
    return found
