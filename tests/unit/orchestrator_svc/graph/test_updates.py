"""Update strategies: quiet changes are held as asked for, nothing else ever is, nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.mutation import CreateNode, Mutation, NodeChanges, PatchNode
from orchestrator_svc.graph.settings import ExecutionStrategy, Settings
from orchestrator_svc.graph.types import NodeState, TaskType
from orchestrator_svc.graph.updates import UpdateBuffer
from orchestrator_svc.graph.usage import Usage

STANDARD, REALTIME, DEFERRED = (
    Settings(execution_strategy=strategy, update_coalescing_window_ms=50)
    for strategy in ExecutionStrategy
)


def note(node_id: str, text: str) -> list[Mutation]:
    """Return a quiet change."""
    return [PatchNode(node_id, NodeChanges(progress=text))]


def move(node_id: str, state: NodeState = NodeState.DONE) -> list[Mutation]:
    """Return a change that moves a state."""
    return [PatchNode(node_id, NodeChanges(state=state))]


@pytest.mark.execution_key("execution_strategy")
def test_standard_sends_every_change_at_once() -> None:
    updates = UpdateBuffer(STANDARD)
    assert updates.take([note("a", "1"), note("a", "2")], 0.0) == [note("a", "1"), note("a", "2")]
    assert updates.next_due() is None


@pytest.mark.execution_key("update_coalescing_window_ms")
@pytest.mark.parametrize("window", [50, 500])
def test_realtime_joins_the_changes_of_a_node_within_the_window(window: int) -> None:
    updates = UpdateBuffer(replace(REALTIME, update_coalescing_window_ms=window))
    assert updates.take([note("a", "1")], 0.0) == []
    assert updates.take([note("a", "2"), note("b", "1")], 0.01) == []
    due = updates.next_due()
    assert due == window / 1_000, "since the first one"
    assert updates.pop_due(due - 0.001) == []
    assert updates.pop_due(due) == [note("a", "2")]
    assert updates.next_due() == due + 0.01


@pytest.mark.execution_key("enable_update_coalescing")
def test_realtime_without_coalescing_holds_nothing() -> None:
    updates = UpdateBuffer(replace(REALTIME, enable_update_coalescing=False))
    assert updates.take([note("a", "1")], 0.0) == [note("a", "1")]


def test_deferred_waits_for_the_end_of_the_call_and_sends_one_batch() -> None:
    updates = UpdateBuffer(DEFERRED)
    assert updates.take([note("a", "1"), note("a", "2")], 0.0) == []
    assert updates.next_due() is None
    assert updates.take([move("b")], 1.0) == [move("b")]
    assert updates.take([move("a")], 2.0) == [[*note("a", "2"), *move("a")]]
    assert updates.flush() == []


@pytest.mark.parametrize("settings", [STANDARD, REALTIME, DEFERRED])
def test_a_claim_is_never_delayed(settings: Settings) -> None:
    updates = UpdateBuffer(settings)
    claim: list[Mutation] = [
        PatchNode("a", NodeChanges(state=NodeState.RUNNING, attempt=1, agent_calls=1))
    ]
    create: list[Mutation] = [
        CreateNode("b", "goal", "goal", TaskType.THINK, None, 1, "a", (), NodeState.READY, {})
    ]
    assert updates.take([claim, create], 0.0) == [claim, create]


@given(
    strategy=st.sampled_from([STANDARD, REALTIME, DEFERRED]),
    events=st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 0.1)), max_size=40
    ),
)
def test_no_move_is_held_or_lost_or_reordered_and_the_last_word_always_arrives(
    strategy: Settings, events: list[tuple[str, bool, float]]
) -> None:
    updates, now = UpdateBuffer(strategy), 0.0
    sent: list[Mutation] = []
    for number, (node_id, moves, pause) in enumerate(events):
        now += pause
        for due in updates.pop_due(now):
            sent += due
        group = move(node_id) if moves else note(node_id, str(number))
        answer = updates.take([group], now)
        sent += [mutation for part in answer for mutation in part]
        if moves:
            assert sent[-1] == group[0]
    sent += [mutation for part in updates.flush() for mutation in part]
    for node_id in "abc":
        about = [m.changes for m in sent if isinstance(m, PatchNode) and m.node_id == node_id]
        given_ = [(moves, str(n)) for n, (id_, moves, _) in enumerate(events) if id_ == node_id]
        assert sum("state" in changes for changes in about) == sum(moves for moves, _ in given_)
        # Between two moves the last note is there, and no other order is possible.
        expected, last = list[str](), ""
        for moves, text in [*given_, (True, "")]:
            if moves and last:
                expected.append(last)
            last = "" if moves else text
        seen, last = list[str](), ""
        for changes in [*about, NodeChanges(state=NodeState.DONE)]:
            if "state" in changes and last:
                seen.append(last)
            last = "" if "state" in changes else changes["progress"]
        assert seen == expected


def test_what_an_open_call_has_spent_is_quiet_and_the_claim_of_the_next_call_is_not() -> None:
    updates = UpdateBuffer(DEFERRED)
    spent: list[Mutation] = [
        PatchNode("a", NodeChanges(progress="", usage=Usage(1, 2, 3), agent_calls=1))
    ]
    claim: list[Mutation] = [PatchNode("a", NodeChanges(agent_calls=2, usage=Usage(1, 2, 3)))]
    assert updates.take([spent], 0.0) == []
    assert updates.take([claim], 0.0) == [[*spent, *claim]]


@pytest.mark.parametrize("settings", [STANDARD, REALTIME, DEFERRED])
def test_while_nothing_can_be_sent_one_quiet_change_of_a_node_waits(settings: Settings) -> None:
    updates = UpdateBuffer(settings)
    waiting: list[list[Mutation]] = []
    for number in range(1_000):
        waiting += updates.take([note(id_, str(number)) for id_ in "abc"], 1.0, full=True)
    assert waiting == []
    assert updates.take([move("a")], 1.0, full=True) == [[*note("a", "999"), *move("a")]]
    assert updates.flush() == [note("b", "999"), note("c", "999")]


def test_what_had_to_wait_is_due_at_once_and_comes_before_later_changes_of_its_node() -> None:
    updates = UpdateBuffer(STANDARD)
    assert updates.take([note("a", "1"), note("b", "1")], 1.0, full=True) == []
    assert updates.next_due() == 1.0
    assert updates.take([note("a", "2")], 1.0) == [[*note("a", "1"), *note("a", "2")]]
    assert updates.pop_due(1.0) == [note("b", "1")]
    assert updates.next_due() is None
