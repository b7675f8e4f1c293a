"""`ana keep`, `ana forget`, `ana roots`: the states that no collection takes."""

import click

from ana import maintenance
from ana.cli.common import DAMAGE, DONE, Output, counted, emit, name_or_uuid, printable, store_options, warn, warn_of
from ana.cli.completion import roots as root_names
from ana.cli.tables import problems_table, said, table, when
from ana.cli.uuid_arguments import given, uuids_argument

__all__ = ["forget", "keep", "roots"]

KEEP_EXAMPLES = """\b
Examples:
  ana keep experiment-7 5f3ac0e1 77b0c1d2
  ana ls --class '^paper[.]' -0 | ana keep paper -0 --from-file -
  python: ana.get_dl().keep("experiment-7", model, mesh)

\b
JSON: name, uuids, problems (missing or damaged states that they refer to).
Exit codes: 0; 4 if a state is missing or damaged.
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
JSON: a line for each root with name, uuids, since, by, missing.
Exit codes: 0; 4 if a kept state is missing, or a root's file cannot be
read.
"""


@click.command("keep", epilog=KEEP_EXAMPLES)
@click.argument("name", type=name_or_uuid, shell_complete=root_names)
@uuids_argument
@store_options
@click.pass_obj
def keep(output: Output, /, name: str, from_file: str | None, *, uuids: tuple[str, ...], null: bool) -> int:
    """Keep states, and all that they refer to, from every collection.

    The states are added to those that NAME keeps already. A unique prefix of
    a UUID is enough. States in the trash are brought back.
    """
    found = maintenance.keep(output.store, name, given(uuids, from_file, null=null))
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{printable(name)}: kept {counted(len(found.uuids), 'state', 'states')} and all that they refer to")
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


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
    """List the roots: name, number of states, since when, by whom."""
    unreadable: list[maintenance.Problem] = []
    found = maintenance.roots(output.store, problems=unreadable)
    for wrong in unreadable:
        warn(f"{wrong.name}: {wrong.reason}")
    if output.as_json:
        for root in found:
            emit(root, one_line=True)
    elif not output.quiet and found:
        made = table("name", "states", "missing", "since", "by", right=(1, 2))
        for root in found:
            made.add_row(
                printable(root.name), f"{len(root.uuids):,}", str(len(root.missing) or ""), when(root.since), root.by
            )
        said(made)
    missing = [root.name for root in found if root.missing]
    if missing and not output.as_json:
        warn(f"{counted(len(missing), 'root', 'roots')} with missing states (first: {missing[0]})")
    return DAMAGE if missing or unreadable else DONE
