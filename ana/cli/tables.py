"""Tables for people. Imported by the commands that print some, because rich takes time to import."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from ana import maintenance
from ana.cli.common import printable

__all__ = ["problems_table", "said", "table", "when"]

_MANY = 20


def said(*things: object) -> None:
    """Print tables and lines to standard output."""
    console = _Console(soft_wrap=not sys.stdout.isatty())
    for thing in things:
        console.print(thing)


class _Console(Console):
    """A console that escapes control characters, except those that rich itself sends to terminals."""

    def __init__(self, **options: Any) -> None:
        # No markup: names come from users and headers.
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape control characters in what is printed."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text, lines=True), style, control)


def table(*columns: str, right: Sequence[int] = (), whole: Sequence[int] = ()) -> Table:
    """Return an empty table. `right`: the indexes of right-aligned columns; `whole`: of those that never wrap."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for number, name in enumerate(columns):
        side: Literal["left", "right"] = "right" if number in right else "left"
        made.add_column(name, justify=side, overflow="fold", no_wrap=number in whole)
    return made


def problems_table(problems: Sequence[maintenance.Problem]) -> Table:
    """Return a table of the first problems."""
    made = table("wrong", "state", "why", whole=(1,))
    for wrong in problems[:_MANY]:
        made.add_row(wrong.kind, printable(wrong.uuid or wrong.name), printable(wrong.reason))
    if len(problems) > _MANY:
        made.add_row("", f"and {len(problems) - _MANY:,} more (--json lists all)", "")
    return made


def when(seconds: float) -> str:
    """Return the date and time of a Unix timestamp, in UTC."""
    return maintenance.date(seconds, "%Y-%m-%d %H:%M:%S UTC")
