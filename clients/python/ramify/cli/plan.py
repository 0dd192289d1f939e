"""The plan of `ramify run --plan`: reading it, and drawing it for `--dry-run`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ramify.cli.exits import CliError, ExitCode

if TYPE_CHECKING:
    from ramify.plan_file import PlanFile
    from ramify.v1.plan_pb2 import Plan, PlanTask

_MAX_SHOWN_CHARS = 60


def read(path: Path) -> "PlanFile":
    """Return the plan of a file. Raises `CliError` with every problem."""
    from ramify.plan_file import PlanFileError, read_plan_file

    try:
        return read_plan_file(path)
    except PlanFileError as error:
        raise CliError(
            str(error), "docs/execution.md has the keys of a plan file", ExitCode.USAGE
        ) from None


def draw(plan: "Plan") -> str:
    """Return the tree of a plan, one line per task."""
    lines = [plan.goal]
    _draw(plan.tasks, "", lines)
    return "\n".join(lines) + "\n"


def count(tasks: Sequence["PlanTask"]) -> int:
    """Return the number of actions."""
    return sum(count(task.tasks) if task.tasks else 1 for task in tasks)


def _draw(tasks: Sequence["PlanTask"], guide: str, lines: list[str]) -> None:
    for index, task in enumerate(tasks):
        last = index + 1 == len(tasks)
        after = f"  after {', '.join(task.depends_on)}" if task.depends_on else ""
        action = _action(task)
        shown = f"  {action}" if action else ""
        lines.append(f"{guide}{'└── ' if last else '├── '}{task.id}{shown}{after}")
        _draw(task.tasks, guide + ("    " if last else "│   "), lines)


def _action(task: "PlanTask") -> str:
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
