"""What the ancestor got wrong and this core gets right: one test per finding, named after it.

How the same holds for the services is tested where their parts are: all pairs of strategy and
broadcast mode in `tests/integration/test_run_strategies.py`, each key by its mark `execution_key`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.event import Call, CallEnded, CallProgressed, Decided, TimeReached
from orchestrator_svc.graph.forced import Pattern
from orchestrator_svc.graph.mutation import AddStage, Mutation, NodeChanges, PatchNode
from orchestrator_svc.graph.patience import Patience
from orchestrator_svc.graph.plan import check_plan
from orchestrator_svc.graph.rate import RateWindow
from orchestrator_svc.graph.recovery import MAX_REPLANS, RECOVERY, Recovery
from orchestrator_svc.graph.review import ReviewDecision
from orchestrator_svc.graph.settings import ExecutionStrategy, ExpiryPolicy, Scalar
from orchestrator_svc.graph.trace import Body, Trace
from orchestrator_svc.graph.types import (
    TERMINAL_PROJECT_STATES,
    CommandState,
    CommandType,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
)
from orchestrator_svc.graph.updates import UpdateBuffer
from orchestrator_svc.graph.usage import NO_USAGE
from orchestrator_svc.settings import InvalidSetting, read_settings, settle
from tests.unit.orchestrator_svc.driven import (
    DEFAULTS,
    Driven,
    done,
    draft,
    failed,
    plan_of,
    planned,
)

S = NodeState
NO_RETRY = replace(DEFAULTS, max_retries=0)


def test_w9_an_aggregator_is_called_once_per_attempt() -> None:
    """The ancestor called it five or six times, once per child that ended."""
    driven = planned(draft(), draft(), draft())
    begun: list[Call] = []
    for node_id in ("root.1.2", "root.1.0", "root.1.1"):
        begun += driven.answer(node_id, done()).calls
    assert [(call.stage, call.attempt) for call in begun] == [(Stage.AGGREGATE, 1)]
    driven.answer("root", failed(ErrorClass.CONNECTION))
    assert [(call.stage, call.attempt) for call in driven.wait().calls] == [(Stage.AGGREGATE, 2)]


def test_w10_a_dependant_begins_in_the_turn_in_which_its_dependency_ends() -> None:
    """The ancestor polled once a second, and idle slots waited for the slowest task."""
    driven = planned(draft(), draft("part", 0), draft(), settings=NO_RETRY)
    decision = driven.answer("root.1.0", done())
    assert [call.node_id for call in decision.calls] == ["root.1.1"]
    assert driven.state("root.1.2") is S.RUNNING, "a slow task holds nobody up"


def test_w11_a_failed_dependency_never_hangs_a_run() -> None:
    links = (draft("part", *((i - 1,) if i else ())) for i in range(5))
    driven = planned(*links, settings=NO_RETRY)
    driven.answer("root.1.0", failed())
    assert not driven.calls
    assert driven.ledger.state in TERMINAL_PROJECT_STATES
    assert {driven.state(f"root.1.{i}") for i in range(5)} == {S.FAILED}


@pytest.mark.parametrize(
    "error_class, stage, most",
    [
        (ErrorClass.TIMEOUT, Stage.EXECUTE, 1),
        (ErrorClass.RATE_LIMIT, Stage.EXECUTE, 2),
        (ErrorClass.INVALID_OUTPUT, Stage.PLAN, MAX_REPLANS),
    ],
)
def test_w12_every_recovery_is_reached_counted_and_bounded(
    error_class: ErrorClass, stage: Stage, most: int
) -> None:
    """The ancestor's retries were unreachable or endless."""
    assert RECOVERY[error_class, stage] is not Recovery.FAIL
    driven = Driven(settings=replace(DEFAULTS, max_retries=2, max_recovery_attempts=1))
    node_id = "root"
    if stage is Stage.EXECUTE:
        driven.answer("root", plan_of(draft(), draft()))
        node_id = "root.1.0"
    for _ in range(most):
        driven.answer(node_id, failed(error_class))
        driven.crash()  # the counts are stored
        while node_id not in driven.calls:
            driven.wait()
    driven.answer(node_id, failed(error_class))
    assert driven.state(node_id) is S.FAILED


