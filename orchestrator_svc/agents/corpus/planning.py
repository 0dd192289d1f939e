"""Planning: the children of a question, of a clause and of a facet. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from orchestrator_svc.agents.base import NodeType, Plan, PlannedTask, TaskType
from orchestrator_svc.agents.corpus.clause import as_heading
from orchestrator_svc.agents.corpus.facet import Facet
from orchestrator_svc.agents.corpus.messages import Assignment, Role

MAX_GOAL_TEXT = 400  #: characters of a clause that a child's goal repeats


def clause_plan(clauses: Sequence[str], index: str) -> Plan:
    """Return one PLAN child per clause."""
    return Plan(
        tasks=tuple(
            PlannedTask(
                goal=_short(as_heading(clause)),
                task_type=TaskType.WRITE,
                node_type=NodeType.PLAN,
                details=_details(
                    Assignment(
                        role=Role.CLAUSE,
                        clause=clause,
                        earlier=tuple(clauses[:number]),
                        index=index,
                    )
                ),
            )
            for number, clause in enumerate(clauses)
        )
    )


def clause_task(clause: Assignment, *, plan: bool) -> PlannedTask:
    """Return `clause` as a child that is planned, or answered in one step."""
    return PlannedTask(
        goal=_short(as_heading(clause.clause)),
        task_type=TaskType.WRITE,
        node_type=NodeType.PLAN if plan else NodeType.EXECUTE,
        details=_details(clause),
    )


def quote_task(clause: Assignment) -> PlannedTask:
    """Return `clause` as a child that retrieves and quotes in one step."""
    return clause_task(clause, plan=False)


def facet_tasks(clause: Assignment, facets: Sequence[Facet], terms: str) -> list[PlannedTask]:
    """Return one PLAN child per facet of `clause`."""
    return [
        PlannedTask(
            goal=f"{facet.heading}: {_short(terms)}",
            task_type=TaskType.WRITE,
            node_type=NodeType.PLAN,
            details=_details(clause.model_copy(update={"role": Role.FACET, "facet": facet})),
        )
        for facet in facets
    ]


def step_tasks(facet: Assignment, terms: str, first: int = 0) -> list[PlannedTask]:
    """Return SEARCH → THINK → WRITE for one facet; `first` is the first one's index in the plan."""
    side = facet.facet.heading if facet.facet else "Everything"
    about = f"“{side}”: {_short(terms)}"
    steps = (
        (Role.SEARCH, TaskType.SEARCH, f"Search passages for {about}", ()),
        (Role.THINK, TaskType.THINK, f"Rank and choose the quotes for {about}", (first,)),
        (Role.WRITE, TaskType.WRITE, f"Write the passage for {about}", (first + 1,)),
    )
    return [
        PlannedTask(
            goal=goal,
            task_type=task_type,
            node_type=NodeType.EXECUTE,
            depends_on=depends_on,
            details=_details(facet.model_copy(update={"role": role})),
        )
        for role, task_type, goal, depends_on in steps
    ]


def _details(assignment: Assignment) -> dict[str, JsonValue]:
    return assignment.model_dump(mode="json")


def _short(text: str) -> str:
    return text if len(text) <= MAX_GOAL_TEXT else text[: MAX_GOAL_TEXT - 1] + "…"
