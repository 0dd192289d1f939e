"""Whatever happens to a large run, its decisions fit into batches that the store takes (SEM 11)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_svc.graph.budget import Allowance, Budget
from orchestrator_svc.graph.event import Decision
from orchestrator_svc.graph.settings import BudgetPolicy
from orchestrator_svc.graph.types import CommandState, CommandType, NodeState, ProjectState
from tests.unit.orchestrator_svc.driven import DEFAULTS, done, draft, failed, planned

MAX_BATCH_MUTATIONS = 5_000
WIDTH = MAX_BATCH_MUTATIONS + 1


def check(decision: Decision) -> None:
    """Only groups are never split."""
    largest = max(map(len, decision.groups))
    assert largest <= MAX_BATCH_MUTATIONS, f"a group of {largest} is refused by the store"


@pytest.mark.parametrize("policy", [BudgetPolicy.FAIL, BudgetPolicy.PAUSE])
def test_a_resume_with_many_running_wall_budgets(policy: BudgetPolicy) -> None:
    settings = replace(DEFAULTS, max_concurrent_nodes=1, budget_policy=policy)
    driven = planned(*(draft() for _ in range(WIDTH)), settings=settings)
    for node in driven.ledger.nodes.values():
        node.budget = Budget(wall_seconds=100.0)
        node.allowance = Allowance(since=driven.now)
    driven.crash()
    assert driven.order(CommandType.PAUSE_PROJECT)[0] is CommandState.APPLIED
    driven.now += 500.0
    assert driven.order(CommandType.RESUME_PROJECT)[0] is CommandState.APPLIED
    check(driven.last)
    children = [node for node in driven.ledger.nodes.values() if node.parent_id]
    assert {node.allowance.since for node in children} == {1_500.0}


def test_a_step_limit_that_many_ready_nodes_reach() -> None:
    driven = planned(
        *(draft() for _ in range(WIDTH)),
        settings=replace(DEFAULTS, max_execution_steps=2, max_concurrent_nodes=1),
    )
    driven.answer("root.1.0", done())
    check(driven.last)
    assert driven.project() is ProjectState.FAILED
    assert driven.state("root.1.1") is NodeState.FAILED


def test_a_root_that_ends_over_many_open_nodes() -> None:
    driven = planned(*(draft() for _ in range(WIDTH)), settings=replace(DEFAULTS, max_retries=0))
    root = driven.run.nodes["root"]
    root.open_children = 1  # a tree from outside; the doctor looks at it later
    driven.answer("root.1.0", failed())
    check(driven.last)
    assert driven.project() is ProjectState.FAILED
