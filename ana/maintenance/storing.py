"""Stores the states of a source in a store: children first, many at once, and notes what became of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ana.errors import ANAError
from ana.maintenance.common import Problem, problem
from ana.runtime import threads
from ana.stores.directory.graph import by_level, postorder
from ana.stores.directory.store import DirectoryStore

__all__ = ["State", "Storing", "windows"]

WINDOW_STATES = 512
WINDOW_BYTES = 64 << 20
"""The size of a batch. Children are looked for in the batch and in the store."""
SMALL_BYTES = 1 << 20
"""Larger states are stored one at a time, each on all CPUs."""


class State(NamedTuple):
    """A state to store: its key, file, size, children, and offset in the file."""

    key: str
    name: str
    size_bytes: int
    children: Sequence[str]
    offset: int = 0


class Storing:
    """Stores states, each after its children and many at once, and notes the results."""

    def __init__(
        self,
        store: DirectoryStore,
        put: Callable[[State], bool],
        problems: list[Problem],
        report: Callable[[int, int], object],
    ) -> None:
        """Begin with none.

        Args:
            store: Where the states go.
            put: Stores a state, returns False if it exists, and raises ANAError.
            problems: Gets the states that are not stored, with the reason.
            report: Called with the number of states so far, and the size in bytes of those that were stored.

        """
        self.stored: list[str] = []
        self.present: int = 0
        """States that the store already had."""
        self.size_bytes: int = 0
        """The size of the stored states in the source."""
        self._store = store
        self._put = put
        self._problems = problems
        self._report = report
        self._here: set[str] = set()
        self._waiting: dict[str, State] = {}
        self._taken = 0

    def take(self, states: Sequence[State]) -> None:
        """Store the states whose children are stored."""
        window = {state.key: state for state in states}
        for keys in by_level(window, lambda key: window[key].children):
            ready = []
            for state in (window[key] for key in keys):
                if self._missing(state, ()) is None:
                    ready.append(state)
                else:
                    self._waiting[state.key] = state
            self._put_all(ready)

    def finish(self) -> None:
        """Store states in cycles, and those that came before their children. The rest lack a child."""
        left = self._waiting
        while missing := {key: child for key, state in left.items() if (child := self._missing(state, left))}:
            failed = {wrong.uuid for wrong in self._problems}
            for key, child in missing.items():
                why = "was not stored" if child in failed else "is neither in the source nor in the store"
                self._problems.append(Problem(key, left[key].name, "missing", f"it refers to {child}, which {why}"))
            left = {key: state for key, state in left.items() if key not in missing}
        order = postorder(left, lambda key: [child for child in left[key].children if child in left])
        for keys in by_level(order, lambda key: left[key].children):
            self._put_all([left[key] for key in keys])
        self._store.packs.seal()

    def _missing(self, state: State, coming: Iterable[str]) -> str | None:
        for child in state.children:
            if child not in self._here and child != state.key and child not in coming and not self._store.has(child):
                return child
        return None

    def _put_all(self, states: Sequence[State]) -> None:
        results: dict[int, bool | Problem] = {}

        def one(number: int) -> None:
            state = states[number]
            try:
                results[number] = self._put(state)
            except ANAError as error:
                results[number] = problem(error, state.key, state.name)

        large = [number for number, state in enumerate(states) if state.size_bytes > SMALL_BYTES]
        threads.run(one, [number for number in range(len(states)) if number not in set(large)], threads.WAITING)
        for number in large:
            one(number)
        for number, state in enumerate(states):
            self._note(state, results[number])
        self._taken += len(states)
        self._report(self._taken, self.size_bytes)

    def _note(self, state: State, result: bool | Problem) -> None:  # noqa: FBT001 - what became of it
        if isinstance(result, Problem):
            self._problems.append(result)
            return
        self._here.add(state.key)
        if result:
            self.stored.append(state.key)
            self.size_bytes += state.size_bytes
        else:
            self.present += 1


def windows(states: Iterable[State]) -> Iterator[list[State]]:
    """Yield states in batches of limited number and size."""
    window: list[State] = []
    size = 0
    for state in states:
        window.append(state)
        size += state.size_bytes
        if len(window) >= WINDOW_STATES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window
