"""What an explanation names: the links of the chain, the root causes, what helps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator_svc.errors import NodeNotFound
from orchestrator_svc.graph.blocker import BlockerKind
from orchestrator_svc.graph.budget import Allowance, Budget
from orchestrator_svc.graph.explain import MAX_LINKS, MAX_ROOT_CAUSES, Explanation, Outlook, explain
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.scene import Live, OpenCall, Scene
from orchestrator_svc.graph.settings import BudgetPolicy, Settings
from orchestrator_svc.graph.types import ErrorClass, NodeState, ProjectState, Stage, TaskType
from orchestrator_svc.graph.usage import Usage

S = NodeState
K = BlockerKind
NOW = 1_000.0


def node(node_id: str, state: NodeState, parent: str = "root", **fields: Any) -> Node:
    return Node(
        node_id=node_id,
        goal="a goal",
        task_type=TaskType.SEARCH,
        layer=1 if parent else 0,
        parent_id=parent,
        state=state,
        **fields,
    )


def scene(*children: Node, root: NodeState = S.PLAN_DONE, **fields: Any) -> Scene:
    """Return a project that orchestrator `o` executes, with a root and its children."""
    ids = tuple(child.node_id for child in children if child.parent_id == "root")
    top = node("root", root, parent="", children=ids)
    values: dict[str, Any] = {
        "project_id": "p",
        "state": ProjectState.RUNNING,
        "holder": "o",
        "root_id": "root",
        "nodes": {n.node_id: n for n in (top, *children)},
        "since_of": {n.node_id: 900.0 for n in (top, *children)},
        "settings": Settings(max_concurrent_nodes=2),
    }
    return Scene(**{**values, **fields})


def kinds(found: Explanation) -> list[tuple[BlockerKind, str, str]]:
    return [(b.kind, b.blocked, b.by) for b in found.blockers]


def test_a_run_whose_executions_fail_says_how_the_last_one_has_ended() -> None:
    found = explain(scene(node("a", S.READY), holder="", setback="it is too large"), NOW)
    (blocker,) = (b for b in found.blockers if not b.blocked)
    assert blocker.kind is K.LEASE
    assert blocker.message == "its last execution ended, it is tried again: it is too large"
    assert blocker.remedy == "ramify cancel p"
    well = explain(scene(node("a", S.READY), setback="it is too large", live=Live()), NOW)
    assert not [b for b in well.blockers if "it is too large" in b.message], "it goes on"


def cause(found: Explanation) -> BlockerKind:
    (only,) = found.root_causes
    return only.kind


# Seed 004's troubleshooting list: "a node is stuck in PENDING, how do I find out why?"


def test_seed_004_1_is_the_scheduler_running() -> None:
    found = explain(scene(node("a", S.PENDING), holder=""), NOW, "a")
    assert found.outlook is Outlook.NEEDS_ACTION
    first = found.blockers[0]
    assert (first.kind, first.blocked, first.remedy) == (K.LEASE, "", "ramify up")
    alive = explain(scene(node("a", S.READY), live=Live(queue={"a": 0}, busy=2)), NOW, "a")
    assert K.LEASE not in {b.kind for b in alive.blockers}


def test_seed_004_3_which_dependencies_are_not_done() -> None:
    children = [
        node("a", S.DONE),
        node("b", S.RUNNING, agent_name="searcher"),
        node("c", S.PENDING, depends_on=("a", "b")),
        node("d", S.PENDING, depends_on=("c",)),
    ]
    found = explain(scene(*children), NOW, "d")
    assert kinds(found) == [
        (K.DEPENDENCY, "d", "c"),
        (K.DEPENDENCY, "c", "b"),
        (K.CALL, "b", ""),
    ]
    assert found.outlook is Outlook.RUNNING
    assert [b.depth for b in found.blockers] == [0, 1, 2]
    assert "searcher" in found.summary


def test_seed_004_4_is_the_load_too_high() -> None:
    waiting = Live(queue={"x": 0, "a": 1}, busy=2, states={"a": S.READY})
    found = explain(scene(node("a", S.READY), live=waiting), NOW, "a")
    (only,) = found.blockers
    assert (only.kind, only.live) == (K.SLOT, True)
    assert only.message == "2 of 2 slots are in use, it is number 2 in line"
    assert "max_concurrent_nodes=4" in only.remedy
    assert found.outlook is Outlook.WAITING


def test_seed_004_5_does_the_configuration_know_the_agents() -> None:
    problem = "this orchestrator has no profile 'gone', it knows: corpus"
    free = scene(node("a", S.PENDING), profile_problem=problem, holder="")
    found = explain(free, NOW, "a")
    assert found.blockers[0].kind is K.AGENT
    assert problem in found.summary
    assert found.outlook is Outlook.NEEDS_ACTION


# The kinds


def test_that_the_asked_orchestrator_is_full_is_said_with_what_helps() -> None:
    full = scene(node("a", S.READY), no_room="this one executes 2", holder="")
    for asked in ("", "a"):
        first = explain(full, NOW, asked).blockers[0]
        assert (first.kind, first.remedy) == (K.LEASE, "ramify up --config FILE")
        assert "this one executes 2" in first.message
    held = scene(node("a", S.READY), no_room="this one executes 2", holder="another")
    assert all("executes 2" not in blocker.message for blocker in explain(held, NOW, "").blockers)


def test_a_backoff_that_is_just_over_is_no_riddle() -> None:
    """Its timer has not come yet, so the node is in no line."""
    over = node("a", S.READY, attempt=2, next_attempt_time=NOW)
    found = explain(scene(over, live=Live(states={"a": S.READY})), NOW, "a")
    (only,) = found.blockers
    assert (only.kind, only.until, found.outlook) == (K.BACKOFF, NOW, Outlook.WAITING)
    riddle = explain(scene(node("a", S.READY), live=Live(states={"a": S.READY})), NOW, "a")
    assert cause(riddle) is K.UNKNOWN


def test_a_child_waits_for_its_parents_plan() -> None:
    found = explain(scene(node("a", S.PENDING), root=S.RUNNING), NOW, "a")
    assert kinds(found) == [(K.PARENT, "a", "root"), (K.CALL, "root", "")]


def test_a_parent_waits_for_its_open_children_only() -> None:
    children = [node("a", S.DONE), node("b", S.RUNNING), node("c", S.RUNNING, superseded=True)]
    found = explain(scene(*children), NOW, "root")
    assert kinds(found) == [(K.CHILDREN, "root", "b"), (K.CALL, "b", "")]


@pytest.mark.parametrize(
    "error_class, kind", [("EXECUTION", K.BACKOFF), ("RATE_LIMIT", K.RATE_LIMIT)]
)
def test_a_backoff_says_when_it_ends(error_class: str, kind: BlockerKind) -> None:
    failure = Failure(ErrorClass(error_class), "it broke")
    waiting = node("a", S.READY, next_attempt_time=NOW + 4, retry_count=1, attempt=2, error=failure)
    found = explain(scene(waiting), NOW, "a")
    (only,) = found.blockers
    assert (only.kind, only.until, only.since) == (kind, NOW + 4, 900.0)
    assert only.message.startswith("attempt 2 begins in 4.0 s (retry 1 of 3)")
    assert found.outlook is Outlook.WAITING


def test_a_review_is_waited_for() -> None:
    found = explain(scene(node("a", S.RUNNING, waiting_on="review:r1")), NOW, "a")
    assert cause(found) is K.REVIEW
    assert "r1" in found.summary
    assert found.outlook is Outlook.NEEDS_ACTION


def test_what_could_run_in_a_paused_run_waits_for_nothing_but_its_resumption() -> None:
    failure = Failure(ErrorClass.EXECUTION, "exit code 1")
    ready = node("root.1", S.READY, attempt=2, error=failure, next_attempt_time=NOW - 1)
    live = Live(queue={}, states={"root.1": S.READY}, calls={})
    paused = scene(ready, state=ProjectState.PAUSED, live=live)
    (only,) = (b for b in explain(paused, NOW, "root.1").blockers if b.blocked)
    assert only.kind is K.PAUSED
    assert only.message.endswith("begins when the project is resumed after EXECUTION: exit code 1")
    assert only.remedy == "ramify resume p"


@pytest.mark.parametrize("state", [ProjectState.PAUSED, ProjectState.PAUSING])
def test_a_pause_is_the_first_thing_that_is_said(state: ProjectState) -> None:
    found = explain(scene(node("a", S.READY), state=state), NOW)
    assert found.blockers[0].kind is K.PAUSED
    assert found.outlook is Outlook.NEEDS_ACTION


def test_used_up_steps_are_named() -> None:
    busy = scene(node("a", S.READY), settings=Settings(max_execution_steps=5), live=Live(steps=5))
    assert cause(explain(busy, NOW, "a")) is K.STEPS


@pytest.mark.parametrize(
    "live, kind",
    [
        (Live(lease_valid=False), K.LEASE),
        (Live(draining=True), K.LEASE),
        (Live(unsent_seconds=3.0), K.STORE),
    ],
)
def test_what_only_the_executor_knows_is_marked_live(live: Live, kind: BlockerKind) -> None:
    found = explain(scene(node("a", S.DONE), live=live), NOW)
    assert (found.blockers[0].kind, found.blockers[0].live) == (kind, True)
    assert found.outlook is Outlook.NEEDS_ACTION


def test_an_open_call_says_who_works_since_when_and_until_when() -> None:
    live = Live(calls={"a": OpenCall(Stage.EXECUTE, "writer", 990.0, 60.0)})
    (only,) = explain(scene(node("a", S.RUNNING), live=live), NOW, "a").blockers
    assert (only.kind, only.since, only.until, only.live) == (K.CALL, 990.0, 1_050.0, True)


def test_a_call_that_waits_for_its_provider_or_is_silent_is_said_to_be() -> None:
    waits = OpenCall(Stage.EXECUTE, "writer", 990.0, 60.0, provider_place=1_007.0)
    live = Live(calls={"a": waits})
    (only,) = explain(scene(node("a", S.RUNNING), live=live), NOW, "a").blockers
    assert (only.kind, only.until) == (K.RATE_LIMIT, 1_007.0)
    silent = OpenCall(Stage.EXECUTE, "writer", 900.0, 600.0, silent=61.0)
    (only,) = explain(
        scene(node("a", S.RUNNING), live=Live(calls={"a": silent})), NOW, "a"
    ).blockers
    assert only.kind is K.CALL
    assert only.message.endswith("no sign of life for 61 s")


def test_what_is_decided_but_not_durable_is_not_called_a_mystery() -> None:
    live = Live(states={"a": S.RUNNING}, calls={})
    assert cause(explain(scene(node("a", S.READY), live=live), NOW, "a")) is K.CALL


def test_a_call_that_ended_with_its_orchestrator_is_not_called_running() -> None:
    found = explain(scene(node("a", S.RUNNING), holder=""), NOW, "a")
    assert {b.kind for b in found.blockers} == {K.LEASE}
    assert found.outlook is Outlook.NEEDS_ACTION


def test_what_should_run_and_does_not_is_said_to_be_unknown() -> None:
    live = Live(states={"a": S.READY})
    assert cause(explain(scene(node("a", S.READY), live=live), NOW, "a")) is K.UNKNOWN


@pytest.mark.parametrize(
    "lost", [{"parent": "gone"}, {"depends_on": ("gone",)}], ids=["parent", "dependency"]
)
def test_what_does_not_exist_is_named(lost: dict[str, Any]) -> None:
    found = explain(scene(node("a", S.PENDING, **lost)), NOW, "a")
    assert cause(found) is K.MISSING
    assert "gone" in found.summary


def test_a_circle_is_cut_and_reported_as_the_root_cause() -> None:
    children = [
        node("a", S.PENDING, depends_on=("b",)),
        node("b", S.PENDING, depends_on=("c",)),
        node("c", S.PENDING, depends_on=("b",)),
    ]
    found = explain(scene(*children), NOW, "a")
    (only,) = found.root_causes
    assert only.kind is K.CYCLE
    assert only.message == "these wait for each other: b → c → b"
    assert found.outlook is Outlook.NEEDS_ACTION
    assert (found.blockers[0].blocked, found.blockers[0].by) == ("a", "b")


def test_a_circle_over_a_parent_is_found_too() -> None:
    """A child that needs what needs its own parent: no dependency cycle, and yet a circle."""
    children = [
        node("a", S.PLAN_DONE, children=("a1",)),
        node("a1", S.PENDING, parent="a", depends_on=("b",)),
        node("b", S.PENDING, depends_on=("a",)),
    ]
    assert cause(explain(scene(*children), NOW)) is K.CYCLE


def test_a_failure_leads_to_where_it_began() -> None:
    broken = node("a", S.FAILED, attempt=4, error=Failure(ErrorClass.TIMEOUT, "no answer"))
    inherited = Failure(ErrorClass.DEPENDENCY_FAILED, "needs the result of a", "a")
    later = node("b", S.FAILED, error=inherited)
    found = explain(scene(broken, later), NOW, "b")
    assert kinds(found) == [(K.FAILURE, "b", "a"), (K.FAILURE, "a", "")]
    assert found.outlook is Outlook.ENDED
    assert "after 4 attempts: TIMEOUT: no answer" in found.summary


def test_an_ended_project_names_what_failed_first() -> None:
    broken = node("a", S.FAILED, error=Failure(ErrorClass.AUTH, "no key"))
    found = explain(scene(broken, root=S.DONE, state=ProjectState.PARTIAL, holder=""), NOW)
    assert (found.outlook, found.state) == (Outlook.ENDED, "PARTIAL")
    assert "AUTH: no key" in found.summary


def test_a_completed_project_has_nothing_to_explain() -> None:
    done = scene(node("a", S.DONE), root=S.DONE, state=ProjectState.COMPLETED, holder="")
    found = explain(done, NOW)
    assert (found.blockers, found.summary, found.outlook) == ((), "it is COMPLETED", Outlook.ENDED)


def test_a_new_project_waits_for_an_orchestrator() -> None:
    new = Scene(project_id="p", state=ProjectState.PENDING, since=990.0)
    assert cause(explain(new, NOW)) is K.LEASE
    taken = Scene(project_id="p", state=ProjectState.PENDING, holder="o")
    assert explain(taken, NOW).outlook is Outlook.RUNNING


def test_a_wide_tree_gives_a_short_answer_with_what_needs_action_first() -> None:
    many = [node(f"n{i}", S.RUNNING) for i in range(100)]
    asked = node("asked", S.RUNNING, waiting_on="review:r")
    found = explain(scene(*many, asked), NOW)
    assert len(found.root_causes) == MAX_ROOT_CAUSES
    assert found.omitted == 101 - MAX_ROOT_CAUSES
    assert K.REVIEW in {b.kind for b in found.root_causes}
    assert found.summary.startswith("it is RUNNING; asked: a human has to answer review r")


def test_a_deep_chain_needs_no_deep_stack() -> None:
    chain = [node("n0", S.RUNNING)]
    chain += [node(f"n{i}", S.PENDING, depends_on=(f"n{i - 1}",)) for i in range(1, 5_000)]
    found = explain(scene(*chain), NOW, "n4999")
    assert len(found.blockers) == MAX_LINKS + 1
    assert [b.depth for b in found.blockers[499:501]] == [499, 4_499]
    assert cause(found) is K.CALL


def test_an_unknown_node_is_an_error() -> None:
    with pytest.raises(NodeNotFound):
        explain(scene(), NOW, "nobody")


@pytest.mark.parametrize("holder", ["", "o"])
@pytest.mark.parametrize("live", [None, Live()])
@pytest.mark.parametrize("project", list(ProjectState))
@pytest.mark.parametrize("state", list(NodeState))
def test_every_state_has_an_answer_and_every_open_one_a_root_cause(
    state: NodeState, project: ProjectState, live: Live | None, holder: str
) -> None:
    found = explain(scene(node("a", state), state=project, holder=holder, live=live), NOW, "a")
    assert found.summary
    if state is not S.DONE:
        assert found.root_causes
        assert all(b.message and (b.leads_on or b.remedy) for b in found.blockers)


@pytest.mark.parametrize(
    "project, parent, error_class, remedy",
    [
        (ProjectState.RUNNING, S.PLAN_DONE, "AUTH", "ramify retry p a"),
        (ProjectState.RUNNING, S.AGGREGATING, "AUTH", "ramify show p a"),
        (ProjectState.RUNNING, S.PLAN_DONE, "NO_EVIDENCE", "ramify show p a"),
        (ProjectState.PARTIAL, S.DONE, "AUTH", "ramify show p a"),
    ],
)
def test_a_retry_is_offered_only_where_it_would_be_accepted(
    project: ProjectState, parent: NodeState, error_class: str, remedy: str
) -> None:
    broken = node("a", S.FAILED, error=Failure(ErrorClass(error_class), "broken"))
    found = explain(scene(broken, root=parent, state=project), NOW, "a")
    assert found.root_causes[0].remedy == remedy


class Counted(dict[str, Node]):
    """Counts how often somebody looks at all nodes."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()


