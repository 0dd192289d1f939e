"""Instructions that change a plan and that need no model to be understood. No I/O.

One edit per line, or several divided by `;`:

- `drop 2, 4` or `drop TEXT`: without these tasks; a text means those whose goal contains it
- `keep 1, 3` or `keep TEXT`: with these tasks only
- `add GOAL`: one more task

Tasks are counted from 1, as they are shown. Anything else is refused with this list, so that a
human is never left to believe that something was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from orchestrator_svc.agents.base import (
    MAX_GOAL_CHARS,
    MIN_GOAL_CHARS,
    AgentError,
    ErrorClass,
    Plan,
    PlannedTask,
)

HELP = "edits are: drop 2, 4 · drop TEXT · keep 1, 3 · keep TEXT · add GOAL"

_EDIT = re.compile(
    r"(?P<verb>drop|remove|delete|without|keep(?: only)?|only|add)\b[:\s]+(?P<rest>.+)",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"(?:tasks?\s+)?(?P<list>#?\d+(?:\s*(?:,|and)\s*#?\d+)*)", re.IGNORECASE)


def edited(plan: Plan, instructions: str, make: Callable[[str], PlannedTask]) -> Plan:
    """Return the plan after all edits; `make` makes a new task of a goal.

    Raises `AgentError` that says which edit cannot be followed, and why.
    """
    tasks: list[PlannedTask | None] = list(plan.tasks)
    added: list[PlannedTask] = []
    for edit in filter(None, (part.strip() for part in re.split(r"[;\n]+", instructions))):
        match = _EDIT.fullmatch(edit)
        if match is None:
            raise _refused(f"{edit[:200]!r} is not understood")
        verb, rest = match["verb"].lower().split()[0], match["rest"].strip()
        if verb == "add":
            if not MIN_GOAL_CHARS <= len(rest) <= MAX_GOAL_CHARS:
                problem = f"a goal has {MIN_GOAL_CHARS} to {MAX_GOAL_CHARS} characters"
                raise _refused(f"{edit[:200]!r}: {problem}")
            added.append(make(rest))
            continue
        named = _named(plan.tasks, rest)
        keep = verb in ("keep", "only")
        tasks = [task if (index in named) == keep else None for index, task in enumerate(tasks)]
    return _renumbered(tasks, added)


def _named(tasks: Sequence[PlannedTask], text: str) -> set[int]:
    numbers = _NUMBERS.fullmatch(text.rstrip("."))
    if numbers is not None:
        wanted = {int(number) for number in re.findall(r"\d+", numbers["list"])}
        unknown = sorted(number for number in wanted if not 1 <= number <= len(tasks))
        if unknown:
            raise _refused(f"there is no task {unknown[0]}, the plan has {len(tasks)}")
        return {number - 1 for number in wanted}
    wanted_text = text.strip("“”\"'. ").casefold()
    found = {i for i, task in enumerate(tasks) if wanted_text in task.goal.casefold()}
    if not found:
        raise _refused(f"no task's goal contains {text[:200]!r}")
    return found


def _renumbered(tasks: Sequence[PlannedTask | None], added: Sequence[PlannedTask]) -> Plan:
    """Close the gaps; a task whose dependency is gone cannot stay."""
    kept = [index for index, task in enumerate(tasks) if task is not None]
    place = {index: number for number, index in enumerate(kept)}
    result: list[PlannedTask] = []
    for index, task in enumerate(tasks):
        if task is None:
            continue
        gone = [needed + 1 for needed in task.depends_on if needed not in place]
        if gone:
            raise _refused(f"task {index + 1} needs task {gone[0]}, drop it too")
        depends_on = tuple(place[needed] for needed in task.depends_on)
        result.append(task.model_copy(update={"depends_on": depends_on}))
    result += added
    if not result:
        raise _refused("nothing would be left of the plan")
    return Plan(tasks=tuple(result))


def _refused(problem: str) -> AgentError:
    return AgentError(ErrorClass.EXECUTION, f"{problem}; {HELP}")
