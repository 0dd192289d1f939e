"""Broken trees, as a foreign client or a lost state could leave them, are mended or ended."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_svc.graph.doctor import ACTIONS, PATROL_STEPS, consult, examine, patrol
from orchestrator_svc.graph.event import TimeReached
from orchestrator_svc.graph.forced import Action, Pattern
from orchestrator_svc.graph.mutation import PatchNode
from orchestrator_svc.graph.node import Failure, Node, Result
from orchestrator_svc.graph.treat import treat
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
    TaskType,
)
from tests.unit.orchestrator_svc.driven import Driven, done, draft, plan_of, planned
from tests.unit.orchestrator_svc.ledger import Ledger

S, P = NodeState, Pattern
MAX_TURNS = 500


def node(node_id: str, state: NodeState, parent: str = "root", layer: int = 1, **more: Any) -> Node:
    values: dict[str, Any] = {"node_type": NodeType.EXECUTE, "goal": f"goal of {node_id}", **more}
    if state is S.DONE:
        values["result"] = Result(text=f"result of {node_id}")
    if state is S.FAILED:
        values["error"] = Failure(ErrorClass.EXECUTION, "it broke")
    return Node(
        node_id=node_id,
        task_type=TaskType.SEARCH,
        layer=layer,
        parent_id=parent,
        state=state,
        **values,
    )


def root(state: NodeState, *children: str, **more: Any) -> Node:
    return node("root", state, "", 0, node_type=NodeType.PLAN, children=children, **more)


def ledger_of(*nodes: Node, root_id: str = "root") -> Ledger:
    return Ledger(state=ProjectState.RUNNING, root_id=root_id, nodes={n.node_id: n for n in nodes})


def play(driven: Driven) -> Ledger:
    """Answer every call until the run has ended."""
    for _ in range(MAX_TURNS):
        if driven.run.ended:
            return driven.ledger
        if driven.calls:
            node_id, call = next(iter(driven.calls.items()))
            plan = call.stage is Stage.PLAN
            driven.answer(node_id, plan_of(draft()) if plan else done(node_id))
        else:
            driven.wait()
    raise AssertionError("the run does not end")


def ended(*nodes: Node, root_id: str = "root") -> Ledger:
    ledger = play(Driven(ledger_of(*nodes, root_id=root_id)))
    assert all(n.state in TERMINAL_NODE_STATES for n in ledger.nodes.values())
    return ledger


def record(ledger: Ledger, node_id: str) -> tuple[Pattern, Action, str, str]:
    forced = ledger.nodes[node_id].forced
    assert forced is not None
    assert forced.reason
    return forced.pattern, forced.action, forced.before, forced.after


# Circles


def test_a_circle_of_dependencies_is_broken_and_the_rest_is_done() -> None:
    ledger = ended(
        root(S.PLAN_DONE, "a", "b", "c"),
        node("a", S.PENDING, depends_on=("b",)),
        node("b", S.PENDING, depends_on=("a",)),
        node("c", S.READY),
    )
    assert ledger.state is ProjectState.PARTIAL
    assert record(ledger, "b") == (P.CIRCULAR_DEPENDENCY, Action.FAIL, "PENDING", "FAILED")
    error = ledger.nodes["b"].error
    assert error is not None
    assert error.message == "these wait for each other: a → b → a"
    assert ledger.nodes["a"].error is not None
    assert ledger.nodes["a"].error.error_class is ErrorClass.DEPENDENCY_FAILED
    assert ledger.nodes["c"].state is S.DONE


def test_a_circle_over_a_parent_is_broken() -> None:
    """A child needs what needs its own parent; no dependency runs in a circle by itself."""
    ledger = ended(
        root(S.PLAN_DONE, "a", "b"),
        node("a", S.PLAN_DONE, node_type=NodeType.PLAN, children=("a1", "a2")),
        node("a1", S.PENDING, "a", 2, depends_on=("b",)),
        node("a2", S.READY, "a", 2),
        node("b", S.PENDING, depends_on=("a",)),
    )
    assert record(ledger, "a1")[:2] == (P.CIRCULAR_DEPENDENCY, Action.FAIL)
    assert [ledger.nodes[i].state for i in ("a2", "a", "b")] == [S.DONE] * 3
    assert ledger.state is ProjectState.PARTIAL


def test_nothing_but_circles_fails_the_project_with_the_reason() -> None:
    ledger = ended(
        root(S.PLAN_DONE, "a", "b"),
        node("a", S.PENDING, depends_on=("b",)),
        node("b", S.PENDING, depends_on=("a",)),
    )
    assert ledger.state is ProjectState.FAILED
    assert ledger.error is not None
    assert "these wait for each other" in ledger.error.message


# A node and its parent


def test_a_child_of_an_ended_parent_is_skipped_before_it_costs_anything() -> None:
    ledger = ended(
        root(S.PLAN_DONE, "a"),
        node("a", S.DONE),
        node("late", S.READY, "a", 2),
        node("later", S.PLAN_DONE, "a", 2, children=("deep",)),
        node("deep", S.READY, "later", 3),
    )
    assert record(ledger, "late") == (P.PARENT_CHILD_SYNC, Action.SKIP, "READY", "CANCELLED")
    assert ledger.nodes["deep"].state is S.CANCELLED
    assert ledger.nodes["late"].agent_calls == 0
    assert ledger.nodes["root"].state is S.DONE


def test_a_child_that_was_not_released_is_made_ready() -> None:
    driven = planned(draft(), draft("two", 0))
    driven.run.nodes["root.1.1"].unsettled = 7  # a counter that no event will bring to zero
    driven.answer("root.1.0", done())
    assert record(driven.ledger, "root.1.1") == (
        P.PARENT_CHILD_SYNC,
        Action.RESET_STATE,
        "PENDING",
        "READY",
    )
    assert play(driven).state is ProjectState.COMPLETED


# Aggregation


def test_an_aggregation_that_nothing_starts_is_started() -> None:
    driven = planned(draft())
    driven.run.nodes["root"].open_children = 5
    driven.answer("root.1.0", done())
    assert record(driven.ledger, "root")[:2] == (P.STUCK_AGGREGATION, Action.RETRY)
    assert driven.calls["root"].stage is Stage.AGGREGATE
    assert play(driven).state is ProjectState.COMPLETED


def test_an_aggregation_that_stays_stuck_is_completed_with_the_childrens_results() -> None:
    driven = Driven(ledger_of(root(S.PLAN_DONE, "a", "b"), node("a", S.READY), node("b", S.DONE)))
    driven.answer("a", done("text of a"))
    run, top = driven.run, driven.run.nodes["root"]
    assert top.state is S.AGGREGATING
    for _ in range(2):  # a bug: the call is lost, and is lost again
        run.close_call(top, 0.0)
        driven.calls.clear()
        driven.event(TimeReached())
    assert record(driven.ledger, "root") == (
        P.STUCK_AGGREGATION,
        Action.FORCE_COMPLETE,
        "AGGREGATING",
        "DONE",
    )
    result = driven.node("root").result
    assert result is not None
    assert "text of a" in result.text
    assert "result of b" in result.text
    assert driven.ledger.state is ProjectState.COMPLETED


# Orphans


def test_a_second_root_and_its_tree_are_skipped_and_do_not_end_the_project() -> None:
    ledger = ended(
        root(S.PLAN_DONE, "a"),
        node("a", S.READY),
        node("other", S.READY, "", 0),
        node("child", S.PENDING, "other"),
        node("lost", S.READY, "gone"),
    )
    for node_id, before in (("other", "READY"), ("child", "PENDING"), ("lost", "READY")):
        expected = (P.ORPHANED_NODES, Action.SKIP, before, "CANCELLED")
        assert record(ledger, node_id) == expected
    assert ledger.nodes["root"].state is S.DONE
    assert ledger.state is ProjectState.PARTIAL


def test_a_root_that_is_not_named_as_such_is_taken_for_the_root() -> None:
    ledger = ended(root(S.READY), root_id="")
    assert (ledger.root_id, ledger.state) == ("root", ProjectState.COMPLETED)


@pytest.mark.parametrize("root_id", ["", "gone"])
def test_a_tree_without_its_root_fails_with_the_reason(root_id: str) -> None:
    ledger = ended(node("other", S.READY, "", 0), root_id=root_id)
    assert ledger.state is ProjectState.FAILED
    assert ledger.error is not None
    assert "root" in ledger.error.message


# Hangs and starvation


def test_a_node_whose_call_is_lost_gets_another_attempt_and_then_fails() -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.1", done())
    lost = driven.run.nodes["root.1.0"]
    for attempt in (2, 3):
        driven.run.close_call(lost, 0.0)
        driven.calls.clear()
        driven.event(TimeReached())
        if attempt == 2:
            assert (lost.state, lost.attempt, lost.retry_count) == (S.RUNNING, 2, 0)
            assert record(driven.ledger, "root.1.0")[:2] == (P.SINGLE_NODE_HANG, Action.RETRY)
    assert record(driven.ledger, "root.1.0")[:2] == (P.SINGLE_NODE_HANG, Action.FAIL)
    assert play(driven).state is ProjectState.PARTIAL


def test_a_ready_node_without_a_turn_gets_one() -> None:
    driven = planned(draft(), draft("two", 0))
    driven.run.state = ProjectState.PAUSED  # nothing is dispatched
    driven.answer("root.1.0", done())
    driven.run.queue = deque()
    driven.run.state = ProjectState.RUNNING
    driven.event(TimeReached())
    assert record(driven.ledger, "root.1.1") == (
        P.RESOURCE_STARVATION,
        Action.RESET_STATE,
        "READY",
        "READY",
    )
    assert play(driven).state is ProjectState.COMPLETED


def test_a_node_that_waits_for_a_new_plan_and_has_no_turn_gets_one() -> None:
    driven = Driven(ledger_of(root(S.PLAN_DONE, "a"), node("a", S.NEEDS_REPLAN, attempt=1)))
    driven.run.close_call(driven.run.nodes["a"], 0.0)
    driven.run.nodes["a"].state = driven.ledger.nodes["a"].state = S.NEEDS_REPLAN
    driven.calls.clear()
    driven.event(TimeReached())
    assert record(driven.ledger, "a")[:2] == (P.SINGLE_NODE_HANG, Action.RETRY)
    assert driven.calls["a"].stage is Stage.PLAN
    assert play(driven).state is ProjectState.COMPLETED


def test_the_patrol_finds_a_lost_node_while_others_run() -> None:
    driven = planned(draft(), draft())
    run = driven.run
    run.close_call(run.nodes["root.1.0"], 0.0)
    del driven.calls["root.1.0"]
    driven.event(TimeReached())
    assert "root.1.0" not in driven.calls, "it looks at most every so many steps"
    run.steps += PATROL_STEPS
    driven.event(TimeReached())
    assert driven.calls["root.1.0"].attempt == 2


@pytest.mark.parametrize("state", [ProjectState.PAUSED, ProjectState.WAITING])
def test_a_run_that_may_rest_is_left_alone(state: ProjectState) -> None:
    driven = planned(draft())
    run = driven.run
    run.close_call(run.nodes["root.1.0"], 0.0)
    run.state = state
    run.steps += PATROL_STEPS
    patrol(run, 0.0)
    consult(run, 0.0)
    assert not run.take_decision()


def test_a_draining_run_is_left_alone() -> None:
    driven = planned(draft())
    driven.run.draining = True
    driven.run.close_call(driven.run.nodes["root.1.0"], 0.0)
    consult(driven.run, 0.0)
    assert not driven.run.take_decision()


# Actions


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("state", [s for s in NodeState if s not in TERMINAL_NODE_STATES])
def test_every_action_is_a_legal_path_in_one_group_and_changes_something(
    state: NodeState, action: Action
) -> None:
    """The ledger refuses moves that the contract does not allow (SEM 8, 29)."""
    driven = planned(draft(), draft())
    run = driven.run
    children = ("k", "l")
    target = node("n", state, node_type=NodeType.PLAN, children=children)
    for new in (target, node("k", S.DONE, "n", 2), node("l", S.FAILED, "n", 2)):
        run.nodes[new.node_id] = new
        driven.ledger.nodes[new.node_id] = Node(
            **{name: getattr(new, name) for name in new.__slots__ if name != "dependants"}
        )
    run.nodes["root"].open_children += 1
    run.cut()
    treat(run, target, P.UNKNOWN, action, "because", 0.0)
    decision = run.take_decision()
    touched = [m for group in decision.groups for m in group if isinstance(m, PatchNode)]
    assert [m for m in touched if m.node_id == "n" and "forced" in m.changes]
    first = [m.node_id == "n" for m in decision.groups[0] if isinstance(m, PatchNode)]
    assert first[0]
    driven.ledger.commit(decision.groups)
    assert target.state is not state or target.node_id in run.queue


def test_every_pattern_has_its_actions() -> None:
    assert set(ACTIONS) == set(Pattern)
    assert {action for actions in ACTIONS.values() for action in actions} == set(Action)


def test_a_sound_run_has_no_findings() -> None:
    driven = planned(draft(), draft("two", 0), draft("three"))
    assert not examine(driven.run)


# Whatever a tree looks like, the run ends


def any_tree(seed: int) -> Ledger:
    """Return nodes in random states with random edges, most of which no run would make."""
    chance = random.Random(seed)
    nodes = {"root": root(chance.choice(list(S)))}
    for number in range(chance.randint(0, 12)):
        parent = chance.choice(list(nodes.values()))
        others = [n for n in nodes if n != parent.node_id]
        needs = chance.sample(others, chance.randint(0, min(2, len(others))))
        new = node(
            f"n{number}",
            chance.choice(list(S)),
            "" if chance.random() < 0.1 else parent.node_id,
            parent.layer + 1,
            depends_on=tuple(needs),
            node_type=chance.choice([None, NodeType.PLAN, NodeType.EXECUTE]),
            next_attempt_time=5.0 if chance.random() < 0.2 else None,
        )
        new.superseded = new.state in TERMINAL_NODE_STATES and chance.random() < 0.1
        if not new.parent_id:
            new.layer = 0
        nodes[new.node_id] = new
        if new.parent_id and chance.random() < 0.8:
            parent.children = (*parent.children, new.node_id)
    for item in nodes.values():  # circles of any kind
        if chance.random() < 0.1:
            item.depends_on = (*item.depends_on, chance.choice(list(nodes)))
    return ledger_of(*nodes.values())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_any_tree_at_all_comes_to_an_end_by_legal_moves(seed: int) -> None:
    ledger = any_tree(seed)
    play(Driven(ledger))
    assert ledger.state in TERMINAL_PROJECT_STATES
    assert (ledger.state is ProjectState.FAILED) <= (ledger.error is not None)
    assert all(n.state in TERMINAL_NODE_STATES for n in ledger.nodes.values())
