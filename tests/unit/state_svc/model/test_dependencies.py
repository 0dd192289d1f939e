"""The edges of a batch are checked in as few steps as they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from state_svc.model import apply, limits
from state_svc.model.dependencies import Created, check_created
from state_svc.model.node import LiveNode
from state_svc.model.problem import Problem
from tests.support.live import live_project, refusals
from tests.support.mutations import create


def test_each_node_that_others_depend_on_is_looked_for_once() -> None:
    """A batch may hold most of a million dependencies on a thousand nodes."""
    names = [f"n{number}" for number in range(100)]
    project = live_project(*(create(name) for name in names), create("new"))
    node = project.view.nodes["new"]
    asked: list[str] = []

    def find(node_id: str) -> LiveNode | None:
        asked.append(node_id)
        return project.view.nodes.get(node_id)

    created = [Created(index, node, tuple(names)) for index in range(50)]
    assert not list(check_created(created, find, lambda _: False))
    assert sorted(asked) == sorted(names)


def test_no_more_edges_are_looked_at_than_are_named_if_they_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = 0

    def counted(*args: Any) -> Iterator[tuple[int, Problem]]:
        nonlocal found
        for item in check_created(*args):
            found += 1
            yield item

    monkeypatch.setattr(apply, "check_created", counted)
    missing = [f"m{number}" for number in range(500)]
    mutations = [create(f"c{number}", depends_on=missing) for number in range(20)]
    assert len(refusals(live_project(), *mutations)) == limits.MAX_VIOLATIONS
    assert found == limits.MAX_VIOLATIONS
