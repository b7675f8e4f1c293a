"""A page about a store: one self-contained HTML file of charts."""

from html import escape

from ana import units
from ana.errors import StoreError
from ana.fs import mounts, probes
from ana.layers.statistics import Summary as JobSummary
from ana.layers.statistics import summarize
from ana.maintenance import charts
from ana.maintenance.charts import Bar
from ana.maintenance.common import OnProgress, Path, Problem, StoreOrPath, date, open_store
from ana.maintenance.roots import root_names
from ana.maintenance.stats import Group, Moment, StoreStats, StoreSummary, history, stats
from ana.stores.directory.store import DirectoryStore

__all__ = ["report"]

CLASSES = 10
WHOLE = 100
"""Ratios from this value on are shown without decimals."""
_DAY_SECONDS = 86400.0
_AGE_DAYS = {"under 1 d": 0, "1 to 7 d": 1, "7 to 30 d": 7, "30 to 90 d": 30, "90 to 365 d": 90, "over 365 d": 365}
"""The age in days at which each group begins."""

STYLE = """
:root{color-scheme:light dark;--ground:#f5f6f8;--card:#fff;--ink:#1b2430;--soft:#667285;--rule:#e3e7ee;--main:#2f6fde;
--pale:#cfdef8;--hot:#d9542b}
@media (prefers-color-scheme:dark){:root{--ground:#12161d;--card:#1b212b;--ink:#e8ecf3;--soft:#95a1b3;--rule:#2b3442;
--main:#6d9cf5;--pale:#2b3f63;--hot:#f0845f}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1240px;margin:0 auto;padding:32px 24px 40px}
h1{font-size:26px;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 2px}
p{margin:0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:14px;margin:24px 0 14px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:14px}
.tile,.card{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:16px 18px}
.card{padding:20px 22px}
.tile b{display:block;font-size:27px;font-weight:650;line-height:1.2;letter-spacing:-.01em}
.tile span{color:var(--soft);font-size:13px}
.tile.hot b{color:var(--hot)}
svg{display:block;width:100%;height:auto;margin-top:12px}
svg text{font-size:12px;fill:var(--soft)}
svg .right{text-anchor:end}svg .middle,svg .value{text-anchor:middle}
svg .value,svg .end{fill:var(--ink);font-weight:600}svg .end{text-anchor:end;font-size:13px}
.grid{stroke:var(--rule)}
.line{fill:none;stroke:var(--main);stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}
.area{fill:var(--main);opacity:.12}.dot{fill:var(--main)}
.bar{fill:var(--main)}.bar.hot{fill:var(--hot)}
.rows{margin-top:14px;display:grid;gap:9px}
.row{display:grid;grid-template-columns:minmax(0,34%) minmax(40px,1fr) 148px;gap:12px;align-items:center;font-size:13px}
.name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.words{color:var(--soft)}
.track{position:relative;height:14px}
.track div{position:absolute;left:0;top:0;height:14px;border-radius:4px}
.behind{background:var(--pale)}.front{background:var(--main)}
footer{margin-top:22px;color:var(--soft);font-size:13px}
"""


