"""Circles are found whole, whatever hangs on them, and without loading a library for nothing."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.circles import circles

_NAMES = st.integers(0, 7)


@pytest.mark.parametrize(
    "edges, expected",
    [
        ([], []),
        ([("a", "b"), ("b", "c"), ("a", "c")], []),
        ([("a", "a")], [["a"]]),
        ([("a", "b"), ("b", "a"), ("b", "c"), ("d", "a")], [["a", "b"]]),
        ([("c", "d"), ("d", "c"), ("a", "b"), ("b", "a"), ("b", "c")], [["a", "b"], ["c", "d"]]),
        ([("a", "b"), ("a", "b")], []),
        ([("b", "a"), ("a", "c"), ("c", "b"), ("a", "b")], [["a", "c", "b"]]),
    ],
)
def test_one_circle_of_each_group(edges: list[tuple[str, str]], expected: list[list[str]]) -> None:
    found = circles(edges)
    assert [sorted(circle) for circle in found] == [sorted(circle) for circle in expected]


@given(st.lists(st.tuples(_NAMES, _NAMES), max_size=24))
def test_every_group_that_waits_for_itself_has_a_real_circle(edges: list[tuple[int, int]]) -> None:
    graph: nx.DiGraph[int] = nx.DiGraph(edges)
    groups = [
        group
        for group in nx.strongly_connected_components(graph)
        if len(group) > 1 or any(graph.has_edge(name, name) for name in group)
    ]
    found = circles(edges)
    for circle in found:
        assert all(pair in edges for pair in zip(circle, [*circle[1:], circle[0]], strict=True))
    for group in groups:
        assert sum(group.issuperset(circle) for circle in found) == 1
    assert len(found) == len(groups)
