"""Every (state, event) pair of a node: a legal move or nothing. The table is the contract's."""

from __future__ import annotations

from itertools import product

import pytest

from orchestrator_svc.graph.event import (
    CallEnded,
    CommandGiven,
    Decided,
    Draining,
    Event,
    Outcome,
    TimeReached,
)
from orchestrator_svc.graph.recovery import RECOVERY
from orchestrator_svc.graph.replan import REPLANNABLE
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
)
from tests.unit.orchestrator_svc.driven import Driven, done, draft, failed, plan_of, with_node
from tests.unit.orchestrator_svc.ledger import NODE_RULES, PROJECT_RULES

S = NodeState
NODE = "root.1.0"

OUTCOMES: dict[str, Outcome] = {
    "decided": Decided(NodeType.EXECUTE),
    "planned": plan_of(draft()),
    "produced": done(),
    "retryable": failed(ErrorClass.TIMEOUT),
    "fatal": failed(ErrorClass.AUTH),
}

#: What a call's end makes of a node that is executed, planned or aggregated; else nothing moves.
AFTER_CALL = {
    ("EXECUTE", "produced"): S.DONE,
    ("PLAN", "planned"): S.PLAN_DONE,
    ("AGGREGATE", "produced"): S.DONE,
    ("EXECUTE", "fatal"): S.FAILED,
    ("PLAN", "fatal"): S.FAILED,
    ("AGGREGATE", "fatal"): S.FAILED,
    ("PLAN", "decided"): S.NEEDS_REPLAN,
    ("PLAN", "produced"): S.NEEDS_REPLAN,
    ("AGGREGATE", "retryable"): S.AGGREGATING,
    ("AGGREGATE", "planned"): S.AGGREGATING,
    ("AGGREGATE", "decided"): S.AGGREGATING,
}


def in_stage(stage: str) -> Driven:
    """Return a run whose child has an open call of a stage."""
    if stage == "EXECUTE":
        return with_node(S.READY, attempt=0, node_type=NodeType.EXECUTE)
    if stage == "PLAN":
        return with_node(S.READY, attempt=0, node_type=NodeType.PLAN)
    driven = with_node(S.READY, attempt=0, node_type=NodeType.PLAN)
    driven.answer(NODE, plan_of(draft()))
    driven.answer(f"{NODE}.1.0", done())
    return driven


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("stage", ["EXECUTE", "PLAN", "AGGREGATE"])
def test_the_end_of_a_call_moves_its_node_as_the_table_says(stage: str, outcome: str) -> None:
    driven = in_stage(stage)
    driven.answer(NODE, OUTCOMES[outcome])
    assert driven.state(NODE) is AFTER_CALL.get((stage, outcome), S.READY)


EVENTS: dict[str, Event] = {
    **{name: CallEnded(NODE, 1, outcome) for name, outcome in OUTCOMES.items()},
    "time": TimeReached(),
    **{
        f"order {kind}": CommandGiven("c", kind, "" if "PROJECT" in kind else NODE)
        for kind in CommandType
    },
    "draining": Draining(),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", list(NodeState))
def test_no_event_makes_an_illegal_move_in_any_state(state: NodeState, event: str) -> None:
    """The ledger refuses what the contract does not allow; here nothing is refused."""
    driven = with_node(state, attempt=1, agent_calls=1, node_type=NodeType.EXECUTE)
    command = EVENTS[event]
    if isinstance(command, CommandGiven):
        driven.ledger.give(command)
    driven.event(command)
    if state in TERMINAL_NODE_STATES and "RE" not in event[:8]:
        assert driven.state(NODE) is state


def test_the_states_are_those_of_the_contract() -> None:
    assert set(NODE_RULES) - {"UNSPECIFIED"} == set(NodeState)
    assert set(PROJECT_RULES) - {"UNSPECIFIED"} == set(ProjectState)
    assert {s for s in NodeState if NODE_RULES[s].terminal} == TERMINAL_NODE_STATES
    assert {s for s in ProjectState if PROJECT_RULES[s].terminal} == TERMINAL_PROJECT_STATES


def test_every_error_class_has_a_recovery_in_every_stage() -> None:
    assert set(RECOVERY) == set(product(ErrorClass, Stage))


def test_what_may_be_replanned_is_what_the_contract_lets_be() -> None:
    assert {s for s in NodeState if S.NEEDS_REPLAN in NODE_RULES[s].to} == REPLANNABLE
