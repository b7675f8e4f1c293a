"""`ana report`: a page about a store."""

import click

from ana import maintenance, settings
from ana.cli.common import AGE, DAMAGE, DONE, Output, emit, file_option, output_place, store_options, warn_of
from ana.cli.progress import progress
from ana.cli.tables import said
from ana.fs import paths

__all__ = ["report"]

EXAMPLES = """\b
Examples:
  ana report -o report.html
  ana report -o report.html --purge-after 30d --jobs numbers
  ana -q report -o /home/me/public/store.html   # every week, from cron

\b
JSON: path, size_bytes. Exit codes: 0; 1 if the file cannot be written;
4 if states or folders cannot be read (the page shows the rest).
"""


@click.command("report", epilog=EXAMPLES)
@file_option
@click.option(
    "--purge-after",
    "purge_after_seconds",
    type=AGE,
    metavar="TIME",
    help="Age at which the site removes files. Older states are highlighted.",
)
@click.option(
    "--jobs",
    metavar="DIR",
    envvar=settings.STATS.name,
    type=click.Path(exists=True, file_okay=False),
    help="Add the counts that jobs wrote to DIR.  [default: $ANA_STATS]",
)
@store_options
@click.pass_obj
def report(output: Output, /, path: str, purge_after_seconds: float | None, jobs: str | None) -> int:
    """Write an HTML page about the store.

    It shows growth, when the disk will be full, roots with their ends, the
    largest states, what ana gc would free, known damage, classes, users, ages.

    With --jobs, also shows where jobs got their states from, and which bytes
    did not have to be moved.

    The page is one self-contained file: no scripts, and no fonts or images
    from elsewhere. Reads every header, makes a dry run of ana gc, and saves
    the sums for `ana stats` and for the history on the next page. An older
    page is replaced once the new one is complete.
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
