"""Each execution key that acts in the core: changing it changes what a run does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.types import ErrorClass, NodeState, NodeType, Stage
from tests.unit.orchestrator_svc.driven import DEFAULTS, Driven, draft, failed, planned

S = NodeState


@pytest.mark.execution_key("max_concurrent_nodes")
@pytest.mark.parametrize("most", [1, 3])
def test_max_concurrent_nodes_bounds_open_calls(most: int) -> None:
    driven = planned(*[draft()] * 5, settings=replace(DEFAULTS, max_concurrent_nodes=most))
    assert len(driven.calls) == most


@pytest.mark.execution_key("max_execution_steps")
@pytest.mark.parametrize("most, state", [(2, S.FAILED), (0, S.RUNNING)])
def test_max_execution_steps_bounds_dispatches(most: int, state: NodeState) -> None:
    driven = planned(draft(), draft(), settings=replace(DEFAULTS, max_execution_steps=most))
    assert (driven.state("root.1.0"), driven.state("root.1.1")) == (S.RUNNING, state)


@pytest.mark.execution_key("max_recursion_depth")
@pytest.mark.parametrize("depth, stage", [(1, Stage.EXECUTE), (2, Stage.PLAN)])
def test_max_recursion_depth_ends_planning(depth: int, stage: Stage) -> None:
    settings = replace(DEFAULTS, max_recursion_depth=depth)
    driven = planned(draft(node_type=NodeType.PLAN), settings=settings)
    assert driven.calls["root.1.0"].stage is stage


@pytest.mark.execution_key("max_retries")
@pytest.mark.parametrize("most, state", [(0, S.FAILED), (1, S.READY)])
def test_max_retries_bounds_attempts(most: int, state: NodeState) -> None:
    driven = planned(draft(), draft(), settings=replace(DEFAULTS, max_retries=most))
    driven.answer("root.1.0", failed(ErrorClass.CONNECTION))
    assert driven.state("root.1.0") is state


@pytest.mark.execution_key("retry_delay_seconds")
@pytest.mark.parametrize("base", [4.0, 20.0])
def test_retry_delay_seconds_is_the_base_of_the_backoff(base: float) -> None:
    driven = planned(draft(), settings=replace(DEFAULTS, retry_delay_seconds=base))
    driven.answer("root.1.0", failed(ErrorClass.CONNECTION))
    assert driven.node("root.1.0").next_attempt_time == driven.now + base / 2, "random is 0.5"


@pytest.mark.execution_key("node_execution_timeout_seconds")
@pytest.mark.parametrize("seconds", [5.0, 50.0])
def test_node_execution_timeout_seconds_bounds_an_attempt(seconds: float) -> None:
    driven = Driven(settings=replace(DEFAULTS, node_execution_timeout_seconds=seconds))
    assert driven.calls["root"].timeout == seconds


@pytest.mark.execution_key("force_root_node_planning")
@pytest.mark.parametrize("force, stage", [(True, Stage.PLAN), (False, Stage.ATOMIZE)])
def test_force_root_node_planning_asks_no_atomizer_about_the_root(
    force: bool, stage: Stage
) -> None:
    driven = Driven(settings=replace(DEFAULTS, force_root_node_planning=force))
    assert driven.calls["root"].stage is stage


@pytest.mark.execution_key("skip_atomization")
@pytest.mark.parametrize("skip, stage", [(True, Stage.EXECUTE), (False, Stage.ATOMIZE)])
def test_skip_atomization_asks_no_atomizer_at_all(skip: bool, stage: Stage) -> None:
    driven = planned(draft(node_type=None), settings=replace(DEFAULTS, skip_atomization=skip))
    assert driven.calls["root.1.0"].stage is stage
