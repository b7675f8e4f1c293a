"""`ana info`, `ana stats`, `ana verify`, `ana sweep`: how a store is."""

from typing import Any

import click
from rich.text import Text

from ana import maintenance, settings
from ana.cli.common import (
    AGE,
    DAMAGE,
    DONE,
    PARTLY,
    Output,
    age,
    emit,
    lock_option,
    printable,
    problems_table,
    progress,
    said,
    share,
    size,
    store_options,
    table,
    three_digits,
    warn,
    warn_of,
)
from ana.cli.jobs import document, jobs_option, show_jobs, view
from ana.layers import statistics

__all__ = ["info", "stats", "sweep", "verify"]

INFO_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles info
  ana -d /mnt/a/pickles info --other /mnt/b/pickles
  ana --json info | jq '.findings[] | select(.kind == "unsafe")'

\b
JSON: source (what said where the store is), path, host, format, levels,
store_id, mode, keyed, filesystem, mount_point, mount_source, mount_options,
network, writable, hard_links, fsync_seconds, lock, other, lock_other ("" if
locks work), clock_difference_seconds, total_bytes, free_bytes, total_inodes,
free_inodes, quota, findings (kind: unsafe, slow or note; what; cure).
null: it could not be tried. Exit codes: 0, 10.
"""

STATS_EXAMPLES = """\b
Examples:
  ana stats
  ana stats --exact --by class
  ana --json stats | jq '.summary.stored_bytes'
  ANA_STATS=numbers srun python job.py; ana stats --jobs numbers
  ana --json stats --jobs numbers | jq .total.spared_bytes

\b
JSON: states, trash, damaged (files set aside), temporaries, foreign, folders,
inodes, summary (taken, states, raw_bytes, stored_bytes, trash_bytes,
by_class, by_age, by_size; null if nobody has counted yet),
summary_age_seconds, exact, ratio, problems (uuid, name, kind, reason),
jobs (null, or what --jobs prints: docs/observing.md).
Exit codes: 0; 4 if folders, or (with --exact) headers, cannot be read.
"""

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
Exit codes: 0; 4 if something is damaged, missing or cannot be read, and was
not repaired.
"""

SWEEP_EXAMPLES = """\b
Examples:
  ana sweep --dry-run
  ana sweep --older 7d

\b
JSON: removed, kept (young enough to be in use), skipped (no business of a
store), failed (name: reason). Exit codes: 0; 3 if some could not be removed.
"""


@click.command("info", epilog=INFO_EXAMPLES)
@click.option("--other", metavar="DIR", type=click.Path(file_okay=False), help="The same store by another mount.")
@store_options
@click.pass_obj
def info(output: Output, /, other: str | None) -> int:
    """Say where the store is, what it lies on, and what makes it slow or unsafe, with the cure.

    Tries hard links, fsync, locks and clocks with temporary files. With
    --other, also whether a lock that is held by one mount excludes by the
    other: mount the folder twice, or share one mount over ssh.
    """
    found = maintenance.info(output.store, other=other)
    source = output.place[1]
    if output.as_json:
        emit({"source": source, **vars(found)})
    elif not output.quiet:
        said(_info_table(found, source))
        for finding in found.findings:
            colour = {"unsafe": "bold red", "slow": "yellow"}.get(finding.kind, "cyan")
            said(Text.assemble((f"{finding.kind}: ", colour), finding.what, (f"\n  {finding.cure}", "dim")))
        if not found.findings:
            said(Text("nothing is wrong with it", "green"))
    return DONE


def _info_table(found: maintenance.Information, source: str) -> Any:
    made = table("", "")
    made.show_header = False
    skew = found.clock_difference_seconds
    inodes = "not counted"
    if found.total_inodes and found.free_inodes is not None:
        inodes = f"{found.free_inodes:,} of {found.total_inodes:,} free"
    rows = [
        ("store", f"{found.path} (said by {source})"),
        ("host", found.host),
        ("format", f"{found.format}, {found.levels} folder levels, id {found.store_id}"),
        ("trust", f"mode {found.mode}, {'signed with a key' if found.keyed else 'no key'}"),
        (
            "filesystem",
            f"{found.filesystem or 'unknown'} from {found.mount_source or '?'} at {found.mount_point or '?'}",
        ),
        ("mounted", found.mount_options),
        ("hard links", _word(found.hard_links)),
        ("fsync", "not tried" if found.fsync_seconds is None else f"{found.fsync_seconds * 1000:.2g} ms"),
        ("locks", _lock(found.lock)),
        ("clock", "not tried" if skew is None else "as this host's" if not skew else f"{skew:+.2f} s"),
        ("space", f"{size(found.free_bytes)} of {size(found.total_bytes)} free"),
        ("inodes", inodes),
    ]
    rows += [("locks, two mounts", _lock(found.lock_other))] if found.other else []
    rows += [("quota", found.quota)] if found.quota else []
    for name, value in rows:
        made.add_row(Text(name, "dim"), Text(value))
    return made


