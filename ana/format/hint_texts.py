"""The hints in a header: in which pack each child lies. Pure. `docs/format.md` describes them."""

from collections.abc import Iterator, Sequence

__all__ = ["parse", "shortened", "text"]


def shortened(hints: Sequence[str]) -> Iterator[str]:
    """Yield the hints without the name of the pack, where it is the one that was named last."""
    named = ""
    for said in hints:
        pack, colon, rest = said.partition(":")
        yield f":{rest}" if pack == named and colon else said
        named = pack or named


def parse(view: memoryview, at: int, count: int) -> tuple[tuple[str, ...], int]:
    """Return the hints that begin at an offset of a header, written out, and where they end. Raises ValueError."""
    hints: list[str] = []
    pack = ""
    for _ in range(count):
        said, at = text(view, at + 2, int.from_bytes(view[at : at + 2], "little"))
        pack = pack if said.startswith(":") else said.partition(":")[0] or pack
        hints.append(f"{pack}{said}" if said.startswith(":") else said)
    return tuple(hints), at


def text(view: memoryview, at: int, size: int) -> tuple[str, int]:
    """Return a text of a header, and where it ends. Raises ValueError."""
    return str(view[at : at + size], "utf-8", "surrogatepass"), at + size
