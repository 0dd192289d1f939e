"""Failures, retries, timeouts and limits of real runs: what ends how, with which counts.

The agents are scripted, both services are real. Every history is checked change by change
(`tests/support/run_history.py`), so an illegal move or a call too many fails any of these.
"""

from __future__ import annotations

from typing import Any

import pytest

from ramify.v1.node_pb2 import ErrorClass, Node
from ramify.v1.project_pb2 import Project
from tests.support.run_history import RunHistory, node_state
from tests.support.runs import Runs

#: A time-out that only a call that hangs reaches, also on a busy machine.
HANG_SECONDS = 3.0


class Outcome:
    """A run that has ended."""

    def __init__(self, project: Project, history: RunHistory) -> None:
        self.project = project
        self.history = history

    @property
    def state(self) -> str:
        """Terminal state of the project."""
        return self.history.state

    def node(self, index: int | None = None) -> Node:
        """Return a child of the root by its place in the plan, or the root."""
        root = self.history.nodes[self.project.root_node_id]
        return root if index is None else self.history.nodes[root.planned_sub_task_ids[index]]

    def states(self) -> list[str]:
        """Return the states of the root's children, in plan order."""
        return [
            node_state(self.node(i).state) for i in range(len(self.node().planned_sub_task_ids))
        ]

    def counts(self, index: int | None = None) -> tuple[int, int]:
        """Return (attempt, retry_count) of a node."""
        node = self.node(index)
        return node.attempt, node.retry_count


def why(error_class: str) -> ErrorClass.ValueType:
    """Return an error class by its short name."""
    return ErrorClass.Value(f"ERROR_CLASS_{error_class}")


async def play(runs: Runs, settings: dict[str, Any] | None = None, **script: Any) -> Outcome:
    """Run a script to its end; the project as it is read must agree with its history."""
    project_id = (await runs.script(settings, **script)).project_id
    history = await runs.finish(project_id)
    project = await runs.wire.project(project_id)
    assert history.states[-1] == history.state
    assert sum(project.node_counts.values()) == len(history.nodes)
    assert {node.node_id: node for node in await runs.wire.nodes(project_id)} == history.nodes
    return Outcome(project, history)


async def test_a_run_without_trouble_is_completed_with_one_attempt_each(runs: Runs) -> None:
    outcome = await play(runs, depth=2, breadth=4)
    assert outcome.state == "COMPLETED"
    assert len(outcome.history.nodes) == 1 + 4 + 16
    assert {node.attempt for node in outcome.history.nodes.values()} == {1}
    assert outcome.history.states == ["PENDING", "RUNNING", "COMPLETED"]
    assert not outcome.project.HasField("error")


async def test_a_passing_failure_costs_attempts_and_retries_but_not_the_result(runs: Runs) -> None:
    rule = {"node": "root.*.1", "attempts": [1, 2], "error": "CONNECTION"}
    outcome = await play(runs, rules=[rule])
    assert outcome.state == "COMPLETED"
    assert outcome.counts(1) == (3, 2)
    assert outcome.counts(0) == (1, 0)
    assert not outcome.node(1).HasField("error"), "a success clears the error of the attempt before"
    assert not outcome.node(1).HasField("next_attempt_time")


async def test_a_node_fails_when_its_retries_are_used_up_and_the_run_is_partial(
    runs: Runs,
) -> None:
    rule = {"node": "root.*.1", "error": "EXECUTION", "message": "no luck"}
    outcome = await play(runs, {"max_retries": 2}, rules=[rule])
    assert outcome.state == "PARTIAL"
    assert outcome.states() == ["DONE", "FAILED", "DONE"]
    assert outcome.counts(1) == (3, 2)
    assert outcome.node(1).error.error_class == why("EXECUTION")
    assert outcome.node(1).error.message == "no luck"
    assert "FAILED" in outcome.node().result.text, "the aggregator was told"


