"""What may happen in a random run: its settings, and how often it is disturbed, by whom."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from orchestrator_svc.graph.review import ReviewDecision
from orchestrator_svc.graph.settings import BudgetPolicy, ExecutionStrategy, ExpiryPolicy, Settings
from orchestrator_svc.graph.types import CommandType, ErrorClass, OnDependencyFailure, OnExhausted

PROJECT_ORDERS = [CommandType.PAUSE_PROJECT, CommandType.RESUME_PROJECT]
ORDERS = [
    *PROJECT_ORDERS,
    CommandType.CANCEL_NODE,
    CommandType.RETRY_NODE,
    CommandType.REPLAN_NODE,
]
#: What humans decide, and how often.
DECISIONS = {
    ReviewDecision.APPROVE: 60,
    ReviewDecision.REQUEST_MODIFICATION: 25,
    ReviewDecision.REJECT: 10,
    ReviewDecision.ABORT: 2,
}
AGENT_ERRORS = [
    ErrorClass.TIMEOUT,
    ErrorClass.RATE_LIMIT,
    ErrorClass.EXECUTION,
    ErrorClass.NO_EVIDENCE,
    ErrorClass.AUTH,
]


@dataclass(frozen=True)
class Scenario:
    """What may happen in one run."""

    seed: int
    settings: Settings
    width: int  #: most children of a node
    failure_rate: float
    invalid_rate: float
    crashes: int
    drains: int
    cancel_at: int | None  #: turn of a cancellation
    order_rate: float  #: per turn, of other orders, while there are any left
    orders: int
    window: int  #: batches under way
    patience: float  #: chance per turn that a human answers an open review


scenarios = st.builds(
    Scenario,
    seed=st.integers(0, 2**32),
    settings=st.builds(
        Settings,
        max_concurrent_nodes=st.integers(1, 6),
        max_execution_steps=st.sampled_from([0, 0, 0, 0, 10, 40]),
        max_recursion_depth=st.integers(2, 4),
        max_retries=st.integers(0, 3),
        retry_delay_seconds=st.sampled_from([0.0, 5.0]),
        force_root_node_planning=st.sampled_from([True, True, True, False]),
        skip_atomization=st.booleans(),
        enable_hitl=st.booleans(),
        hitl_root_plan_only=st.booleans(),
        hitl_after_plan_generation=st.sampled_from([True, True, False]),
        hitl_after_modified_plan=st.booleans(),
        hitl_after_atomizer=st.sampled_from([False, False, True]),
        hitl_before_execute=st.sampled_from([False, False, True]),
        hitl_aggregation_review=st.sampled_from([False, False, True]),
        hitl_timeout_seconds=st.sampled_from([0.0, 1.0, 60.0]),
        hitl_expiry_policy=st.sampled_from(ExpiryPolicy),
        enable_immediate_slot_fill=st.sampled_from([True, True, False]),
        max_parallel_nodes=st.integers(1, 4),
        execution_strategy=st.sampled_from(list(ExecutionStrategy)),
        on_exhausted=st.sampled_from([OnExhausted.FAIL, *OnExhausted]),
        budget_tokens=st.sampled_from([0, 0, 0, 10, 40]),
        budget_wall_seconds=st.sampled_from([0.0, 0.0, 0.0, 30.0]),
        budget_cost_usd=st.sampled_from([0.0, 0.0, 0.0, 10e-6, 40e-6]),
        budget_nodes=st.sampled_from([0, 0, 0, 3, 8]),
        budget_policy=st.sampled_from(BudgetPolicy),
        on_dependency_failure=st.sampled_from([OnDependencyFailure.FAIL, *OnDependencyFailure]),
    ),
    width=st.integers(3, 8),
    failure_rate=st.sampled_from([0.02, 0.0, 0.05, 0.1, 0.1, 0.3, 0.9]),
    invalid_rate=st.sampled_from([0.0, 0.0, 0.1]),
    crashes=st.integers(0, 12),
    drains=st.integers(0, 2),
    cancel_at=st.none() | st.none() | st.integers(0, 80),
    order_rate=st.sampled_from([0.0, 0.05, 0.2]),
    orders=st.integers(0, 12),
    window=st.integers(1, 4),
    patience=st.sampled_from([0.0, 0.05, 0.5]),
)
