"""Says what became of the tasks of a group, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator_svc.agents.base import Output, RelatedNode
from orchestrator_svc.agents.plan.tree import TASK_KEY, Task, action_text

_MAX_CELL_CHARS = 160
_MAX_TAIL_CHARS = 2_000
_MAX_ERROR_CHARS = 800  #: of one task in the failure of its group
_MAX_FAILURE_CHARS = 3_500  #: a stored error has at most 4 096
_SKIPPED = "DEPENDENCY_FAILED"
_MAX_REPORT_CHARS = 200_000  #: later sections are left out, and the report says so


def report_on(title: str, tasks: Mapping[str, Task], nodes: Sequence[RelatedNode]) -> Output:
    """Return the report of a group; `nodes` are its children, `tasks` those of the plan by id.

    It holds only what the nodes hold: states, the executors' own summaries with their durations,
    and errors.
    """
    done = sum(node.state == "DONE" for node in nodes)
    summary = f"{done} of {len(nodes)} tasks done"
    rest = [node.state for node in nodes if node.state != "DONE"]
    if rest:
        counts = (f"{rest.count(state)} {state}" for state in sorted(set(rest)))
        summary += f", {', '.join(counts)}"
    lines = [f"# {title}", "", summary + ".", "", "| task | state | |", "|---|---|---|"]
    lines += (f"| {task_id(node)} | {node.state} | {_cell(_said(node))} |" for node in nodes)
    sections = [section for node in nodes if (section := _section(tasks.get(task_id(node)), node))]
    text = "\n".join(lines) + "\n"
    for number, section in enumerate(sections):
        if len(text) + len(section) > _MAX_REPORT_CHARS:
            text += f"\n{len(sections) - number} more sections are left out.\n"
            break
        text += section
    return Output(content_type="text/markdown", text=text, summary=summary)


def failure_of(nodes: Sequence[RelatedNode]) -> str:
    """Return why a group has failed; empty if all its tasks are done, or skipped by policy."""
    left = [node for node in nodes if node.state != "DONE" and not _is_skipped(node)]
    if not left:
        return ""
    text = f"{len(left)} of {len(nodes)} tasks are not done: {', '.join(map(task_id, left))}"
    text = text if len(text) <= _MAX_FAILURE_CHARS else text[: _MAX_FAILURE_CHARS - 1] + "…"
    for node in left:
        if not node.error or node.error.startswith(_SKIPPED):
            continue
        part = f"\n{task_id(node)}: {node.error[:_MAX_ERROR_CHARS]}"
        if len(text) + len(part) > _MAX_FAILURE_CHARS:
            break
        text += part
    return text


def _is_skipped(node: RelatedNode) -> bool:
    return node.state == "CANCELLED" and node.error.startswith(_SKIPPED)


def task_id(node: RelatedNode) -> str:
    """Return the id of the task that a node was made for; a human may have added others."""
    return str(node.details.get(TASK_KEY) or node.node_id)


def _said(node: RelatedNode) -> str:
    if node.output is not None:
        return node.output.summary
    return node.error.split("\n", 1)[0]


def _cell(text: str) -> str:
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= _MAX_CELL_CHARS else text[: _MAX_CELL_CHARS - 1] + "…"


def _section(task: Task | None, node: RelatedNode) -> str:
    """Return more about a task that failed, printed something, or is a group itself."""
    name = task_id(node)
    if node.output is None:
        group = task is not None and bool(task.tasks)
        if not node.error or (node.error.startswith(_SKIPPED) and not group):
            return ""
        shown = action_text(task.message) if task is not None else node.goal
        what = f"`{shown}`\n\n" if shown else ""
        return f"\n## {name} failed\n\n{what}{_block(node.error)}"
    if task is not None and task.tasks:
        inner = node.output.text.replace("\n#", "\n##")
        return "\n" + (f"#{inner}" if inner.startswith("#") else inner)
    body = node.output.text.strip()
    if not body or node.output.content_type not in ("text/plain", "application/json"):
        return ""
    if len(body) > _MAX_TAIL_CHARS:
        body = "…" + body[1 - _MAX_TAIL_CHARS :]
    return f"\n## {name}\n\n{_block(body)}"


def _block(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}\n"
