"""Instructions change a plan exactly as they say, or are refused with what would be understood."""

from __future__ import annotations

import pytest

from orchestrator_svc.agents.base import AgentError, NodeType, Plan, PlannedTask, TaskType
from orchestrator_svc.agents.edits import edited

PLAN = Plan(
    tasks=(
        PlannedTask(goal="Behaviour: tasks", task_type=TaskType.SEARCH),
        PlannedTask(goal="Limits: tasks", task_type=TaskType.THINK),
        PlannedTask(goal="Examples: tasks", task_type=TaskType.WRITE, depends_on=(1,)),
    )
)


def make(goal: str) -> PlannedTask:
    return PlannedTask(goal=goal, task_type=TaskType.WRITE, node_type=NodeType.EXECUTE)


def goals(instructions: str, plan: Plan = PLAN) -> list[str]:
    return [task.goal.partition(":")[0] for task in edited(plan, instructions, make).tasks]


@pytest.mark.parametrize(
    "instructions, left",
    [
        ("drop 1", ["Limits", "Examples"]),
        ("Drop tasks 2 and 3", ["Behaviour"]),
        ("remove EXAMPLES; remove limits", ["Behaviour"]),
        ("without “Examples”.", ["Behaviour", "Limits"]),
        ("keep 2, 3", ["Limits", "Examples"]),
        ("add What else?", ["Behaviour", "Limits", "Examples", "What else?"]),
        ("keep only: limits\nadd: What else?", ["Limits", "What else?"]),
    ],
)
def test_parts_are_dropped_kept_and_added(instructions: str, left: list[str]) -> None:
    assert goals(instructions) == left


def test_dependencies_follow_the_tasks() -> None:
    changed = edited(PLAN, "drop 1", make)
    assert [task.depends_on for task in changed.tasks] == [(), (0,)]


@pytest.mark.parametrize(
    "instructions, problem",
    [
        ("make it nicer", "not understood"),
        ("drop 4", "there is no task 4"),
        ("drop 0", "there is no task 0"),
        ("drop Overview", "no task's goal contains"),
        ("drop 2", "task 3 needs task 2"),
        ("drop 1, 2, 3", "nothing would be left"),
        ("add x", "3 to"),
        ("drop 1\nand be quick about it", "not understood"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_what_can(instructions: str, problem: str) -> None:
    with pytest.raises(AgentError, match=problem) as refused:
        edited(PLAN, instructions, make)
    assert "edits are: drop 2, 4" in refused.value.message
