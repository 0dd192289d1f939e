"""A store of one project in memory that takes decisions only as the contract allows them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from google.protobuf.descriptor import EnumDescriptor

from orchestrator_svc.graph.event import CommandGiven, ReviewClosed
from orchestrator_svc.graph.mutation import (
    CreateNode,
    Mutation,
    OpenReview,
    PatchCommand,
    PatchNode,
    PatchProject,
    PatchReview,
)
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.plan import MAX_LISTED_CHILDREN, DraftTask
from orchestrator_svc.graph.review import Answer, Checkpoint, Review, ReviewDecision, ReviewState
from orchestrator_svc.graph.settings import ExpiryPolicy
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    CommandState,
    NodeState,
    ProjectState,
)
from orchestrator_svc.publish.records import LoadedProject
from ramify.v1.node_pb2 import NodeState as NodeStateEnum
from ramify.v1.project_pb2 import ProjectState as ProjectStateEnum
from ramify.v1.transition_pb2 import StateRule, state_rule


def rules(enum: EnumDescriptor, prefix: str) -> dict[str, StateRule]:
    """Return the lifecycle table that the contract carries, by state name."""
    return {
        value.name.removeprefix(prefix): value.GetOptions().Extensions[state_rule]
        for value in enum.values
    }


NODE_RULES = rules(NodeStateEnum.DESCRIPTOR, "NODE_STATE_")
PROJECT_RULES = rules(ProjectStateEnum.DESCRIPTOR, "PROJECT_STATE_")

#: The stored fields of a node are those before the run's own counters.
STORED_FIELDS = [f.name for f in fields(Node)][: [f.name for f in fields(Node)].index("unsettled")]


@dataclass
class Ledger:
    """What is durable. `commit` applies a batch whole or raises AssertionError."""

    goal: str = "a goal"
    state: ProjectState = ProjectState.PENDING
    root_id: str = ""
    error: Failure | None = None
    pause_time: float | None = None
    revision: int = 1
    nodes: dict[str, Node] = field(default_factory=dict)
    commands: dict[str, CommandState] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    orders: dict[str, CommandGiven] = field(default_factory=dict)
    reviews: dict[str, Review] = field(default_factory=dict)
    closed: list[ReviewClosed] = field(default_factory=list)  #: in the order of their closing
    moves: list[tuple[str, NodeState, int]] = field(default_factory=list)  #: node, state, attempt

    def commit(self, groups: Iterable[Sequence[Mutation]]) -> int:
        """Apply the mutations of one batch in order; return its revision."""
        self.revision += 1
        for group in groups:
            assert group, "an empty group"
            for mutation in group:
                self._apply(mutation)
        return self.revision

    def _apply(self, mutation: Mutation) -> None:
        if isinstance(mutation, CreateNode):
            self._create(mutation)
        elif isinstance(mutation, PatchNode):
            self._patch(mutation)
        elif isinstance(mutation, PatchProject):
            if mutation.state is not self.state:
                assert mutation.state in PROJECT_RULES[self.state].to, (self.state, mutation)
            self.state = mutation.state
            self.root_id = mutation.root_node_id or self.root_id
            self.error = mutation.error
            self.pause_time = mutation.pause_time
        elif isinstance(mutation, PatchCommand):
            assert self.commands[mutation.command_id] is CommandState.OPEN
            self.commands[mutation.command_id] = mutation.state
            self.answers[mutation.command_id] = mutation.answer
        elif isinstance(mutation, OpenReview):
            self._open(mutation.review)
        elif isinstance(mutation, PatchReview):
            self._patch_review(mutation)

    def _create(self, mutation: CreateNode) -> None:
        assert mutation.node_id not in self.nodes, f"{mutation.node_id} exists"
        assert NODE_RULES[mutation.state].initial
        parent = self.nodes.get(mutation.parent_id)
        assert mutation.layer == (parent.layer + 1 if parent else 0)
        self.nodes[mutation.node_id] = Node(
            node_id=mutation.node_id,
            goal=mutation.goal,
            task_type=mutation.task_type,
            node_type=mutation.node_type,
            layer=mutation.layer,
            parent_id=mutation.parent_id,
            depends_on=mutation.depends_on,
            details=mutation.details,
            budget=mutation.budget,
            max_retries=mutation.max_retries,
            state=mutation.state,
            on_exhausted=mutation.on_exhausted,
            on_dependency_failure=mutation.on_dependency_failure,
        )
        self.moves.append((mutation.node_id, mutation.state, 0))

    def _patch(self, mutation: PatchNode) -> None:
        node, changes = self.nodes[mutation.node_id], mutation.changes
        attempt = changes.get("attempt", node.attempt)
        assert attempt in (node.attempt, node.attempt + 1)
        state = changes.get("state", node.state)
        if state is not node.state:
            rule = NODE_RULES[node.state]
            again = attempt == node.attempt + 1 and state in rule.to_with_new_attempt
            assert state in rule.to or again, (node.node_id, node.state, state)
            self.moves.append((node.node_id, state, attempt))
        for name, value in changes.items():
            setattr(node, name, value)
        if len(node.children) > MAX_LISTED_CHILDREN:
            node.children = ()  # the store lists no more

    def _open(self, review: Review) -> None:
        assert review.review_id not in self.reviews, f"{review.review_id} exists"
        assert review.node_id in self.nodes
        self.reviews[review.review_id] = replace(review, answer=None)

    def _patch_review(self, mutation: PatchReview) -> None:
        review = self.reviews[mutation.review_id]
        if review.answer is not None:
            return  # whoever closed it was first
        if mutation.state is None:
            review.overdue, review.escalations = mutation.overdue, mutation.escalations
            review.expire_time = mutation.expire_time
            return
        decision = None
        if mutation.state is ReviewState.EXPIRED:
            assert not asked_by_policy(review) or review.expiry_policy is ExpiryPolicy.REJECT
            assert review.expiry_policy in (ExpiryPolicy.APPROVE, ExpiryPolicy.REJECT)
            decision = ReviewDecision[review.expiry_policy.name]
        self._close(review, Answer(mutation.state, decision))

    def _close(self, review: Review, answer: Answer) -> ReviewClosed:
        review.answer = answer
        self.closed.append(ReviewClosed(review.review_id, answer))
        return self.closed[-1]

    def resolve(
        self,
        review_id: str,
        decision: ReviewDecision,
        instructions: str = "",
        modified_plan: tuple[DraftTask, ...] | None = None,
    ) -> ReviewClosed:
        """Decide an open review; return what the watch will tell."""
        self.revision += 1
        review = self.reviews[review_id]
        assert review.answer is None, f"{review_id} is closed"
        answer = Answer(ReviewState.RESOLVED, decision, instructions, modified_plan, "ada")
        return self._close(review, answer)

    def open_reviews(self) -> list[Review]:
        """Return the reviews that wait for an answer."""
        return [review for review in self.reviews.values() if review.answer is None]

    def load(self) -> LoadedProject:
        """Return a copy of everything, as a fresh process reads it."""
        return LoadedProject(
            project_id="p",
            project_uid="uid",
            revision=self.revision,
            goal=self.goal,
            state=self.state,
            profile="scripted",
            root_id=self.root_id,
            pause_time=self.pause_time,
            settings={},
            nodes=tuple(stored_copy(node) for node in self.nodes.values()),
            reviews=tuple(self._needed_reviews()),
        )

    def _needed_reviews(self) -> Iterable[Review]:
        """Yield the open reviews, and the closed ones whose answer some node needs."""
        going_on = [n for n in self.nodes.values() if n.state not in TERMINAL_NODE_STATES]
        needed = {id_ for node in going_on for id_ in (node.review_id, node.allowance.review_id)}
        for review in self.reviews.values():
            if review.answer is None or review.review_id in needed:
                yield replace(review)

    def open_commands(self) -> list[CommandGiven]:
        """Return the orders that nobody has answered."""
        return [
            self.orders[id_] for id_, state in self.commands.items() if state is CommandState.OPEN
        ]

    def give(self, event: CommandGiven) -> None:
        """Make an order durable."""
        self.revision += 1
        self.commands[event.command_id] = CommandState.OPEN
        self.orders[event.command_id] = event

    def reopen(self, order: CommandGiven) -> None:
        """Let an ended project run again for an order, as orchestrators do in one batch."""
        assert ProjectState.RUNNING in PROJECT_RULES[self.state].to
        self.state, self.error = ProjectState.RUNNING, None
        self.give(order)

    def states(self) -> dict[str, NodeState]:
        """Return the state of every node."""
        return {node_id: node.state for node_id, node in self.nodes.items()}


def asked_by_policy(review: Review) -> bool:
    """Return whether a policy has asked: then silence approves nothing."""
    return review.checkpoint in (Checkpoint.EXHAUSTED, Checkpoint.BUDGET)


def stored_copy(node: Node) -> Node:
    """Return a node with its stored fields only."""
    return Node(**{name: copy.copy(getattr(node, name)) for name in STORED_FIELDS})
