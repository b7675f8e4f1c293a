"""`ana pack`, `ana unpack`: small states share files, or have their own again."""

from typing import Any

import click

from ana import maintenance
from ana.cli.common import AGE, DAMAGE, DONE, SIZE, Output, counted, emit, lock_option, printable, store_options
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said
from ana.units import size

__all__ = ["pack", "unpack"]

PACK_EXAMPLES = """\b
Examples:
  ana pack --dry-run
  ana pack --smaller 16k --older 1d

\b
JSON: packed, packed_bytes, files_removed, folders_removed, merged, new_packs,
problems, dry_run.
Exit codes: 0; 4 if damaged states were found, which stay where they are;
11 if other maintenance runs.
"""

UNPACK_EXAMPLES = """\b
Examples:
  ana unpack

\b
JSON: states, size_bytes, packs_removed, problems.
Exit codes: as for ana pack.
"""


@click.command("pack", epilog=PACK_EXAMPLES)
@click.option(
    "--smaller",
    "smaller_bytes",
    type=SIZE,
    metavar="SIZE",
    default="64k",
    show_default=True,
    help="Pack states of at most this raw size; at most 1MiB.",
)
@click.option(
    "--older",
    "older_than_seconds",
    type=AGE,
    metavar="TIME",
    default="10m",
    show_default=True,
    help="Pack states, and merge packs, that were last changed longer ago.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@lock_option
@store_options
@click.pass_obj
def pack(output: Output, /, **options: Any) -> int:
    """Move small states into packs, and small packs into larger ones.

    A pack is one file with many states, so packing frees inodes. Every state
    is verified on the way, and stays readable all the time. Programs of ANA 1
    cannot read a store with packs.

    New states go into packs at once in a store that was made by
    `ana init --pack-bytes`, or with set_dl(pack_bytes=...).
    """
    with progress(output, "ana pack") as on_progress:
        done = maintenance.pack_states(output.store, on_progress=on_progress, **options)
    if output.as_json:
        emit(done)
    elif not output.quiet:
        would = "would go" if options["dry_run"] else "went"
        states = counted(done.packed, "state", "states")
        merged = counted(done.merged, "small pack", "small packs")
        new = "" if options["dry_run"] else f" {counted(done.new_packs, 'new pack', 'new packs')}"
        said(f"{states} ({size(done.packed_bytes)}) and {merged} {would} into{new or ' packs'}")
        said(f"{counted(done.files_removed, 'file', 'files')} and {done.folders_removed:,} folders fewer")
        _tell(done.problems)
    return DAMAGE if done.problems else DONE


@click.command("unpack", epilog=UNPACK_EXAMPLES)
@lock_option
@store_options
@click.pass_obj
def unpack(output: Output, /, lock_seconds: float) -> int:
    """Give each state in a pack a file of its own again, and remove the packs.

    The store no longer packs new states by itself. It needs an inode for each
    state, and one for nearly each folder: see `ana info`.
    """
    with progress(output, "ana unpack") as on_progress:
        done = maintenance.unpack_states(output.store, on_progress=on_progress, lock_seconds=lock_seconds)
    if output.as_json:
        emit(done)
    elif not output.quiet:
        states = counted(done.states, "state", "states")
        packs = counted(done.packs_removed, "pack", "packs")
        said(printable(f"{states} ({size(done.size_bytes)}) have files of their own, {packs} removed"))
        _tell(done.problems)
    return DAMAGE if done.problems else DONE


def _tell(problems: list[maintenance.Problem]) -> None:
    if problems:
        said(problems_table(problems))