@pytest.mark.parametrize(
    "outcomes, state",
    [
        ((done(), done()), ProjectState.COMPLETED),
        ((done(), failed(ErrorClass.AUTH)), ProjectState.PARTIAL),
        ((failed(ErrorClass.AUTH), failed(ErrorClass.AUTH)), ProjectState.FAILED),
    ],
)
def test_w13_failed_work_is_never_reported_as_success(
    outcomes: tuple[object, ...], state: ProjectState
) -> None:
    driven = planned(draft(), draft())
    for index, outcome in enumerate(outcomes):
        driven.answer(f"root.1.{index}", outcome)  # type: ignore[arg-type]
    if "root" in driven.calls:
        driven.answer("root", done())
    assert driven.project() is state
    assert (driven.ledger.error is None) == (state is ProjectState.COMPLETED)


@pytest.mark.parametrize("policy", ExpiryPolicy)
def test_w14_nothing_goes_on_without_the_human_who_was_asked_for(policy: ExpiryPolicy) -> None:
    """The ancestor never asked; time-outs, errors and unknown answers approved."""
    asking = replace(DEFAULTS, enable_hitl=True, hitl_expiry_policy=policy)
    driven = Driven(settings=asking)
    driven.answer("root", plan_of(draft()))
    driven.crash()
    assert list(driven.ledger.nodes) == ["root"]
    driven.decide("root.r1", ReviewDecision.REQUEST_MODIFICATION, "otherwise")
    driven.answer("root", failed(ErrorClass.CONNECTION))
    driven.wait()
    driven.tell()
    children = [node for node in driven.ledger.nodes if node != "root"]
    assert children == [], "neither an error nor the silence after it approves"
    assert (driven.state("root") is S.FAILED) == (policy is ExpiryPolicy.REJECT)


def test_w15_a_run_is_paused_resumed_and_cancelled_down_to_its_calls() -> None:
    driven = planned(draft(), draft(node_type=NodeType.PLAN))
    driven.answer("root.1.1", plan_of(draft()))
    assert driven.order(CommandType.PAUSE_PROJECT)[0] is CommandState.APPLIED
    assert driven.order(CommandType.RESUME_PROJECT)[0] is CommandState.APPLIED
    driven.cancel()
    assert sorted(driven.cancelled) == ["root.1.0", "root.1.1.1.0"]
    driven.answer_all(sorted(driven.calls), failed(ErrorClass.CANCELLED))
    assert driven.project() is ProjectState.CANCELLED


def test_w15_a_node_has_a_deadline_over_all_calls_of_an_attempt() -> None:
    driven = planned(draft(node_type=None))
    limit = driven.settings.node_execution_timeout_seconds
    decision = driven.answer("root.1.0", Decided(NodeType.EXECUTE), seconds=100.0)
    assert [call.timeout for call in decision.calls] == [limit - 100.0]


@pytest.mark.parametrize("strategy", ExecutionStrategy)
def test_w16_no_strategy_drops_an_update_or_holds_a_state_back(strategy: ExecutionStrategy) -> None:
    """The ancestor stood still in realtime mode and lost what deferred mode had held."""
    driven = planned(draft(), settings=replace(DEFAULTS, execution_strategy=strategy))
    updates = UpdateBuffer(driven.settings)
    number = driven.calls["root.1.0"].number
    sent: list[NodeChanges] = []
    for step in range(3):
        driven.now += 0.001
        noted = driven.event(CallProgressed("root.1.0", number, f"step {step}"))
        sent += _node_changes(updates.take(noted.groups, driven.now))
    ended = driven.answer("root.1.0", done())
    sent += _node_changes(updates.take(ended.groups, driven.now))
    notes = [changes["progress"] for changes in sent if "progress" in changes]
    assert notes[-1] == "step 2", "the last word arrives, before the node is over"
    assert "state" not in sent[len(notes) - 1]
    states = [changes["state"] for changes in sent if "state" in changes]
    assert states[0] is S.DONE, "in the turn in which it was decided"
    assert updates.flush() == [], "nothing is left behind"
    assert (len(notes) == 3) == (strategy is ExecutionStrategy.STANDARD)


def _node_changes(groups: list[list[Mutation]]) -> list[NodeChanges]:
    return [m.changes for group in groups for m in group if isinstance(m, PatchNode)]


@pytest.mark.parametrize(
    "key, low, high",
    [
        ("rate_limit_rpm", 1, 100),
        ("retry_delay_seconds", 0.0, 60.0),
        ("timeout_hard_seconds", 0.0, 300.0),
        ("skip_atomization", False, True),
    ],
)
def test_w17_the_keys_that_the_ancestor_did_not_read_change_what_a_run_does(
    key: str, low: Scalar, high: Scalar
) -> None:
    seen = []
    for value in (low, high):
        keys = {"timeout_warning_seconds": 0, "timeout_soft_seconds": 0, "max_retries": 1}
        settings = settle(read_settings({**keys, key: value}))
        driven = planned(draft(node_type=None), settings=settings)
        stage = driven.calls["root.1.0"].stage
        driven.answer("root.1.0", failed(ErrorClass.RATE_LIMIT))
        rate = RateWindow(settings.rate_limit_rpm)
        waits = (rate.claim(0.0), rate.claim(0.0))
        patience = Patience(settings).first_look
        seen.append((stage, driven.node("root.1.0").next_attempt_time, waits, patience))
    assert seen[0] != seen[1]


