"""What states refer to, followed through their headers: without recursion, as chains may be long."""

from collections.abc import Callable, Iterable, Iterator

__all__ = ["children_first"]


def children_first(keys: Iterable[str], children_of: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """Yield the keys and all that they lead to, each once and after its children (of a cycle, one comes first).

    `children_of` is called once for each; what it does not want followed, it leaves out.
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
