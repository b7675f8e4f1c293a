"""The command line: which parts are measured, how much, where, and where the figures go."""

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
    "plain": "against pickle.dump into a file: time, disk, memory; with the targets",
    "peers": "against joblib, diskcache, ProxyStore, dbm, LMDB, the original ANA; and who notices a flipped byte",
    "tasks": "one large object for many tasks of a process pool: tasks/s, and bytes through the pipe",
    "exchange": "objects that pass between tasks, from 1 kB to 10 MB: by value, by files, by ANA",
    "tier": "the node-local tier: the second process of a node against pickle.load, and many processes at once",
    "nfs": "against pickle on NFS behind 1 Gbit/s, and with 0 and 1 ms of latency (boots tests/nfs/lab)",
    "growth": "trees of many states, and many writers",
    "many": "many states at once",
}

EPILOG = """\
examples:
  python -m benchmarks plain --size tiny                 # does it run? Says nothing about speed
  python -m benchmarks plain peers --json results/a.json # some minutes
  python -m benchmarks --size full --durable --json results/all.json
  python -m benchmarks growth --states 1000000           # full stops at 100000: a million files take long
  python -m benchmarks list
  python -m benchmarks report --from results/all.json --write docs/performance.md
  sudo tests/nfs/lab .venv/bin/python -m benchmarks nfs  # what `nfs` does by itself where it can

parts:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
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
        # One that was measured elsewhere (in the lab) says itself how.
        result.command = result.command or command
        found.append(result)
        sys.stdout.write(f"## {part}\n\n{results.markdown(result)}\n\n")
        sys.stdout.flush()
        if asked.json is not None:
            results.save(found, asked.json)
    return status


def _parts() -> dict[str, str]:
    """Return the parts that are there."""
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
        description="Measures what ANA costs. Prints Markdown tables; everything is compared in turns, in one run.",
        epilog=EPILOG + "".join(f"  {name:8} {text}\n" for name, text in _parts().items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*_parts(), "list"], help="default: all of them")
    parser.add_argument("--size", choices=SIZES, default="small", help="how large, and how often (default: small)")
    parser.add_argument("--rounds", type=_positive, help="how often each thing is measured (default: by size)")
    parser.add_argument("--folder", type=Path, help="where files are written (default: the system's place)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, for `report`")
    parser.add_argument("--durable", action="store_true", help="measure also what waiting for the disk costs")
    parser.add_argument("--states", type=_positive, help="growth: size of the largest tree (default: by size)")
    parser.add_argument("--tasks", type=_positive, help="tasks, exchange: how many (default: by size)")
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
