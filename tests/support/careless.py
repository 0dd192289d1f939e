"""Agents that answer what a store cannot take as it is; the goal's first word says what.

A profile names them as `tests.support.careless:Careless`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Output,
    Plan,
    PlannedTask,
    TaskType,
    ToolCall,
    TraceBody,
    Verdict,
    note_tool,
    report,
    spend,
)

PROFILE = "careless"
MANY = 1_000  #: uses of a tool
DENSE_LAYER = 7  #: at which a `dense` plan has its tasks
DENSE_TASKS = 420  #: each needs all before it


def write_profile(folder: Path) -> Path:
    """Write the profile; return the folder for `--profiles`."""
    folder.mkdir()
    name = f"{__name__}:Careless"
    roles = "".join(f"{role}: {name}\n" for role in ("atomizer", "planner", "aggregator"))
    (folder / f"{PROFILE}.yaml").write_text(f"name: {PROFILE}\n{roles}executor: {name}\n")
    return folder


def nested(levels: int) -> dict[str, Any]:
    """Return an object in which so many are within each other."""
    inner: dict[str, Any] = {"x": 1}
    for _ in range(levels - 1):
        inner = {"a": inner}
    return inner


def _use_tools() -> None:
    for _ in range(MANY):
        body = TraceBody(text="b" * 1_000)
        note_tool(ToolCall(tool_name="t", arguments=body, result=body, error="e" * 1_500))


def _raise(error_class: Any, message: Any) -> None:
    raise AgentError(error_class, message)


_DETAILS: dict[str, Callable[[], dict[str, Any]]] = {
    "deep": lambda: nested(60),
    "long": lambda: {"ids": list(range(1_600))},
    "huge": lambda: {"n": 10**400},
}
#: Fields of a task that were never checked.
_UNCHECKED: dict[str, dict[str, Any]] = {
    "unknown": {"task_type": "NOPE"},
    "numb": {"goal": 7},
}
#: What an executor does before it answers.
_DEEDS: dict[str, Callable[[], None]] = {
    "fraction": lambda: spend(cost_micro_usd=0.5),  # type: ignore[arg-type]
    "negative": lambda: spend(input_tokens=-5),
    "endless": lambda: spend(input_tokens=10**30),
    "clock": lambda: note_tool(ToolCall(tool_name="search", seconds=-0.001)),
    "error": lambda: note_tool(ToolCall(tool_name="search", error="x" * 5_000)),
    "surrogate": lambda: note_tool(
        ToolCall(tool_name="\udfff", arguments=TraceBody(text="\ud800"))
    ),
    "many": _use_tools,
    "note": lambda: report(7),  # type: ignore[arg-type]
    "cause": lambda: _raise(ErrorClass.AUTH, ValueError("no key")),
    "class": lambda: _raise("SOMETHING", "no key"),
}


class Careless:
    """All roles."""

    async def atomize(self, task: AgentInput) -> Verdict:
        """Execute everything."""
        return Verdict(node_type=NodeType.EXECUTE)

    async def plan(self, task: AgentInput) -> Plan:
        """Return one task of the same goal, or what the goal asks for."""
        word = task.goal.split()[0]
        if word == "tools":
            _use_tools()
        if word == "dense":
            return _dense(task)
        if word in _UNCHECKED:
            return Plan(tasks=(_task(task.goal).model_copy(update=_UNCHECKED[word]),))
        if word == "mixed":
            goals = ("error here", "slow here", "slow there")
            return Plan(tasks=tuple(_task(goal) for goal in goals))
        details = _DETAILS.get(word, dict)()
        return Plan(tasks=(_task(task.goal, details=details),))

    async def execute(self, task: AgentInput) -> Output:
        """Do what the goal asks for, and answer."""
        word = task.goal.split()[0]
        if word == "slow":
            await asyncio.sleep(0.5)
        deed = _DEEDS.get(word)
        if deed is not None:
            deed()
        return Output(text="fine")

    async def aggregate(self, task: AgentInput) -> Output:
        """Answer."""
        return Output(text="all")


def _task(goal: str, **fields: Any) -> PlannedTask:
    fields = {"node_type": NodeType.EXECUTE, **fields}
    return PlannedTask(goal=goal, task_type=TaskType.WRITE, **fields)


def _dense(task: AgentInput) -> Plan:
    if task.layer < DENSE_LAYER:
        return Plan(tasks=(_task(task.goal, node_type=NodeType.PLAN),))
    tasks = (_task(f"part {i}", depends_on=tuple(range(i))) for i in range(DENSE_TASKS))
    return Plan(tasks=tuple(tasks))
