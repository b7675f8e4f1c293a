"""The order in which a collection deletes: what refers to others first, and circles all or not at all."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from ana.maintenance.pack_collecting import PackCollection, node_of
from ana.stores.directory import trash
from ana.stores.directory.graph import circles, postorder
from ana.stores.directory.pack_survey import PackFile, number_of_name
from ana.stores.directory.scan import Survey

__all__ = ["Deletion"]

Nodes = Mapping[str, tuple[str, ...]]


class Deletion:
    """Deletes states and packs from the trash. Each is a node, named by its file relative to the store."""

    def __init__(self, survey: Survey, packs: PackCollection, delete_names: Callable[[list[str]], list[str]]) -> None:
        """`delete_names` deletes states with files of their own, and returns those that were not deleted."""
        self._survey = survey
        self._packs = packs
        self._delete_names = delete_names
        self._by_node: dict[str, PackFile] = {}
        self._children: dict[str, tuple[str, ...]] = {}
        self._spared: set[str] = set()

    def run(self, names: set[str], packs: list[PackFile]) -> set[str]:
        """Delete these, but for what was brought back and all that it refers to. Return the nodes that are left."""
        self._by_node = {node_of(one): one for one in packs}
        for name, answer in self._survey.find(sorted(names)):
            if isinstance(answer, tuple):
                self._note(name, map(self._survey.name_of, answer[0].children), names)
        for node, one in self._by_node.items():
            self._note(node, self._packs.children(one), names)
        every = {*names, *self._by_node}
        for level in _parents_first(every, self._children):
            self._delete_level(level)
        return self._spared & every

    def _note(self, node: str, children: Iterable[str], names: set[str]) -> None:
        found: set[str] = set()
        for child in children:
            if child in names:
                found.add(child)
            holders = self._survey.packed.find(number_of_name(child), trashed=True)
            found.update(holder for one, _ in holders if (holder := node_of(one)) in self._by_node)
        found.discard(node)
        self._children[node] = tuple(sorted(found))

    def _delete_level(self, level: list[list[str]]) -> None:
        alone = [nodes[0] for nodes in level if len(nodes) == 1 and nodes[0] not in self._spared]
        self._spare(self._delete_names([node for node in alone if node not in self._by_node]))
        self._spare([node for node in alone if node in self._by_node and not self._delete_pack(self._by_node[node])])
        for nodes in level:
            if len(nodes) > 1 and self._spared.isdisjoint(nodes) and not self._delete_circle(nodes):
                self._spare(nodes)

    def _delete_circle(self, nodes: list[str]) -> bool:
        """Delete nodes that refer to each other; return False if one was brought back: then no pack is deleted."""
        packs = [self._by_node[node] for node in nodes if node in self._by_node]
        hidden = self._packs.hide(packs)
        if packs and not hidden:
            return False
        if self._delete_names([node for node in nodes if node not in self._by_node]):
            self._packs.unhide(hidden)
            return False
        # Nobody can bring one back any more.
        return len(hidden) == sum(self._delete_pack(one) for one in hidden)

    def _delete_pack(self, one: PackFile) -> bool:
        return self._packs.delete(one) == trash.DELETED

    def _spare(self, nodes: Iterable[str]) -> None:
        """Note nodes that exist again, or may: all that they refer to stays, too."""
        self._spared.update(postorder(nodes, lambda node: self._children.get(node, ())))


def _parents_first(nodes: set[str], children: Nodes) -> Iterator[list[list[str]]]:
    """Yield the nodes in levels of groups: parents before children. The nodes of a group refer to each other."""
    groups = list(circles(sorted(nodes), lambda node: children.get(node, ())))
    group_of = {node: number for number, group in enumerate(groups) for node in group}
    level = [0] * len(groups)
    for number in reversed(range(len(groups))):
        for node in groups[number]:
            for child in children.get(node, ()):
                below = group_of[child]
                if below != number:
                    level[below] = max(level[below], level[number] + 1)
    by_level: dict[int, list[list[str]]] = {}
    for number in reversed(range(len(groups))):
        by_level.setdefault(level[number], []).append(groups[number])
    for at in sorted(by_level):
        yield by_level[at]
