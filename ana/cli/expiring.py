"""`ana expiring`: what a scratch filesystem will purge next."""

from typing import Any

import click

from ana import maintenance
from ana.cli.common import AGE, DAMAGE, DONE, Output, counted, emit, printable, size, store_options, warn, warn_of
from ana.cli.progress import progress
from ana.cli.tables import said, table
from ana.units import age

__all__ = ["expiring"]

EXAMPLES = """\b
Examples:
  ana expiring --purge atime:30d
  ana expiring --purge mtime:90d --within 14d
  ana -q expiring --purge atime:60d   # every day, from cron

\b
JSON: by, age_seconds, within_seconds, now, files (all), roots (a list of
name, files, size_bytes, first_goes, last_goes, due, soon, soon_bytes; soon:
by the end of --within; the last has the name "", for what no root needs),
untold (what is missing in roots, and why), problems. Times are in s since
1970, and as ISO 8601 under the same name with _iso.
Exit codes: 0; 4 if a root loses a file by the end of --within, or something
cannot be read, so that a root may.
"""


def _purge(text: str) -> maintenance.Purge:
    """Parse a rule: atime:30d."""
    by, colon, said = text.partition(":")
    if by not in maintenance.TIMES or not colon:
        msg = f"{text!r} is not a rule: use {', '.join(f'{name}:30d' for name in maintenance.TIMES)}."
        raise click.BadParameter(msg)
    return maintenance.Purge(by, AGE(said))


@click.command("expiring", epilog=EXAMPLES)
@click.option(
    "--purge",
    metavar="RULE",
    required=True,
    type=_purge,
    help="The filesystem's rule: which time of a file counts (atime, mtime or ctime), a colon, and an age.",
)
@click.option(
    "--within",
    "within_seconds",
    type=AGE,
    metavar="TIME",
    default="7d",
    show_default=True,
    help="How far to look ahead.",
)
@click.option("--read", is_flag=True, help="Tell roots apart even where reading a file may count as using it.")
@store_options
@click.pass_obj
def expiring(output: Output, /, purge: maintenance.Purge, **options: Any) -> int:
    """List what a scratch filesystem will purge next, by root.

    No file looks used afterwards: headers are read in a way that the purge
    does not notice. If that is not possible (for example, a purge by atime on
    NFS), roots are not told apart.

    To save a root, copy it elsewhere (`ana copy`), or ask your site to extend
    the time. docs/operating.md has more.
    """
    with progress(output, "ana expiring") as on_progress:
        found = maintenance.expiring(output.store, purge, on_progress=on_progress, **options)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        _tell(found)
    at_risk = [each for each in found.roots if each.name and each.soon]
    if at_risk and not output.as_json:
        count = counted(len(at_risk), "root loses", "roots lose")
        warn(f"{count} files within {age(found.within_seconds)} (first: {at_risk[0].name})")
    warn_of(found.problems, output)
    return DAMAGE if at_risk or found.problems else DONE


def _tell(found: maintenance.Expiring) -> None:
    within = f"within {age(found.within_seconds)}"
    made = table("root", "files", "size", "first goes", "last goes", within, right=(1, 2, 5))
    for each in [*(root for root in found.roots if root.name or root.files), found.files]:
        name = printable(each.name) or ("all states" if each is found.files else "no root")
        soon = f"{each.soon:,}" if each.soon else ""
        times = (_when(each.first_goes, found.now), _when(each.last_goes, found.now))
        made.add_row(name, f"{each.files:,}", size(each.size_bytes), *times, soon)
    said(made)
    if found.untold:
        said(found.untold)


def _when(goes: float | None, now: float) -> str:
    if goes is None:
        return ""
    return f"in {age(goes - now)}" if goes > now else "due"