@pytest.mark.parametrize("holder", ["o", ""])
def test_a_project_is_counted_once_however_many_nodes_are_explained(holder: str) -> None:
    looks = []
    for width in (3, 300):
        found = scene(*(node(f"n{n}", S.READY) for n in range(width)), holder=holder)
        counted = Counted(found.nodes)
        explain(dataclasses.replace(found, nodes=counted), NOW)
        looks.append(counted.looks)
    assert looks[0] == looks[1]


@pytest.mark.parametrize(
    "policy, review, words, remedy",
    [
        (
            BudgetPolicy.ASK,
            "root.r1",
            "a human has to answer review root.r1",
            "ramify review list p",
        ),
        (BudgetPolicy.PAUSE, "", "resuming the project allows as much again", "ramify resume p"),
        (BudgetPolicy.FAIL, "", "is used up: 120", "ramify show p a"),
    ],
)
@pytest.mark.parametrize("live", [Live(), None])
def test_a_node_says_which_budget_forbids_its_call(
    policy: BudgetPolicy, review: str, words: str, remedy: str, live: Live | None
) -> None:
    settings = Settings(budget_tokens=100, budget_policy=policy)
    spent = node("b", S.DONE, usage=Usage(120))
    found = scene(node("a", S.READY), spent, settings=settings, live=live)
    found.nodes["root"].allowance = Allowance(review_id=review)
    (only,) = explain(found, NOW, "a").blockers
    assert only.kind is K.BUDGET
    assert only.message.startswith("budget of 100 tokens for root is used up: 120")
    assert words in only.message
    assert only.remedy == remedy


