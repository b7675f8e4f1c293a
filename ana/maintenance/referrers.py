"""Which states refer to a state: the children in all headers, turned round."""

from bisect import bisect_left
from collections.abc import Iterator

from ana.errors import ANAError
from ana.format import address, pack
from ana.maintenance.common import OnProgress, Problem, Progress, problem, unlisted
from ana.stores.directory.scan import Survey

__all__ = ["Referrers"]

_BITS = 128
_LOW = (1 << _BITS) - 1


class Referrers:
    """All references between the states of a store, without those in the trash. Takes 70 bytes for each."""

    def __init__(self, survey: Survey, on_progress: OnProgress) -> None:
        """Read all headers. Raises StoreError if the store cannot be listed."""
        self.problems: list[Problem] = []
        """States and folders that cannot be read, so that what they refer to is unknown."""
        self._other_keys: dict[int, str] = {}
        pairs: list[int] = []
        for count, (name, told) in enumerate(survey.headers(), 1):
            if isinstance(told, ANAError):
                self.problems.append(problem(told, name=name))
            elif told is not None and told[0].children:
                parent = self._number(told[0].key)
                pairs += [self._number(child) << _BITS | parent for child in told[0].children]
            on_progress(Progress("reading headers", count))
        self.problems += unlisted(survey.unreadable)
        pairs.sort()
        self._pairs = pairs

    def of(self, key: str) -> Iterator[str]:
        """Yield the keys of the states that refer to a state."""
        child, pairs = self._number(key), self._pairs
        at = bisect_left(pairs, child << _BITS)
        while at < len(pairs) and pairs[at] >> _BITS == child:
            parent = pairs[at] & _LOW
            yield self._other_keys.get(parent) or pack.key_of_number(parent)
            at += 1

    def _number(self, key: str) -> int:
        number = pack.wide_number_of(key)
        if not address.is_canonical(key):
            self._other_keys[number] = key
        return number
