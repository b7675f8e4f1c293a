"""Many small states: one at a time, and in bulk with `store_many`, `load_many` and a parent's children, in a folder.

    python -m benchmarks.many --folder FOLDER [--states N] [--bytes B] [--json]

Prints a Markdown table: wall time in seconds for all states, and the ratio. On a network filesystem pass the same
folder through another mount as `--reader`, if there is one: a client reads its own writes from memory.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import ana

Result = TypeVar("Result")


class State(ana.Storable):
    """A small state."""

    def __init__(self, number: int, content: bytes) -> None:
        self.number = number
        self.content = content


class Parent(ana.Storable):
    """Refers to many states."""

    def __init__(self, children: list[State]) -> None:
        self.children = children


class Row:
    """One operation's seconds, both ways."""

    def __init__(self, name: str, one_by_one: float, many: float) -> None:
        self.name = name
        self.one_by_one = one_by_one
        self.many = many

    @property
    def ratio(self) -> float:
        """The bulk time as a fraction of the one-at-a-time time."""
        return self.many / self.one_by_one


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and remove what was stored. Times in s."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where to store (default: TMPDIR)")
    parser.add_argument("--reader", help="the same folder through another mount, to read from (default: --folder)")
    parser.add_argument("--states", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=1000, help="content of each state, incompressible (default: 1000)")
    parser.add_argument("--fast", action="store_true", help="use durable=False: do not wait for the disk")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    folder = tempfile.mkdtemp(prefix="ana-many-", dir=options.folder)
    reader = os.path.join(options.reader, os.path.basename(folder)) if options.reader else folder
    try:
        rows = measure(folder, reader, options.states, options.bytes, durable=not options.fast)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(as_json(rows, options.states, options.bytes) if options.json else as_table(rows, options))
    return 0


def as_json(rows: list[Row], states: int, size_bytes: int) -> str:
    """Return the times as one line of JSON."""
    found = {row.name: {"one_by_one_s": row.one_by_one, "many_s": row.many, "ratio": row.ratio} for row in rows}
    return json.dumps({"states": states, "bytes": size_bytes, "operations": found}) + "\n"


def as_table(rows: list[Row], options: argparse.Namespace) -> str:
    """Return the times as a Markdown table."""
    head = f"| {options.states} states of {options.bytes} bytes | one by one, s | many, s | ratio |"
    lines = [f"| {row.name} | {row.one_by_one:.3f} | {row.many:.3f} | {row.ratio:.3f} |" for row in rows]
    return "\n".join([head, "|---|---|---|---|", *lines, ""])


def measure(folder: str, reader: str, count: int, size_bytes: int, *, durable: bool) -> list[Row]:
    """Store and load the states both ways, each time in a tree of its own; return the times."""

    def layer(name: str, where: str = folder) -> ana.DirDataLayer:
        return ana.DirDataLayer(f"{where}/{name}", durable=durable)

    contents = [os.urandom(size_bytes) for _ in range(count)]
    with ana.using_dl(layer("one")):
        states = [State(number, content) for number, content in enumerate(contents)]
        one_store, uuids = timed(lambda: [state.make_uuid() for state in states])
    again = [State(number, content) for number, content in enumerate(contents)]
    many_store, same = timed(lambda: layer("many").store_many(again))
    check(same == uuids)
    third = layer("children")
    with ana.using_dl(third):
        parent = Parent(states).make_uuid()
    states.clear()
    again.clear()
    del third
    gc.collect()
    with ana.using_dl(layer("one", reader)):
        one_load, one = timed(lambda: [State.ana_load(uuid) for uuid in uuids])
    many_load, many = timed(lambda: layer("many", reader).load_many(uuids, State))
    check([state.content for state in many] == [state.content for state in one] == contents)
    del one, many
    gc.collect()
    # One at a time, the children take the time that `one_load` measured.
    with ana.using_dl(layer("children", reader)):
        children_load, loaded = timed(lambda: Parent.ana_load(parent))
    check([state.content for state in loaded.children] == contents)
    return [
        Row("store", one_store, many_store),
        Row("load", one_load, many_load),
        Row("load an object with all as its children", one_load, children_load),
    ]


def check(right: bool) -> None:  # noqa: FBT001 - as with assert
    """Raise if the work was not done: then its time means nothing."""
    if not right:
        msg = "a loaded state differs from the stored one"
        raise RuntimeError(msg)


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that the work took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    sys.exit(main())
