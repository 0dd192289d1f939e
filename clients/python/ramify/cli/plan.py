"""The plan of `ramify run --plan`: reading it, and drawing it for `--dry-run`."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ramify.cli.exits import CliError, ExitCode

if TYPE_CHECKING:
    from ramify.errors import InvalidRequestError
    from ramify.plan_file import PlanFile
    from ramify.v1.plan_pb2 import Plan, PlanTask

_MAX_SHOWN_CHARS = 60


def read(path: Path) -> "PlanFile":
    """Return the plan of a file. Raises `CliError` with every problem."""
    from ramify.cli.values import read_settings
    from ramify.plan_file import PlanFileError, read_plan_file

    try:
        file = read_plan_file(path)
    except PlanFileError as error:
        raise CliError(
            str(error), "docs/execution.md has the keys of a plan file", ExitCode.USAGE
        ) from None
    for key, pair in zip(file.spec.settings, file.settings, strict=True):
        try:
            read_settings([pair])
        except CliError as error:
            said = file.source.message(("settings", key), error.message.removeprefix("--set "))
            raise CliError(said, error.remedy, ExitCode.USAGE) from None
    return file


def refused(file: "PlanFile", error: "InvalidRequestError") -> CliError:
    """Return what the orchestrator says against a plan, with the line of the file if it has one."""
    from ramify.cli.failure import explain

    field = error.metadata.get("field", "")
    if not field.startswith("plan."):
        return explain(error)
    steps = re.findall(r"\w+", field.removeprefix("plan."))
    place = tuple(int(step) if step.isdecimal() else step for step in steps)
    said = error.message.removesuffix(f" (field={field})")
    return CliError(file.source.message(place, said), "", ExitCode.USAGE)


def draw(plan: "Plan") -> str:
    """Return the tree of a plan, one line per task."""
    return "\n".join([plan.goal, *outline(plan.tasks)]) + "\n"


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
