"""`ana verify`: check every byte."""

from typing import Any

import click
from rich.text import Text

from ana import maintenance
from ana.cli.common import AGE, DAMAGE, DONE, Output, counted, emit, lock_option, share, size, store_options, warn_of
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said

__all__ = ["verify"]

VERIFY_EXAMPLES = """\b
Examples:
  ana verify
  ana verify --sample 5%
  ana verify --older 30d --json
  ana verify --repair-from /backup/pickles
  ana verify --set-aside

\b
JSON: states, checked, size_bytes, problems (uuid, name, kind: damaged,
missing or failed, reason), repaired (UUIDs), set_aside (files).
Exit codes: 0; 4 if a state is damaged, missing or cannot be read, and was
not repaired.
"""


@click.command("verify", epilog=VERIFY_EXAMPLES)
@click.option(
    "--sample", type=share, metavar="P%", default="100%", help="Read only this share of the states, chosen at random."
)
@click.option("--older", "older_than_seconds", type=AGE, metavar="TIME", help="Only states older than this.")
@click.option(
    "--repair-from",
    metavar="STORE",
    type=click.Path(exists=True, file_okay=False),
    help="Copy damaged and missing states from another store.",
)
@click.option(
    "--set-aside", is_flag=True, help="Rename damaged files to .bad-…, so that programs store the states again."
)
@lock_option
@store_options
@click.pass_obj
def verify(output: Output, /, **options: Any) -> int:
    """Read every byte of every state, and check its digests.

    Also checks that no state refers to a missing one. Changes no state without
    --repair-from or --set-aside, and saves what it found for ana stats and
    ana report, where it may write. A damaged file is never deleted: it is
    renamed, and a program that has the object stores it again. The other
    store is only read.
    """
    with progress(output, "ana verify") as on_progress:
        found = maintenance.verify(output.store, on_progress=on_progress, **options)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{found.checked:,} of {counted(found.states, 'state', 'states')} read, {size(found.size_bytes)}")
        for text, names in (("repaired", found.repaired), ("set aside", found.set_aside)):
            if names:
                said(f"{text}: {len(names):,}")
        said(problems_table(found.problems) if found.problems else Text("No problems found.", "green"))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE
