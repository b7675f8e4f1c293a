"""`ana show`, `ana cat`: look at one state."""

import sys
from typing import Any

import click
from rich.text import Text
from rich.tree import Tree

from ana import maintenance
from ana.cli.common import DAMAGE, DONE, Output, counted, emit, name_or_uuid, printable, size, store_options, value_of
from ana.cli.completion import uuids
from ana.cli.tables import said, when

__all__ = ["cat", "show"]

SHOW_EXAMPLES = """\b
Examples:
  ana show 5f3ac0e1
  ana show 5f3ac0e1 --tree
  ana show experiment-7
  ana --json show 5f3ac0e1 | jq .children

\b
JSON: uuid, class_name, summary (of a Ref: its value's type and shape), path,
size_bytes, raw_bytes, header_bytes, stored_bytes, segments, chunks (stored,
raw, method, digest), children, parts (segment, size_bytes, uuid),
content_digest, created, modified, in_trash, pack ("" if the state has a file
of its own), offset (in path); with --tree: uuid, class_name, size_bytes,
problem, repeated, summary, children (the same again). If a root names several
states, a line for each.
Exit codes: 0; 2 if the prefix is ambiguous; 4 if the state is missing or
damaged (with --tree, also if any state in the tree is).
"""


CAT_EXAMPLES = """\b
Examples:
  ana cat 5f3ac0e1 >state.pkl; python -m pickletools state.pkl | less

\b
Exit codes: 0; 2 if the prefix is ambiguous; 4 if the state is missing or
damaged.
"""


@click.command("show", epilog=SHOW_EXAMPLES)
@click.argument("uuid", metavar="UUID|ROOT", type=name_or_uuid, shell_complete=uuids)
@click.option("--tree", "as_tree", is_flag=True, help="Show the state and all that it refers to, as a tree.")
@store_options
@click.pass_obj
def show(output: Output, /, uuid: str, *, as_tree: bool) -> int:
    """Show a state's header, without unpickling the state.

    A unique prefix of the UUID is enough. The name of a root shows each state
    that was kept under it. A state in the trash is shown too, and stays there.
    """
    keys = maintenance.states_of(output.store, [uuid])
    # One document, or a line for each.
    one_line = len(keys) > 1
    codes = []
    for key in keys:
        if as_tree:
            codes.append(_show_tree(output, key, one_line=one_line))
            continue
        found = maintenance.show(output.store, key)
        if output.as_json:
            emit(found, one_line=one_line)
        elif not output.quiet:
            _print_fields(found)
    return max(codes, default=DONE)


def _print_fields(found: maintenance.Shown) -> None:
    """Print a line for each field. Not in a table: UUIDs and paths are to be copied in one piece."""
    own_bytes = found.raw_bytes - sum(part["size_bytes"] for part in found.parts)
    ratio = f", {own_bytes / found.size_bytes:.1f} times smaller" if own_bytes > found.size_bytes else ""
    methods = {str(chunk["method"]) for chunk in found.chunks}
    for name, value in (
        ("uuid", found.uuid),
        ("class", found.class_name or "(bare state)"),
        *([("value", found.summary)] if found.summary else []),
        ("pack" if found.pack else "file", found.path + (" (in the trash)" if found.in_trash else "")),
        *([("offset", f"{found.offset:,}")] if found.pack else []),
        ("raw", f"{size(found.raw_bytes)} ({found.raw_bytes:,} bytes)"),
        ("stored", f"{size(found.size_bytes)} ({found.size_bytes:,} bytes{ratio})"),
        ("segments", "1: the bytes of a buffer" if found.is_part else _segments(found)),
        ("chunks", f"{len(found.chunks)} ({', '.join(sorted(methods)) or 'none'})"),
        *(
            [
                (
                    "parts",
                    f"{counted(len(found.parts), 'buffer', 'buffers')} of {size(found.raw_bytes - own_bytes)} in all",
                )
            ]
            if found.parts
            else []
        ),
        ("created", f"{when(found.created)} by the writer's clock"),
        ("stored at", f"{when(found.modified)} by the server's clock"),
        ("content", found.content_digest),
        ("children", str(len(found.children))),
        *(("", child) for child in found.children[:20]),
        *([("", f"and {len(found.children) - 20:,} more (--json lists all)")] if len(found.children) > 20 else []),  # noqa: PLR2004 - a screen
    ):
        click.echo(f"{click.style(f'{name:>9}', dim=True)}  {printable(value)}")


def _segments(found: maintenance.Shown) -> str:
    more = ", then buffers" if len(found.segments) > 1 else ""
    return f"{len(found.segments)}: the pickle stream of {size(found.segments[0])}{more}"


def _show_tree(output: Output, uuid: str, *, one_line: bool) -> int:
    top = maintenance.tree(output.store, uuid)
    # Children first, without recursion: chains may be long.
    order = [top]
    for child in order:
        order.extend(child.children)
    wrong = sum(child.problem is not None for child in order)
    if output.as_json:
        documents: dict[int, Any] = {}
        for child in reversed(order):
            below = [documents.pop(id(grandchild)) for grandchild in child.children]
            documents[id(child)] = {
                "uuid": child.uuid,
                "class_name": child.class_name,
                "size_bytes": child.size_bytes,
                "problem": None if child.problem is None else vars(child.problem),
                "repeated": child.repeated,
                "summary": child.summary,
                "children": below,
            }
        emit(documents[id(top)], one_line=one_line)
    elif not output.quiet:
        drawn = {id(top): Tree(_line(top))}
        for child in order:
            for grandchild in child.children:
                drawn[id(grandchild)] = drawn[id(child)].add(_line(grandchild))
        said(drawn[id(top)])
    return DAMAGE if wrong else DONE


def _line(child: maintenance.Child) -> Text:
    if child.problem is not None:
        return Text(printable(f"{child.uuid}  {child.problem.kind}: {child.problem.reason}"), "bold red")
    if child.repeated:
        return Text(printable(f"{child.uuid}  (see above)"), "dim")
    return Text(printable(f"{child.uuid}  {size(child.size_bytes):>8}  {value_of(child)}"))


@click.command("cat", epilog=CAT_EXAMPLES)
@click.argument("uuid", type=name_or_uuid, shell_complete=uuids)
@store_options
@click.pass_obj
def cat(output: Output, /, uuid: str) -> int:
    """Check a state, and write its raw pickle to standard output.

    Writes the pickle stream and then its out-of-band buffers, end to end: the
    same bytes as `zstd -dc FILE`, and those of its parts. Refuses to write to a terminal. Reading a
    state from the trash restores it.
    """
    if sys.stdout.isatty():
        msg = "will not write a pickle to a terminal: redirect it to a file or a program."
        raise click.UsageError(msg)
    segments = maintenance.cat(output.store, uuid)
    out = sys.stdout.buffer
    for segment in segments:
        out.write(segment)
    out.flush()
    return DONE
