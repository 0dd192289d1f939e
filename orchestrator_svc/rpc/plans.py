"""Checks a plan before a project is made of it, and derives what its run needs (SEM 23)."""

from __future__ import annotations

from orchestrator_svc.agents.plan.agents import planned
from orchestrator_svc.agents.plan.tree import InvalidPlan, PlanTree, Task, read_plan
from orchestrator_svc.agents.profile import PLAN_PROFILE, ProfileRegistry
from orchestrator_svc.errors import InvalidRequest, PlanNotAllowed
from orchestrator_svc.graph.plan import MAX_BATCH_TASKS, DraftTask, fits_one_review
from orchestrator_svc.graph.settings import Scalar, Settings
from ramify.v1 import orchestrator_service_pb2 as pb

TIMEOUT_MARGIN = 60.0  #: seconds that an attempt may take beside its task's own time-out

#: A compiler that prints nothing is at work: its task's time-out bounds it, not its silence.
SILENCE_IS_WORK: dict[str, Scalar] = {"timeout_soft_seconds": 0.0, "timeout_hard_seconds": 0.0}


def checked_plan(request: pb.StartProjectRequest, profiles: ProfileRegistry) -> PlanTree:
    """Return the plan of a request. Raises `PlanNotAllowed` or `InvalidRequest`."""
    entry = profiles.get(PLAN_PROFILE)
    if entry is None or entry.refusal:
        raise PlanNotAllowed(entry.refusal if entry is not None else "")
    if request.profile not in ("", PLAN_PROFILE):
        raise InvalidRequest(f"a plan has the profile {PLAN_PROFILE}", field="profile")
    try:
        return read_plan(request.plan)
    except InvalidPlan as error:
        first = error.problems[0]
        more = len(error.problems) - 1
        rest = f"; {more} more problems" if more else ""
        path = f"plan.{first.path}" if first.path else "plan"
        raise InvalidRequest(first.text + rest, field=path) from error


def needed_settings(
    tree: PlanTree, defaults: Settings, chosen: dict[str, Scalar]
) -> dict[str, Scalar]:
    """Return the keys that follow from a plan; those of the request win over them.

    Raises `InvalidRequest` for a chosen key under which the plan could not run.
    """
    depth = chosen.get("max_recursion_depth")
    if depth is not None and depth < tree.depth:  # type: ignore[operator]  # a number
        raise InvalidRequest(
            f"the plan has {tree.depth} levels", field="settings.max_recursion_depth"
        )
    timeout = defaults.node_execution_timeout_seconds
    if tree.longest_timeout:
        timeout = max(timeout, min(86_400.0, tree.longest_timeout + TIMEOUT_MARGIN))
    return {
        "max_execution_steps": tree.steps,
        "max_recursion_depth": max(defaults.max_recursion_depth, tree.depth),
        "node_execution_timeout_seconds": timeout,
        "force_root_node_planning": True,
    }


def refuse_if_unreviewable(tree: PlanTree, settings: Settings) -> None:
    """Raise `InvalidRequest` for tasks to be asked about that are too many for a review.

    A proposed plan lives in its review and has no children before the approval (SEM 27), so one
    that is larger than a review cannot be asked about.
    """
    if not (settings.enable_hitl and settings.hitl_after_plan_generation):
        return
    asked = [("", tree.tasks)]
    if not settings.hitl_root_plan_only:
        asked += [(f"{group.path}.", group.tasks) for group in tree.by_id.values() if group.tasks]
    for path, tasks in asked:
        if not fits_one_review([_draft(task) for task in tasks]):
            raise InvalidRequest(
                f"{len(tasks)} tasks side by side cannot be reviewed, at most {MAX_BATCH_TASKS} "
                "and 2.5 MB can; put them into groups, or run it without a review",
                field=f"plan.{path}tasks",
            )


def _draft(task: Task) -> DraftTask:
    made = planned(task)
    return DraftTask(made.goal, made.task_type, made.node_type, made.depends_on, made.details)
