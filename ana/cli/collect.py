"""`ana gc`: garbage collection."""

from typing import Any

import click

from ana import maintenance
from ana.cli.common import (
    AGE,
    DAMAGE,
    DONE,
    PARTLY,
    SIZE,
    Output,
    counted,
    emit,
    lock_option,
    name_or_uuid,
    printable,
    size,
    store_options,
    warn,
    warn_of,
)
from ana.cli.completion import roots as root_names
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said, table, when
from ana.units import duration

__all__ = ["gc"]

_MOST_ROOTS = 5
_MOST_LISTED = 20
"""How many roots, and files, to print."""

GC_EXAMPLES = """\b
Examples:
  ana gc --unreachable --dry-run
  ana gc                          # in a store with a time to live
  ana gc --unreachable
  ana gc --older-than 90d
  ana gc --all-but paper --dry-run
  ana gc --max-bytes 2T --older-than 7d
  ana -q -d /shared/pickles gc --unreachable   # every night, from cron

\b
JSON: states, roots, kept, kept_bytes, kept_by_root (name: states),
kept_young, young_seconds, young_until, kept_by_others, kept_within_limits,
trashed, trashed_bytes, free_from, going (in a dry run, file: bytes),
deleted, deleted_bytes, brought_back, waiting (in the trash), folders,
packs, packs_trashed, packs_rewritten, packs_sealed, packs_deleted,
packs_brought_back, dead_bytes, failed (file: reason), problems, ahead,
refused, dry_run, forgotten (roots, by --all-but).
Exit codes: 0; 3 if some could not be moved or deleted; 4 if states are
damaged or missing (refused: nothing was collected); 11 if other maintenance
runs.
"""


@click.command("gc", epilog=GC_EXAMPLES)
@click.option("--unreachable", is_flag=True, help="States that no root refers to.")
@click.option("--older-than", "older_than_seconds", type=AGE, metavar="TIME", help="States stored longer ago.")
@click.option("--max-bytes", type=SIZE, metavar="SIZE", help="The oldest states, until the rest takes at most this.")
@click.option("--max-files", type=click.IntRange(0), metavar="N", help="The oldest states, until at most N are left.")
@click.option(
    "--all-but",
    metavar="ROOT",
    multiple=True,
    type=name_or_uuid,
    shell_complete=root_names,
    help="All that ROOT does not keep; all other roots are forgotten. May be repeated.",
)
@click.option(
    "--grace",
    "grace_seconds",
    type=AGE,
    metavar="TIME",
    default="24h",
    show_default=True,
    help="The grace period: how long new states are safe, and how long states stay in the trash.",
)
@click.option(
    "--without-roots", is_flag=True, help="Confirm that the store has no roots, so that --unreachable takes everything."
)
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@lock_option
@store_options
@click.pass_obj
def gc(output: Output, /, grace_seconds: float, lock_seconds: float, **options: Any) -> int:
    """Move unneeded states to the trash; delete them after the grace period.

    --unreachable, --older-than, --max-bytes, --max-files and --all-but say
    which states may be collected. If several are given, all must match. At
    least one is needed, except in a store with a time to live (ana init
    --ttl): there, no option means the same as --unreachable, and both collect
    only states older than that. These always stay: states that a root keeps,
    states stored within the grace period (--grace), and all states that
    remaining ones refer to.

    Safe while jobs run. A state first moves to the trash in its own folder,
    and a read restores it from there. It is deleted after the grace period,
    which must be longer than recheck_seconds (300 s by default): for that
    time, a process assumes without checking that a state exists. Ages are by
    the file server's clock. Two collections may run at once, and a collection
    may be killed at any moment. Run it from cron, once a day.
    """
    dry_run, without_roots = options.pop("dry_run"), options.pop("without_roots")
    if options["max_bytes"] is not None:
        options["max_bytes"] = int(options["max_bytes"])
    store, scope = output.store, maintenance.Scope(**options)
    if not (scope.unreachable or scope.is_limited or scope.all_but or store.config.ttl_seconds):
        msg = (
            "choose what may go: --unreachable, --older-than, --max-bytes, --max-files or --all-but. (The store has no "
            "time to live of its own: see ana init --ttl.)"
        )
        raise click.UsageError(msg)
    try:
        with progress(output, "ana gc") as on_progress:
            found = maintenance.gc(
                store,
                scope,
                grace_seconds=grace_seconds,
                without_roots=without_roots,
                dry_run=dry_run,
                on_progress=on_progress,
                lock_seconds=lock_seconds,
            )
    except ValueError as error:
        said_why = f"{error} (--without-roots)" if scope.unreachable else f"{error}"
        raise click.UsageError(said_why) from None
    _say(output, found, scope.max_bytes)
    if found.problems:
        return DAMAGE
    return PARTLY if found.failed else DONE


