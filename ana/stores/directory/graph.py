"""Orderings of the reference graph, computed without recursion because chains may be long."""

from collections.abc import Callable, Iterable, Iterator

__all__ = ["by_level", "circles", "postorder"]


def postorder(keys: Iterable[str], children_of: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """Yield the keys and all that they refer to, each once, after its children. A cycle is broken at one key.

    `children_of` is called once for each key. It omits children that should not be followed.
    """
    seen: set[str] = set()
    for top in keys:
        if top in seen:
            continue
        seen.add(top)
        stack = [(top, iter(children_of(top)))]
        while stack:
            key, children = stack[-1]
            child = next((child for child in children if child not in seen), None)
            if child is None:
                stack.pop()
                yield key
            else:
                seen.add(child)
                stack.append((child, iter(children_of(child))))


def by_level(keys: Iterable[str], children_of: Callable[[str], Iterable[str]]) -> list[list[str]]:
    """Group keys, given in postorder, into levels: keys of one level do not refer to each other.

    In a cycle, some do.
    """
    lists: list[list[str]] = []
    level_of: dict[str, int] = {}
    for key in keys:
        level = 1 + max((level_of.get(child, -1) for child in children_of(key)), default=-1)
        level_of[key] = level
        lists += [[] for _ in range(len(lists), level + 1)]
        lists[level].append(key)
    return lists


def circles(keys: Iterable[str], children_of: Callable[[str], Iterable[str]]) -> Iterator[list[str]]:
    """Yield the keys and all that they refer to in groups, each after what it refers to.

    The keys of a group refer to each other, directly or not; a key outside of all circles is a group of its own.
    (Tarjan, "Depth-first search and linear graph algorithms", 1972.)
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_keys: list[str] = []
    waiting: set[str] = set()
    stack: list[tuple[str, Iterator[str]]] = []

    def begin(key: str) -> None:
        number[key] = low[key] = len(number)
        open_keys.append(key)
        waiting.add(key)
        stack.append((key, iter(children_of(key))))

    for top in keys:
        if top not in number:
            begin(top)
        while stack:
            key, children = stack[-1]
            child = next((child for child in children if child not in number or child in waiting), None)
            if child is None:
                stack.pop()
                above = stack[-1][0] if stack else key
                low[above] = min(low[above], low[key])
                if low[key] == number[key]:
                    group = [*iter(open_keys.pop, key), key]
                    waiting.difference_update(group)
                    yield group
            elif child in number:
                low[key] = min(low[key], number[child])
            else:
                begin(child)
