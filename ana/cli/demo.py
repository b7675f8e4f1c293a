"""`ana demo`: what ANA is good for, shown in seconds."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ana import demo
from ana.cli.common import DONE, FAILED, Output, emit, output_options, size, times
from ana.cli.tables import said

__all__ = ["demo_command"]

MEGABYTE = 1_000_000
SMALL_BYTES = 4 * MEGABYTE
LARGEST_BYTES = 100_000 * MEGABYTE
DEFAULTS = demo.Settings()

DEMO_EXAMPLES = """\b
Examples:
  ana demo
  ana demo --size 1000 --tasks 32 --workers 4
  ana demo --dir /shared/scratch --keep
  ana demo --json | jq .by_reference.wall_seconds
"""


def _bytes_of(text: str) -> int:
    """Return a size, given in MB (10^6 bytes) or as the word `small`, in bytes."""
    try:
        size_bytes = SMALL_BYTES if text == "small" else int(float(text) * MEGABYTE)
    except (ValueError, OverflowError):
        msg = f"{text!r} is neither a number of MB nor 'small'."
        raise click.BadParameter(msg) from None
    if not MEGABYTE <= size_bytes <= LARGEST_BYTES:
        msg = f"{text} is not between 1 and {LARGEST_BYTES // MEGABYTE} MB."
        raise click.BadParameter(msg)
    return size_bytes


@click.command("demo", epilog=DEMO_EXAMPLES)
@click.option(
    "--size",
    "size_bytes",
    type=_bytes_of,
    metavar="MB",
    default=str(DEFAULTS.size_bytes // MEGABYTE),
    show_default=True,
    help="How large the object is; 'small' is 4 MB.",
)
@click.option(
    "--tasks",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=DEFAULTS.tasks,
    show_default=True,
    help="How many tasks take the object.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    default=DEFAULTS.workers,
    show_default=True,
    help="How many processes run the tasks.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where to make the temporary folder, for example on a shared filesystem.",
)
@click.option("--keep", is_flag=True, help="Keep the folder, so that you can look at the store.")
@output_options
@click.pass_obj
def demo_command(output: Output, /, **settings: Any) -> int:
    """Send a large object to worker processes, by value and by reference.

    Builds a mesh and sends it with several tasks to new processes: first
    pickled as usual, then by reference. Measures the bytes through the pipe,
    the time, and the copies made. Then stores an equal object, which writes
    nothing, and flips a byte of the stored file, which is detected.
    """
    chosen = demo.Settings(**settings)
    with _progress(2 * chosen.tasks + 2, output) as progress:
        result = demo.run(chosen, progress)
    if output.as_json:
        emit(_demo_document(result))
    elif not output.quiet:
        said(_demo_view(result))
    failed = [check.name for check in result.checks if not check.passed]
    if failed:
        click.echo(f"ana demo: failed: {', '.join(failed)}", err=True)
    return FAILED if failed else DONE


@contextmanager
def _progress(steps: int, output: Output) -> Iterator[demo.Progress]:
    """Show a bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description:<36}"), BarColumn(), TimeElapsedColumn())
    hidden = output.quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        bar = bars.add_task("", total=steps)
        yield lambda what, done: bars.update(bar, description=what, advance=done)


# The demonstration's tables


def _demo_document(result: demo.DemoResult) -> dict[str, Any]:
    document = dataclasses.asdict(result)
    document["checks"] = {check.name: check.passed for check in result.checks}
    document["passed"] = result.passed
    return document


def _demo_view(result: demo.DemoResult) -> Group:
    settings, seconds = result.settings, result.total_seconds
    place = f"kept in {result.pickle_dir}" if settings.keep else "nothing is left on disk"
    return Group(
        "",
        f" A mesh of {result.points:,} points, {size(result.object_bytes)}, sent in {settings.tasks} tasks "
        f"to {settings.workers} processes",
        _rounds_table(result),
        _checks_table(result),
        "",
        Text(f" {seconds:.1f} s in all, {place}", style="dim"),
    )


