"""Timing on a machine that does other work: measures sides alternately, and takes medians of ratios."""

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

__all__ = [
    "answer_of",
    "disk_bytes",
    "emptied",
    "fresh_memory",
    "in_turns",
    "median",
    "ratio",
    "recycled_memory",
    "run_child",
    "seconds",
    "take_turns",
]

ROOT = Path(__file__).resolve().parent.parent


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""From <malloc.h>."""


def fresh_memory() -> None:
    """Let every large block be memory that the process has not touched yet, as a worker's first object is.

    Otherwise glibc decides by what was freed before whether an array of some MB is loaded into recycled pages, which
    is several times faster.
    """
    # Above the size of buffers for pieces of an object, which are used again and again.
    _mallopt(M_MMAP_THRESHOLD, 12 << 20)
    _mallopt(M_TRIM_THRESHOLD, 64 << 20)
    _mallopt(M_MMAP_MAX, 65536)


def recycled_memory() -> None:
    """Let all blocks come out of memory that was used before, where there is some."""
    _mallopt(M_MMAP_MAX, 0)
    _mallopt(M_TRIM_THRESHOLD, (2 << 30) - 1)


def _mallopt(parameter: int, value: int) -> None:
    ctypes.CDLL(None).mallopt(parameter, value)


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds that one call takes; its result is freed after the clock stops."""
    gc.collect()
    begin = time.perf_counter()
    returned = action()
    taken = time.perf_counter() - begin
    del returned
    return taken


def take_turns(actions: Mapping[str, Callable[[], float]], number: int) -> dict[str, float]:
    """Call each action once, in an order that rotates with the round: the first pays for cold caches."""
    names = list(actions)
    names = names[number % len(names) :] + names[: number % len(names)]
    if number // len(names) % 2:
        names.reverse()
    return {name: actions[name]() for name in names}


def in_turns(actions: Mapping[str, Callable[[], float]], rounds: int, *, warm: int = 1) -> dict[str, list[float]]:
    """Return the figures of all rounds except the warm-up rounds."""
    found = [take_turns(actions, number) for number in range(rounds + warm)][warm:]
    return {name: [figures[name] for figures in found] for name in actions}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: both sides of a round met the same load on the machine."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Make a folder for the block, and remove it, so that the next round does not meet its dirty pages."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_bytes(folder: Path) -> int:
    """Return the size of all files below a folder, without holes (LMDB's file is mostly holes)."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            status = os.stat(os.path.join(inner, name))
            total += min(status.st_size, status.st_blocks * 512)
    return total


def run_child(*arguments: object) -> Any:
    """Run `benchmarks.children` in a new interpreter, and return its answer."""
    command = [sys.executable, "-m", "benchmarks.children", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout)


def answer_of(child: "subprocess.Popen[bytes]") -> Any:
    """Wait for `benchmarks.children` that was started with a pipe as its output, and return its answer."""
    output, _ = child.communicate()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args)
    return json.loads(output)