def test_the_time_of_a_budget_ends_with_its_node() -> None:
    limits = Budget(wall_seconds=60.0, tokens=10)
    began = Allowance(since=NOW - 50.0)
    children = [
        node("a", S.DONE, budget=limits, allowance=began, usage=Usage(3)),
        node("b", S.RUNNING, budget=limits, allowance=began),
    ]
    for live in (None, Live()):
        found = scene(*children, end_of={"a": NOW - 20.0}, live=live)
        if live is not None:
            found = dataclasses.replace(found, live=Live(budgets=found.accounts.report(NOW)))
        used = {(u.node_id, u.resource): u.used for u in explain(found, NOW).budgets}
        assert used == {
            ("a", "wall_seconds"): 30.0,
            ("a", "tokens"): 3,
            ("b", "wall_seconds"): 50.0,
            ("b", "tokens"): 0,
        }


def test_the_time_of_an_ended_project_stands_still() -> None:
    settings = Settings(budget_wall_seconds=100.0)
    found = scene(root=S.PLAN_DONE, state=ProjectState.CANCELLED, settings=settings, end=NOW - 5.0)
    found.nodes["root"].allowance = Allowance(since=NOW - 35.0)
    for later in (0.0, 3_600.0):
        (use,) = explain(found, NOW + later).budgets
        assert use.used == 30.0
