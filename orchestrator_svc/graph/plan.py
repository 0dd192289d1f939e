"""Checks of a plan before anything of it is written: all problems are reported at once (S4.4)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.circles import circles
from orchestrator_svc.graph.details import NotStorable, details_bytes
from orchestrator_svc.graph.node import Json
from orchestrator_svc.graph.text import control_problem, is_text
from orchestrator_svc.graph.types import NodeType, OnDependencyFailure, OnExhausted, TaskType

MIN_GOAL_CHARS = 3
MAX_GOAL_CHARS = 10_000
MAX_PLAN_TASKS = 200_000
MAX_PLAN_BYTES = 128_000_000  #: encoded, with the overall goal that each child carries
MAX_BATCH_TASKS = 4_999  #: of one revision: with their parent's change a batch of at most 5 000
MAX_BATCH_BYTES = 2_500_000  #: of the plan in it; a stage record of its own has room beside it
MAX_REVIEW_BYTES = 2_500_000  #: of a plan in a review; the store takes reviews of 3 000 000
MAX_LISTED_CHILDREN = 5_000  #: that the store keeps as a list of their parent
MAX_TASK_DEPENDENCIES = 1_000
MAX_REPORTED_PROBLEMS = 50
MAX_ID_CHARS = 128
MAX_SHOWN_INDICES = 20

_TASK_OVERHEAD_BYTES = 160  #: of one task: numbers, enums and tags, with some room
_PARENT_BYTES = 1_000  #: of the parent's change, beside the list of children
_BUDGET_BYTES = 240  #: of a task that has a budget, with some room
_OWN_ID_PLACES = 3  #: of a child's id: its own, its parent's in it, and in the list of its parent
_ID_TAG_BYTES = 3
_INDEX_BYTES = 4  #: of a dependency in a review


@dataclass(frozen=True, slots=True)
class DraftTask:
    """One child as a planner proposes it; dependencies are indices of siblings."""

    goal: str
    task_type: TaskType
    node_type: NodeType | None
    depends_on: tuple[int, ...]
    details: dict[str, Json]
    budget: Budget | None = None
    reuse: str = ""  #: id of a finished child of the replaced plan that does this
    on_exhausted: OnExhausted | None = None  #: None: as the run's settings say
    on_dependency_failure: OnDependencyFailure | None = None
    max_retries: int | None = None  #: None: the project's


def check_plan(
    tasks: Sequence[DraftTask],
    *,
    layer: int,
    max_depth: int,
    objective: str,
    id_chars: int = MAX_ID_CHARS,
) -> list[str]:
    """Return every reason why `tasks` cannot become the children of a node at `layer`.

    Their ids have at most `id_chars` characters.
    """
    problems: list[str] = []
    if not tasks:
        problems.append("the plan has no tasks")
    if len(tasks) > MAX_PLAN_TASKS:
        problems.append(f"the plan has {len(tasks)} tasks, at most {MAX_PLAN_TASKS} are allowed")
    if layer + 1 > max_depth:
        problems.append(f"layer {layer} may not be planned, the deepest layer is {max_depth}")
    for index, task in enumerate(tasks):
        found = _task_problems(task, len(tasks))
        problems += (f"task {index}: {problem}" for problem in found)
    size = plan_bytes(tasks, objective, id_chars)
    if size > MAX_PLAN_BYTES:
        problems.append(f"the plan has {size} bytes, at most {MAX_PLAN_BYTES} are allowed")
    problems += _cycles(tasks)
    if len(problems) > MAX_REPORTED_PROBLEMS:
        more = len(problems) - MAX_REPORTED_PROBLEMS
        problems[MAX_REPORTED_PROBLEMS:] = [f"{more} more problems"]
    return problems


def plan_bytes(tasks: Sequence[DraftTask], objective: str, id_chars: int) -> int:
    """Return how many bytes a plan has at most, encoded: the children and their parent's change."""
    id_bytes = id_chars + _ID_TAG_BYTES
    each = len(objective.encode(errors="replace")) + _TASK_OVERHEAD_BYTES
    size = _PARENT_BYTES + len(tasks) * (each + _OWN_ID_PLACES * id_bytes)
    for task in tasks:
        size += _own_bytes(task) + id_bytes * len(task.depends_on)
    return size


def _own_bytes(task: DraftTask) -> int:
    """Return the size of what a task says itself; of details that cannot be stored nothing."""
    goal = task.goal
    size = len(goal) if goal.isascii() else len(goal.encode(errors="replace"))
    if task.budget is not None:
        size += _BUDGET_BYTES
    try:
        return size + details_bytes(task.details)
    except NotStorable:
        return size


