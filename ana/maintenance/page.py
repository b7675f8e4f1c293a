"""The frame of an HTML page: its style, for light and dark, wide and narrow screens, its tiles and cards.

No text is smaller than 12 px, and all of it has a contrast of at least 4.5 to 1 (WCAG 2, level AA).
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["STYLE", "Tile", "card", "items", "page", "tiles"]

STYLE = """
:root{color-scheme:light dark;--ground:#f5f6f8;--card:#fff;--ink:#1b2430;--soft:#566276;--rule:#e3e7ee;--main:#2f6fde;
--pale:#cfdef8;--hot:#c2410c}
@media (prefers-color-scheme:dark){:root{--ground:#12161d;--card:#1b212b;--ink:#e8ecf3;--soft:#a3aebf;--rule:#2b3442;
--main:#6d9cf5;--pale:#2b3f63;--hot:#f0845f}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main{max-width:1240px;margin:0 auto;padding:32px 24px 40px}
h1{font-size:26px;line-height:1.25;margin:0}
h2{font-size:16px;margin:0 0 2px}
p{margin:0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:14px;margin:24px 0 14px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:14px}
.tile,.card{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:16px 18px;min-width:0}
.card{padding:20px 22px}
.tile b{display:block;font-size:24px;font-weight:650;line-height:1.2;letter-spacing:-.01em}
.tile span{color:var(--soft);font-size:13px}
.tile.hot b{color:var(--hot)}
.plot{position:relative;height:180px;margin:30px 8px 0 64px}
.plot i{position:absolute;left:0;right:0;border-top:1px solid var(--rule)}
.plot i span{position:absolute;right:100%;top:-.75em;padding-right:8px;font-size:12px;font-style:normal;
color:var(--soft);white-space:nowrap}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot b{position:absolute;right:0;margin-bottom:9px;font-size:13px;line-height:1}
.plot path{vector-effect:non-scaling-stroke;stroke-linecap:round;stroke-linejoin:round}
.line{fill:none;stroke:var(--main);stroke-width:2.5}
.area{fill:var(--main);opacity:.12}.dots{stroke:var(--main);stroke-width:7}
.times{display:flex;justify-content:space-between;gap:12px;margin:8px 0 0 64px;font-size:12px;color:var(--soft)}
.times span:only-child{margin-left:auto}
details{margin-top:12px;font-size:13px}
summary{color:var(--soft);cursor:pointer}
table{border-collapse:collapse;width:100%;margin-top:12px;font-size:13px;text-align:left}
th{font-weight:400}thead th{color:var(--soft)}
.figures td,.figures th{padding:3px 12px 3px 0;vertical-align:top}
.figures td:last-child{text-align:right;padding-right:0}.figures th:last-child{text-align:right;padding-right:0}
.rows,.rows tbody,.rows tr,.rows th{display:block}
.rows tr{display:grid;grid-template-columns:minmax(0,34%) minmax(0,1fr);gap:12px;align-items:center;padding:4px 0}
.rows td{display:grid;grid-template-columns:minmax(40px,1fr) 168px;gap:12px;align-items:center}
.noted tr{grid-template-columns:minmax(0,51%) minmax(0,1fr)}.noted td{grid-template-columns:minmax(40px,1fr) 140px}
.rows td span,small{color:var(--soft)}
small{display:block;font-size:12px;line-height:1.35}
.track{position:relative;height:14px}
.track div{position:absolute;left:0;top:0;height:14px;border-radius:4px;min-width:2px}
.behind{background:var(--pale)}.front{background:var(--main)}.track .hot{background:var(--hot)}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.items{margin:12px 0 0;padding:0;list-style:none;font-size:13px}
.items li{padding:5px 0;border-top:1px solid var(--rule)}
.items b{color:var(--hot)}
footer{margin-top:22px;color:var(--soft);font-size:13px}
@media (max-width:600px){main{padding:20px 12px 28px}.card{padding:16px 14px}.tile{padding:12px 14px}
.tiles,.cards{gap:10px}.tiles{grid-template-columns:repeat(2,minmax(0,1fr));margin:16px 0 10px}
.tile b{font-size:21px}
.rows tr{display:block;padding:6px 0}.times span:nth-child(2):not(:last-child){display:none}}
"""


class Tile(NamedTuple):
    """A figure with the words that explain it, and whether it is a warning."""

    figure: str
    words: str
    hot: bool = False


def page(title: str, body: str) -> str:
    """Return an HTML document that may load nothing."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def tiles(figures: Sequence[Tile]) -> str:
    """Return a section of figures."""
    shown = "".join(
        f'<div class="tile{" hot" * tile.hot}"><b>{escape(tile.figure)}</b><span>{escape(tile.words)}</span></div>'
        for tile in figures
    )
    return f'<section class="tiles" aria-label="Figures">{shown}</section>'


def card(title: str, note: str, chart: str = "") -> str:
    """Return a chart with its title and a note."""
    return f'<section class="card"><h2>{escape(title)}</h2><p>{escape(note)}</p>{chart}</section>'


def items(lines: Sequence[tuple[str, str, str]]) -> str:
    """Return a list of what is wrong: kind, name, reason."""
    shown = "".join(
        f"<li><b>{escape(kind)}</b> {escape(name)}<small>{escape(reason)}</small></li>" for kind, name, reason in lines
    )
    return f'<ul class="items">{shown}</ul>' if lines else ""
