"""The cards of the report that say what an owner may have to do: roots, what could go, damage, large states."""

from collections.abc import Sequence

from ana import units
from ana.maintenance import charts
from ana.maintenance.charts import Bar
from ana.maintenance.common import Problem, date
from ana.maintenance.overview import Collectable, Overview
from ana.maintenance.page import card, items
from ana.maintenance.roots import RootInfo
from ana.maintenance.stats import Large
from ana.maintenance.verification import Verification

__all__ = [
    "collectable",
    "count",
    "damage",
    "days",
    "largest",
    "problems_of",
    "roots",
    "signed",
    "some",
    "verified",
    "when",
]

ROOTS = 20
"""How many roots are shown, the largest first."""
WRONG = 20
"""How many problems are shown."""
_MANY_DAYS = 3650


def roots(found: Sequence[RootInfo]) -> str:
    """Return the card of roots, with their sizes and ends."""
    if not found:
        return card("Roots", "none: gc may take everything that is old enough")
    largest_first = sorted(found, key=lambda root: -root.size_bytes)
    bars = [
        Bar(
            root.name,
            root.size_bytes,
            f"{units.size(root.size_bytes)}, {some(root.states, 'state')}",
            note=", ".join(filter(None, (_end(root), f"{len(root.missing):,} missing" * bool(root.missing)))),
        )
        for root in largest_first[:ROOTS]
    ]
    more = f"; {len(found) - ROOTS:,} smaller ones are not shown" if len(found) > ROOTS else ""
    note = f"what each keeps, with all that it refers to; states that several keep count for each{more}"
    return card("Roots", note, charts.rows(bars, "Roots", ("root", "keeps")))


def _end(root: RootInfo) -> str:
    if root.until is None:
        return "no end"
    return f"{'ended' if root.ended else 'until'} {when(root.until)}"


def collectable(found: Collectable, trash_bytes: int) -> str:
    """Return the card of what a collection would free."""
    note = f"ana gc --unreachable: {found.scope}"
    if found.unknown:
        return card("What gc would free", note, items([("unknown", "", found.unknown)]))
    lines = [
        ("into the trash now, free after the grace", f"{units.size(found.size_bytes)}, {some(found.states, 'state')}"),
        ("deleted from the trash now", units.size(found.deleted_bytes)),
        ("in the trash already", units.size(trash_bytes)),
        ("too young to go", some(found.young_states, "state")),
    ]
    return card("What gc would free", note, charts.table(("what", "how much"), lines, "What gc would free"))


def damage(found: Overview) -> str:
    """Return the card of damaged and missing states, which says when that was checked last."""
    wrong = problems_of(found)
    more = len(wrong) - WRONG
    lines = [(one.kind, one.uuid or one.name, one.reason) for one in wrong[:WRONG]]
    note = _checked(found.verification) + (f"; {more:,} more problems are not shown" if more > 0 else "")
    if found.stats.damaged:
        note += f"; {some(found.stats.damaged, 'file')} set aside (.bad-…)"
    return card("Is it intact?", note, items(lines) or "<p>No problems are known.</p>")


def problems_of(found: Overview) -> list[Problem]:
    """Return what is wrong with states: found now, by the last verification, and missing ones; each of them once."""
    known = [] if found.verification is None else found.verification.problems
    by_name = {one.uuid or one.name: one for one in [*known, *found.stats.problems]}
    # A dry run names missing states by their files, which begin with the UUID.
    names = {one.uuid for one in by_name.values()}
    missing = [one for one in found.collectable.missing if _key(one.name) not in names]
    return [*by_name.values(), *missing]


def _key(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _checked(last: Verification | None) -> str:
    if last is None:
        return "never verified: ana verify reads every byte"
    part = f"verified {when(last.taken, '%d %B %Y, %H:%M UTC')}: {last.checked:,} of {some(last.states, 'state')}"
    if last.whole_taken is None:
        return f"{part}; never all of them at once"
    whole = "" if last.whole_taken == last.taken else f"; all of them on {when(last.whole_taken)}"
    return f"{part}{whole}"


def verified(found: Overview) -> str:
    """Return how long ago the last verification was, and how much it read."""
    last = found.verification
    summary = found.stats.summary
    if last is None or summary is None:
        return "never verified"
    share = "" if last.whole_taken == last.taken else f" ({last.checked:,} of {last.states:,})"
    return f"verified {units.age(summary.taken - last.taken)} ago{share}"


def largest(found: Sequence[Large]) -> str:
    """Return the card of the largest states."""
    bars = [Bar(one.value, one.stored_bytes, units.size(one.stored_bytes), one.raw_bytes, one.uuid) for one in found]
    note = "bytes on disk; pale: before compression; parts count alone"
    return card("Largest states", note, charts.rows(bars, "The largest states", ("state", "size")))


def when(seconds: float, pattern: str = "%d %b %Y") -> str:
    """Format a time, without a leading zero."""
    return date(seconds, pattern).lstrip("0")


def some(number: int, thing: str, plural: str = "s") -> str:
    """Return a number with its noun."""
    return f"{count(number)} {thing}{plural * (number != 1)}"


def signed(size_bytes: float) -> str:
    """Return a change in bytes."""
    return f"{'+' if size_bytes >= 0 else '-'}{units.size(abs(size_bytes))}"


def days(number: float) -> str:
    """Return a number of days as a forecast may give it."""
    if number > _MANY_DAYS:
        return "over 10 years"
    return f"{number:.0f} days" if number >= 2 else f"{24 * number:.0f} hours"  # noqa: PLR2004 - hours say more


def count(value: float) -> str:
    """Write a number with three digits and a unit if it is large."""
    for limit, unit in ((1e9, " bn"), (1e6, " M"), (1e4, " k")):
        if value >= limit:
            return f"{value / (limit if unit != ' k' else 1e3):.3g}{unit}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