def _word(answer: bool | None) -> str:  # noqa: FBT001 - a word for a truth value
    return "not tried" if answer is None else "yes" if answer else "no"


def _lock(wrong: str | None) -> str:
    return "not tried" if wrong is None else wrong or "exclude"


@click.command("stats", epilog=STATS_EXAMPLES)
@click.option("--exact", is_flag=True, help="Read every header, and leave the sums for others.")
@click.option("--by", type=click.Choice(["class", "age", "size"]), help="Split the states up.")
@jobs_option
@store_options
@click.pass_obj
def stats(output: Output, /, by: str | None, *, exact: bool, jobs: str | None) -> int:
    """Count what is in the store: states, bytes, inodes, temporaries, trash, damaged.

    Counts come from one listing of each folder. Sizes would need a look at
    every file: they are those of the last --exact count, whose age is shown.
    --by is of that count, too.

    With --jobs, sums up what the processes of jobs did instead: stored,
    loaded, spared. Where the environment's ANA_STATS names a folder of such
    numbers, their sums are shown below the store's.
    """
    if jobs is not None:
        show_jobs(jobs, as_json=output.as_json, quiet=output.quiet)
        return DONE
    with progress(output, "ana stats") as on_progress:
        found = maintenance.stats(output.store, exact=exact, on_progress=on_progress)
    done = statistics.summarize(said_jobs) if (said_jobs := settings.STATS.value()) else None
    if output.as_json:
        emit({**vars(found), "ratio": found.ratio, "jobs": None if done is None else document(done)})
    elif not output.quiet:
        said(_stats_table(found))
        if found.summary is None:
            said("sizes are not known: ana stats --exact reads every header once, and leaves the sums for others")
        elif by is not None:
            said(_groups(found.summary, by))
        if done is not None:
            said(view(done))
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


def _stats_table(found: maintenance.Stats) -> Any:
    made = table("", "", "", right=(1,))
    made.show_header = False
    summary = found.summary
    rows = [("states", f"{found.states:,}", "")]
    if summary is not None:
        of = "now" if found.exact else f"of {summary.states:,} states, {age(found.summary_age_seconds)} ago"
        smaller = f", {three_digits(found.ratio)} times smaller" if found.ratio is not None else ""
        rows += [("raw", size(summary.raw_bytes), of), ("stored", size(summary.stored_bytes), f"{of}{smaller}")]
        rows += [("in the trash", size(summary.trash_bytes), of)]
    rows += [
        ("inodes", f"{found.inodes:,}", f"{found.folders:,} of them folders"),
        ("trash", f"{found.trash:,}", "waits to be deleted: ana gc" if found.trash else ""),
        (
            "temporaries",
            f"{found.temporaries:,}",
            "ana sweep removes what killed writers left" if found.temporaries else "",
        ),
        ("set aside", f"{found.damaged:,}", "damaged: .bad-* files" if found.damaged else ""),
        ("foreign", f"{found.foreign:,}", ""),
    ]
    for row in rows:
        made.add_row(*row)
    return made


def _groups(summary: maintenance.Summary, by: str) -> Any:
    made = table(by, "states", "raw", "stored", "share", right=(1, 2, 3, 4))
    for group in getattr(summary, f"by_{by}"):
        share = group.stored_bytes / summary.stored_bytes if summary.stored_bytes else 0
        made.add_row(
            printable(group.name), f"{group.states:,}", size(group.raw_bytes), size(group.stored_bytes), f"{share:.0%}"
        )
    return made


@click.command("verify", epilog=VERIFY_EXAMPLES)
@click.option(
    "--sample", type=share, metavar="P%", default="100%", help="Read only that share of the states, by chance."
)
@click.option("--older", "older_than_seconds", type=AGE, metavar="TIME", help="Only states stored longer ago.")
@click.option(
    "--repair-from",
    metavar="STORE",
    type=click.Path(exists=True, file_okay=False),
    help="Take what is damaged or missing from another store.",
)
@click.option("--set-aside", is_flag=True, help="Rename damaged files to .bad-…, so that they are stored again.")
@lock_option
@store_options
@click.pass_obj
def verify(output: Output, /, **options: Any) -> int:
    """Read every byte of every state, and check its digests.

    Nothing is unpickled, and nothing is changed unless --repair-from or
    --set-aside says so. Also looks whether all is there that the states refer
    to. A damaged file is never deleted: it is renamed, and whoever has the
    object stores it again. The other store is only read.
    """
    with progress(output, "ana verify") as on_progress:
        found = maintenance.verify(output.store, on_progress=on_progress, **options)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{found.checked:,} of {found.states:,} states read, {size(found.size_bytes)}")
        for text, names in (("repaired", found.repaired), ("set aside", found.set_aside)):
            if names:
                said(f"{text}: {len(names):,}")
        said(problems_table(found.problems) if found.problems else Text("every byte is right", "green"))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


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
