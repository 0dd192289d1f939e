"""The history of a run, checked change by change against the contract's rules (SEM 8, 21, 25).

It knows the transition table from the descriptor and the rules from their words; it shares no
code with either service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from google.protobuf.descriptor import EnumDescriptor

from ramify.v1.mutation_pb2 import Change, NodeChange, ProjectChange, RevisionInfo
from ramify.v1.node_pb2 import Node, NodeState, NodeType
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.transition_pb2 import StateRule, state_rule
from tests.support.view import NodeView
from tests.support.witness import AgentCall


def _rules(enum: EnumDescriptor, prefix: str) -> dict[str, StateRule]:
    return {
        value.name.removeprefix(prefix): value.GetOptions().Extensions[state_rule]
        for value in enum.values
    }


NODE_RULES = _rules(NodeState.DESCRIPTOR, "NODE_STATE_")
PROJECT_RULES = _rules(ProjectState.DESCRIPTOR, "PROJECT_STATE_")


def node_state(number: NodeState.ValueType) -> str:
    """Return the short name of a node state."""
    return NodeState.Name(number).removeprefix("NODE_STATE_")


def project_state(number: ProjectState.ValueType) -> str:
    """Return the short name of a project state."""
    return ProjectState.Name(number).removeprefix("PROJECT_STATE_")


@dataclass(frozen=True)
class Dispatch:
    """One agent call as the history announces it."""

    revision: int
    node_id: str
    attempt: int
    stage: str


class RunHistory:
    """Takes the changes of a run in order; an assertion names the first that is not legal."""

    def __init__(self) -> None:
        self.view = NodeView()
        self.state = ""  #: of the project
        self.dispatches: list[Dispatch] = []
        self.interruptions: Counter[str] = Counter()  #: new attempts by node, not for a failure
        self.failures: Counter[str] = Counter()  #: counted failures by node
        self.most_in_flight = 0
        self.ended_at: dict[str, float] = {}  #: commit time of the end, by node
        self.states: list[str] = []  #: of the project, in order
        self._announced: set[tuple[str, int, str]] = set()
        self._begun: set[tuple[str, int, str, str]] = set()  #: with the review that allowed it

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes as they are now."""
        return self.view.nodes

    @property
    def ended(self) -> bool:
        """Whether the project is in a terminal state."""
        return bool(self.state) and PROJECT_RULES[self.state].terminal

    def take(self, changes: Iterable[Change], infos: Iterable[RevisionInfo]) -> None:
        """Check and apply the changes of a delta."""
        known = list(infos)
        times = {info.revision: info.commit_time.ToNanoseconds() / 1e9 for info in known}
        for change in changes:
            if change.WhichOneof("entity") == "project":
                self._take_project(change.project)
            elif change.WhichOneof("entity") == "node":
                node_id = change.node.node_id
                before = Node()
                if node_id in self.nodes:
                    before.CopyFrom(self.nodes[node_id])
                self.view.apply([change], known)
                self._take_node(change.node, before, change.revision, times[change.revision])

    def _take_project(self, change: ProjectChange) -> None:
        whole = change.WhichOneof("effect") == "project"
        if whole:
            assert not self.state, "the project is created once"
            after = project_state(change.project.state)
            assert PROJECT_RULES[after].initial
        elif change.patch.HasField("state"):
            after = project_state(change.patch.state)
            assert project_state(change.previous_state) == self.state
            assert after in PROJECT_RULES[self.state].to, f"project {self.state} → {after}"
        else:
            return
        self.state = after
        self.states.append(after)

    def _take_node(self, change: NodeChange, before: Node, revision: int, time: float) -> None:
        after = self.nodes[change.node_id]
        where = f"{change.node_id} at revision {revision}"
        if not before.version:
            self._check_created(after, where)
        else:
            assert change.WhichOneof("effect") == "patch", where
            assert change.version == before.version + 1, where
            assert change.previous_state == before.state, where
            self._check_patched(before, after, where)
            if after.usage.agent_calls != before.usage.agent_calls:
                self._take_dispatch(before, after, revision, where)
        if NODE_RULES[node_state(after.state)].terminal:
            self.ended_at[after.node_id] = time
        in_flight = sum(map(_has_call, self.nodes.values()))
        self.most_in_flight = max(self.most_in_flight, in_flight)

    def _check_created(self, node: Node, where: str) -> None:
        assert NODE_RULES[node_state(node.state)].initial, where
        assert (node.version, node.attempt, node.retry_count) == (1, 0, 0), where
        parent = self.nodes.get(node.parent_node_id)
        assert (parent is None) == (not node.parent_node_id), where
        assert node.layer == (parent.layer + 1 if parent else 0), where

    def _check_patched(self, before: Node, after: Node, where: str) -> None:
        old, new = node_state(before.state), node_state(after.state)
        if NODE_RULES[old].terminal:
            reopened = new in ("READY", "NEEDS_REPLAN")
            marked = after.superseded and not before.superseded
            assert reopened or marked, f"{where} changes after its end in {old}"
            assert marked or not after.HasField("end_time"), where
        raised = after.attempt - before.attempt
        failed = after.retry_count - before.retry_count
        assert raised in (0, 1), where
        assert failed <= 1, where
        assert raised or failed <= 0, f"{where}: a counted failure without a new attempt"
        if old != new:
            legal = [*NODE_RULES[old].to, *(NODE_RULES[old].to_with_new_attempt if raised else ())]
            assert new in legal, f"{where}: {old} → {new}"
        if after.retry_count < before.retry_count:  # an order gives fresh counts
            assert not after.retry_count, where
            self.failures[after.node_id] = 0
        elif failed:
            self.failures[after.node_id] += 1
        elif raised and before.attempt:
            self.interruptions[after.node_id] += 1

    def _take_dispatch(self, before: Node, after: Node, revision: int, where: str) -> None:
        assert after.usage.agent_calls == before.usage.agent_calls + 1, where
        assert _has_call(after), f"{where}: an agent call in {node_state(after.state)}"
        stage = _stage(after)
        # A human may ask for another proposal in the same attempt.
        key = (after.node_id, after.attempt, stage)
        asked = (*key, before.waiting_on)  # a human may let a stage be done again
        assert asked not in self._begun, f"{where}: {stage} of attempt {after.attempt} again"
        self._begun.add(asked)
        self._announced.add(key)
        self.dispatches.append(Dispatch(revision, *key))
        for node_id in after.depends_on:
            assert self._state(node_id) == "DONE", f"{where} needs {node_id}"
        if stage == "aggregate":
            for node_id in after.planned_sub_task_ids:
                assert NODE_RULES[self._state(node_id)].terminal, f"{where} before {node_id}"
        if after.parent_node_id:
            assert self._state(after.parent_node_id) == "PLAN_DONE", where

    def _state(self, node_id: str) -> str:
        return node_state(self.nodes[node_id].state)

    def is_running(self, node_id: str, attempt: int) -> bool:
        """Return whether an attempt of a node is under way."""
        node = self.nodes.get(node_id)
        return node is not None and node.attempt == attempt and _has_call(node)

    def waits_for(self, calls: Collection[tuple[str, int, str]]) -> bool:
        """Return whether just these (node, attempt, stage) are announced and without outcome."""
        open_calls = sum(map(_has_call, self.nodes.values()))
        return self._announced.issuperset(calls) and open_calls == len(calls)

    # What must hold at the end

    def count(self, state: str) -> int:
        """Return how many nodes are in a state."""
        return sum(node_state(node.state) == state for node in self.nodes.values())

    def check_accounts(self) -> None:
        """Attempts are dispatches, retries are failures, and nothing hangs (SEM 21)."""
        assert self.ended
        for node_id, node in self.nodes.items():
            assert NODE_RULES[node_state(node.state)].terminal, f"{node_id} has not ended"
            assert node.retry_count == self.failures[node_id], node_id
            begun = any(dispatch.node_id == node_id for dispatch in self.dispatches)
            attempts = int(begun) + self.failures[node_id] + self.interruptions[node_id]
            assert node.attempt == attempts, node_id

    def check_calls(self, calls: Iterable[AgentCall]) -> None:
        """What agents were really asked agrees with the history.

        Each call was announced by a durable revision, none was made twice for one attempt, none
        began after its node had ended, and every result comes from the last one announced.
        """
        calls = list(calls)
        made = Counter((call.node_id, call.attempt, call.stage) for call in calls)
        assert set(made) <= self._announced, "a call that no revision announces"
        assert not [key for key, times in made.items() if times > 1], "a call made twice"
        for call in calls:
            ended_at = self.ended_at.get(call.node_id)
            assert ended_at is None or call.time <= ended_at, f"{call} after the node's end"
        last = {dispatch.node_id: dispatch for dispatch in self.dispatches}
        for node_id, node in self.nodes.items():
            if node_state(node.state) == "DONE":
                dispatch = last[node_id]
                assert dispatch.attempt == node.attempt
                assert made[node_id, dispatch.attempt, dispatch.stage] == 1


def _has_call(node: Node) -> bool:
    """Return whether an agent call of a node is announced and has no outcome."""
    state = node_state(node.state)
    return state == "RUNNING" or (state == "AGGREGATING" and not node.HasField("next_attempt_time"))


def _stage(node: Node) -> str:
    if node_state(node.state) == "AGGREGATING":
        return "aggregate"
    if node.node_type == NodeType.NODE_TYPE_PLAN:
        return "plan"
    return "execute" if node.node_type == NodeType.NODE_TYPE_EXECUTE else "atomize"
