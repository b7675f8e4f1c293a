"""`ana keep`, `ana forget`, `ana roots`, `ana gc`: what stays in a store, and what goes."""

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
    emit,
    lock_option,
    name_or_uuid,
    printable,
    problems_table,
    progress,
    said,
    size,
    store_options,
    table,
    warn,
    warn_of,
)
from ana.cli.completion import roots as root_names
from ana.cli.looking import when
from ana.cli.names import given, uuids_argument

__all__ = ["forget", "gc", "keep", "roots"]

KEEP_EXAMPLES = """\b
Examples:
  ana keep experiment-7 5f3ac0e1 77b0c1d2
  ana ls --class '^paper[.]' -0 | ana keep paper -0 --from-file -
  python: ana.get_dl().keep("experiment-7", model, mesh)

\b
JSON: name, uuids, problems (what they refer to and is missing or damaged).
Exit codes: 0; 4 if a state is missing or damaged.
"""

FORGET_EXAMPLES = """\b
Examples:
  ana forget experiment-7

\b
JSON: name, entries. Exit codes: 0; 4 if there is no such root.
"""

ROOTS_EXAMPLES = """\b
Examples:
  ana roots
  ana roots --json | jq -r 'select(.missing != []) | .name'

\b
JSON: a line for each root with name, uuids, since, by, missing.
Exit codes: 0; 4 if a state that is to be kept is missing, or a root's file
cannot be read.
"""

GC_EXAMPLES = """\b
Examples:
  ana gc --unreachable --dry-run
  ana gc --unreachable
  ana gc --older-than 90d
  ana gc --max-bytes 2T --older-than 7d
  17 3 * * *  ana -q -d /shared/pickles gc --unreachable     (a crontab line)

\b
JSON: states, roots, kept, trashed, trashed_bytes, deleted, deleted_bytes,
brought_back, waiting (in the trash), folders, failed (file: reason),
problems, ahead, refused, dry_run.
Exit codes: 0; 3 if some could not be moved or deleted; 4 if states are
damaged or missing (refused: nothing was collected); 11 if other maintenance
runs.
"""


@click.command("keep", epilog=KEEP_EXAMPLES)
@click.argument("name", type=name_or_uuid, shell_complete=root_names)
@uuids_argument
@store_options
@click.pass_obj
def keep(output: Output, /, name: str, from_file: str | None, *, uuids: tuple[str, ...], null: bool) -> int:
    """Keep states, with all that they refer to, from every collection, under a name.

    What the name keeps already, it goes on keeping. A beginning of a UUID is
    enough if no other begins like that. States in the trash are brought back.
    """
    found = maintenance.keep(output.store, name, given(uuids, from_file, null=null))
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{printable(name)}: {len(found.uuids)} states and all that they refer to are kept")
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output)
    return DAMAGE if found.problems else DONE


@click.command("forget", epilog=FORGET_EXAMPLES)
@click.argument("name", type=name_or_uuid, shell_complete=root_names)
@store_options
@click.pass_obj
def forget(output: Output, /, name: str) -> int:
    """Let go of what is kept under a name.

    The states stay until a collection: nothing is removed by this.
    """
    entries = maintenance.forget(output.store, name)
    if output.as_json:
        emit({"name": name, "entries": entries})
    elif not output.quiet:
        said(f"{printable(name)}: forgotten; a collection may take its states")
    return DONE


@click.command("roots", epilog=ROOTS_EXAMPLES)
@store_options
@click.pass_obj
def roots(output: Output, /) -> int:
    """List what is kept: names, how many states, since when, by whom."""
    unreadable: list[maintenance.Problem] = []
    found = maintenance.roots(output.store, problems=unreadable)
    for wrong in unreadable:
        warn(f"{wrong.name}: {wrong.reason}")
    if output.as_json:
        for root in found:
            emit(root, one_line=True)
    elif not output.quiet and found:
        made = table("name", "states", "missing", "since", "by", right=(1, 2))
        for root in found:
            made.add_row(
                printable(root.name), f"{len(root.uuids):,}", str(len(root.missing) or ""), when(root.since), root.by
            )
        said(made)
    missing = [root.name for root in found if root.missing]
    if missing and not output.as_json:
        warn(f"{len(missing)} roots name states that are missing (first: {missing[0]})")
    return DAMAGE if missing or unreadable else DONE


