"""Writes docs/performance.md and its charts from the results of earlier runs."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.results import Result

__all__ = ["main", "update", "write"]

ALTERNATIVES = {
    "sizes": "Ratios of ANA's times to store arrays of several sizes to those of a pickle file, and the targets",
    "plain": "Ratios of ANA's times to those of a pickle file, one bar for each state and direction, and the targets",
    "peers": "Times to put and get four kinds of states, for ANA and the other tools",
    "tasks": "Tasks per second for each way to send a large array",
    "wire": "Seconds to store and load on NFS behind 1 Gbit/s",
    "latency": "Milliseconds to store and load small states on NFS, with and without latency",
    "growth": "Microseconds per operation over the number of states in the tree",
    "writers": "States per second over the number of writing processes",
}

INTRODUCTION = """\
# What ANA gains, and what it costs

The first sections show what a program gains: one object for many tasks, objects that pass between tasks, objects that
share an array, the processes of one node, and a network. The next ones show what many states cost, and what a state
costs compared with a pickle file and with other tools. The last one lists the missed targets and their causes.

`python -m benchmarks report` writes this page. The figures are from single runs on one machine, named below each part.
That machine is small and does other work, too. So trust only ratios: their two sides were measured alternately in one
run. `python -m benchmarks --help` says how to repeat the runs; `pip install -e '.[bench]'` installs the other tools."""

TEXTS = {
    "tasks": """\
## One object for many tasks