def report(
    pickle_dir: StoreOrPath,
    *,
    purge_after_seconds: float | None = None,
    jobs: Path | None = None,
    on_progress: OnProgress = lambda _: None,
    problems: list[Problem] | None = None,
) -> str:
    """Return an HTML page about a store: what it holds, how it grew, what it saves, what is too old.

    Makes an exact count, as `stats(exact=True)` does, which also adds a point to the history on the page.

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
    counted = stats(store, exact=True, on_progress=on_progress)
    summary = counted.summary
    assert summary is not None  # noqa: S101 - an exact count has one
    kept = len(root_names(store, problems=counted.problems))
    if problems is not None:
        problems += counted.problems
    moments = [*history(store)]
    if not moments or moments[-1].taken < summary.taken:
        # Without write access, this count is not in the history.
        moments.append(Moment(summary.taken, counted.states, counted.inodes, summary.raw_bytes, summary.stored_bytes))
    body = "".join(
        [
            f"<header><h1>{escape(store.home)}</h1><p>{_what(store.home, summary)}</p></header>",
            _tiles(store.home, counted, summary, kept),
            '<section class="cards">',
            _growth(moments),
            _classes(summary),
            _sizes(summary),
            _ages(summary, purge_after_seconds),
            "" if jobs is None else _jobs(store.home, summarize(jobs)),
            "</section>",
            f"<footer>Made by ana from the states' headers; nothing was unpickled. {_identity(store)}</footer>",
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(store.home)}: a store of ana</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _identity(store: DirectoryStore) -> str:
    return escape(f"Store {store.config.id}, format {store.config.format}.")


def _what(root: str, summary: StoreSummary) -> str:
    mount = mounts.mount_of(root)
    where = f"on {mount.kind} from {mount.source}" if mount is not None else ""
    return escape(f"A store of ana {where}, as it was on {_when(summary.taken, '%d %B %Y, %H:%M UTC')}")


def _tiles(home: str, counted: StoreStats, summary: StoreSummary, kept: int) -> str:
    ratio = summary.raw_bytes / summary.stored_bytes if summary.stored_bytes else 1.0
    wrong = len(counted.problems) + counted.damaged
    tiles = [
        (f"{summary.states:,}", f"states under {kept:,} root{'s' * (kept != 1)}", False),
        (units.size(summary.stored_bytes), f"on disk, {units.size(summary.raw_bytes)} of content", False),
        (
            f"{ratio:.1f} times" if ratio < WHOLE else f"{ratio:,.0f} times",
            "smaller by compression",
            False,
        ),
        (units.size(summary.shared_raw_bytes), f"not stored again, {summary.references:,} references", False),
        (f"{counted.inodes:,}", _inodes_left(home), False),
        (
            f"{wrong:,} damaged" if wrong else "none",
            f"{'' if wrong else 'damaged; '}{counted.trash:,} in the trash, {units.size(summary.trash_bytes)}",
            wrong > 0,
        ),
    ]
    return (
        '<section class="tiles">'
        + "".join(
            f'<div class="tile{" hot" if hot else ""}"><b>{escape(figure)}</b><span>{escape(words)}</span></div>'
            for figure, words, hot in tiles
        )
        + "</section>"
    )


def _inodes_left(root: str) -> str:
    try:
        space = probes.space(root)
    except StoreError:
        return "inodes"
    return "inodes" if space.free_inodes is None else f"inodes, {_count(space.free_inodes)} more free"


def _growth(moments: list[Moment]) -> str:
    note = "each exact count and each report adds a point" if len(moments) < 2 else _since(moments)  # noqa: PLR2004 - a line
    bytes_line = charts.line([(m.taken, m.stored_bytes) for m in moments], units.size, _day, "Bytes on disk over time")
    inode_line = charts.line([(m.taken, m.inodes) for m in moments], _count, _day, "Inodes over time")
    return _card("Bytes on disk", note, bytes_line) + _card(
        "Inodes", "files and folders, including the trash", inode_line
    )


def _since(moments: list[Moment]) -> str:
    first, last = moments[0], moments[-1]
    grown = last.stored_bytes - first.stored_bytes
    return f"{'+' if grown >= 0 else '-'}{units.size(abs(grown))} since {_when(first.taken, '%d %B %Y')}"


def _classes(summary: StoreSummary) -> str:
    items = [_class_row(group) for group in summary.by_class[:CLASSES]]
    more = len(summary.by_class) - CLASSES
    note = "bytes on disk; pale: before compression" + (f"; {more} more classes" if more > 0 else "")
    return _card("Classes", note, charts.rows(items, "Bytes by class") if items else "")


def _class_row(group: Group) -> tuple[str, float, float, str]:
    words = f"{units.size(group.stored_bytes)}, {_count(group.states)} states"
    return group.name, float(group.stored_bytes), float(group.raw_bytes), words


def _sizes(summary: StoreSummary) -> str:
    items = [Bar(group.name.removeprefix("up "), group.states, _count(group.states)) for group in summary.by_size]
    held = [
        Bar(bar.label, group.stored_bytes, units.size(group.stored_bytes))
        for bar, group in zip(items, summary.by_size, strict=True)
    ]
    return _card("Sizes", "states by the size of their file", charts.bars(items, _count, "States by size")) + _card(
        "Where the bytes are", "bytes by the size of their file", charts.bars(held, units.size, "Bytes by size")
    )


def _ages(summary: StoreSummary, purge_after_seconds: float | None) -> str:
    limit = float("inf") if purge_after_seconds is None else purge_after_seconds / _DAY_SECONDS
    items = [
        Bar(group.name, group.stored_bytes, units.size(group.stored_bytes), hot=_AGE_DAYS[group.name] >= limit)
        for group in summary.by_age
    ]
    note = "bytes by the time since they were stored"
    if purge_after_seconds is not None:
        old = sum(group.stored_bytes for group in summary.by_age if _AGE_DAYS[group.name] >= limit)
        note += f"; files are purged after {limit:g} days, {units.size(old)} are in older groups"
    return _card("Ages", note, charts.bars(items, units.size, "Bytes by age"))


def _jobs(home: str, summary: JobSummary) -> str:
    done = summary.stores.get(home)
    if done is None:
        return _card("Jobs", f"no statistics of this store in {summary.folder}", "")
    answers = [
        ("alive in memory", done.from_memory, done.from_memory_raw_bytes),
        ("the node's cache", done.from_tier, done.from_tier_raw_bytes),
        ("the store", done.from_store, done.from_store_raw_bytes),
    ]
    hits = [(name, float(size), 0.0, f"{units.size(size)}, {_count(count)} times") for name, count, size in answers]
    moved = [
        ("moved to the store", done.stored_file_bytes),
        ("moved from the store", done.from_store_file_bytes),
        ("not moved: already there", done.found_raw_bytes),
        ("not moved: in memory", done.from_memory_raw_bytes),
        ("not moved: on the node", done.from_tier_raw_bytes),
    ]
    note = f"loads by {_some(summary.processes, 'process', 'es')} on {_some(len(summary.hosts), 'host', 's')}"
    return _card("Where states came from", note, charts.rows(hits, "Loads by place")) + _card(
        "Bytes not moved",
        f"{units.size(done.spared_bytes)} spared, {units.size(done.moved_bytes)} moved",
        charts.rows([(name, float(size), 0.0, units.size(size)) for name, size in moved], "Bytes moved and spared"),
    )


def _some(count: int, thing: str, plural: str) -> str:
    return f"{_count(count)} {thing}{plural * (count != 1)}"


def _card(title: str, note: str, chart: str) -> str:
    return f'<div class="card"><h2>{escape(title)}</h2><p>{escape(note)}</p>{chart}</div>'


def _when(seconds: float, pattern: str) -> str:
    return date(seconds, pattern).lstrip("0")


def _day(seconds: float) -> str:
    return _when(seconds, "%d %b %Y")


def _count(value: float) -> str:
    for limit, unit in ((1e9, " bn"), (1e6, " M"), (1e4, " k")):
        if value >= limit:
            return f"{value / (limit if unit != ' k' else 1e3):.3g}{unit}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
