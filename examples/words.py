"""Agents of one's own: count the words of each file of a folder. See `profiles/words.yaml`.

ramify up --config examples/words-service.yaml
ramify run "Count the words of the pages" --profile words --option folder=docs
"""

import asyncio
from pathlib import Path

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Output,
    Plan,
    PlannedTask,
    TaskType,
)

MAX_FILES = 1_000


class Words:
    """Plans a task for each file, counts the words of one, and adds the counts up."""

    async def plan(self, task: AgentInput) -> Plan:
        """Return a task for each Markdown file of the folder."""
        folder = Path(str(task.options.get("folder", "")))
        pages = await asyncio.to_thread(lambda: sorted(folder.glob("*.md"))[:MAX_FILES])
        if not pages:
            raise AgentError(ErrorClass.NO_EVIDENCE, f"option folder: {folder} has no *.md")
        return Plan(
            tasks=tuple(
                PlannedTask(
                    goal=f"Count the words of {page.name}",
                    task_type=TaskType.SEARCH,
                    node_type=NodeType.EXECUTE,
                    details={"path": str(page)},
                )
                for page in pages
            )
        )

    async def execute(self, task: AgentInput) -> Output:
        """Return how many words a file has."""
        path = Path(str(task.details["path"]))
        try:
            text = await asyncio.to_thread(path.read_text, "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AgentError(ErrorClass.EXECUTION, str(error)) from error
        return Output(text=str(len(text.split())), summary=path.name)

    async def aggregate(self, task: AgentInput) -> Output:
        """Return a table of what was counted, and of what was not."""
        lines, total = ["| page | words |", "|---|---:|"], 0
        for child in task.children:
            if child.output is None:
                lines.append(f"| {child.goal} | {child.state} |")
                continue
            total += int(child.output.text)
            lines.append(f"| {child.output.summary} | {child.output.text} |")
        lines.append(f"| all | {total} |")
        return Output(content_type="text/markdown", text="\n".join(lines), summary=f"{total} words")