This is ANA's main use: the object is stored once, each process loads it once, and a task carries only a reference.""",
    "exchange": """\
## Objects that pass between tasks

With [`ana.Executor`](executor.md) a task sees plain values. For an object that all tasks take, a reference is faster
than a value from 100 kB on. For an object that one task takes once, a reference is slower below a few MB on one node:
ANA hashes the object when it is sent and verifies it when it arrives, which takes longer than writing and reading a
file. Send such objects by value (`min_bytes`), unless they would pass through a scheduler or a slow network.""",
    "parts": """\
## Objects that share an array

A [part](sweeps.md) is stored once, however many objects hold it. So a sweep of objects that share an array costs as
much as one of them, plus a hash of the array for each.

The figures of this section are written by `python -m benchmarks parts --size full --update docs/performance.md`.""",
    "tier": """\
## Many processes on one node

With a [node cache](node-cache.md) the first process of a node fetches a large state, and all others map it. There is
one copy in memory, and mapping takes next to no time.""",
    "nfs": """\
## On NFS

If the network is the bottleneck, compressible data is faster through ANA than as a pickle file. A small state costs ANA
more round trips than a plain file in an existing folder.""",
    "packs": """\
## Small states in packs

With `set_dl(pack_bytes="64k")` or `ana init --pack-bytes 64k`, states up to that size share files. A state in a pack
costs no file, no folder and no look-up. In bulk, 1,000 states take one write and one wait for the disk.

Libraries set a floor that no change to ANA's own code can lower. These are µs of processor time for a state of 1 kB
(CPython 3.11 without profile-guided optimisation, idle machine):

* **Storing** by `store_many` takes 95. Libraries take 15: pickling 6, BLAKE3 over content, sizes and header 5, a weak
  reference and a mark 4.
* **Loading** by reference takes 160. Libraries take 20: `pickle.loads` 10, `preadv` 1.5, BLAKE3 5, a weak reference
  and a mark 4. Reading a pickle file takes 24.

The rest is interpreted Python, 0.3 to 0.7 per call. A load makes about 225 calls.

The figures of this section are written by
`python -m benchmarks packs --size small --rounds 3 --update docs/performance.md`.""",
    "many": """\
## Many states at once

This compares a layer's `store_many` and `load_many` with one state at a time. The bulk calls overlap waits: for the
disk on a local filesystem, for the network on NFS. The table is from a local disk; for NFS run
`tests/nfs/lab --netem "delay 1ms" python -m benchmarks.many --folder /run/nfs/v4a --reader /run/nfs/v4b`.""",
    "growth": """\
## Many states, many writers

A tree's folders are made when first needed, so the first tens of thousands of states cost more than later ones.

The cost of a state depends little on how many there are. The time of a command grows with the number of states. These
things bend a curve:

- For states with files of their own, `stats`, `ls`, `gc` and `verify` list a tree of 65,792 folders. Up to 100,000
  states, folders with one or two files take half of the time of `stats`, and a quarter of that of `gc`.
- For states in packs, `has` searches the index of each pack, until merging the indexes pays: after as many look-ups as
  there are states, divided by the number of packs. `has` of a state that does not exist also lists the folder of the
  packs, to see new ones: up to 8 µs a pack; on a local disk only if the folder has changed since, or in the last 3 s. A
  million states lie in 16 packs or more, ten million in 160.
- In the memory of `gc`, a state in a pack takes about 50 bytes: 24 in its pack's index, 8 in the merged index, 20 as a
  mark. A state with a file of its own takes 33.""",
    "plain": """\
## Compared with plain pickle files

ANA does more than `pickle.dump`: it hashes each byte, compresses content that compresses well, writes under a temporary
name, makes shard folders, and checks each byte that it reads.

**End-to-end checks**, added after 1.0, have a cost. Content is hashed once for its address. When it is stored, a raw
chunk is copied and the copy is hashed (since then only above 32 MiB), and a compressed chunk is decompressed again and
hashed. A load hashes the decompressed content. The table has time ratios to the commit before (medians of five;
processes run alternately; a machine that did other work, too; ext4, two cores, BLAKE3 at about 1 GB/s per thread):

| | store 16 MB noise | store 64 MB noise | store 64 MB int64 < 1000 | load noise | load integers |
|---|---|---|---|---|---|
| waiting for the disk | 1.38 | 1.35 | 1.54 | | |
| without waiting | 1.54 | 1.67 | 1.47 | 1.0 | 1.1 to 1.25 |

Only loads of noise meet the target of 1.1. The script is not kept.""",
    "sizes": """\
## New arrays of each size

BLAKE3 is the floor. A store hashes content up to 32 MiB once, larger content twice (for the address, and what it
writes), a load once. On this machine a pass takes 0.5 ms per MB, as long as writing a pickle file, or longer. The
figures were measured before the copy of what was hashed was written from 4 to 32 MiB.""",
    "peers": """\
## Compared with other tools

ANA is not the fastest store for small values: a database in one file creates no file per state, and none of the other
tools checks what it reads. ANA is for large objects that many processes need: see the next section.""",
}
"""How each part begins, whatever the figures are."""
NOT_MET = """\
## What is not met, and why

* **Hashing.** BLAKE3 runs at 1.6 to 1.9 GB/s per thread here. A pickle file is written at 3.4 GB/s, and read at 5.6
  GB/s into memory that is in use. A store hashes content for its address. Up to 32 MiB it hashes a copy and writes that
  copy. Above, it also hashes what it writes, so that a state that changes meanwhile is never published under a wrong
  address. A load hashes what it has read. A script that does only that, on one thread, takes this much of a pickle
  file's time (medians, measured alternately):

  | array | hash | hash, write | copy, hash, write | hash, then copy, hash, write | read into used memory, hash |
  | --- | ---: | ---: | ---: | ---: | ---: |
  | 100 kB | 0.46 | 0.87 | 0.99 | 1.4 | |
  | 1 MB | 1.4 | 2.1 | 2.4 | 3.7 | 2.6 |
  | 4 MB | 2 | 2.9 | 3.4 | 5.4 | |
  | 16 MB | 2.1 | 3.1 | 3.5 | 5.6 | 4.4 |

  A second thread gains nothing while other programs keep both cores busy. Smaller pieces, which stay in the processor's
  cache between copy, hash and write, gain 3 %.
* **Python.** A small state costs 200 to 250 Python calls, 0.3 to 0.7 µs each, and 15 to 20 µs in libraries. A state
  with a file of its own also takes 12 system calls, one of them for its folder; a pickle file takes 4. A script that
  lists, opens, reads and prints 10,000 states in files takes 0.35 s of processor time; `ana ls` takes 1.2 s more than
  its start.
* **`import ana`.** A third of its time goes to `logging`, `typing`, `pickle`, `json` and BLAKE3. The rest are 78
  modules of its own.
* **Pickling a reference** runs one Python function, as for any class with a `__reduce__`. A class whose `__reduce__`
  returns a constant takes half of ANA's time.
* **Memory.** A page that a process has not touched yet costs more than the bytes that are read into it.
* **The disk of this machine** syncs in 0.5 ms, so there is little that fewer syncs could save.
* **NFS.** A new small state takes 7 calls: is it there, whose is the folder, open, write, close, link, remove. Without
  the first, tasks that all store the same state would all write it. The second protects from planted folders. `rename`
  in place of `link` and `remove` would replace what another writer has published.
* **One process of a node fetches** a large state into the node cache, and the others wait for it. If a server limits
  each stream, all of them could fetch, each other chunks: into one file, with a byte-range lock for each chunk, so that
  the chunks of a killed process are taken over. That is a second way to fill the cache, of some 200 lines. Mount with
  `nconnect` instead, which lets one process use several streams."""
