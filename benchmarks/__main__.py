"""The command line: which parts to measure, at what size, and where the results go."""

import argparse
import importlib.util
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import programs, results
from benchmarks.options import SIZES, CannotRunError, Options

__all__ = ["PARTS", "main"]

PARTS = {
    "plain": "compared with pickle.dump into a file: time, disk, memory; with targets",
    "sizes": "new arrays of 10 kB to 16 MB in a tree that is in use, compared with pickle files; with targets",
    "peers": "compared with joblib, diskcache, ProxyStore, dbm, LMDB, the original ANA; who notices a flipped byte",
    "tasks": "one large object for many tasks of a process pool: tasks/s, bytes sent",
    "exchange": "objects passed between tasks, 1 kB to 10 MB: by value, by file, by ANA",
    "tier": "the node cache: a node's second process compared with pickle.load, and many processes at once",
    "nfs": "compared with pickle on NFS at 1 Gbit/s, and with 0 and 1 ms of latency (boots tests/nfs/lab)",
    "growth": "trees of many states, and many writers",
    "packs": "small states in packs: compared with pickle files and disk-objectstore; with targets",
    "parts": "a sweep whose objects share a large array, and what parts cost an array alone; with targets",
    "many": "many small states: one at a time, and in bulk",
}

EPILOG = """\
examples:
  python -m benchmarks plain --size tiny                 # only checks that it runs; no meaningful times
  python -m benchmarks plain peers --json results/a.json # takes a few minutes
  python -m benchmarks --size full --durable --json results/all.json
  python -m benchmarks growth --states 10000000          # takes an hour; at most a million of them have files
  python -m benchmarks packs --size full --update docs/performance.md
  python -m benchmarks list
  python -m benchmarks report --from results/all.json --write docs/performance.md
  sudo tests/nfs/lab .venv/bin/python -m benchmarks nfs  # what `nfs` does by itself if it can

parts:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the requested parts; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["report"]:
        report = importlib.import_module("benchmarks.report")
        return int(report.main(words[1:]))
    asked = _parser().parse_args(words)
    parts = _available(asked.parts)
    if parts == ["list"]:
        sys.stdout.write("".join(f"{name:8} {text}\n" for name, text in _parts().items()))
        return 0
    found: list[results.Result] = []
    status = 0
    command = shlex.join(["python", "-m", "benchmarks", *words])
    for part in parts:
        try:
            result = _run(part, asked)
        except CannotRunError as error:
            sys.stderr.write(f"{error}\n")
            status = 1
            continue
        # A part measured in the lab has set its own command.
        result.command = result.command or command
        found.append(result)
        sys.stdout.write(f"## {part}\n\n{results.markdown(result)}\n\n")
        sys.stdout.flush()
        if asked.json is not None:
            results.save(found, asked.json)
    if asked.update is not None:
        importlib.import_module("benchmarks.report").update(found, asked.update)
    return status


def _parts() -> dict[str, str]:
    """Return the parts that exist."""
    return {name: text for name, text in PARTS.items() if importlib.util.find_spec(f"benchmarks.{name}") is not None}


def _available(asked: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(asked)) or list(_parts())


def _run(part: str, asked: argparse.Namespace) -> results.Result:
    module = importlib.import_module(f"benchmarks.{part}")
    with tempfile.TemporaryDirectory(prefix="ana-benchmarks-", dir=asked.folder) as folder:
        options = Options(
            folder=Path(folder),
            size=asked.size,
            rounds=asked.rounds,
            durable=asked.durable,
            states=asked.states,
            tasks=asked.tasks,
            workers=asked.workers,
        )
        result: results.Result = module.run(options) if hasattr(module, "run") else programs.run(part, module, options)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures what ANA costs, and prints Markdown tables. Compared sides are measured alternately.",
        epilog=EPILOG + "".join(f"  {name:8} {text}\n" for name, text in _parts().items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*_parts(), "list"], help="default: all of them")
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="size of the workloads and number of rounds (default: small)"
    )
    parser.add_argument("--rounds", type=_positive, help="number of measurements (default: by size)")
    parser.add_argument("--folder", type=Path, help="folder for temporary files (default: TMPDIR)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, for `report`")
    parser.add_argument(
        "--update", type=Path, metavar="FILE", help="write the results into this document, in place of the part's own"
    )
    parser.add_argument("--durable", action="store_true", help="also measure the cost of waiting for the disk")
    parser.add_argument("--states", type=_positive, help="growth, packs: size of the largest tree (default: by size)")
    parser.add_argument("--tasks", type=_positive, help="tasks, exchange: number of tasks (default: by size)")
    parser.add_argument("--workers", type=_positive, default=2, help="tasks, exchange: worker processes (default: 2)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"{text} is not at least 1"
        raise argparse.ArgumentTypeError(msg)
    return value


if __name__ == "__main__":
    sys.exit(main())
