"""`ana stats`: the number and size of states in a store."""

from collections.abc import Iterator
from typing import Any

import click

from ana import maintenance, settings
from ana.cli.common import (
    DAMAGE,
    DONE,
    Output,
    age,
    counted,
    emit,
    printable,
    size,
    store_options,
    three_digits,
    warn_of,
)
from ana.cli.jobs import document, jobs_option, show_jobs, view
from ana.cli.outlook import Row, more_tables, outlook
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said, table
from ana.layers import statistics

__all__ = ["stats"]

STATS_EXAMPLES = """\b
Examples:
  ana stats
  ana stats --exact --by class
  ana stats --all
  ana --json stats | jq '.summary.stored_bytes'
  ANA_STATS=numbers srun python job.py; ana stats --jobs numbers
  ana --json stats --jobs numbers | jq .total.spared_bytes

\b
JSON: states, trash, damaged (files set aside), temporaries, foreign, folders,
inodes, packs, packed (states in packs), packs_bytes, summary (taken, states,
raw_bytes, stored_bytes, trash_bytes, references (between states), parts,
holders (of parts), shared_raw_bytes (saved by sharing); by_class, by_age,
by_size and by_user, each a list of name, states, raw_bytes, stored_bytes;
largest: uuid, value, raw_bytes, stored_bytes; null before the first --exact
count), summary_age_seconds, exact, ratio, problems (uuid, name, kind,
reason), growth (free_bytes, total_bytes, free_inodes,
over_days, bytes_per_day, inodes_per_day, full_in_days, full_of: bytes or
inodes; null where unknown), verification (taken, states, checked, size_bytes,
whole_taken, problems, n_problems; null: never saved), with --all also roots
(as ana roots prints them) and collectable (scope, states, size_bytes,
deleted_bytes, young_states, unknown, missing), else null,
jobs (null, or what --jobs prints: docs/observing.md).
Exit codes: 0; 4 if a folder or (with --exact) a header cannot be read.
"""


@click.command("stats", epilog=STATS_EXAMPLES)
@click.option("--exact", is_flag=True, help="Read every header, and save the sums in the store.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="--exact, plus roots, users, the largest states, damage, what gc would free.",
)
@click.option("--by", type=click.Choice(["class", "age", "size", "user"]), help="Group the states.")
@jobs_option
@store_options
@click.pass_obj
def stats(output: Output, /, by: str | None, *, exact: bool, everything: bool, jobs: str | None) -> int:
    """Count states, bytes, inodes, temporary files, trash and damaged files.

    Also shows the free space, when the disk will be full at the growth rate of
    the last month, and what the last ana verify found.

    Counts come from listing each folder once. Sizes come from the last
    --exact count, which reads every header; its age is shown. --by uses that
    count, too. A store of up to 1,000 states needs no --exact. --all takes
    longer: it reads what each root keeps, and makes a dry run of ana gc.

    With --jobs, sums up what jobs stored, loaded and did not have to move. If
    ANA_STATS names a folder of such counts, their sums are shown below those
    of the store.
    """
    if jobs is not None:
        show_jobs(jobs, as_json=output.as_json, quiet=output.quiet)
        return DONE
    with progress(output, "ana stats") as on_progress:
        looked = maintenance.overview(output.store, on_progress=on_progress) if everything else None
        found = looked.stats if looked else maintenance.stats(output.store, exact=exact, on_progress=on_progress)
    growth, last = maintenance.growth(output.store), maintenance.last_verification(output.store)
    done = statistics.summarize(said_jobs) if (said_jobs := settings.STATS.value()) else None
    if output.as_json:
        emit(
            {
                **vars(found),
                "ratio": found.ratio,
                "growth": growth,
                "verification": last,
                "roots": looked.roots if looked else None,
                "collectable": looked.collectable if looked else None,
                "jobs": None if done is None else document(done),
            }
        )
    elif not output.quiet:
        said(_stats_table(found, outlook(growth, last)), *_more(found, looked, by))
        if done is not None:
            said(view(done))
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


def _more(found: maintenance.StoreStats, looked: maintenance.Overview | None, by: str | None) -> Iterator[Any]:
    if found.summary is None:
        yield "Sizes are unknown: run ana stats --exact, which reads every header and saves the sums."
    elif by is not None:
        yield _groups(found.summary, by)
    if looked is not None:
        yield from more_tables(looked)


def _stats_table(found: maintenance.StoreStats, more: list[Row]) -> Any:
    made = table("", "", "", right=(1,))
    made.show_header = False
    summary = found.summary
    rows = [("states", f"{found.states:,}", "")]
    if summary is not None:
        of = "now" if found.exact else f"of {summary.states:,} states, {age(found.summary_age_seconds)} ago"
        smaller = f", {three_digits(found.ratio)} times smaller" if found.ratio is not None else ""
        rows += [("raw", size(summary.raw_bytes), of), ("stored", size(summary.stored_bytes), f"{of}{smaller}")]
        if summary.parts:
            rows += [("parts", f"{summary.parts:,}", f"shared by {counted(summary.holders, 'state', 'states')}")]
        rows += [("in the trash", size(summary.trash_bytes), of)]
    rows += [
        ("inodes", f"{found.inodes:,}", f"{found.folders:,} of them folders"),
        *([("packs", f"{found.packs:,}", _packs(found))] if found.packs else []),
        ("trash", f"{found.trash:,}", "deleted by a later ana gc" if found.trash else ""),
        (
            "temporaries",
            f"{found.temporaries:,}",
            "left by killed writers: ana sweep" if found.temporaries else "",
        ),
        ("set aside", f"{found.damaged:,}", "damaged: .bad-* files" if found.damaged else ""),
        ("foreign", f"{found.foreign:,}", ""),
        *more,
    ]
    for row in rows:
        made.add_row(*row)
    return made


def _packs(found: maintenance.StoreStats) -> str:
    return f"{counted(found.packed, 'state', 'states')}, {size(found.packs_bytes)}"


def _groups(summary: maintenance.StoreSummary, by: str) -> Any:
    made = table(by, "states", "raw", "stored", "share", right=(1, 2, 3, 4))
    for group in getattr(summary, f"by_{by}"):
        share = group.stored_bytes / summary.stored_bytes if summary.stored_bytes else 0
        made.add_row(
            printable(group.name), f"{group.states:,}", size(group.raw_bytes), size(group.stored_bytes), f"{share:.0%}"
        )
    return made
