"""Plans that are larger than a batch are written over several revisions (SEM 11).

Their children are PENDING, dependencies before what needs them, each free to go into any batch.
The parent's PLAN_DONE comes after all of them and is the gate: without it no child may run. When
it never came, what was written is superseded, and the next plan has other ids.

A node lists at most `MAX_LISTED_CHILDREN` children in the store; of more, their own ids say in
which plan of their parent they are, and where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.plan import (
    MAX_LISTED_CHILDREN,
    DraftTask,
    fits_one_batch,
    longest_child_id,
    sub_graph_id,
)


def is_staged(node: Node, tasks: Sequence[DraftTask], objective: str) -> bool:
    """Return whether the next plan of a node needs more than one revision."""
    return not fits_one_batch(tasks, objective, next_child_id(node))


def next_child_id(node: Node) -> int:
    """Return how many characters the id of a child has at most in the next plan of a node."""
    return longest_child_id(sub_graph_id(node.node_id, node.plan_count + 1), node.children)


def restore_children(nodes: Iterable[Node]) -> None:
    """Set `children`, in plan order, of loaded nodes that have too many to be listed."""
    loaded = list(nodes)
    unlisted: dict[str, list[str]] = {
        node.node_id: [] for node in loaded if node.sub_graph_id and not node.children
    }
    if not unlisted:
        return
    by_id = {node.node_id: node for node in loaded if node.node_id in unlisted}
    for node in loaded:
        if node.parent_id in unlisted and not node.superseded:
            unlisted[node.parent_id].append(node.node_id)
    for parent_id, children in unlisted.items():
        prefix = by_id[parent_id].sub_graph_id + "."
        children.sort(key=lambda id_: _place(id_, prefix))
        if len(children) > MAX_LISTED_CHILDREN:
            by_id[parent_id].children = tuple(children)


def _place(node_id: str, prefix: str) -> int:
    """Return the place of a child; those that a plan has reused come before its own."""
    place = node_id.removeprefix(prefix)
    return int(place) if node_id.startswith(prefix) and place.isdecimal() else -1


def half_staged(nodes: Mapping[str, Node]) -> dict[str, list[Node]]:
    """Return, by parent, the children of plans that never reached PLAN_DONE."""
    prefixes: dict[str, str] = {}
    found: dict[str, list[Node]] = {}
    for node in nodes.values():
        parent = nodes.get(node.parent_id)
        if parent is None:
            continue
        prefix = prefixes.get(parent.node_id)
        if prefix is None:
            prefix = sub_graph_id(parent.node_id, parent.plan_count + 1) + "."
            prefixes[parent.node_id] = prefix
        if node.node_id.startswith(prefix):
            found.setdefault(parent.node_id, []).append(node)
    return found
