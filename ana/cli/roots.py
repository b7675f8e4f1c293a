"""`ana keep`, `ana extend`, `ana forget`, `ana roots`: the states that no collection takes."""

import click

from ana import maintenance
from ana.cli.common import (
    AGE,
    DAMAGE,
    DONE,
    Output,
    counted,
    emit,
    name_or_uuid,
    printable,
    size,
    store_options,
    warn,
    warn_of,
)
from ana.cli.completion import roots as root_names
from ana.cli.outlook import root_end
from ana.cli.tables import problems_table, said, table, when
from ana.cli.uuid_arguments import given, uuids_argument

__all__ = ["extend", "forget", "keep", "roots"]

_ttl_option = click.option("--ttl", type=AGE, metavar="TIME", help="How long the root keeps them, for example 14d.")

KEEP_EXAMPLES = """\b
Examples:
  ana keep experiment-7 5f3ac0e1 77b0c1d2
  ana keep sweep-7 5f3ac0e1 --ttl 14d
  ana ls --class '^paper[.]' -0 | ana keep paper -0 --from-file -

\b
From Python: ana.get_dl().keep("experiment-7", model, mesh)

\b
JSON: name, uuids, problems (missing or damaged states that they refer to),
until (null: it does not end).
Exit codes: 0; 4 if a state is missing or damaged.
"""


EXTEND_EXAMPLES = """\b
Examples:
  ana extend sweep-7
  ana extend sweep-7 --ttl 30d

\b
JSON: name, until (null: it does not end), problems (missing or damaged
states).
Exit codes: 0; 4 if there is no such root, or a state is missing or damaged.
"""


FORGET_EXAMPLES = """\b
Examples:
  ana forget experiment-7

\b
JSON: name, entries. Exit codes: 0; 4 if there is no such root.
"""


ROOTS_EXAMPLES = """\b
Examples:
  ana roots
  ana roots --json | jq -r 'select(.missing != []) | .name'

\b
JSON: a line for each root with name, uuids, since, by, missing, until (null:
it does not end), ended, states (with all that they refer to), size_bytes,
processes (that keep what they store under it).
Exit codes: 0; 4 if a kept state is missing, or a root's file cannot be
read.
"""


@click.command("keep", epilog=KEEP_EXAMPLES)
@click.argument("name", type=name_or_uuid, shell_complete=root_names)
@uuids_argument
@_ttl_option
@store_options
@click.pass_obj
def keep(
    output: Output, /, name: str, from_file: str | None, ttl: float | None, *, uuids: tuple[str, ...], null: bool
) -> int:
    """Keep states, and all that they refer to, from every collection.

    The states are added to those that NAME keeps already. Name them by UUIDs,
    unique prefixes of UUIDs, or names of other roots. States in the trash are
    restored. With --ttl, the root ends that long after the last time that
    it was extended or added to, with all that it keeps. Without --ttl, it has
    no end, even if it had one before.
    """
    found = maintenance.keep(output.store, name, given(uuids, from_file, null=null), ttl=ttl)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(
            f"{printable(name)}: kept {counted(len(found.uuids), 'state', 'states')} and all that they refer to"
            f"{_until(found.until)}"
        )
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


@click.command("extend", epilog=EXTEND_EXAMPLES)
@click.argument("name", type=name_or_uuid, shell_complete=root_names)
@_ttl_option
@store_options
@click.pass_obj
def extend(output: Output, /, name: str, ttl: float | None) -> int:
    """Extend a root: its time to live starts again now.

    A root that has ended can be extended until a collection removes it. Its
    states are restored from the trash. --ttl sets a longer time to live; a
    shorter one has no effect.
    """
    found = maintenance.extend(output.store, name, ttl=ttl)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{printable(name)}: {'kept' if found.until else 'has no end'}{_until(found.until)}")
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


def _until(until: float | None) -> str:
    return "" if until is None else f", until {when(until)}"


@click.command("forget", epilog=FORGET_EXAMPLES)
@click.argument("name", type=name_or_uuid, shell_complete=root_names)
@store_options
@click.pass_obj
def forget(output: Output, /, name: str) -> int:
    """Remove a root.

    Its states stay in the store until a collection takes them.
    """
    entries = maintenance.forget(output.store, name)
    if output.as_json:
        emit({"name": name, "entries": entries})
    elif not output.quiet:
        said(f"{printable(name)}: removed; a collection may take its states")
    return DONE


@click.command("roots", epilog=ROOTS_EXAMPLES)
@store_options
@click.pass_obj
def roots(output: Output, /) -> int:
    """List the roots: states, size, when they end, and who added to them.

    States and bytes include all that is referred to, so their headers are
    read. States that several roots keep count for each.
    """
    unreadable: list[maintenance.Problem] = []
    found = maintenance.roots(output.store, problems=unreadable)
    for wrong in unreadable:
        warn(f"{wrong.name}: {wrong.reason}")
    if output.as_json:
        for root in found:
            emit(root, one_line=True)
    elif not output.quiet and found:
        # Without this column, a line fits into 80 columns.
        missing_column = ["missing"] if any(root.missing for root in found) else []
        made = table(
            "name", "states", "size", *missing_column, "until", "by", right=(1, 2, *([3] * len(missing_column)))
        )
        for root in found:
            sizes = [f"{root.states:,}", size(root.size_bytes), *(str(len(root.missing) or "") for _ in missing_column)]
            made.add_row(printable(root.name), *sizes, root_end(root), root.by)
        said(made)
    missing = [root.name for root in found if root.missing]
    if missing and not output.as_json:
        warn(f"{counted(len(missing), 'root', 'roots')} with missing states (first: {missing[0]})")
    return DAMAGE if missing or unreadable else DONE
