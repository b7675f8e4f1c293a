"""`ana sweep`: remove what killed writers left behind."""

from typing import Any

import click

from ana import maintenance
from ana.cli.common import AGE, DONE, PARTLY, Output, counted, emit, lock_option, store_options, warn
from ana.cli.tables import said

__all__ = ["sweep"]

SWEEP_EXAMPLES = """\b
Examples:
  ana sweep --dry-run
  ana sweep --older 7d

\b
JSON: removed, kept (may be in use), skipped (files that are not ANA's),
failed (name: reason). Exit codes: 0; 3 if some could not be removed.
"""


@click.command("sweep", epilog=SWEEP_EXAMPLES)
@click.option(
    "--older",
    "older_than_seconds",
    type=AGE,
    metavar="TIME",
    default="2d",
    show_default=True,
    help="Remove temporary files older than this.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@lock_option
@store_options
@click.pass_obj
def sweep(output: Output, /, **options: Any) -> int:
    """Remove temporary files that killed writers left behind.

    Ages are by the file server's clock. No other file is touched. Files that
    are not ANA's are listed.
    """
    found = maintenance.sweep(output.store, **options)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        would = "would be removed" if options["dry_run"] else "removed"
        removed = counted(len(found.removed), "temporary file", "temporary files")
        said(f"{removed} {would}, {len(found.kept):,} may be in use")
        if found.skipped:
            foreign = counted(len(found.skipped), "foreign file", "foreign files")
            said(f"{foreign}, not ANA's: {', '.join(found.skipped[:5])}")
    for name, reason in found.failed.items():
        warn(f"{name}: {reason}")
    return PARTLY if found.failed else DONE
