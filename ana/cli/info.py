"""`ana info`: where a store is, and whether that is a good place."""

from typing import Any

import click
from rich.text import Text

from ana import maintenance
from ana.cli.common import DONE, NoStoreError, Output, emit, size, store_options
from ana.cli.tables import said, table

__all__ = ["info"]

INFO_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles info
  ana -d /mnt/a/pickles info --other /mnt/b/pickles
  ana --json info | jq '.findings[] | select(.kind == "unsafe")'

\b
JSON: source (the option or variable that named the store), path, exists
(whether there is a store yet), host, format, levels, store_id, mode, keyed,
filesystem, mount_point, mount_source, mount_options, access_times, network,
writable, hard_links, fsync_seconds, lock, other, lock_other ("" if locks
work), clock_difference_seconds, total_bytes, free_bytes, total_inodes,
free_inodes, quota, states, small_states, folders and packs (estimates),
findings (kind: unsafe, slow or note; what; cure).
null: could not be tested. Exit codes: 0; 1 if a newer version made the store.
"""


@click.command("info", epilog=INFO_EXAMPLES)
@click.option("--other", metavar="DIR", type=click.Path(file_okay=False), help="The same store through another mount.")
@store_options
@click.pass_obj
def info(output: Output, /, other: str | None) -> int:
    """Show where the store is, what would make it slow or unsafe, and the cure.

    If there is no store yet, shows whether the place is good for one.
    Tests hard links, fsync, locks and clocks with temporary files. With
    --other, also tests whether locks exclude each other between two mounts:
    mount the folder twice, or share one mount over ssh.
    """
    place, source = output.place
    try:
        found = maintenance.info(output.store, other=other)
    except NoStoreError:
        found = maintenance.info(place, other=other)
    if output.as_json:
        emit({"source": source, **vars(found)})
    elif not output.quiet:
        said(_info_table(found, source))
        for finding in found.findings:
            colour = {"unsafe": "bold red", "slow": "yellow"}.get(finding.kind, "cyan")
            said(Text.assemble((f"{finding.kind}: ", colour), finding.what, (f"\n  {finding.cure}", "dim")))
        if not found.findings:
            said(Text("No problems found.", "green"))
    return DONE


def _info_table(found: maintenance.Information, source: str) -> Any:
    made = table("", "")
    made.show_header = False
    skew = found.clock_difference_seconds
    inodes = "not counted"
    if found.total_inodes and found.free_inodes is not None:
        inodes = f"{found.free_inodes:,} of {found.total_inodes:,} free"
    rows = [
        ("store", f"{found.path} (from {source}{'' if found.exists else '; none there yet'})"),
        ("host", found.host),
        *(_store_rows(found) if found.exists else []),
        (
            "filesystem",
            f"{found.filesystem or 'unknown'} from {found.mount_source or '?'} at {found.mount_point or '?'}",
        ),
        ("mounted", found.mount_options),
        ("access times", found.access_times),
        ("hard links", _word(found.hard_links)),
        ("fsync", "not tested" if found.fsync_seconds is None else f"{found.fsync_seconds * 1000:.2g} ms"),
        ("locks", _lock(found.lock)),
        ("clock", "not tested" if skew is None else "as this host's" if not skew else f"{skew:+.2f} s"),
        ("space", f"{size(found.free_bytes)} of {size(found.total_bytes)} free"),
        ("inodes", inodes),
        *([("files here", _files(found))] if found.exists else []),
    ]
    rows += [("locks, two mounts", _lock(found.lock_other))] if found.other else []
    rows += [("quota", found.quota)] if found.quota else []
    for name, value in rows:
        made.add_row(Text(name, "dim"), Text(value))
    return made


def _store_rows(found: maintenance.Information) -> list[tuple[str, str]]:
    return [
        ("format", f"{found.format}, {found.levels} folder levels, id {found.store_id}"),
        ("trust", f"mode {found.mode}, {'signed with a key' if found.keyed else 'no key'}"),
    ]


def _files(found: maintenance.Information) -> str:
    return f"about {found.states:,} states, {found.folders:,} folders, {found.packs:,} packs"


def _word(answer: bool | None) -> str:  # noqa: FBT001 - a word for a truth value
    return "not tested" if answer is None else "yes" if answer else "no"


def _lock(wrong: str | None) -> str:
    return "not tested" if wrong is None else wrong or "exclude"
