"""`ana copy`, `ana diff`: between stores."""

import sys

import click

from ana import maintenance
from ana.cli.common import (
    DAMAGE,
    DONE,
    Output,
    counted,
    emit,
    lock_option,
    printable,
    size,
    store_options,
    warn,
    warn_of,
)
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said
from ana.cli.uuid_arguments import given, uuids_argument

__all__ = ["copy", "diff"]

COPY_EXAMPLES = """\b
Examples:
  ana copy experiment-7 --to /backup/pickles
  ana -d /scratch/pickles copy 5f3ac0e1 --to /project/pickles
  ana --json diff /backup/pickles | jq -r '.only_here[]' |
    ana copy --to /backup/pickles --from-file -

\b
JSON: to, uuids (as requested), found (a number, with all they refer to),
copied (UUIDs), present, size_bytes, roots (kept there now, too), problems.
Exit codes: 0; 4 if some were not copied, because they are missing or damaged,
could not be written, or the other store has other content under their UUIDs;
11 if other maintenance of the other store runs.
"""

DIFF_EXAMPLES = """\b
Examples:
  ana diff /backup/pickles
  ana -q diff /backup/pickles || ana copy experiment-7 --to /backup/pickles

\b
Each line is "<" and a UUID that only this store has, ">" and one that only
the other store has, or "!" and one with other content there. Roots are listed
in the same way, as "< root NAME".
JSON: other, both (a number), only_here, only_there, differing (UUIDs),
roots_only_here, roots_only_there, roots_differing (names), problems.
Exit codes: 0; 4 if the other store lacks states or roots that this one has,
or has other content or another root in their place.
"""


@click.command("copy", epilog=COPY_EXAMPLES)
@uuids_argument
@click.option("--to", metavar="STORE", required=True, type=click.Path(file_okay=False), help="The other store.")
@lock_option
@store_options
@click.pass_obj
def copy(
    output: Output, /, to: str, from_file: str | None, *, uuids: tuple[str, ...], null: bool, lock_seconds: float
) -> int:
    """Copy states, and all that they refer to, to another store.

    Every state is verified before it is copied, and again in the other store.
    Children come first, and what the other store has is not copied again, so
    an interrupted copy can be run again. This store is only read. The other
    one is created if needed. If it has a key, the copies are signed with it.

    Name states by UUIDs, unique prefixes of UUIDs, or names of roots. A root
    is kept in the other store, too. Its time to live starts anew there.
    """
    names = given(uuids, from_file, null=null)
    with progress(output, "ana copy") as on_progress:
        found = maintenance.copy_states(output.store, names, to, on_progress=on_progress, lock_seconds=lock_seconds)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        total = counted(found.found, "state", "states")
        said(printable(f"{len(found.copied):,} of {total} copied to {found.to}, {size(found.size_bytes)}"))
        said(f"{found.present:,} already there; {counted(len(found.roots), 'root', 'roots')} kept there")
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


@click.command("diff", epilog=DIFF_EXAMPLES)
@click.argument("other", metavar="STORE", type=click.Path(exists=True, file_okay=False))
@store_options
@click.pass_obj
def diff(output: Output, /, other: str) -> int:
    """Compare the states and roots of this store with those of another one.

    States are compared by their UUIDs, which stand for their content. If a
    program chose a UUID, the digests in the headers are compared. No content
    is read: `ana verify` does that. Neither store is changed.
    """
    with progress(output, "ana diff") as on_progress:
        found = maintenance.diff(output.store, other, on_progress=on_progress)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        _lines(found)
    elif found.lacks:
        # With -q, the only sign of it besides the exit code.
        warn(f"{printable(found.other)} lacks states or roots of this store, or has others in their place")
    warn_of(found.problems, output)
    return DAMAGE if found.lacks or found.problems else DONE


def _lines(found: maintenance.Difference) -> None:
    for mark, names in (
        ("<", found.only_here),
        (">", found.only_there),
        ("!", found.differing),
        ("< root", found.roots_only_here),
        ("> root", found.roots_only_there),
        ("! root", found.roots_differing),
    ):
        sys.stdout.writelines(f"{mark} {printable(name)}\n" for name in names)
    parts = [f"{found.both:,} in both", f"{len(found.only_here):,} only here", f"{len(found.only_there):,} only there"]
    said(", ".join([*parts, f"{len(found.differing):,} different"]))
