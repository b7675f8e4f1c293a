"""Measurements in a process of their own: `python -m benchmarks.children WHAT ...` answers in JSON."""

import ast
import contextlib
import json
import os
import pickle
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ana
from ana.__main__ import main as ana_command
from benchmarks.workloads import WORKLOADS

__all__ = ["main"]

STORED_AT_ONCE = 1000
SAMPLED = 97
"""Of so many states, one is looked up."""
FEW = 3
"""Loaded first, for what happens once."""
MOST_LOADED = 5000
WARMING_LOOKS = 150_000
"""Enough for a store to merge the indexes of a million states."""

_kept: list[Any] = []
"""Objects kept in memory until the parent has the answer."""


def main(arguments: list[str]) -> None:
    """Do what the first argument says, and print the answer."""
    what, *rest = arguments
    does: dict[str, Callable[..., Any]] = {
        "again": _again,
        "memory-store": _memory_store,
        "memory-load": _memory_load,
        "tier": _tier,
        "states-make": _states_make,
        "packs-first-load": _packs_first_load,
        "packs-has": _packs_has,
        "grown-get": _grown_get,
        "parts": _parts,
        "command": _command,
    }
    answer = does[what](*rest)
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()
    if _kept:
        sys.stdin.readline()


def _again(size_bytes: str, tree: str) -> dict[str, Any]:
    """Store an array that another process has already stored."""
    array = WORKLOADS["integers"].make(0, int(size_bytes))
    ana.set_dl(pickle_dir=tree, durable=False)
    ana.Ref(0).make_uuid()  # triggers late imports
    ref = ana.Ref(array)
    begin = time.perf_counter()
    uuid = ref.make_uuid()
    return {"seconds": time.perf_counter() - begin, "uuid": uuid}


def _memory_store(way: str, size_bytes: str, folder: str) -> dict[str, Any]:
    """Store a large array; the answer has its key and the memory used beyond the array."""
    array = WORKLOADS["large noise"].make(0, int(size_bytes))
    if way == "ana":
        ana.set_dl(pickle_dir=f"{folder}/tree", durable=False)
        ref = ana.Ref(array)
        before = _reset_peak()
        key = ref.make_uuid()
    else:
        key = f"{folder}/state.p"
        before = _reset_peak()
        with open(key, "wb") as file:
            pickle.dump(array, file, protocol=5)
    return {"extra_bytes": _status("VmHWM") - before, "key": key}


def _memory_load(way: str, size_bytes: str, folder: str, key: str) -> dict[str, Any]:
    """Load a large array; the answer is the memory used beyond the array."""
    np.zeros(1)
    if way == "ana":
        ana.set_dl(pickle_dir=f"{folder}/tree", durable=False)
        before = _reset_peak()
        array: Any = ana.Ref.ana_load(key).value
    else:
        before = _reset_peak()
        with open(key, "rb") as file:
            array = pickle.load(file)
    peak = _status("VmHWM")
    if array.nbytes != int(size_bytes):
        msg = f"the loaded array has {array.nbytes} bytes, not {size_bytes}"
        raise AssertionError(msg)
    return {"extra_bytes": peak - before - array.nbytes}


def _parts(tree: str, options: str, *uuids: str) -> dict[str, Any]:
    """Load objects and sum up their arrays; say what memory that took, and how long."""
    from benchmarks.parts import Simulation  # noqa: PLC0415 - needed for this one alone

    ana.set_dl(pickle_dir=tree, durable=False, keep_bytes="100G", **ast.literal_eval(options))
    ana.Ref(0).make_uuid()  # triggers late imports
    own_bytes, mapped_bytes = _memory_of_arrays()
    begin = time.perf_counter()
    objects = [Simulation.ana_load(uuid) for uuid in uuids]
    seconds = time.perf_counter() - begin
    total = sum(float(one.array.sum()) for one in objects)
    own, mapped = _memory_of_arrays()
    return {"seconds": seconds, "own_bytes": own - own_bytes, "mapped_bytes": mapped - mapped_bytes, "total": total}


def _memory_of_arrays() -> tuple[int, int]:
    """Return the bytes of this process's own memory, and its share of mapped files."""
    found = Path("/proc/self/smaps_rollup").read_text("ascii")
    figures = {name: int(size) << 10 for name, size in re.findall(r"^(\w+): +(\d+) kB", found, re.MULTILINE)}
    return figures["Anonymous"], figures["Pss"] - figures["Anonymous"]


def _tier(how: str, folder: str, key: str) -> dict[str, Any]:
    """Report ready; on the parent's signal load and sum an array; keep it until the parent has the answer."""
    ana.set_dl(pickle_dir=f"{folder}/tree", durable=False, node_cache=f"{folder}/cache" if how == "tier" else "")
    ana.Ref(0).make_uuid()  # triggers late imports
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    own_bytes, read_bytes = _own_memory(), _read_so_far()
    begin = time.perf_counter()
    if how == "pickle":
        with open(f"{folder}/array.p", "rb") as file:
            array: Any = pickle.load(file)
    else:
        array = ana.Ref.ana_load(key).value
    loaded = time.perf_counter()
    total = float(array.sum())
    used = time.perf_counter()
    _kept.append(array)
    return {
        "seconds": loaded - begin,
        "used_seconds": used - begin,
        "own_bytes": _own_memory() - own_bytes,
        "read_bytes": _read_so_far() - read_bytes,
        "total": total,
    }