async def test_max_retries_of_zero_means_one_attempt(runs: Runs) -> None:
    rule = {"node": "root.*.0", "error": "RATE_LIMIT"}
    outcome = await play(runs, {"max_retries": 0}, rules=[rule])
    assert outcome.state == "PARTIAL"
    assert outcome.counts(0) == (1, 0)


@pytest.mark.parametrize("error", ["AUTH", "NO_EVIDENCE"])
async def test_a_failure_that_would_come_again_is_not_retried(runs: Runs, error: str) -> None:
    outcome = await play(runs, rules=[{"node": "root.*.2", "error": error}])
    assert outcome.state == "PARTIAL"
    assert outcome.counts(2) == (1, 0)
    assert outcome.node(2).error.error_class == why(error)


async def test_a_run_without_any_result_is_failed_and_names_where_it_began(runs: Runs) -> None:
    outcome = await play(runs, rules=[{"stage": "execute", "error": "AUTH", "message": "no key"}])
    assert outcome.state == "FAILED"
    assert outcome.states() == ["FAILED"] * 3
    assert node_state(outcome.node().state) == "FAILED"
    assert outcome.project.error.error_class == why("AUTH")
    assert outcome.project.error.message == "no key"
    assert outcome.project.error.node_id == outcome.node(0).node_id
    assert not [d for d in outcome.history.dispatches if d.stage == "aggregate"]


async def test_a_call_that_hangs_is_ended_and_its_node_tried_again(runs: Runs) -> None:
    rule = {"node": "root.*.0", "attempts": [1], "hang": True}
    outcome = await play(runs, {"node_execution_timeout_seconds": HANG_SECONDS}, rules=[rule])
    assert outcome.state == "COMPLETED"
    assert outcome.counts(0) == (2, 1)


async def test_a_call_that_always_hangs_fails_its_node_with_timeout(runs: Runs) -> None:
    outcome = await play(
        runs,
        {"node_execution_timeout_seconds": HANG_SECONDS, "max_retries": 1},
        rules=[{"node": "root.*.0", "hang": True}],
    )
    assert outcome.state == "PARTIAL"
    assert outcome.counts(0) == (2, 1)
    assert outcome.node(0).error.error_class == why("TIMEOUT")


async def test_a_bug_in_an_agent_is_a_failure_of_its_node_only(runs: Runs) -> None:
    outcome = await play(
        runs, {"max_retries": 1}, rules=[{"node": "root.*.1", "crash": True, "message": "oops"}]
    )
    assert outcome.state == "PARTIAL"
    assert outcome.counts(1) == (2, 1)
    assert outcome.node(1).error.error_class == why("EXECUTION")
    assert "oops" in outcome.node(1).error.message


async def test_a_failed_dependency_fails_all_that_need_it_and_names_it(runs: Runs) -> None:
    outcome = await play(runs, breadth=4, chain=True, rules=[{"node": "root.*.1", "error": "AUTH"}])
    assert outcome.state == "PARTIAL"
    assert outcome.states() == ["DONE", "FAILED", "FAILED", "FAILED"]
    for index in (2, 3):
        node = outcome.node(index)
        assert outcome.counts(index) == (0, 0), "it was never dispatched"
        assert node.error.error_class == why("DEPENDENCY_FAILED")
        assert node.error.node_id == outcome.node(1).node_id


async def test_when_the_first_of_a_chain_fails_the_run_fails_for_its_reason(runs: Runs) -> None:
    rule = {"node": "root.*.0", "error": "NO_EVIDENCE", "message": "nothing there"}
    outcome = await play(runs, breadth=4, chain=True, rules=[rule])
    assert outcome.state == "FAILED"
    assert outcome.project.error.error_class == why("NO_EVIDENCE")
    assert outcome.project.error.node_id == outcome.node(0).node_id


async def test_dependants_run_after_what_they_need_and_receive_its_result(runs: Runs) -> None:
    outcome = await play(runs, breadth=5, chain=True)
    order = [d.node_id for d in outcome.history.dispatches if d.stage == "execute"]
    assert order == [outcome.node(i).node_id for i in range(5)]
    for index in range(1, 5):
        assert f"after {outcome.node(index - 1).node_id} DONE" in outcome.node(index).result.text