@click.command("gc", epilog=GC_EXAMPLES)
@click.option("--unreachable", is_flag=True, help="All that no root leads to.")
@click.option("--older-than", "older_than_seconds", type=AGE, metavar="TIME", help="What was stored longer ago.")
@click.option("--max-bytes", type=SIZE, metavar="SIZE", help="The oldest, until the rest has no more bytes.")
@click.option("--max-files", type=click.IntRange(0), metavar="N", help="The oldest, until the rest has no more files.")
@click.option(
    "--grace",
    "grace_seconds",
    type=AGE,
    metavar="TIME",
    default="24h",
    show_default=True,
    help="How long a state is safe after it was stored, and how long it stays in the trash.",
)
@click.option(
    "--without-roots", is_flag=True, help="It is meant that there is no root (any more), and --unreachable takes all."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@lock_option
@store_options
@click.pass_obj
def gc(output: Output, /, grace_seconds: float, lock_seconds: float, **options: Any) -> int:
    """Collect what nobody needs any more: into the trash now, deleted by a later run.

    One of --unreachable, --older-than, --max-bytes and --max-files has to say
    what may go; given together, all have to agree. Never taken, whatever they
    say: what a root keeps, what was stored within the grace, and all that
    the states that stay refer to.

    Safe beside running jobs: a state goes into the trash of its own folder
    first, from where a read that misses brings it back, and is deleted when
    it has been there for the grace. No process may believe longer than
    that in a state without looking (recheck_seconds, 300 s by default). Ages are
    by the clock of the file server. Two collections at once do no harm, nor
    does a kill at any moment. Run it by cron, once a day.
    """
    dry_run, without_roots = options.pop("dry_run"), options.pop("without_roots")
    if options["max_bytes"] is not None:
        options["max_bytes"] = int(options["max_bytes"])
    if not options["unreachable"] and all(options[name] is None for name in options if name != "unreachable"):
        msg = "say what may go: --unreachable, --older-than, --max-bytes or --max-files."
        raise click.UsageError(msg)
    store, scope = output.store, maintenance.Scope(**options)
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
    _say(output, found)
    if found.problems:
        return DAMAGE
    return PARTLY if found.failed else DONE


def _say(output: Output, found: maintenance.Collected) -> None:
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
        ("states", found.states, f"{found.roots:,} roots"),
        ("kept", found.kept, "by roots, by age, or because others refer to them"),
        (f"{would}moved to the trash", len(found.trashed), size(found.trashed_bytes)),
        (f"{would}deleted", len(found.deleted), size(found.deleted_bytes)),
        (f"{would}brought back", len(found.brought_back), "something refers to them"),
        ("in the trash", found.waiting, "deleted by a later run"),
    ):
        made.add_row(name, f"{count:,}", remark if count else "")
    said(made)
    if found.problems:
        said(problems_table(found.problems))


def _warn(found: maintenance.Collected) -> None:
    for name, reason in list(found.failed.items())[:20]:
        warn(f"{name}: {reason}")
    if found.refused:
        warn("nothing was collected: what stays cannot be read, so that nobody knows what it refers to; ")
        for wrong in [wrong for wrong in found.problems if wrong.kind == "failed"][:20]:
            warn(f"{wrong.name}: {wrong.reason}")
        if any(wrong.kind == "damaged" for wrong in found.problems):
            warn("ana verify --set-aside (or --repair-from) takes damaged states out of the way")
    if found.ahead:
        count, first = len(found.ahead), found.ahead[0]
        warn(f"{count:,} states stay: their times of change lie ahead of the file server's clock (first: {first});")
        warn("if that is right, they get the present by find STORE -name '*.pkl.zst' -newermt now -exec touch {} +")
