"""Follows the recovery table after a failed call, and `on_exhausted` where it ends."""

from __future__ import annotations

from orchestrator_svc.graph.checkpoint import ask_to_try_again
from orchestrator_svc.graph.dispatch import announce_attempt
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.recovery import (
    FINAL,
    RECOVERY,
    Recovery,
    full_jitter,
    longest_delay,
)
from orchestrator_svc.graph.replan import can_replan, replan
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import finish, origin_below
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import (
    ErrorClass,
    NodeState,
    OnExhausted,
    ProjectState,
    Stage,
)

MAX_MESSAGE_CHARS = 4_096  #: of a stored failure


def call_failed(
    run: Run, node: Node, stage: Stage, error_class: ErrorClass, message: str, now: float
) -> None:
    """Give a node whose call has failed what the table says: another attempt, plan, or its end."""
    origin = ""
    if error_class is ErrorClass.DEPENDENCY_FAILED:
        origin = origin_below(run, node)
    failure = Failure(error_class, storable(message, MAX_MESSAGE_CHARS), origin)
    run.stage_failed(node, failure)
    recovery = RECOVERY[error_class, stage]
    if recovery is Recovery.REPLAN and can_replan(run, node):
        at = now + _delay(run, node.replan_count)
        replan(run, node, failure.message, error=failure, at=at)
    elif recovery in (Recovery.RETRY, Recovery.TIMEOUT) and _may_retry(run, node, recovery):
        _retry(run, node, failure, recovery, now)
    else:
        _exhausted(run, node, failure, now)


def _may_retry(run: Run, node: Node, recovery: Recovery) -> bool:
    settings = run.settings
    if recovery is Recovery.TIMEOUT and node.timeout_count >= settings.max_recovery_attempts:
        return False
    most = settings.max_retries if node.max_retries is None else node.max_retries
    return node.retry_count < most


def _delay(run: Run, failures: int) -> float:
    base = run.settings.retry_delay_seconds
    return full_jitter(base, failures, longest_delay(base), run.random)


def _retry(run: Run, node: Node, failure: Failure, recovery: Recovery, now: float) -> None:
    at = now + _delay(run, node.retry_count)
    changes = NodeChanges(
        attempt=node.attempt + 1,
        retry_count=node.retry_count + 1,
        next_attempt_time=at,
        error=failure,
    )
    if recovery is Recovery.TIMEOUT:
        changes["timeout_count"] = node.timeout_count + 1
    if node.crash_redispatches:
        changes["crash_redispatches"] = 0
    announce_attempt(run, node, changes)
    run.at(at, node)


def _exhausted(run: Run, node: Node, failure: Failure, now: float) -> None:
    policy = run.on_exhausted(node)
    if failure.error_class in FINAL:
        policy = OnExhausted.FAIL
    parent = run.nodes.get(node.parent_id)
    if policy is OnExhausted.PAUSE:
        _pause(run, node, failure, now)
    elif policy is OnExhausted.ASK:
        ask_to_try_again(run, node, failure)
    elif policy is OnExhausted.REPLAN and parent is not None and can_replan(run, parent):
        run.patch(node, state=NodeState.FAILED, error=failure)
        reason = f"{node.node_id} ({node.goal}) failed: {failure.error_class}: {failure.message}"
        replan(run, parent, storable(reason, MAX_MESSAGE_CHARS))
    else:
        finish(run, node, state=NodeState.FAILED, error=failure)


def _pause(run: Run, node: Node, failure: Failure, now: float) -> None:
    """Pause the run with the node ready for a fresh start, which its resumption gives it."""
    fresh_start(run, node, NodeChanges(error=failure), now)
    if run.state in (ProjectState.RUNNING, ProjectState.WAITING):
        run.patch_project(ProjectState.PAUSING, pause_time=now)


def fresh_start(run: Run, node: Node, changes: NodeChanges, now: float) -> None:
    """Queue a node whose last call has failed for another attempt, as if it were the first."""
    changes["attempt"] = node.attempt + 1
    changes.update(fresh_counts(node))
    if node.state is NodeState.AGGREGATING:
        changes["next_attempt_time"] = now  # no call is in flight
    announce_attempt(run, node, changes)
    run.queue.append(node.node_id)


def fresh_counts(node: Node) -> NodeChanges:
    """Return what sets a node's used-up recoveries back."""
    changes = NodeChanges()
    if node.retry_count:
        changes["retry_count"] = 0
    if node.timeout_count:
        changes["timeout_count"] = 0
    if node.replan_count:
        changes["replan_count"] = 0
    if node.crash_redispatches:
        changes["crash_redispatches"] = 0
    return changes
