"""The execution keys of one run (S2). The list with ranges and meanings is `ExecutionSettings`.

A value comes from the first of these that has one: the project, the orchestrator's file,
environment and flags, the preset of `optimization_level`, the contract's default.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields

from orchestrator_svc.graph.types import OnDependencyFailure, OnExhausted

#: Value of a key. A choice is the text of the config file, such as `standard`.
Scalar = bool | int | float | str


class ExecutionStrategy(enum.StrEnum):
    """When changes that move no state are sent (S2.6, SEM 24)."""

    STANDARD = "standard"
    REALTIME = "realtime"
    DEFERRED = "deferred"


class BudgetPolicy(enum.StrEnum):
    """What happens to what a used-up budget forbids."""

    FAIL = "fail"  #: it fails
    PAUSE = "pause"  #: the run is paused; resuming it allows as much again
    ASK = "ask"  #: a human is asked whether as much again is allowed


class OptimizationLevel(enum.StrEnum):
    """Names a preset of other keys."""

    CONSERVATIVE = "conservative"
    BALANCED = "balanced"
    AGGRESSIVE = "aggressive"


class ExpiryPolicy(enum.StrEnum):
    """What happens when nobody answers a review in time (S2.1, SEM 27)."""

    PARK = "park"
    REJECT = "reject"
    APPROVE = "approve"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The keys in force. Defaults equal those of the contract; a test compares them."""

    max_concurrent_nodes: int = 10
    max_execution_steps: int = 500  #: 0: unlimited
    max_recursion_depth: int = 5
    max_retries: int = 3
    retry_delay_seconds: float = 5.0
    node_execution_timeout_seconds: float = 2400.0
    force_root_node_planning: bool = True
    skip_atomization: bool = False
    max_parallel_nodes: int = 8  #: of a wave
    rate_limit_rpm: int = 30
    timeout_warning_seconds: float = 60.0  #: of silence, as the two that follow; 0: never
    timeout_soft_seconds: float = 180.0
    timeout_hard_seconds: float = 300.0
    max_recovery_attempts: int = 3
    on_exhausted: OnExhausted = OnExhausted.FAIL
    on_dependency_failure: OnDependencyFailure = OnDependencyFailure.FAIL
    enable_immediate_slot_fill: bool = True
    execution_strategy: ExecutionStrategy = ExecutionStrategy.STANDARD
    enable_update_coalescing: bool = True
    update_coalescing_window_ms: int = 50
    optimization_level: OptimizationLevel = OptimizationLevel.BALANCED
    knowledge_store_batch_size: int = 10
    enable_hitl: bool = False
    hitl_root_plan_only: bool = True
    hitl_after_plan_generation: bool = True
    hitl_after_modified_plan: bool = True
    hitl_after_atomizer: bool = False
    hitl_before_execute: bool = False
    hitl_aggregation_review: bool = False
    hitl_timeout_seconds: float = 1200.0  #: 0: never
    hitl_expiry_policy: ExpiryPolicy = ExpiryPolicy.PARK
    budget_tokens: int = 0  #: of the whole run, as the others; 0: unlimited
    budget_cost_usd: float = 0.0
    budget_wall_seconds: float = 0.0
    budget_nodes: int = 0
    budget_policy: BudgetPolicy = BudgetPolicy.FAIL
    max_context_tokens: int = 200_000  #: of what one agent call may look at

    @property
    def slots(self) -> int:
        """Agent calls that may be open at one time."""
        if self.enable_immediate_slot_fill:
            return self.max_concurrent_nodes
        return min(self.max_concurrent_nodes, self.max_parallel_nodes)


#: Keys on which the core acts.
KEYS = frozenset(field.name for field in fields(Settings))

#: What each level sets, for keys that nobody chose.
LEVELS: Mapping[OptimizationLevel, Mapping[str, Scalar]] = {
    OptimizationLevel.CONSERVATIVE: {
        "max_concurrent_nodes": 4,
        "max_parallel_nodes": 4,
        "enable_immediate_slot_fill": False,
        "retry_delay_seconds": 10.0,
        "rate_limit_rpm": 15,
    },
    OptimizationLevel.BALANCED: {},
    OptimizationLevel.AGGRESSIVE: {
        "max_concurrent_nodes": 20,
        "max_parallel_nodes": 16,
        "retry_delay_seconds": 2.0,
        "rate_limit_rpm": 60,
        "execution_strategy": ExecutionStrategy.REALTIME,
        "broadcast_mode": "batch",  #: acts in state_svc
        "knowledge_store_batch_size": 50,
    },
}

_CHOICES: Mapping[str, type[enum.StrEnum]] = {
    field.name: type(field.default)
    for field in fields(Settings)
    if isinstance(field.default, enum.StrEnum)
}


def choose(*layers: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the keys that are not left at their defaults; a later layer wins over the others.

    The preset of the chosen level lies below all of them.
    """
    chosen: dict[str, Scalar] = {}
    for layer in layers:
        chosen.update(layer)
    level = OptimizationLevel(str(chosen.get("optimization_level", OptimizationLevel.BALANCED)))
    return {**LEVELS[level], **chosen}


def effective(*layers: Mapping[str, Scalar]) -> Settings:
    """Return the keys in force. Keys on which the core does not act are passed over.

    Values are within their ranges: `settings.py` has read them.
    """
    values = {key: value for key, value in choose(*layers).items() if key in KEYS}
    for key, choice in _CHOICES.items():
        if key in values:
            values[key] = choice(str(values[key]))
    return Settings(**values)  # type: ignore[arg-type]


def problems(settings: Settings) -> list[tuple[str, str]]:
    """Return (key, why) for each key that cannot be combined with the others."""
    found: list[tuple[str, str]] = []
    steps = [
        (name, value)
        for name, value in (
            ("timeout_warning_seconds", settings.timeout_warning_seconds),
            ("timeout_soft_seconds", settings.timeout_soft_seconds),
            ("timeout_hard_seconds", settings.timeout_hard_seconds),
        )
        if value
    ]
    for (first, least), (second, value) in itertools.pairwise(steps):
        if value <= least:
            found.append((second, f"of {value:g} has to be more than {first}, {least:g}, or 0"))
    checkpoints = {
        "hitl_after_plan_generation": settings.hitl_after_plan_generation,
        "hitl_after_modified_plan": settings.hitl_after_modified_plan,
        "hitl_after_atomizer": settings.hitl_after_atomizer,
        "hitl_before_execute": settings.hitl_before_execute,
        "hitl_aggregation_review": settings.hitl_aggregation_review,
    }
    if settings.enable_hitl and not any(checkpoints.values()):
        found.append(("enable_hitl", f"asks nobody: one of {', '.join(checkpoints)} has to be on"))
    return found