@pytest.mark.parametrize("key", ["redis_url", "rate_limit", "timeout_strategy.redis"])
def test_w17_a_key_that_nobody_reads_is_refused(key: str) -> None:
    with pytest.raises(InvalidSetting, match="is not an execution key"):
        read_settings({key: 1})


def test_w18_a_plan_is_checked_whole_and_all_its_faults_are_told() -> None:
    """The ancestor shifted indices, took cycles and guessed dependencies."""
    tasks = [draft("one", 1), draft("two", 0), draft("self", 2), draft("far", 9)]
    problems = check_plan(tasks, layer=0, max_depth=5, objective="all")
    text = "; ".join(problems)
    assert "0 → 1 → 0" in text
    assert "task 2: depends on itself" in text
    assert "task 3: depends on [9]" in text
    driven = Driven()
    driven.answer("root", plan_of(*tasks))
    assert list(driven.ledger.nodes) == ["root"], "nothing of it is written"
    driven.wait()
    driven.answer("root", plan_of(draft("first"), draft("second", 0)))
    assert driven.node("root.1.1").depends_on == ("root.1.0",), "indices mean what they say"


def test_w19_a_run_at_rest_is_looked_at_at_once_and_mending_it_undoes_nothing() -> None:
    """The ancestor's check almost never ran, and its recovery reset what was finished."""
    driven = planned(draft(), draft())
    driven.answer("root.1.0", done())
    lost = driven.run.nodes["root.1.1"]
    driven.calls.clear()
    driven.run.close_call(lost, 0.0)  # nobody works on it any more, and nothing says so
    decision = driven.event(TimeReached())
    assert [call.node_id for call in decision.calls] == ["root.1.1"]
    forced = driven.node("root.1.1").forced
    assert forced is not None
    assert (forced.pattern, forced.before) == (Pattern.SINGLE_NODE_HANG, S.RUNNING)
    driven.answer("root.1.1", done())
    driven.answer("root", done())
    assert driven.project() is ProjectState.COMPLETED
    assert driven.moves_of("root.1.0").count(S.DONE) == 1


def test_w19_a_run_at_rest_that_cannot_be_mended_ends_with_the_reason() -> None:
    driven = planned(draft(), draft())
    for _ in range(20):
        if driven.run.ended:
            break
        for node in driven.run.nodes.values():
            if node.open_call:
                driven.run.close_call(node, 0.0)
        driven.calls.clear()
        driven.event(TimeReached())
    assert driven.project() is ProjectState.FAILED
    assert driven.ledger.error is not None
    assert "single_node_hang" in driven.ledger.error.message


def test_w20_runs_of_the_same_ids_know_nothing_of_each_other() -> None:
    """The ancestor had one current project for all of a process."""
    first, second = planned(draft(), draft()), planned(draft(), draft(), settings=NO_RETRY)
    second.answer("root.1.0", failed())
    first.answer("root.1.0", done())
    second.cancel()
    assert set(first.calls) == {"root.1.1"}
    first.answer("root.1.1", done())
    first.answer("root", done())
    second.answer("root.1.1", failed(ErrorClass.CANCELLED))
    assert first.project() is ProjectState.COMPLETED
    assert second.project() is ProjectState.CANCELLED


def test_w20_nothing_is_recorded_that_nobody_reported() -> None:
    """The ancestor made up the traces that it did not have."""
    driven = planned(draft(), draft())
    silent = driven.answer("root.1.0", done())
    assert not [m for group in silent.groups for m in group if isinstance(m, AddStage)]
    trace = Trace(attempt=1, agent_name="a", started=1.0, seconds=2.0, input=Body(text="in"))
    call = driven.calls.pop("root.1.1")
    told = driven.event(CallEnded("root.1.1", call.number, done(), 2.0, trace=trace))
    (record,) = [m for group in told.groups for m in group if isinstance(m, AddStage)]
    assert record.trace is trace
    assert (record.trace.model, record.trace.prompt, record.trace.usage) == ("", None, NO_USAGE)
