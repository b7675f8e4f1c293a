"""A page about a store: one self-contained HTML file of figures and charts."""

from html import escape

from ana import units
from ana.fs import mounts
from ana.layers.statistics import Summary as JobSummary
from ana.layers.statistics import summarize
from ana.maintenance import charts, report_cards
from ana.maintenance.charts import Bar
from ana.maintenance.common import OnProgress, Path, Problem, StoreOrPath, open_store
from ana.maintenance.overview import Overview, overview
from ana.maintenance.page import Tile, card, page, tiles
from ana.maintenance.report_cards import count, some, when
from ana.maintenance.stats import Group, Moment, StoreSummary, history, moment_of
from ana.stores.directory.store import DirectoryStore

__all__ = ["report"]

CLASSES = 10
WHOLE = 100
"""Ratios from this value on are shown without decimals."""
SOON_DAYS = 30.0
"""A disk that is full sooner is a warning."""
HOURS_BELOW_SECONDS = 3 * 86400.0
"""A time axis that is shorter than this shows times of day."""
_DAY_SECONDS = 86400.0
_AGE_DAYS = {"under 1 d": 0, "1 to 7 d": 1, "7 to 30 d": 7, "30 to 90 d": 30, "90 to 365 d": 90, "over 365 d": 365}
"""The age in days at which each group begins."""


def report(
    pickle_dir: StoreOrPath,
    *,
    purge_after_seconds: float | None = None,
    jobs: Path | None = None,
    on_progress: OnProgress = lambda _: None,
    problems: list[Problem] | None = None,
) -> str:
    """Return an HTML page about a store: what it holds, who keeps it, how it grew, what could go, what is damaged.

    Makes an `overview`, whose exact count also adds a point to the history on the page.

    Args:
        pickle_dir: The store.
        purge_after_seconds: The age at which the site removes files. Older states are highlighted.
        jobs: A folder of statistics that jobs wrote (`ANA_STATS`). Adds charts of where their states came from, and of
            the bytes that did not have to be moved.
        on_progress: Called for each state.
        problems: A list. States and folders that cannot be read are added to it.

    Raises:
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
    """
    store = open_store(pickle_dir)
    found = overview(store, on_progress=on_progress)
    summary, moment = found.stats.summary, moment_of(found.stats)
    assert summary is not None  # noqa: S101 - an exact count has one
    assert moment is not None  # noqa: S101 - as above
    if problems is not None:
        problems += found.stats.problems
    moments = [*history(store)]
    if not moments or moments[-1].taken < summary.taken:
        # Without write access, this count is not in the history.
        moments.append(moment)
    body = "".join(
        [
            f"<header><h1>{escape(store.home)}</h1><p>{_what(store.home, summary)}</p></header>",
            _tiles(found, summary),
            '<div class="cards">',
            _growth(moments),
            report_cards.roots(found.roots),
            report_cards.largest(summary.largest),
            report_cards.collectable(found.collectable, summary.trash_bytes),
            report_cards.damage(found),
            _classes(summary),
            _users(summary),
            _sizes(summary),
            _ages(summary, purge_after_seconds),
            "" if jobs is None else _jobs(store.home, summarize(jobs)),
            "</div>",
            f"<footer>Made by ana from the states' headers; nothing was unpickled. {_identity(store)}</footer>",
        ]
    )
    return page(f"{store.home}: a store of ana", body)


def _identity(store: DirectoryStore) -> str:
    return escape(f"Store {store.config.id}, format {store.config.format}. Times are in UTC.")


def _what(root: str, summary: StoreSummary) -> str:
    mount = mounts.mount_of(root)
    where = f"on {mount.kind} from {mount.source}" if mount is not None else ""
    return escape(f"A store of ana {where}, as it was on {when(summary.taken, '%d %B %Y, %H:%M UTC')}")


def _tiles(found: Overview, summary: StoreSummary) -> str:
    ratio = summary.raw_bytes / summary.stored_bytes if summary.stored_bytes else 1.0
    wrong = len(report_cards.problems_of(found)) + found.stats.damaged
    left = found.growth.free_inodes
    return tiles(
        [
            Tile(f"{summary.states:,}", f"states under {some(len(found.roots), 'root')}"),
            Tile(units.size(summary.stored_bytes), f"on disk, {units.size(summary.raw_bytes)} of content"),
            Tile(f"{ratio:.1f} times" if ratio < WHOLE else f"{ratio:,.0f} times", "smaller by compression"),
            Tile(units.size(summary.shared_raw_bytes), f"not stored again, {summary.references:,} references"),
            Tile(f"{found.stats.inodes:,}", "inodes" if left is None else f"inodes, {count(left)} more free"),
            *_space(found),
            Tile(
                f"{wrong:,}" if wrong else "none",
                f"damaged or missing; {report_cards.verified(found)}",
                wrong > 0,
            ),
        ]
    )


