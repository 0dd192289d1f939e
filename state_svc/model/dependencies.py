"""Checks the edges of the nodes that a batch creates (SEM 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ramify.v1.error_pb2 import ErrorReason
from state_svc.model import limits
from state_svc.model.node import LiveNode
from state_svc.model.problem import Problem

_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION


@dataclass(frozen=True, slots=True)
class Created:
    """A node that a batch creates: index of its mutation, the node, what it depends on."""

    index: int
    node: LiveNode
    depends_on: tuple[str, ...]


def check_created(
    created: Sequence[Created],
    find: Callable[[str], LiveNode | None],
    was_deleted: Callable[[str], bool],
) -> Iterator[tuple[int, Problem]]:
    """Yield (index, problem) for parents, layers and dependencies that do not fit.

    `find` sees the nodes of the batch too, so a node may depend on one that comes after it in
    the same batch; a cycle can therefore only run inside the batch.
    """
    known: set[str] = set()
    for item in created:
        for problem in _check_edges(item, find, was_deleted, known):
            yield item.index, problem
    for item in _on_cycles(created):
        yield (
            item.index,
            Problem(
                _INVALID,
                "node.create.depends_on",
                f"the dependencies of {item.node.spec.node_id} run in a cycle",
            ),
        )


def _check_edges(
    item: Created,
    find: Callable[[str], LiveNode | None],
    was_deleted: Callable[[str], bool],
    known: set[str],
) -> Iterator[Problem]:
    """Yield what is wrong with one node; `known` is kept, so that each is looked for once."""
    spec = item.node.spec
    if spec.layer > limits.MAX_LAYER:
        yield Problem(
            _INVALID, "node.create.layer", f"is {spec.layer}, at most {limits.MAX_LAYER} is allowed"
        )
    if not spec.parent:
        if spec.layer:
            yield Problem(_INVALID, "node.create.layer", "a node without parent has layer 0")
    else:
        parent = find(spec.parent)
        if parent is None or spec.parent == spec.node_id:
            yield Problem(
                _INVALID, "node.create.parent_node_id", f"there is no node {spec.parent!r}"
            )
        elif spec.layer != parent.spec.layer + 1:
            yield Problem(
                _INVALID,
                "node.create.layer",
                f"is {spec.layer}, must be {parent.spec.layer + 1}, one more than the parent's",
            )
    for other in item.depends_on:
        if other in known:
            continue
        if find(other) is not None:
            known.add(other)
        else:
            gone = "was deleted" if was_deleted(other) else "does not exist"
            yield Problem(_INVALID, "node.create.depends_on", f"node {other!r} {gone}")


def _on_cycles(created: Sequence[Created]) -> list[Created]:
    """Return the created nodes that cannot be put in an order (Kahn 1962)."""
    by_id = {item.node.spec.node_id: item for item in created}
    inside = {
        node_id: [other for other in item.depends_on if other in by_id]
        for node_id, item in by_id.items()
    }
    missing = {node_id: len(others) for node_id, others in inside.items()}
    dependants: dict[str, list[str]] = {}
    for node_id, others in inside.items():
        for other in others:
            dependants.setdefault(other, []).append(node_id)
    ready = [node_id for node_id, count in missing.items() if not count]
    while ready:
        for dependant in dependants.get(ready.pop(), ()):
            missing[dependant] -= 1
            if not missing[dependant]:
                ready.append(dependant)
    return [by_id[node_id] for node_id, count in missing.items() if count]
