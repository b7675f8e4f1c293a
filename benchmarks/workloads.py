"""The states that are stored: any number of distinct states of each kind, the same in every run."""

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WORKLOADS", "Workload", "numbers", "size_text"]

MESSAGES = (
    "job {0} on partition batch started with {1} tasks; working directory /scratch/project/{2}/run-{0}",
    "checkpoint of step {0} written to /scratch/project/{2}/run-{1}/checkpoint: all ranks agree on the checksum",
    "rank {1} of job {0} waits for the barrier; the slowest rank is {2}; the limit for this is 600 seconds",
    "solver converged after {1} iterations in step {0}; the residual is below the tolerance that was asked for",
)


def _record(number: int) -> dict[str, Any]:
    """Make a typical small dict: about 1 kB as a pickle."""
    chance = random.Random(number)
    return {
        "name": f"parameters-{number:08}",
        "path": f"/scratch/project/run-{number % 977:04}/input-{number:08}.json",
        "tags": [f"tag-{chance.randrange(10**9):09}" for _ in range(10)],
        "limits": {f"limit-{index}": chance.random() for index in range(20)},
        "weights": [chance.random() for _ in range(20)],
        "counts": [chance.randrange(1000) for _ in range(20)],
        "active": number % 2 == 0,
    }


def _floats(number: int, size_bytes: int) -> list[float]:
    """Make Python floats; each takes 9 bytes in a pickle."""
    chance = random.Random(number)
    return [chance.random() for _ in range(max(1, size_bytes // 9))]


def _noise(number: int, size_bytes: int) -> Any:
    """Make doubles that do not compress."""
    return np.random.default_rng(number).standard_normal(size_bytes // 8)


def numbers(number: int, size_bytes: int) -> Any:
    """Make 64-bit integers from 0 to 999: at most an eighth of their bits is information."""
    return np.random.default_rng(number).integers(0, 1000, size_bytes // 8)


def _log(number: int, size_bytes: int) -> list[dict[str, str]]:
    """Make text records like those of a batch system's log, about 250 bytes each as a pickle."""
    chance = random.Random(number)
    records: list[dict[str, str]] = []
    left = size_bytes
    while left > 0:
        figures = [chance.randrange(10_000) for _ in range(3)]
        minutes, second = divmod(len(records) // 50, 60)
        record = {
            "time": f"2026-03-01T{minutes // 60:02}:{minutes % 60:02}:{second:02}Z",
            "host": f"node-{chance.randrange(200):04}.cluster.example",
            "level": chance.choice(("info", "info", "info", "warning")),
            "message": chance.choice(MESSAGES).format(*figures),
        }
        left -= len(pickle.dumps(record, 5)) - 40  # names and frame of the record come once
        records.append(record)
    return records


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of state. Each round stores `count` of them, so that a round is long enough to time."""

    name: str
    kind: str
    size_bytes: int
    count: int
    make: Callable[[int, int], Any]

    def scaled(self, size: str) -> "Workload":
        """Return the workload for a run of that size; tiny workloads are named by their actual size."""
        if size == "full" or (size == "small" and self.size_bytes <= 1 << 20):
            return self
        if size == "small":
            return self.resized(max(self.size_bytes // 4, 1 << 20), self.count)
        return self.resized(min(self.size_bytes, max(1000, self.size_bytes >> 10)), min(self.count, 5))

    def resized(self, size_bytes: int, count: int = 1) -> "Workload":
        """Return the workload with states of another size."""
        name = self.name if size_bytes == self.size_bytes else f"{size_text(size_bytes)} {self.kind}"
        return Workload(name, self.kind, size_bytes, count, self.make)

    def states(self, first: int = 0) -> list[Any]:
        """Make a round's states; another `first` makes others."""
        return [self.make(first + number, self.size_bytes) for number in range(self.count)]


def size_text(size_bytes: float) -> str:
    """Format a size: in powers of 1024 from 1 MB on, as file sizes are quoted."""
    if size_bytes >= 1 << 20:
        return f"{size_bytes / (1 << 20):.3g} MB"
    return f"{size_bytes / 1000:.4g} kB" if size_bytes >= 1000 else f"{size_bytes:.0f} B"


def _workload(kind: str, size_bytes: int, count: int, make: Callable[[int, int], Any]) -> Workload:
    return Workload(f"{size_text(size_bytes)} {kind}", kind, size_bytes, count, make)


WORKLOADS = {
    "dict": _workload("dict", 1000, 400, lambda number, _size: _record(number)),
    "floats": _workload("Python floats", 100_000, 20, _floats),
    "noise": _workload("float64 noise", 16 << 20, 1, _noise),
    "large noise": _workload("float64 noise", 256 << 20, 1, _noise),
    "text": _workload("text records", 64 << 20, 1, _log),
    "integers": _workload("int64 < 1000", 128 << 20, 1, numbers),
}
