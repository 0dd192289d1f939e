"""Chooses which nodes of a tree to show when not all of them fit. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ramify.states import TERMINAL_NODE_STATES, node_state_name
from ramify.v1.node_pb2 import Node, NodeState
from ramify.view import View

_ACTIVE = frozenset({NodeState.NODE_STATE_RUNNING, NodeState.NODE_STATE_AGGREGATING})
_TROUBLED = frozenset({NodeState.NODE_STATE_FAILED, NodeState.NODE_STATE_NEEDS_REPLAN})


@dataclass(frozen=True, slots=True)
class OutlineRow:
    """One line: a node, or a note about siblings that are not shown."""

    depth: int  #: distance from the top of what is shown
    guides: tuple[bool, ...]  #: per ancestor below the top: whether its line goes on downwards
    last: bool  #: whether it is the last line of its parent
    node: Node | None
    hidden: str = ""  #: what is left out, when `node` is None


def outline(view: View, budget: int) -> list[OutlineRow]:
    """Return at most `budget` rows (at least 1) that tell the most about a run.

    Shown first are the nodes at work, then failed ones, then the upper layers, each with all its
    ancestors. Siblings left out are summed up in one row below those shown.
    """
    chosen = set(view.nodes) if len(view.nodes) <= budget else _choose(view, budget)
    rows: list[OutlineRow] = []
    # A stack instead of recursion, because a tree may be deeper than Python's stack.
    stack = [OutlineRow(0, (), *entry) for entry in reversed(_entries(view.roots(), chosen))]
    while stack:
        row = stack.pop()
        rows.append(row)
        if row.node is None:
            continue
        guides = (*row.guides, not row.last) if row.depth else ()
        entries = _entries(view.children(row.node.node_id), chosen)
        stack.extend(OutlineRow(row.depth + 1, guides, *entry) for entry in reversed(entries))
    return rows[: max(1, budget)]


def _entries(siblings: Iterable[Node], chosen: set[str]) -> list[tuple[bool, Node | None, str]]:
    """Return (last, node, hidden) for each row of some siblings."""
    shown: list[Node | None] = []
    rest: list[Node] = []
    for node in siblings:
        if node.node_id in chosen:
            shown.append(node)
        else:
            rest.append(node)
    if rest:
        shown.append(None)
    return [
        (position + 1 == len(shown), node, "" if node else _summary(rest))
        for position, node in enumerate(shown)
    ]


def counts(nodes: Iterable[Node]) -> Mapping[str, int]:
    """Return the number of nodes by state name, superseded ones left out."""
    return Counter(node_state_name(node.state) for node in nodes if not node.superseded)


def active_nodes(view: View) -> list[Node]:
    """Return the nodes at work, the latest started first."""
    active = [node for node in view.nodes.values() if node.state in _ACTIVE]
    return sorted(active, key=lambda node: node.update_revision, reverse=True)


def done_and_total(by_state: Mapping[str, int]) -> tuple[int, int]:
    """Return how many nodes are terminal, and how many there are."""
    names = {node_state_name(NodeState.ValueType(state)) for state in TERMINAL_NODE_STATES}
    return sum(by_state.get(name, 0) for name in names), sum(by_state.values())


def _choose(view: View, budget: int) -> set[str]:
    """Choose nodes, ancestors first, while they and the rows that sum up the rest fit."""
    nodes = view.nodes
    all_children = Counter(node.parent_node_id for node in nodes.values())
    roots = list(view.roots())
    chosen: set[str] = set()
    hidden = dict(all_children)  #: children not chosen yet, by parent
    used = 1 if len(roots) > 1 else 0  # a row that sums up the roots left out
    for candidate in sorted(nodes.values(), key=_rank):
        path: list[str] = []
        at: Node | None = candidate
        while at is not None and at.node_id not in chosen:
            path.append(at.node_id)
            at = nodes.get(at.parent_node_id)
        # A node costs its row, and one more while some of its children are hidden; its parent's
        # row of hidden children goes when the last of them is shown.
        cost = sum(1 + (all_children[node_id] > (rank > 0)) for rank, node_id in enumerate(path))
        if at is not None and path and hidden[at.node_id] == 1:
            cost -= 1
        if used + cost > budget:
            continue
        for node_id in path:
            chosen.add(node_id)
            parent = nodes[node_id].parent_node_id
            hidden[parent] = hidden.get(parent, 1) - 1
        used += cost
        if used >= budget:
            break
    return chosen or {roots[0].node_id}


def _rank(node: Node) -> tuple[int, int, int]:
    if node.state in _ACTIVE:
        return (0, -node.update_revision, 0)
    if node.superseded:
        return (3, node.layer, -node.update_revision)
    if node.state in _TROUBLED:
        return (1, node.layer, -node.update_revision)
    return (2, node.layer, -node.update_revision)


def _summary(hidden: list[Node]) -> str:
    names = (node_state_name(node.state).lower().replace("_", " ") for node in hidden)
    by_state = Counter(names)
    parts = ", ".join(f"{count} {name}" for name, count in by_state.most_common())
    return f"{len(hidden):,} more: {parts}"
