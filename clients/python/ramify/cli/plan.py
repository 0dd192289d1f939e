"""The plan of `ramify run --plan`: reading it, and drawing it for `--dry-run`."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ramify.cli.exits import CliError, ExitCode

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ramify.errors import InvalidRequestError
    from ramify.plan_file import PlanFile
    from ramify.plan_source import PlanFileError
    from ramify.v1.plan_pb2 import Plan, PlanTask
    from ramify.v1.project_pb2 import ExecutionSettings, StateSettings

_MAX_SHOWN_CHARS = 60


def read(path: Path) -> "PlanFile":
    """Return the plan of a file. Raises `PlanFileError` with every problem."""
    from ramify.cli.values import read_settings
    from ramify.plan_file import read_plan_file
    from ramify.plan_source import PlanFileError

    file = read_plan_file(path)
    problems = []
    for key, pair in zip(file.spec.settings, file.settings, strict=True):
        try:
            read_settings([pair])
        except CliError as error:
            said = error.message.removeprefix("--set ")
            problems.append(file.source.problem(("settings", key), said))
    if problems:
        raise PlanFileError(problems)
    return file


def unusable(error: "PlanFileError") -> CliError:
    """Return what is shown of a plan file that cannot be used."""
    read = any(problem.line for problem in error.problems)
    keys = "docs/execution.md has the keys of a plan file, `ramify settings` those of settings"
    return CliError(str(error), keys if read else "", ExitCode.USAGE)


def violations(error: "PlanFileError") -> "list[JsonValue]":
    """Return every problem of a plan file for programs."""
    return [
        {
            "file": str(problem.path),
            "line": problem.line,
            "task": problem.task,
            "description": problem.text,
        }
        for problem in error.problems
    ]


def as_json(
    plan: "Plan",
    settings: "ExecutionSettings",
    state_settings: "StateSettings",
    labels: Mapping[str, str],
) -> "JsonValue":
    """Return a plan with its counts, and what StartProject would be asked with it."""
    from google.protobuf.json_format import MessageToDict

    return {
        "plan": MessageToDict(plan),
        "settings": MessageToDict(settings),
        "stateSettings": MessageToDict(state_settings),
        "labels": dict(labels),
        "counts": {
            "tasks": count(plan.tasks),
            "groups": count_groups(plan.tasks),
            "levels": levels(plan.tasks),
        },
        "violations": [],
    }


def refused(file: "PlanFile", error: "InvalidRequestError") -> CliError:
    """Return what the orchestrator says against a plan, with the line of the file if it has one."""
    from ramify.cli.failure import explain

    field = error.metadata.get("field", "")
    if not field.startswith("plan."):
        return explain(error)
    steps = re.findall(r"\w+", field.removeprefix("plan."))
    place = tuple(int(step) if step.isdecimal() else step for step in steps)
    said = error.message.removesuffix(f" (field={field})")
    return CliError(str(file.source.problem(place, said)), "", ExitCode.USAGE)


def draw(plan: "Plan") -> Iterator[str]:
    """Yield the tree of a plan, one line per task."""
    yield plan.goal
    yield from outline(plan.tasks)


def outline(tasks: Sequence["PlanTask"], guide: str = "") -> Iterator[str]:
    """Yield one line per task, those in groups further in."""
    for number, task in enumerate(tasks, 1):
        last = number == len(tasks)
        after = f"  after {', '.join(task.depends_on)}" if task.depends_on else ""
        action = action_text(task)
        shown = f"  {action}" if action else ""
        yield f"{guide}{'└── ' if last else '├── '}{task.id}{shown}{after}"
        yield from outline(task.tasks, guide + ("    " if last else "│   "))


def count(tasks: Sequence["PlanTask"]) -> int:
    """Return the number of actions."""
    return sum(count(task.tasks) if task.tasks else 1 for task in tasks)


def count_groups(tasks: Sequence["PlanTask"]) -> int:
    """Return the number of groups."""
    return sum(1 + count_groups(task.tasks) for task in tasks if task.tasks)


def levels(tasks: Sequence["PlanTask"]) -> int:
    """Return how deep tasks are nested; 1 without groups."""
    return max((1 + levels(task.tasks) for task in tasks), default=0)


def action_text(task: "PlanTask") -> str:
    """Return what a task does in a few words; empty for a group."""
    kind = task.WhichOneof("action")
    text = ""
    if kind == "command":
        text = task.command.shell or shlex.join(task.command.argv)
    elif kind == "python":
        text = f"{task.python.function}()"
    elif kind == "http":
        text = f"{task.http.method} {task.http.url}"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"
