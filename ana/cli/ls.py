"""`ana ls`: list states."""

import re
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click

from ana import maintenance
from ana.cli.common import (
    AGE,
    DAMAGE,
    DONE,
    SIZE,
    Output,
    age,
    emit,
    printable,
    size,
    store_options,
    value_of,
    warn_of,
)

__all__ = ["ls"]

LS_EXAMPLES = """\b
Examples:
  ana ls --class '^mypackage[.]mesh:' --larger 100M
  ana ls --older 30d --sort size -n 20
  ana ls --older 90d -0 | ana keep old-ones -0 --from-file -
  ana ls --json | jq -r 'select(.children == 0) | .uuid'

\b
JSON: a line for each state with uuid, class_name, size_bytes (of its file, or
of its record in a pack), raw_bytes, children (how many), age_seconds, name
(its file, or the one it would have), problem, pack (its file name, or ""),
summary (of a Ref: its value's type and shape, or "").
Exit codes: 0; 4 if a state's header or a folder cannot be read.
"""


SORTS: dict[str, Callable[[maintenance.StateInfo], Any]] = {
    "age": lambda state: -state.age_seconds,
    "size": lambda state: -state.size_bytes,
    "class": lambda state: (state.class_name, state.uuid),
    "uuid": lambda state: state.uuid,
}


@click.command("ls", epilog=LS_EXAMPLES)
@click.option("--class", "class_pattern", metavar="REGEX", help="Only states whose class (module:Class) matches.")
@click.option("--larger", "larger_than", type=SIZE, metavar="SIZE", help="Only files larger than this.")
@click.option("--smaller", "smaller_than", type=SIZE, metavar="SIZE", help="Only files smaller than this.")
@click.option("--older", "older_than_seconds", type=AGE, metavar="TIME", help="Only states older than this.")
@click.option("--newer", "newer_than_seconds", type=AGE, metavar="TIME", help="Only states newer than this.")
@click.option("--sort", "sort", type=click.Choice(list(SORTS)), help="Order: oldest or largest first, or by name.")
@click.option("-n", "--limit", "number", type=click.IntRange(1), metavar="N", help="At most N states.")
@click.option(
    "-0", "--null", "null", is_flag=True, help="Print only UUIDs, each followed by NUL: for --from-file and xargs -0."
)
@store_options
@click.pass_obj
def ls(output: Output, /, sort: str | None, number: int | None, *, null: bool, **filters: Any) -> int:
    """List the states: UUID, size, age, and class or value.

    Without --sort, states come in the order of their folders, then those in
    packs. A Ref shows its value's type and shape. All filters must match.
    A state's age counts from when it was stored (or restored from the
    trash), by this host's clock. Sizes: 500k, 20M, 1G (powers of 1000), 4Mi
    (of 1024). Times: 90s, 45m, 12h, 30d, 8w, 1y. Reads the header of each
    state.
    """
    try:
        found = maintenance.ls(output.store, **filters)
    except re.error as error:
        msg = f"{filters['class_pattern']!r}: {error}"
        raise click.BadParameter(msg, param_hint="--class") from None
    states: Iterator[maintenance.StateInfo] = found if sort is None else iter(sorted(found, key=SORTS[sort]))
    damaged = 0
    unlisted: list[maintenance.Problem] = []
    if sys.stdout.isatty() and not (output.quiet or output.as_json or null):
        click.secho(f"{'UUID':<36}  {'size':>8}  {'age':>8}  class or value", bold=True)
    for state in islice(states, number):
        damaged += state.problem is not None
        if state.problem is not None and not state.uuid:
            unlisted.append(state.problem)
        _print(output, state, null=null)
    warn_of(unlisted, output)
    return DAMAGE if damaged else DONE


def _print(output: Output, state: maintenance.StateInfo, *, null: bool) -> None:
    if null and state.uuid:
        sys.stdout.buffer.write(state.uuid.encode("utf-8", "surrogatepass") + b"\0")
    elif output.as_json:
        emit(state, one_line=True)
    elif not (output.quiet or null) and state.uuid:
        what = value_of(state) if state.problem is None else f"({state.problem.kind})"
        line = f"{state.uuid:<36}  {size(state.size_bytes):>8}  {age(state.age_seconds):>8}  {what}"
        # Not `click.echo`, which flushes each line.
        sys.stdout.write(f"{printable(line)}\n")
