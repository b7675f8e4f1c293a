"""What `ana stats` says beyond its counts: free space, the last verification; with --all roots, users, gc, damage."""

from collections.abc import Iterator
from typing import Any

from ana import maintenance
from ana.cli.common import counted, printable, size
from ana.cli.tables import problems_table, table, when

__all__ = ["Row", "more_tables", "outlook", "root_end"]


Row = tuple[str, str, str]


def outlook(growth: maintenance.Growth, last: maintenance.Verification | None) -> list[Row]:
    """Return rows about the disk and the last verification."""
    rows = [] if growth.free_bytes is None else [("free", size(growth.free_bytes), _forecast(growth))]
    if last is None:
        return [*rows, ("verified", "never", "ana verify reads every byte")]
    found = counted(last.n_problems, "problem", "problems") if last.n_problems else "no problems"
    of = f"{last.checked:,} of {counted(last.states, 'state', 'states')} on {when(last.taken)}"
    return [*rows, ("verified", found, of)]


def _forecast(growth: maintenance.Growth) -> str:
    if growth.bytes_per_day is None:
        return "growth unknown: needs exact counts a day apart"
    rate = f"{'+' if growth.bytes_per_day >= 0 else '-'}{size(abs(growth.bytes_per_day))} a day"
    if growth.full_in_days is None:
        return f"no growth ({rate})"
    of = "" if growth.full_of == "bytes" else f" of {growth.full_of}"
    return f"full{of} in {growth.full_in_days:,.0f} d at {rate}"


def more_tables(looked: maintenance.Overview) -> Iterator[Any]:
    """Yield what --all adds."""
    summary = looked.stats.summary
    if summary is None:
        return
    roots = table("root", "states", "size", "until", right=(1, 2))
    for root in looked.roots:
        roots.add_row(printable(root.name), f"{root.states:,}", size(root.size_bytes), root_end(root))
    if looked.roots:
        yield roots
    users = table("user", "states", "stored", right=(1, 2))
    for group in summary.by_user:
        users.add_row(printable(group.name), f"{group.states:,}", size(group.stored_bytes))
    yield users
    largest = table("largest", "stored", "value", right=(1,), whole=(0,))
    for one in summary.largest:
        largest.add_row(printable(one.uuid), size(one.stored_bytes), printable(one.value))
    yield largest
    yield f"ana gc --unreachable ({looked.collectable.scope}): {_freed(looked.collectable)}"
    if looked.verification is not None and looked.verification.problems:
        yield f"found by the verification of {when(looked.verification.taken)}:"
        yield problems_table(looked.verification.problems)


def _freed(found: maintenance.Collectable) -> str:
    if found.unknown:
        return printable(found.unknown)
    return (
        f"{counted(found.states, 'state', 'states')}, {size(found.size_bytes)} into the trash; "
        f"{size(found.deleted_bytes)} deleted from it; {counted(found.young_states, 'state', 'states')} too young"
    )


def root_end(root: maintenance.RootInfo) -> str:
    """Return when a root ends, as a table shows it."""
    return "no end" if root.until is None else f"{when(root.until)}{' (ended)' if root.ended else ''}"