"""Ends the document, before the list of targets."""
SECTION = re.compile(r"^(?=## )", re.MULTILINE)
VERDICT = re.compile(r"\| (?:yes|\*\*no\*\*) \|$", re.MULTILINE)
"""The end of a line with a target, as `results.markdown` writes it."""


def main(arguments: Sequence[str]) -> int:
    """Write or print the report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description="Writes a document from results.",
        epilog="example: python -m benchmarks report --from results/*.json --write docs/performance.md",
    )
    parser.add_argument(
        "--from", dest="sources", nargs="+", type=Path, required=True, metavar="FILE", help="files written by --json"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="the document; charts go to charts/ beside it")
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace only these parts in that document")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="also draw the charts there, as PNG")
    asked = parser.parse_args(arguments)
    # If a part is in several files, the last file counts.
    found = {result.part: result for path in asked.sources for result in results.load(path)}
    ordered = [found[part] for part in dict.fromkeys([*TEXTS, *found]) if part in found]
    if asked.png is not None:
        charts = importlib.import_module("benchmarks.charts")
        for result in ordered:
            charts.draw(result, asked.png, "png")
    if asked.update is not None:
        update(ordered, asked.update)
    elif asked.write is None:
        sys.stdout.write(_document(ordered, {}))
    else:
        write(ordered, asked.write)
    return 0


def write(found: Sequence[Result], path: Path) -> None:
    """Write the document, and the charts beside it."""
    path.write_text(_document(found, _drawn(found, path)), encoding="utf-8")


def update(found: Sequence[Result], path: Path) -> None:
    """Replace or add the sections of these parts in a document that `write` wrote, with their charts."""
    _, *sections = SECTION.split(path.read_text(encoding="utf-8"))
    links = _drawn(found, path)
    titles = {_title(text): part for part, text in TEXTS.items()}
    last = next((section for section in sections if _title(section) == _title(NOT_MET)), "")
    by_part = {titles[_title(section)]: section.strip() for section in sections if section is not last}
    missed = [line for line in last.splitlines() if line.startswith("- ")]
    for result in found:
        by_part[result.part] = _section(result, links)
        missed = [line for line in missed if not line.startswith(f"- {result.part}: ")] + _missed_lines(result)
    ordered = [by_part[part] for part in TEXTS if part in by_part]
    known = sum(len(VERDICT.findall(section)) for section in ordered)
    missed.sort(key=lambda line: list(TEXTS).index(line[2:].partition(":")[0]))
    path.write_text(_joined([INTRODUCTION, *ordered, _missed(known, missed)]), encoding="utf-8")


def _drawn(found: Sequence[Result], path: Path) -> dict[str, str]:
    """Draw the charts; return their paths as seen from the document."""
    charts = importlib.import_module("benchmarks.charts")
    drawn: dict[str, Path] = {}
    for result in found:
        drawn |= charts.draw(result, path.parent / "charts")
    return {name: os.path.relpath(chart, path.parent) for name, chart in drawn.items()}


def _document(found: Sequence[Result], links: dict[str, str]) -> str:
    sections = [_section(result, links) for result in found]
    known = sum(len(VERDICT.findall(section)) for section in sections)
    missed = [line for result in found for line in _missed_lines(result)]
    return _joined([INTRODUCTION, *sections, _missed(known, missed)])


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(result: Result, links: dict[str, str]) -> str:
    parts = [TEXTS.get(result.part, f"## {result.part}")]
    shown = [table for table in result.tables if table.name in links]
    parts += [f"![{ALTERNATIVES.get(table.name, table.title)}]({links[table.name]})" for table in shown]
    return "\n\n".join([*parts, results.markdown(result)])


def _title(section: str) -> str:
    return section.strip().partition("\n")[0].removeprefix("## ")


def _missed(known: int, missed: Sequence[str]) -> str:
    """List the targets that were not met."""
    if not missed:
        return f"All {known} targets are met." if known else ""
    verb = "is" if len(missed) == 1 else "are"
    return f"{NOT_MET}\n\nOf {known} targets, {len(missed)} {verb} not met:\n\n" + "\n".join(missed)


def _missed_lines(result: Result) -> list[str]:
    return [_missed_line(result.part, row) for table in result.tables for row in table.rows if row.get("met") is False]


def _missed_line(part: str, row: results.Row) -> str:
    words = [str(row[column]) for column in ("state", "what", "way") if row.get(column)]
    value = next((row[column] for column in ("ratio", "value", "ANA %", "round trips") if column in row), None)
    figure = f": {value:.3g}" if isinstance(value, int | float) else ""
    unit = f" {row['unit']}" if row.get("unit") else ""
    return f"- {part}: {', '.join(words)}{figure}{unit}, target {row['target']}"
