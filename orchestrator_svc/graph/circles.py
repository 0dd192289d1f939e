"""Circles among things that wait for each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar


class _Ordered(Protocol):
    def __hash__(self) -> int: ...
    def __lt__(self, other: Any, /) -> bool: ...


_Name = TypeVar("_Name", bound=_Ordered)


def circles(edges: Iterable[tuple[_Name, _Name]]) -> list[list[_Name]]:
    """Return one circle of each group of names that lead to each other, sorted.

    A name that leads to itself is a circle of one.
    """
    tangled = _tangled(edges)
    if not tangled:
        return []
    # Loading it takes a tenth of a second at each start, and hardly any run has a circle.
    import networkx as nx

    graph: nx.DiGraph[_Name] = nx.DiGraph(tangled)
    found = []
    for group in nx.strongly_connected_components(graph):
        first = min(group)
        if len(group) > 1 or graph.has_edge(first, first):
            ring = nx.find_cycle(graph.subgraph(group), source=first)
            found.append([edge[0] for edge in ring])
    return sorted(found)


def _tangled(edges: Iterable[tuple[_Name, _Name]]) -> list[tuple[_Name, _Name]]:
    """Return the edges that are left when those into names that lead nowhere are taken away."""
    leads_to: dict[_Name, list[_Name]] = {}
    reached_from: dict[_Name, list[_Name]] = {}
    for start, end in edges:
        leads_to.setdefault(start, []).append(end)
        reached_from.setdefault(end, []).append(start)
    open_count = {name: len(ends) for name, ends in leads_to.items()}
    ends = [name for name in reached_from if name not in leads_to]
    while ends:
        for start in reached_from.get(ends.pop(), ()):
            open_count[start] -= 1
            if not open_count[start]:
                ends.append(start)
    return [
        (start, end)
        for start, targets in leads_to.items()
        if open_count[start]
        for end in targets
        if open_count.get(end)
    ]
