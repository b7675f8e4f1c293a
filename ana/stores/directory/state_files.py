"""The files of many states as a table: 33 bytes for each, where a string for its name alone takes 150."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import itemgetter

from ana.format import address, pack
from ana.stores.directory.naming import pattern_of_uuids

__all__ = ["Marks", "StateFiles"]

_LOW = (1 << 64) - 1
_NEVER = math.nan


class StateFiles:
    """Names of files that hold one state each, relative to the tree, each with a number; sizes and times on request.

    The name of a UUID's file is kept as the UUID's 16 bytes, in the order of UUIDs. Any other name is kept as it is:
    that of another key, or of a file in a wrong folder.
    """

    def __init__(self, levels: int) -> None:
        """`levels`: the tree's number of folder levels."""
        self._pattern = pattern_of_uuids(levels)
        # Which of a UUID's digits to put where. Not by `address.place`, which takes four times as long.
        digits = [slice(2 * level, 2 * level + 2) for level in range(levels)]
        self._cut = itemgetter(*digits, slice(8), slice(8, 12), slice(12, 16), slice(16, 20), slice(20, 32))
        self._form = "%s/" * levels + "%s-%s-%s-%s-%s" + address.SUFFIX
        self._last = ("", -1)
        """The name that was yielded last, and its number, because it is usually looked up next."""
        self._high, self._low = array("Q"), array("Q")
        self._others: list[str] = []
        self._number_of_other: dict[str, int] = {}
        self._sizes = array("q")
        self._times = array("d")

    def add(self, folder: str, names: Iterable[str]) -> None:
        """Add the names in a folder, "5f/3a/", once. Folders come in the order of their names."""
        keys = []
        for name in names:
            found = self._pattern.fullmatch(f"{folder}{name}")
            if found is not None:
                keys.append(pack.number_of(found[self._pattern.groups]))
            else:
                self._number_of_other[f"{folder}{name}"] = len(self._others)
                self._others.append(f"{folder}{name}")
        keys.sort()
        self._high.extend([key >> 64 for key in keys])
        self._low.extend([key & _LOW for key in keys])

    def __len__(self) -> int:
        return len(self._high) + len(self._others)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> str:
        """Return the name with a number."""
        other = number - len(self._high)
        name = self._others[other] if other >= 0 else self._name(self._high[number] << 64 | self._low[number])
        self._last = (name, number)
        return name

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.number(name) >= 0

    def number(self, name: str) -> int:
        """Return the number of a name; -1 if it is not in the table."""
        last, number = self._last
        if name is last:
            return number
        found = self._pattern.fullmatch(name)
        if found is None:
            other = self._number_of_other.get(name, -1)
            return -1 if other < 0 else len(self._high) + other
        value = pack.number_of(found[self._pattern.groups])
        high, low, column = value >> 64, value & _LOW, self._high
        at = bisect_left(column, high)
        while at < len(column) and column[at] == high:
            if self._low[at] == low:
                return at
            at += 1
        return -1

    def note(self, name: str, size_bytes: int, modified: float) -> None:
        """Remember the size of a file that is in the table, and its time of last change, in s since 1970."""
        if not self._times:
            self._sizes = array("q", [0]) * len(self)
            self._times = array("d", [_NEVER]) * len(self)
        number = self.number(name)
        self._sizes[number], self._times[number] = size_bytes, modified

    def size(self, name: str) -> int:
        """Return a file's size in bytes, 0 if it was not noted."""
        number = self.number(name)
        return self._sizes[number] if self._sizes and number >= 0 else 0

    def since(self, before: float) -> Iterator[str]:
        """Yield the names of noted files that were changed at `before` or later."""
        return (self[number] for number, modified in enumerate(self._times) if modified >= before)

    def count_since(self, before: float) -> tuple[int, float]:
        """Return how many files `since` yields, and the least of their times, or infinity if there is none."""
        count, oldest = 0, math.inf
        for modified in self._times:
            if modified >= before:
                count += 1
                oldest = min(oldest, modified)
        return count, oldest

    def youngest_first(self) -> Iterator[tuple[float, str]]:
        """Yield the negative time of last change and the name of each noted file, the youngest first."""
        noted = [number for number, modified in enumerate(self._times) if not math.isnan(modified)]
        times = self._times
        for number in sorted(noted, key=lambda number: -times[number]):
            yield -times[number], self[number]

    def _name(self, number: int) -> str:
        name: str = self._form % self._cut(f"{number:032x}")
        return name


class Marks:
    """A set of names: a byte for each file of a table, and the other names as they are."""

    def __init__(self, files: StateFiles | None = None) -> None:
        self._files = files
        self._flags = bytearray(0 if files is None else len(files))
        self._count = 0
        self._others: set[str] = set()

    def add(self, name: str) -> None:
        """Add a name."""
        number = -1 if self._files is None else self._files.number(name)
        if number < 0:
            self._others.add(name)
        elif not self._flags[number]:
            self._flags[number] = 1
            self._count += 1

    def update(self, names: Iterable[str]) -> None:
        """Add names."""
        for name in names:
            self.add(name)

    def __contains__(self, name: str) -> bool:
        number = -1 if self._files is None else self._files.number(name)
        return bool(self._flags[number]) if number >= 0 else name in self._others

    def __len__(self) -> int:
        return self._count + len(self._others)

    def __iter__(self) -> Iterator[str]:
        yield from self._others
        if self._files is not None:
            yield from (self._files[number] for number, flag in enumerate(self._flags) if flag)

    def absent(self) -> Iterator[str]:
        """Yield the names of the table that are not in the set."""
        if self._files is not None:
            yield from (self._files[number] for number, flag in enumerate(self._flags) if not flag)