async def test_an_invalid_plan_is_refused_and_planned_again(runs: Runs) -> None:
    rule = {"stage": "plan", "attempts": [1], "invalid": True}
    outcome = await play(runs, rules=[rule])
    assert outcome.state == "COMPLETED"
    assert outcome.counts() == (2, 0)
    assert outcome.history.nodes["root"].replan_count == 1
    assert len(outcome.history.nodes) == 4, "nothing of the invalid plan was written"


async def test_a_planner_that_never_plans_fails_the_run(runs: Runs) -> None:
    outcome = await play(runs, {"max_retries": 1}, rules=[{"stage": "plan", "invalid": True}])
    assert outcome.state == "FAILED"
    assert outcome.counts() == (3, 0), "two replans"
    assert outcome.project.error.error_class == why("INVALID_OUTPUT")
    assert list(outcome.history.nodes) == [outcome.project.root_node_id]


async def test_a_failed_aggregation_is_tried_again_without_its_children(runs: Runs) -> None:
    rule = {"node": "root", "stage": "aggregate", "attempts": [1], "error": "CONNECTION"}
    outcome = await play(runs, rules=[rule])
    assert outcome.state == "COMPLETED"
    assert outcome.counts() == (2, 1)
    assert [outcome.counts(i) for i in range(3)] == [(1, 0)] * 3


async def test_the_atomizer_is_asked_where_the_plan_does_not_decide(runs: Runs) -> None:
    outcome = await play(runs, depth=2, breadth=2, types=False)
    assert outcome.state == "COMPLETED"
    stages = [d.stage for d in outcome.history.dispatches]
    assert stages.count("atomize") == 2 + 4
    assert {node.attempt for node in outcome.history.nodes.values()} == {1}


async def test_no_more_calls_run_at_one_time_than_allowed_and_as_many_as_that(runs: Runs) -> None:
    outcome = await play(runs, {"max_concurrent_nodes": 3}, breadth=12, delay_ms=5)
    assert outcome.state == "COMPLETED"
    assert outcome.history.most_in_flight == 3


async def test_the_recursion_limit_executes_what_would_be_planned(runs: Runs) -> None:
    outcome = await play(runs, {"max_recursion_depth": 1}, depth=5, breadth=2)
    assert outcome.state == "COMPLETED"
    assert max(node.layer for node in outcome.history.nodes.values()) == 1


async def test_a_run_out_of_steps_says_so_and_ends(runs: Runs) -> None:
    outcome = await play(runs, {"max_execution_steps": 4, "max_concurrent_nodes": 1}, breadth=9)
    assert outcome.state == "FAILED"
    assert len(outcome.history.dispatches) == 4
    assert outcome.states().count("DONE") == 3, "what was done stays"
    assert outcome.project.error.error_class == why("LIMIT")


async def test_a_retry_waits_for_its_backoff(runs: Runs) -> None:
    rule = {"node": "root.*.0", "attempts": [1, 2, 3], "error": "CONNECTION"}
    project = await runs.script({"retry_delay_seconds": 0.1}, rules=[rule])
    async with runs.follow(project.project_id) as follower:
        await follower.ended()
    due: dict[int, float] = {}
    begun: dict[int, float] = {}
    attempt = 0
    for message in follower.log.messages:
        times = {i.revision: i.commit_time.ToNanoseconds() for i in message.delta.revisions}
        for change in message.delta.changes:
            patch = change.node.patch
            if not change.node.node_id.endswith(".0"):
                continue
            attempt = patch.attempt or attempt
            if patch.HasField("next_attempt_time"):
                due[attempt] = patch.next_attempt_time.ToNanoseconds()
            elif patch.HasField("usage"):
                begun[attempt] = times[change.revision]
    assert list(due) == [2, 3, 4]
    # Both are stamped on this machine; the runner's clock and state_svc's may differ by rounding.
    assert all(begun[attempt] >= due[attempt] - 2_000_000 for attempt in due)