def _say(output: Output, found: maintenance.Collected, max_bytes: int | None) -> None:
    _warn(found)
    warn_of(found.problems, output)
    if output.as_json:
        emit(found)
        return
    if output.quiet:
        return
    would = "would be " if found.dry_run else ""
    made = table("", "", "", right=(1,))
    made.show_header = False
    for name, count, remark in (
        ("states", found.states, counted(found.roots, "root", "roots")),
        *([(f"roots {would}forgotten", len(found.forgotten), ", ".join(found.forgotten))] if found.forgotten else ()),
        ("kept", found.kept, size(found.kept_bytes)),
        *((f"  {reason}", count, "") for reason, count in _reasons(found) if count),
        (f"{would}moved to the trash", len(found.trashed), size(found.trashed_bytes)),
        (f"{would}deleted", len(found.deleted), size(found.deleted_bytes)),
        (f"{would}restored", len(found.brought_back), "others refer to them"),
        ("in the trash", found.waiting, "deleted by a later run"),
        *(_packs(found, would) if found.packs or found.packs_deleted or found.packs_brought_back else ()),
    ):
        made.add_row(printable(name), f"{count:,}", printable(remark) if count else "")
    said(made)
    if found.going:
        said(_going(found))
    if found.problems:
        said(problems_table(found.problems))
    for line in _outlook(found, max_bytes):
        said(line)


def _reasons(found: maintenance.Collected) -> list[tuple[str, int]]:
    """Return why states stay, and how many for each reason."""
    by_root = sorted(found.kept_by_root.items(), key=lambda item: -item[1])
    rest = by_root[_MOST_ROOTS:]
    return [
        *((f"by the root {name}", count) for name, count in by_root[:_MOST_ROOTS]),
        (f"by {counted(len(rest), 'other root', 'other roots')}", sum(count for _, count in rest)),
        (f"younger than {duration(found.young_seconds)}", found.kept_young),
        ("referred to by these", found.kept_by_others),
        ("within the limits", found.kept_within_limits),
    ]


def _going(found: maintenance.Collected) -> Any:
    """Return a table of what a real run would move or delete, the largest first."""
    made = table("would go", "size", "", right=(1,), whole=(0,))
    largest = sorted(found.going.items(), key=lambda item: -item[1])
    for name, size_bytes in largest[:_MOST_LISTED]:
        last = name.rpartition("/")[2]
        trashed = last.startswith(".")
        shown = last.removeprefix(".trash-").removesuffix(".pkl.zst") if not name.startswith("packs/") else name
        made.add_row(printable(shown), size(size_bytes), "deleted" if trashed else "to the trash")
    if len(largest) > _MOST_LISTED:
        made.add_row(f"and {len(largest) - _MOST_LISTED:,} more (--json lists all)", "", "")
    return made


def _outlook(found: maintenance.Collected, max_bytes: int | None) -> list[str]:
    """Return what happens next, and when."""
    lines = []
    acts = found.trashed or found.deleted or found.packs_trashed or found.packs_rewritten or found.packs_deleted
    if not acts and not found.refused and found.states:
        every = found.kept_young == found.states
        young = f"all {counted(found.states, 'state', 'states')} are younger than {duration(found.young_seconds)}"
        lines.append(f"nothing to collect{f': {young}' if every else ''}")
    if found.young_until is not None:
        lines.append(f"the first of the young states can be collected from {when(found.young_until)}")
    if found.free_from is not None:
        verb = "would be" if found.dry_run else "is"
        lines.append(f"the space {verb} free after a run later than {when(found.free_from)}; until then, reads restore")
    if max_bytes is not None and found.kept_bytes > max_bytes:
        lines.append(f"what roots and age keep takes {size(found.kept_bytes)}, more than {size(max_bytes)}")
    return lines


def _packs(found: maintenance.Collected, would: str) -> list[tuple[str, int, str]]:
    dead = f"{size(found.dead_bytes)} in them are not needed" if found.dead_bytes else ""
    return [
        ("packs", found.packs, dead),
        (f"packs {would}moved to the trash", len(found.packs_trashed), ""),
        (f"packs {would}written anew", len(found.packs_rewritten), "less than half of them is needed"),
        (f"packs {would}sealed", len(found.packs_sealed), "their writers were killed"),
        (f"packs {would}deleted", len(found.packs_deleted), ""),
        (f"packs {would}restored", len(found.packs_brought_back), "others refer to what is in them"),
    ]


def _warn(found: maintenance.Collected) -> None:
    for name, reason in list(found.failed.items())[:20]:
        warn(f"{name}: {reason}")
    if found.refused:
        warn("nothing was collected: some states cannot be read, so what they refer to is unknown")
        for wrong in [wrong for wrong in found.problems if wrong.kind == "failed"][:20]:
            warn(f"{wrong.name}: {wrong.reason}")
        if any(wrong.kind == "damaged" for wrong in found.problems):
            warn("ana verify --set-aside (or --repair-from) moves damaged states out of the way")
    if found.ahead:
        count, first = len(found.ahead), found.ahead[0]
        states = counted(count, "state stays", "states stay")
        warn(f"{states}: modified ahead of the file server's clock (first: {first});")
        warn("if the clock is right now, run: find STORE -name '*.pkl.zst' -newermt now -exec touch {} +")
