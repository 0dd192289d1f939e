"""A small model of state_svc: what a project must be, and what a batch must lead to.

A few dictionaries; it knows nothing of overlays, segments or commits, and shares no code with
state_svc.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import NodeState
from tests.support.mutations import create, delete, patch

INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION
ILLEGAL = ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
CONFLICT = ErrorReason.ERROR_REASON_VERSION_CONFLICT

#: (what, which node, which value); meaning is given by the model at that time.
Change = tuple[str, int, int]

#: The moves between the states that are tried here, from REQUIREMENTS S1.3.
_MOVES = {
    "PENDING": {"READY", "RUNNING", "CANCELLED"},
    "READY": {"RUNNING", "CANCELLED"},
    "RUNNING": {"DONE", "CANCELLED"},
    "DONE": set[str](),
    "CANCELLED": set[str](),
}
_STATES = sorted(_MOVES)


@dataclass(frozen=True)
class ModelNode:
    """What a node must be."""

    parent: str
    layer: int
    state: str = "PENDING"
    version: int = 1
    note: str = ""


@dataclass
class ModelProject:
    """What a project must be."""

    nodes: dict[str, ModelNode] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  #: ids that exist or existed
    revision: int = 1
    holder: str = ""
    lease_epoch: int = 0
    #: producer → (epoch, revisions of its sequences from 1)
    producers: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    history: dict[int, dict[str, ModelNode]] = field(default_factory=dict)

    def seal(self) -> int:
        """Count one more revision, and remember what it looks like."""
        self.revision += 1
        self.history[self.revision] = dict(self.nodes)
        return self.revision


@dataclass
class Outcome:
    """What a batch must lead to: nodes and ids afterwards, or the first refusal."""

    nodes: dict[str, ModelNode]
    used: set[str]
    mutations: list[Mutation] = field(default_factory=list)
    refusal: tuple[int, ErrorReason.ValueType] | None = None


def expect(project: ModelProject, changes: list[Change]) -> Outcome:
    """Turn changes into mutations and say what they must lead to."""
    outcome = Outcome(dict(project.nodes), set(project.used))
    nodes = outcome.nodes
    for index, (what, which, value) in enumerate(changes):
        known = list(nodes)
        node_id = known[which % len(known)] if known else "nobody"
        node = nodes.get(node_id)
        bad: ErrorReason.ValueType | None = None
        if what == "create":
            fresh = next(name for i in range(1_000) if (name := f"n{i}") not in outcome.used)
            node_id = fresh if value else "n0"
            parent = known[which] if which < len(known) else ""
            layer = nodes[parent].layer + 1 if parent else 0
            mutation = create(node_id, parent, layer)
            bad = INVALID if node_id in outcome.used else None
            if bad is None:
                nodes[node_id] = ModelNode(parent, layer)
                outcome.used.add(node_id)
        elif node is None or not value:
            mutation, bad = patch("nobody", waiting_on="x"), INVALID
        elif what == "move":
            legal = sorted(_MOVES[node.state]) or _STATES
            state = (_STATES if value > 12 else legal)[value % len(legal)]
            mutation = patch(node_id, state=NodeState.Value(f"NODE_STATE_{state}"))
            if state in _MOVES[node.state]:
                nodes[node_id] = replace(node, state=state, version=node.version + 1)
            elif state != node.state:
                bad = ILLEGAL
        elif what == "note":
            note = "x" * (value % 3)
            mutation = patch(node_id, waiting_on=note)
            if note != node.note:
                nodes[node_id] = replace(node, note=note, version=node.version + 1)
        elif what == "expect":
            expected = node.version + (value > 12)
            mutation = patch(node_id, expected_version=expected)
            bad = CONFLICT if expected != node.version else None
        else:
            mutation = delete(node_id)
            if any(other.parent == node_id for other in nodes.values()):
                bad = INVALID
            else:
                del nodes[node_id]
        outcome.mutations.append(mutation)
        if bad is not None and outcome.refusal is None:
            outcome.refusal = (index, bad)
    return outcome