def _space(found: Overview) -> list[Tile]:
    growth = found.growth
    free = [] if growth.free_bytes is None else [Tile(units.size(growth.free_bytes), _of_total(growth.total_bytes))]
    if growth.bytes_per_day is None:
        return [*free, Tile("unknown", "when the disk is full: no two exact counts are a day apart")]
    rate = (
        f"{report_cards.signed(growth.bytes_per_day)} a day over the last {units.age(growth.over_days * _DAY_SECONDS)}"
    )
    if growth.full_in_days is None:
        return [*free, Tile("no growth", rate)]
    of = "" if growth.full_of == "bytes" else f" of {growth.full_of}"
    soon = growth.full_in_days < SOON_DAYS
    return [*free, Tile(report_cards.days(growth.full_in_days), f"until the disk is full{of}: {rate}", soon)]


def _of_total(total_bytes: int | None) -> str:
    return "free" if total_bytes is None else f"free, of {units.size(total_bytes)}"


def _growth(moments: list[Moment]) -> str:
    note = "each exact count and each report adds a point" if len(moments) < 2 else _since(moments)  # noqa: PLR2004 - a line
    hours = moments[-1].taken - moments[0].taken < HOURS_BELOW_SECONDS

    def time(seconds: float) -> str:
        return when(seconds, "%d %b, %H:%M" if hours else "%d %b %Y")

    bytes_line = charts.line([(m.taken, m.stored_bytes) for m in moments], units.size, time, "Bytes on disk over time")
    inode_line = charts.line([(m.taken, m.inodes) for m in moments], count, time, "Inodes over time")
    return card("Bytes on disk", note, bytes_line) + card("Inodes", "files and folders, the trash included", inode_line)


def _since(moments: list[Moment]) -> str:
    first, last = moments[0], moments[-1]
    return f"{report_cards.signed(last.stored_bytes - first.stored_bytes)} since {when(first.taken, '%d %B %Y')}"


def _classes(summary: StoreSummary) -> str:
    more = len(summary.by_class) - CLASSES
    note = "bytes on disk; pale: before compression" + (f"; {more} more classes" if more > 0 else "")
    return card("Classes", note, charts.rows(_bars(summary.by_class[:CLASSES]), "Bytes by class"))


def _users(summary: StoreSummary) -> str:
    more = len(summary.by_user) - CLASSES
    note = "bytes on disk by the owner of files and packs" + (f"; {more} more users" if more > 0 else "")
    return card("Users", note, charts.rows(_bars(summary.by_user[:CLASSES]), "Bytes by user"))


def _bars(groups: list[Group]) -> list[Bar]:
    return [
        Bar(
            group.name,
            group.stored_bytes,
            f"{units.size(group.stored_bytes)}, {some(group.states, 'state')}",
            group.raw_bytes,
            f"{units.size(group.raw_bytes)} before compression",
        )
        for group in groups
    ]


def _sizes(summary: StoreSummary) -> str:
    states = [Bar(group.name, group.states, count(group.states)) for group in summary.by_size]
    held = [Bar(group.name, group.stored_bytes, units.size(group.stored_bytes)) for group in summary.by_size]
    return card("Sizes", "states by the size of their file or record", charts.rows(states, "States by size")) + card(
        "Where the bytes are", "bytes by the size of the file or record", charts.rows(held, "Bytes by size")
    )


def _ages(summary: StoreSummary, purge_after_seconds: float | None) -> str:
    limit = float("inf") if purge_after_seconds is None else purge_after_seconds / _DAY_SECONDS
    bars = [
        Bar(
            group.name,
            group.stored_bytes,
            f"{units.size(group.stored_bytes)}{', past the limit' if _AGE_DAYS[group.name] >= limit else ''}",
            hot=_AGE_DAYS[group.name] >= limit,
        )
        for group in summary.by_age
    ]
    note = "bytes by the time since they were stored"
    if purge_after_seconds is not None:
        old = sum(group.stored_bytes for group in summary.by_age if _AGE_DAYS[group.name] >= limit)
        note += f"; files are purged after {limit:g} days, {units.size(old)} are in older groups"
    return card("Ages", note, charts.rows(bars, "Bytes by age"))


def _jobs(home: str, summary: JobSummary) -> str:
    done = summary.stores.get(home)
    if done is None:
        return card("Jobs", f"no statistics of this store in {summary.folder}")
    answers = [
        ("alive in memory", done.from_memory, done.from_memory_raw_bytes),
        ("the node's cache", done.from_tier, done.from_tier_raw_bytes),
        ("the store", done.from_store, done.from_store_raw_bytes),
    ]
    hits = [Bar(name, size, f"{units.size(size)}, {count(number)} times") for name, number, size in answers]
    moved = [
        ("moved to the store", done.stored_file_bytes),
        ("moved from the store", done.from_store_file_bytes),
        ("not moved: already there", done.found_raw_bytes),
        ("not moved: in memory", done.from_memory_raw_bytes),
        ("not moved: on the node", done.from_tier_raw_bytes),
    ]
    note = f"loads by {some(summary.processes, 'process', 'es')} on {some(len(summary.hosts), 'host')}"
    return card("Where states came from", note, charts.rows(hits, "Loads by place")) + card(
        "Bytes not moved",
        f"{units.size(done.spared_bytes)} spared, {units.size(done.moved_bytes)} moved",
        charts.rows([Bar(name, size, units.size(size)) for name, size in moved], "Bytes moved and spared"),
    )
