"""`ana stats --jobs`: the counts of jobs' processes, as a table or as JSON."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ana import maintenance
from ana.cli.common import counted, emit
from ana.cli.tables import said
from ana.layers import statistics
from ana.layers.statistics import Stats, Summary
from ana.units import size

__all__ = ["document", "jobs_option", "show_jobs", "view"]

jobs_option: Callable[[Callable[..., int]], Callable[..., int]] = click.option(
    "--jobs",
    metavar="DIR",
    help="Sum up the counts that jobs wrote to DIR (ANA_STATS=DIR) instead.",
)

_ROWS = (
    ("stored", "stored", "stored_raw_bytes"),
    ("  written to files", "", "stored_file_bytes"),
    ("found there already", "found", "found_raw_bytes"),
    ("answered from memory", "from_memory", "from_memory_raw_bytes"),
    ("loaded from the node's tier", "from_tier", "from_tier_raw_bytes"),
    ("loaded from the store", "from_store", "from_store_raw_bytes"),
    ("  read from files", "", "from_store_file_bytes"),
)
"""Each row: its label, and the fields with the numbers of states and bytes."""
_TROUBLES = (("damaged", "damaged"), ("retries", "tried again"), ("lock_timeouts", "continued without a lock"))


def show_jobs(folder: str, *, as_json: bool, quiet: bool) -> None:
    """Print the sums of the files in a folder. Raises StoreError if it cannot be read."""
    summary = statistics.summarize(folder)
    if as_json:
        emit(document(summary))
    elif not quiet:
        said(view(summary))


def document(summary: Summary) -> dict[str, Any]:
    """Return the sums as a JSON document."""
    stores = {home: _with_sums(stats) for home, stats in summary.stores.items()}
    # asdict on the whole summary would copy each Stats without its sums.
    rest = dataclasses.asdict(dataclasses.replace(summary, stores={}))
    return {**rest, "stores": stores, "total": _with_sums(summary.total)}


def _with_sums(stats: Stats) -> dict[str, Any]:
    return {**dataclasses.asdict(stats), "moved_bytes": stats.moved_bytes, "spared_bytes": stats.spared_bytes}


def view(summary: Summary) -> Group:
    """Return the sums as tables."""
    parts: list[Any] = ["", Text(f" {_processes(summary)}")]
    for home, stats in summary.stores.items():
        parts += [Text(f"\n {home}", style="bold"), _table(stats), *_notes(stats)]
    if len(summary.stores) > 1:
        parts += [Text("\n all stores", style="bold"), _table(summary.total)]
    parts += [Text(f" {note}", style="yellow") for note in _warnings(summary)]
    return Group(*parts)


def _processes(summary: Summary) -> str:
    said = f"{counted(summary.processes, 'process', 'processes')} on {counted(len(summary.hosts), 'host', 'hosts')}"
    if summary.jobs:
        said += f", {counted(len(summary.jobs), 'job id', 'job ids')}"
    if summary.processes:
        said += f", {_time(summary.started)} to {_time(summary.ended)}"
    return said


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return maintenance.date(seconds, "")


def _table(stats: Stats) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("")
    table.add_column("states", justify="right")
    table.add_column("bytes", justify="right")
    for name, count, sizes in _ROWS:
        table.add_row(name, f"{getattr(stats, count):,}" if count else "", size(getattr(stats, sizes)))
    table.add_section()
    table.add_row("moved to and from files", "", size(stats.moved_bytes))
    table.add_row("spared", "", Text(size(stats.spared_bytes), style="bold green"))
    return table


def _notes(stats: Stats) -> list[Text]:
    troubles = [f"{text}: {getattr(stats, name):,}" for name, text in _TROUBLES if getattr(stats, name)]
    if stats.waits:
        troubles.append(f"waited: {stats.waits:,} times, {stats.wait_seconds:.1f} s")
    return [Text(f" {', '.join(troubles)}")] if troubles else []


def _warnings(summary: Summary) -> list[str]:
    found = []
    if summary.unfinished:
        who = counted(summary.unfinished, "process was", "processes were")
        found.append(f"{who} killed, or still running: the last actions are not counted")
    if summary.unreadable:
        found.append(f"{counted(summary.unreadable, 'file is', 'files are')} unreadable")
    return found
