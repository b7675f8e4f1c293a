"""`ana why`, `ana rm`: what keeps a state, and removing one that nothing needs."""

from functools import partial

import click

from ana import maintenance
from ana.cli.common import (
    AGE,
    DAMAGE,
    DONE,
    FAILED,
    PARTLY,
    Output,
    counted,
    emit,
    lock_option,
    name_or_uuid,
    printable,
    size,
    store_options,
    warn,
    warn_of,
)
from ana.cli.completion import uuids as complete
from ana.cli.progress import progress
from ana.cli.tables import said, when
from ana.cli.uuid_arguments import given, uuids_argument
from ana.units import duration

__all__ = ["rm", "why"]

WHY_EXAMPLES = """\b
Examples:
  ana why 5f3ac0e1
  ana --json why 5f3ac0e1 | jq '.reasons[].root'

\b
JSON: uuid, reasons (kind: root or age; root; until; path: UUIDs from the
state that the root names, or that is young, down to this one), referred_by,
in_trash, trashed, problems.
Exit codes: 0; 2 if the prefix is ambiguous; 4 if there is no such state, or a
state that may refer to it cannot be read.
"""

RM_EXAMPLES = """\b
Examples:
  ana rm 5f3ac0e1
  ana ls --class '^scratch[.]' -0 | ana rm -0 --from-file -

\b
JSON: uuids, size_bytes, failed (UUID: reason), dry_run.
Exit codes: 0; 1 if nothing was removed, because a state is needed or the
system refused; 3 if some could not be moved; 4 if there is no such state; 11
if other maintenance runs.
"""


@click.command("why", epilog=WHY_EXAMPLES)
@click.argument("uuid", type=name_or_uuid, shell_complete=complete)
@click.option(
    "--grace",
    "grace_seconds",
    type=AGE,
    metavar="TIME",
    default="24h",
    show_default=True,
    help="The grace period of your ana gc runs.",
)
@store_options
@click.pass_obj
def why(output: Output, /, uuid: str, grace_seconds: float) -> int:
    """Show what keeps a state from being collected, and until when.

    Names each root that keeps the state, and the youngest state that refers
    to it, with the states in between. Reads the headers of all states. A unique
    prefix of the UUID is enough.
    """
    store = output.store
    with progress(output, "ana why") as on_progress:
        found = maintenance.why(store, uuid, grace_seconds=grace_seconds, on_progress=on_progress)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        for line in _lines(found, max(grace_seconds, store.config.ttl_seconds)):
            said(printable(line))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


def _lines(found: maintenance.Why, young_seconds: float) -> list[str]:
    if found.trashed is not None:
        lines = [f"{found.uuid}", f"in the trash since {when(found.trashed)}; reading it restores it"]
    else:
        lines = [found.uuid]
    for reason in found.reasons:
        if reason.kind == "root":
            end = "which has no end" if reason.until is None else f"until {when(reason.until)}"
            lines.append(f"kept by the root {reason.root}, {end}")
        else:
            what = "it is" if len(reason.path) == 1 else "a state that leads to it is"
            lines.append(f"{what} younger than {duration(young_seconds)}, until {when(reason.until or 0)}")
        if len(reason.path) > 1:
            lines += [f"{'  ' * min(depth, 20)}{key}" for depth, key in enumerate(reason.path, 1)]
    if not found.reasons:
        lines.append("nothing keeps it: a collection may take it")
        lines += [f"  {key} refers to it, and may go, too" for key in found.referred_by[:20]]
    return lines


@click.command("rm", epilog=RM_EXAMPLES)
@partial(uuids_argument, metavar="[UUID]...")
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@lock_option
@store_options
@click.pass_obj
def rm(
    output: Output,
    /,
    uuids: tuple[str, ...],
    from_file: str | None,
    *,
    null: bool,
    dry_run: bool,
    lock_seconds: float,
) -> int:
    """Move states that nothing else needs to the trash, whatever their age.

    If other states refer to them, or a root names them, refuses and shows
    which. ana gc deletes them after the grace period. Until then, reading one
    restores it. What they refer to stays until ana gc collects it. Reads
    the headers of all states.
    """
    keys = given(uuids, from_file, null=null)
    with progress(output, "ana rm") as on_progress:
        done = maintenance.remove(
            output.store, keys, dry_run=dry_run, on_progress=on_progress, lock_seconds=lock_seconds
        )
    if output.as_json:
        emit(done)
    elif not output.quiet:
        moved = "would be moved" if dry_run else "moved"
        said(f"{moved} to the trash: {counted(len(done.uuids), 'state', 'states')}, {size(done.size_bytes)}")
        if done.uuids and not dry_run:
            said("a gc run deletes them once they have been there for its grace period; until then, reads restore")
    for key, reason in list(done.failed.items())[:20]:
        warn(f"{key}: {reason}")
    if done.failed:
        return PARTLY if done.uuids else FAILED
    return DONE
