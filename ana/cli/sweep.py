"""`ana sweep`: what killed writers left behind."""

from typing import Any

import click

from ana import maintenance
from ana.cli.common import (
    AGE,
    DONE,
    PARTLY,
    Output,
    emit,
    lock_option,
    said,
    store_options,
    warn,
)

__all__ = ["sweep"]

SWEEP_EXAMPLES = """\b
Examples:
  ana sweep --dry-run
  ana sweep --older 7d

\b
JSON: removed, kept (young enough to be in use), skipped (no business of a
store), failed (name: reason). Exit codes: 0; 3 if some could not be removed.
"""


@click.command("sweep", epilog=SWEEP_EXAMPLES)
@click.option(
    "--older",
    "older_than_seconds",
    type=AGE,
    metavar="TIME",
    default="2d",
    show_default=True,
    help="How old a temporary file is that no writer uses any more.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@lock_option
@store_options
@click.pass_obj
def sweep(output: Output, /, **options: Any) -> int:
    """Remove the temporary files that killed writers have left.

    Their age is by the clock of the file server. Nothing else is touched; what
    is no business of a store is listed.
    """
    found = maintenance.sweep(output.store, **options)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        would = "would be removed" if options["dry_run"] else "removed"
        said(f"{len(found.removed):,} temporary files {would}, {len(found.kept):,} may be in use")
        if found.skipped:
            said(f"{len(found.skipped):,} files are no business of a store: {', '.join(found.skipped[:5])}")
    for name, reason in found.failed.items():
        warn(f"{name}: {reason}")
    return PARTLY if found.failed else DONE
