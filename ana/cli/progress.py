"""Progress of a command: a bar on a terminal, a line every 30 s elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ana import maintenance
from ana.cli.common import Output
from ana.runtime import threads
from ana.units import size

__all__ = ["progress"]

LINE_SECONDS = 30.0
"""How often a line is written if stderr is not a terminal."""


@contextmanager
def progress(output: Output, command: str) -> Iterator[maintenance.OnProgress]:
    """Show a bar on stderr if that is a terminal, else a plain line every 30 s. With `-q`, show nothing."""
    console = Console(stderr=True)
    if output.quiet:
        yield lambda _: None
    elif console.is_terminal and threads.can_start():
        # rich moves the bar in a thread of its own.
        with _bar(console) as on_progress:
            yield on_progress
    else:
        yield _Lines(command).on_progress


@contextmanager
def _bar(console: Console) -> Iterator[maintenance.OnProgress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None, rate="")
        begin = time.monotonic()

        def on_progress(doing: maintenance.Progress) -> None:
            rate = doing.size_bytes / max(0.1, time.monotonic() - begin)
            text = f"{size(rate)}/s" if doing.size_bytes else ""
            bars.update(bar, description=doing.what, completed=doing.done, total=doing.total, rate=text)

        yield on_progress


class _Lines:
    """Prints progress as lines."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.begin = self.last = time.monotonic()

    def on_progress(self, doing: maintenance.Progress) -> None:
        now = time.monotonic()
        if now - self.last < LINE_SECONDS:
            return
        self.last = now
        of = "" if doing.total is None else f" of {doing.total:,}"
        rate = f", {size(doing.size_bytes / (now - self.begin))}/s" if doing.size_bytes else ""
        click.echo(f"{self.command}: {doing.what}: {doing.done:,}{of} states{rate}", err=True)