def _states_make(
    tree: str, samples: str, first: str, count: str, repeats: str = "80", pack_bytes: str = "64k"
) -> dict[str, Any]:
    """Store states of 12 bytes times `repeats`; write down some of their UUIDs."""
    start, end = int(first), int(first) + int(count)
    seconds = 0.0
    with ana.using_dl(pickle_dir=tree, pack_bytes=pack_bytes, durable=False, keep_bytes=0) as layer:
        for begin in range(start, end, STORED_AT_ONCE):
            refs = [_small(number, int(repeats)) for number in range(begin, min(begin + STORED_AT_ONCE, end))]
            before = time.process_time()
            uuids = layer.store_many(refs)
            seconds += time.process_time() - before
            with open(f"{samples}/{first}", "a", encoding="ascii") as file:
                file.writelines(f"{uuid}\n" for uuid in uuids[::SAMPLED])
    return {"seconds": seconds}


def _small(number: int, repeats: int) -> Any:
    return ana.Ref(b"%012d" % number * repeats)


def _sample(folder: str) -> list[str]:
    """Return the UUIDs that those who made a store have written down, in no order."""
    found = [uuid for path in Path(folder).iterdir() for uuid in path.read_text(encoding="ascii").split()]
    random.Random(len(found)).shuffle(found)
    return found


def _packs_first_load(tree: str, samples: str) -> dict[str, Any]:
    """Open a store and load a state of it by its UUID."""
    uuid = _sample(samples)[0]
    begin = time.perf_counter()
    ana.set_dl(pickle_dir=tree, durable=False)
    loaded: Any = ana.Ref.ana_load(uuid).value
    taken = time.perf_counter() - begin
    return {"seconds": taken, "length": len(loaded)}


def _packs_has(tree: str, samples: str) -> dict[str, Any]:
    """Look states up until the indexes are merged, then time it; the answer has the memory used since the opening."""
    uuids = _sample(samples)
    ana.set_dl(pickle_dir=tree, durable=False)
    store = ana.get_dl().store
    before = _status("VmRSS")
    for number in range(WARMING_LOOKS):
        if not store.has(uuids[number % len(uuids)]):
            msg = "a stored state is missing"
            raise AssertionError(msg)
    used = _status("VmRSS") - before
    begin = time.perf_counter()
    for uuid in uuids:
        store.has(uuid)
    return {"seconds": (time.perf_counter() - begin) / len(uuids), "bytes": used}


def _grown_get(tree: str, samples: str, repeats: str) -> dict[str, float]:
    """Load states at random, and look for them and for as many that do not exist; processor time for each, in s."""
    uuids = _sample(samples)
    ana.set_dl(pickle_dir=tree, durable=False, keep_bytes=0)
    store = ana.get_dl().store
    absent = [f"{uuid[:-12]}{'0' * 12}" for uuid in uuids]
    for uuid in uuids[:FEW]:
        ana.Ref.ana_load(uuid)
    begin = time.process_time()
    for uuid in uuids[:MOST_LOADED]:
        loaded: Any = ana.Ref.ana_load(uuid).value
        if len(loaded) != 12 * int(repeats):
            msg = "a loaded state is not the one that was stored"
            raise AssertionError(msg)
    loaded_at = time.process_time()
    if not all(map(store.has, uuids)) or any(map(store.has, absent)):
        msg = "a stored state is missing, or one that was never stored is there"
        raise AssertionError(msg)
    looked_at = time.process_time()
    return {
        "get": (loaded_at - begin) / len(uuids[:MOST_LOADED]),
        "has": (looked_at - loaded_at) / (2 * len(uuids)),
    }


def _command(*words: str) -> dict[str, Any]:
    """Run a command of `ana`, and throw its output away."""
    begin, processor = time.perf_counter(), time.process_time()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        status = ana_command(words)
    if status:
        msg = f"ana {' '.join(words)} ended with {status}"
        raise AssertionError(msg)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "processor_seconds": time.process_time() - processor, "bytes": _status("VmHWM")}


def _own_memory() -> int:
    """Return the bytes of memory that only this process has."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return sum(int(size) * 1024 for size in re.findall(r"^Private_\w+:\s+(\d+) kB$", text, re.MULTILINE))


def _read_so_far() -> int:
    """Return how many bytes this process has asked the system to read."""
    found = re.search(r"^rchar: (\d+)$", Path("/proc/self/io").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) if found is not None else 0


def _reset_peak() -> int:
    """Reset the kernel's peak of this process's memory, and return its current size in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        msg = f"this kernel does not report {name}"
        raise AssertionError(msg)
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
