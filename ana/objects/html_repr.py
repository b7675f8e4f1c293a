"""What notebooks show of an object: a small table, in the page's own colours, with every text escaped.

Imported when a notebook asks for it.
"""

from collections.abc import Sequence
from html import escape

__all__ = ["table"]

_CELL = 'style="text-align: left"'


def table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML. The first cell of each row is its heading."""
    lines = [
        f"<tr><th {_CELL}>{escape(row[0])}</th>" + "".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in row[1:])
        for row in rows
    ]
    return f"<div><code>{escape(title)}</code><table>{''.join(f'{line}</tr>' for line in lines)}</table></div>"
