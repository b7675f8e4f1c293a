"""The node cache: what a node's second process pays for a large array, and how much many processes read of the tree."""

import json
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ana
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS, size_text

__all__ = ["run"]

MIB = 1 << 20
PICKLE, TREE, FIRST, SECOND = (
    "pickle.load of a plain file",
    "ANA without a node cache",
    "ANA, the first process of the node",
    "ANA, the second process of the node",
)
HOW = {PICKLE: "pickle", TREE: "tree", FIRST: "tier", SECOND: "tier"}
TIME_SHARE, MEMORY_SHARE = 0.05, 0.01
"""The second process's limits, as fractions of pickle.load's time and of the array's size."""


def run(options: Options) -> Result:
    """Load one array in each way, each time in a new process; then in many processes at once."""
    size_bytes = options.pick(4 * MIB, 128 * MIB, 512 * MIB)
    processes = options.pick(2, 8, 8)
    place = _Place(options.folder, size_bytes)
    rounds = options.round_count(5)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in HOW}
    crowds: dict[str, list[dict[str, float]]] = {TREE: [], FIRST: []}
    for _ in range(rounds):
        for way in HOW:
            if way in {FIRST, TREE}:
                place.empty_cache()
            found[way].append(place.load(way))
        for way, seen in crowds.items():
            place.empty_cache()
            seen.append(place.load_together(way, processes))
    array = size_text(size_bytes)
    tables = [
        Table("tier", f"An array of {array} in a new process", _time_rows(found), TIME_NOTE),
        Table(
            "tier-memory", f"Memory of that process, with the array of {array} read", _memory_rows(found, size_bytes)
        ),
        Table(
            "tier-crowd", f"{processes} processes at once, nothing cached", _crowd_rows(crowds, processes), CROWD_NOTE
        ),
    ]
    return Result("tier", options.size, tables, machine(options.folder))


TIME_NOTE = (
    "All files are in the page cache. Loading with a node cache only maps the array. The second column includes the "
    "first use: all numbers are summed up. The first process also verifies the state, and writes the entry."
)
CROWD_NOTE = (
    "Seconds until the last process has the array. MiB are the bytes that all processes together asked the system to "
    "read (rchar of /proc/self/io): without a node cache each process reads the tree, with one only the first does."
)


class _Place:
    """The array as a pickle file and as a state in a tree, and a folder for a node cache."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        array = WORKLOADS["noise"].make(0, size_bytes)
        with open(folder / "array.p", "wb") as file:
            pickle.dump(array, file, protocol=5)
        with ana.using_dl(pickle_dir=folder / "tree", durable=False, node_cache=""):
            self.key = ana.Ref(array).make_uuid()

    def empty_cache(self) -> None:
        """Start as on a new node."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def load(self, way: str) -> dict[str, float]:
        """Load in a new process; for SECOND, while another process has the array mapped."""
        with ExitStack() as stack:
            if way == SECOND:
                stack.enter_context(self._answering(way, 1))
            child = stack.enter_context(self._started(way, 1))
            return _answers(child)[0]

    def load_together(self, way: str, processes: int) -> dict[str, float]:
        """Load in many new processes at once; return the bytes read, and the seconds until the last is done."""
        with self._started(way, processes) as children:
            begin = time.perf_counter()
            answers = _answers(children)
            seconds = time.perf_counter() - begin
        return {"seconds": seconds, "read_bytes": sum(answer["read_bytes"] for answer in answers)}

    @contextmanager
    def _answering(self, way: str, processes: int) -> Iterator[None]:
        with self._started(way, processes) as children:
            _answers(children)
            yield

    @contextmanager
    def _started(self, way: str, processes: int) -> Iterator[list["subprocess.Popen[str]"]]:
        """Start children that wait for a signal to load, and keep the array until the end of the block."""
        words = [sys.executable, "-m", "benchmarks.children", "tier", HOW[way], str(self.folder), self.key]
        with ExitStack() as stack:
            children = []
            for _ in range(processes):
                child = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=measure.ROOT
                )
                children.append(stack.enter_context(child))
            for child in children:
                _line(child)
            yield children


def _answers(children: Sequence["subprocess.Popen[str]"]) -> list[dict[str, float]]:
    for child in children:
        if child.stdin is not None:
            child.stdin.write("\n")
            child.stdin.flush()
    answers: list[dict[str, float]] = [json.loads(_line(child)) for child in children]
    return answers


def _line(child: "subprocess.Popen[str]") -> str:
    line = child.stdout.readline() if child.stdout is not None else ""
    if not line:
        msg = "a child ended without an answer"
        raise RuntimeError(msg)
    return line


def _time_rows(found: dict[str, list[dict[str, float]]]) -> list[Row]:
    rows: list[Row] = []
    theirs = [answer["seconds"] for answer in found[PICKLE]]
    theirs_used = [answer["used_seconds"] for answer in found[PICKLE]]
    for way, answers in found.items():
        ours = [answer["seconds"] for answer in answers]
        used = [answer["used_seconds"] for answer in answers]
        row: Row = {
            "way": way,
            "rounds": len(answers),
            "load ms": measure.median(ours) * 1e3,
            "load and sum ms": measure.median(used) * 1e3,
            "ratio": measure.ratio(ours, theirs),
            "ratio, load and sum": measure.ratio(used, theirs_used),
        }
        rows.append(row | _verdict(way, measure.ratio(ours, theirs), TIME_SHARE, "of pickle.load's time"))
    return rows


def _memory_rows(found: dict[str, list[dict[str, float]]], size_bytes: int) -> list[Row]:
    rows: list[Row] = []
    for way in (PICKLE, TREE, SECOND):
        own_bytes = measure.median(answer["own_bytes"] for answer in found[way])
        row: Row = {"way": way, "own memory MiB": own_bytes / MIB, "of the array's MiB": size_bytes / MIB}
        rows.append(row | _verdict(way, own_bytes / size_bytes, MEMORY_SHARE, "of the array"))
    return rows


def _verdict(way: str, share: float, most: float, of: str) -> Row:
    """Return whether the target is met; only the second process has one."""
    return {"target": f"≤ {most:.0%} {of}", "met": share <= most} if way == SECOND else {}


def _crowd_rows(found: dict[str, list[dict[str, float]]], processes: int) -> list[Row]:
    def row(way: str, answers: list[dict[str, float]]) -> dict[str, Any]:
        read_bytes = measure.median(answer["read_bytes"] for answer in answers)
        return {
            "way": "ANA with a node cache" if way == FIRST else way,
            "processes": processes,
            "seconds": measure.median(answer["seconds"] for answer in answers),
            "MiB read by all": read_bytes / MIB,
        }

    return [row(way, answers) for way, answers in found.items()]
