"""`ana report`: a page about a store."""

import click

from ana import maintenance, settings
from ana.cli.common import AGE, DAMAGE, DONE, Output, emit, output_place, said, store_options, warn_of
from ana.cli.progress import progress
from ana.fs import paths

__all__ = ["report"]

EXAMPLES = """\b
Examples:
  ana report -o report.html
  ana report -o report.html --purge-after 30d --jobs numbers
  0 6 * * 1  ana -q -d /shared/pickles report -o /home/me/public/store.html

\b
JSON: path, size_bytes. Exit codes: 0; 1 if the file cannot be written;
4 if states or folders cannot be read (the page is of the rest).
"""


@click.command("report", epilog=EXAMPLES)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where it goes; - is standard output.",
)
@click.option("--purge-after", "purge_after_seconds", type=AGE, metavar="TIME", help="When the site removes old files.")
@click.option(
    "--jobs",
    metavar="DIR",
    envvar=settings.STATS.name,
    type=click.Path(exists=True, file_okay=False),
    help="What the processes of jobs wrote there, with ANA_STATS=DIR.  [default: $ANA_STATS]",
)
@store_options
@click.pass_obj
def report(output: Output, /, path: str, purge_after_seconds: float | None, jobs: str | None) -> int:
    """Write a page about the store: growth, sizes, classes, ages, what it saves.

    With --jobs also where the jobs' states came from, and what was not moved.

    One HTML file that asks nobody for anything: no script, no font, no image
    from elsewhere. Counts exactly, and leaves the sums for `ana stats` and for
    the next page's history. An older page is replaced when the new one is whole.
    """
    problems: list[maintenance.Problem] = []
    with progress(output, "ana report") as on_progress:
        page = maintenance.report(
            output.store, purge_after_seconds=purge_after_seconds, jobs=jobs, on_progress=on_progress, problems=problems
        )
    path, speaks = output_place(path)
    place, data = paths.absolute(path), page.encode("utf-8", "backslashreplace")
    maintenance.write_file(place, data)
    warn_of(problems, output)
    if not speaks:
        return DAMAGE if problems else DONE
    if output.as_json:
        emit({"path": place, "size_bytes": len(data)})
    elif not output.quiet:
        said(f"{place}")
    return DAMAGE if problems else DONE