def longest_child_id(sub_graph: str, present: Collection[str] = ()) -> int:
    """Return how many characters an id of a new plan's children has, those it reuses included."""
    return max(len(child_id(sub_graph, MAX_PLAN_TASKS)), *map(len, present), 0)


def fits_one_batch(tasks: Sequence[DraftTask], objective: str, id_chars: int) -> bool:
    """Return whether a plan and its parent's change can be one revision (SEM 11)."""
    if len(tasks) > MAX_BATCH_TASKS:
        return False
    return plan_bytes(tasks, objective, id_chars) <= MAX_BATCH_BYTES


def fits_one_review(tasks: Sequence[DraftTask]) -> bool:
    """Return whether a plan can be shown to a human whole: nothing of it is written before."""
    if len(tasks) > MAX_BATCH_TASKS:
        return False
    size = len(tasks) * _TASK_OVERHEAD_BYTES
    for task in tasks:
        size += _own_bytes(task) + _INDEX_BYTES * len(task.depends_on) + len(task.reuse)
    return size <= MAX_REVIEW_BYTES


def _task_problems(task: DraftTask, count: int) -> list[str]:
    problems: list[str] = []
    if not MIN_GOAL_CHARS <= len(task.goal) <= MAX_GOAL_CHARS:
        problems.append(
            f"the goal has {len(task.goal)} characters, "
            f"{MIN_GOAL_CHARS} to {MAX_GOAL_CHARS} are allowed"
        )
    if not is_text(task.goal):
        problems.append("the goal is not valid Unicode")
    if control := control_problem(task.goal):
        problems.append(f"the goal {control}")
    if task.depends_on:
        problems += _dependency_problems(task.depends_on, count)
    try:
        details_bytes(task.details)
    except NotStorable as problem:
        problems.append(f"the details {problem}")
    return problems


def _dependency_problems(depends_on: Sequence[int], count: int) -> Iterator[str]:
    out_of_range = [i for i in depends_on if not 0 <= i < count]
    if out_of_range:
        shown = ", ".join(map(_shown, out_of_range[:MAX_SHOWN_INDICES]))
        yield f"depends on [{shown}], indices are 0 to {count - 1}"
    if len(set(depends_on)) != len(depends_on):
        yield "names a dependency twice"
    if len(depends_on) > MAX_TASK_DEPENDENCIES:
        yield f"has more than {MAX_TASK_DEPENDENCIES} dependencies"


def _shown(index: int) -> str:
    return str(index) if abs(index) < 10**9 else "a huge number"


def _cycles(tasks: Sequence[DraftTask]) -> list[str]:
    """Report tasks that depend on themselves, and one cycle of each tangled group of others."""
    problems = [
        f"task {index}: depends on itself"
        for index, task in enumerate(tasks)
        if index in task.depends_on
    ]
    if not problems and sum(1 for _ in in_order(tasks)) == len(tasks):
        return []
    edges = (
        (index, dependency)
        for index, task in enumerate(tasks)
        for dependency in task.depends_on
        if dependency != index and 0 <= dependency < len(tasks)
    )
    for circle in circles(edges):
        path = " → ".join(map(str, circle))
        problems.append(f"tasks depend on each other in a circle: {path} → {circle[0]}")
    return problems


def in_order(tasks: Sequence[DraftTask]) -> Iterator[int]:
    """Yield the indices of tasks, dependencies first; those in a circle never come.

    In the order of the plan, if that is such an order.
    """
    if all(max(task.depends_on, default=-1) < index for index, task in enumerate(tasks)):
        yield from range(len(tasks))
        return
    open_needs = [len(task.depends_on) for task in tasks]
    needed_by: dict[int, list[int]] = {}
    for index, task in enumerate(tasks):
        for dependency in task.depends_on:
            needed_by.setdefault(dependency, []).append(index)
    ready = deque(index for index, count in enumerate(open_needs) if not count)
    while ready:
        index = ready.popleft()
        yield index
        for dependant in needed_by.get(index, ()):
            open_needs[dependant] -= 1
            if not open_needs[dependant]:
                ready.append(dependant)


def sub_graph_id(parent_id: str, plan_number: int) -> str:
    """Return the id of the sub-graph of a node's n-th plan, from 1; children's begin with it."""
    return bounded_id(f"{parent_id}.{plan_number}", MAX_ID_CHARS - len(f".{MAX_PLAN_TASKS}"))


def child_id(sub_graph: str, index: int) -> str:
    """Return the id of a child of a sub-graph: the same for the same place, and of no other."""
    return f"{sub_graph}.{index}"


def bounded_id(text: str, most: int = MAX_ID_CHARS) -> str:
    """Return `text`, or a digest of it where it is longer than an id may be."""
    if len(text) <= most:
        return text
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:40]