def _rounds_table(result: demo.DemoResult) -> Table:
    """Draw the two ways side by side; a row whose check failed is red."""
    failed = {check.name for check in result.checks if not check.passed}
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("")
    table.add_column("as usual", justify="right")
    table.add_column("by reference", justify="right", style="bold green")
    table.add_column("")
    for check, *cells in _rounds_rows(result.by_value, result.by_reference, result.object_bytes):
        style = "bold red" if check in failed else ""
        table.add_row(*(Text(cell, style) for cell in cells))
    return table


def _rounds_rows(value: demo.Round, reference: demo.Round, object_bytes: int) -> list[tuple[str, str, str, str, str]]:
    """Return the rows: the check that a row belongs to, its name, as usual, by reference, the comparison."""
    less = times(value.pipe_bytes, reference.pipe_bytes, "less", "more")
    faster = times(value.wall_seconds, reference.wall_seconds, "faster", "slower")
    share = f"{reference.disk_bytes / object_bytes:.0%} of its size"
    workers = f"{reference.workers} workers had tasks"
    seconds = (f"{value.wall_seconds:.2f} s", f"{reference.wall_seconds:.2f} s")
    back = (_yes(value.original_came_back), _yes(reference.original_came_back))
    return [
        ("pipe", "bytes through the pipe", size(value.pipe_bytes), size(reference.pipe_bytes), less),
        ("", "wall time", *seconds, faster),
        ("", "  of it, storing once", "", f"{reference.store_seconds:.2f} s", ""),
        ("", "bytes on disk", size(value.disk_bytes), size(reference.disk_bytes), share),
        ("copies", "copies made of the object", f"{value.copies}", f"{reference.copies}", workers),
        ("identity_in_worker", "same object in later tasks", _kept(value), _kept(reference), ""),
        ("identity_of_result", "comes back as the original", *back, ""),
    ]


def _checks_table(result: demo.DemoResult) -> Table:
    """Draw the checks, and whether they passed."""
    passed = {check.name: check.passed for check in result.checks}
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column()
    table.add_column(overflow="fold")
    for check, text in _checks_rows(result):
        word, style = ("ok", "") if passed[check] else ("FAILED", "bold red")
        table.add_row(Text(word, style or "bold green"), Text(text, style))
    return table


def _checks_rows(result: demo.DemoResult) -> list[tuple[str, str]]:
    """Return a line for each check that has no row in the upper table."""
    again, flipped = result.stored_again, result.flipped_byte
    answers = "are equal" if result.by_value.heats == result.by_reference.heats else "differ"
    uuid = "the same UUID" if again.same_uuid else "another UUID"
    files = f"{again.files_changed} of {again.files_before} files changed"
    loads = "it loads, equal to the original" if flipped.healed else "it does not load"
    return [
        ("results", f"Results of all {len(result.by_reference.heats)} tasks {answers} both ways"),
        ("stored_again", f"Equal object stored again: {uuid}, {files}, {again.wall_seconds:.2f} s"),
        ("damage_caught", f"Byte {flipped.offset:,} of the stored file flipped: {_caught(result)}"),
        ("damage_healed", f"Object stored once more: {loads}"),
    ]


def _caught(result: demo.DemoResult) -> str:
    """Return the error that a flipped byte raised, and what it names."""
    flipped = result.flipped_byte
    if not flipped.error:
        return "not noticed"
    lines = [flipped.error, flipped.reason]
    lines += [f"names UUID {result.uuid}"] if flipped.names_uuid else []
    lines += [f"names file {flipped.path.relative_to(result.pickle_dir)}"] if flipped.names_path else []
    return "\n  ".join(lines)


def _kept(measured: demo.Round) -> str:
    return f"{measured.same_object_tasks} of {measured.later_tasks}"


def _yes(answer: bool) -> str:  # noqa: FBT001 - a word for a truth value
    return "yes" if answer else "no"
