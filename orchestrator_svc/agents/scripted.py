"""A deterministic double of all agents, for tests, benchmarks and demos without documents.

What it does is said by the project's agent options:

- `depth` (default 1): nodes above this layer are planned, nodes at it are executed
- `breadth` (default 3): children per plan
- `chain` (default false): each child depends on the one before it
- `types` (default true): plans say which children are planned; false leaves it to the atomizer
- `delay_ms` (default 0): duration of every call
- `input_tokens`, `output_tokens`, `cost_micro_usd` (default 0): what every call costs
- `output_chars` (default 0): length of the executors' text; 0 is one short line
- `notes` (default 0): notes on its progress that each call gives, evenly over its duration
- `provider_calls` (default 0): requests to a model provider that each call would make
- `rules`: exceptions, tried in order; the first that matches a call decides

A rule matches by `node` (a shell pattern, default `*`), `stage` and `attempts` (numbers); it has
one of `error` (a class of `ErrorClass`), `crash`, `hang`, `invalid` (a plan with a cycle) or none
of them, and may have `delay_ms`. A planner's `details` tell each child its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Output,
    Plan,
    PlannedTask,
    RelatedNode,
    TaskType,
    Verdict,
    provider_call,
    report,
    spend,
)
from orchestrator_svc.agents.edits import edited
from orchestrator_svc.graph.plan import MAX_PLAN_TASKS
from orchestrator_svc.graph.types import Stage

MAX_DELAY_MS = 3_600_000
MANY_TASKS = 1_000  #: of a plan that is made in a thread, beside the loop
MAX_SCRIPTS = 1_024  #: parsed scripts that are kept; the oldest is parsed again
_TASK_TYPES = (TaskType.SEARCH, TaskType.THINK, TaskType.WRITE)

DelayMs = Annotated[float, Field(ge=0, le=MAX_DELAY_MS)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Strict):
    """What some calls do instead of succeeding."""

    node: str = "*"
    stage: Stage | None = None
    attempts: tuple[int, ...] | None = None  #: None: all
    delay_ms: DelayMs | None = None
    error: ErrorClass | None = None
    message: str = "scripted failure"
    crash: bool = False  #: an exception that no agent should raise
    hang: bool = False  #: never returns
    invalid: bool = False  #: planners: two children that depend on each other

    def matches(self, task: AgentInput, stage: Stage) -> bool:
        """Return whether this rule decides about a call."""
        return (
            self.stage in (None, stage)
            and (self.attempts is None or task.attempt in self.attempts)
            and fnmatchcase(task.node_id, self.node)
        )


class Script(_Strict):
    """The agent options of a scripted project."""

    depth: int = Field(1, ge=0, le=20)
    breadth: int = Field(3, ge=1, le=MAX_PLAN_TASKS)
    chain: bool = False
    types: bool = True
    delay_ms: DelayMs = 0
    output_chars: int = Field(0, ge=0, le=1_000_000)
    input_tokens: int = Field(0, ge=0, le=1_000_000_000)
    output_tokens: int = Field(0, ge=0, le=1_000_000_000)
    cost_micro_usd: int = Field(0, ge=0, le=1_000_000_000)
    notes: int = Field(0, ge=0, le=10_000)
    provider_calls: int = Field(0, ge=0, le=1_000)
    rules: tuple[Rule, ...] = ()

    def rule_for(self, task: AgentInput, stage: Stage) -> Rule | None:
        """Return the rule that decides about a call."""
        return next((rule for rule in self.rules if rule.matches(task, stage)), None)


def read_script(options: Mapping[str, JsonValue]) -> Script:
    """Return the script of a project. Raises ValueError that names the bad key."""
    try:
        return Script.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"agent option {key}: {first['msg']}") from error


class ScriptedAgents:
    """All five roles. Keeps nothing between calls but parsed scripts."""

    def __init__(self) -> None:
        self._scripts: dict[str, tuple[Mapping[str, JsonValue], Script]] = {}

    async def atomize(self, task: AgentInput) -> Verdict:
        """Return PLAN above the script's depth."""
        script = await self._play(task, Stage.ATOMIZE)
        plan = task.layer < script.depth
        return Verdict(node_type=NodeType.PLAN if plan else NodeType.EXECUTE)

    async def plan(self, task: AgentInput) -> Plan:
        """Return `breadth` children."""
        script = await self._play(task, Stage.PLAN)
        rule = script.rule_for(task, Stage.PLAN)
        if rule is not None and rule.invalid:
            return Plan(tasks=(_child(task, 0, (1,), None), _child(task, 1, (0,), None)))
        node_type: NodeType | None = None
        if script.types:
            plan = task.layer + 1 < script.depth
            node_type = NodeType.PLAN if plan else NodeType.EXECUTE
        if script.breadth < MANY_TASKS:
            return _children(task, script, node_type)
        return await asyncio.to_thread(_children, task, script, node_type)

    async def modify(self, task: AgentInput) -> Plan:
        """Return the proposed plan after the edits that `edits.py` knows."""
        await self._play(task, Stage.MODIFY)
        if task.proposal is None:
            raise AgentError(ErrorClass.EXECUTION, "there is no plan to change")
        count = len(task.proposal.tasks)

        def make(goal: str) -> PlannedTask:
            return _child(task, count, (), NodeType.EXECUTE).model_copy(update={"goal": goal})

        return edited(task.proposal, task.instructions, make)

    async def execute(self, task: AgentInput) -> Output:
        """Return a line that names the node and what it depends on."""
        script = await self._play(task, Stage.EXECUTE)
        text = f"{task.node_id} done"
        if task.instructions:
            text += f", heeding “{task.instructions}”"
        if task.dependencies:
            text += " after " + ", ".join(_shown(node) for node in task.dependencies)
        if script.output_chars:
            text = text.ljust(script.output_chars, ".")[: script.output_chars]
        return Output(text=text, summary=f"did {task.node_id}")

    async def aggregate(self, task: AgentInput) -> Output:
        """Return one line per child with its state and result."""
        await self._play(task, Stage.AGGREGATE)
        lines = [f"{child.node_id} {child.state}" for child in task.children]
        return Output(
            content_type="text/markdown",
            text="\n".join(lines),
            summary=f"{len(lines)} children",
        )

    def _script_of(self, task: AgentInput) -> Script:
        """Return the parsed options of a project; they are the same object in all its calls."""
        known = self._scripts.get(task.project_id)
        if known is not None and known[0] is task.options:
            return known[1]
        if len(self._scripts) >= MAX_SCRIPTS:
            self._scripts.pop(next(iter(self._scripts)))
        script = read_script(task.options)
        self._scripts[task.project_id] = (task.options, script)
        return script

    async def _play(self, task: AgentInput, stage: Stage) -> Script:
        """Do what the script says about a call; return it if the call is to succeed."""
        script = self._script_of(task)
        rule = script.rule_for(task, stage) if script.rules else None
        delay_ms = script.delay_ms if rule is None or rule.delay_ms is None else rule.delay_ms
        for _ in range(script.provider_calls):
            await provider_call()
        for number in range(script.notes):
            report(f"{number + 1} of {script.notes}")
            await asyncio.sleep(delay_ms / 1_000 / script.notes)
        if delay_ms and not script.notes:
            await asyncio.sleep(delay_ms / 1_000)
        if script.input_tokens or script.output_tokens or script.cost_micro_usd:
            spend(
                input_tokens=script.input_tokens,
                output_tokens=script.output_tokens,
                cost_micro_usd=script.cost_micro_usd,
            )
        if rule is None:
            return script
        if rule.hang:
            await asyncio.Event().wait()
        if rule.crash:
            raise RuntimeError(rule.message)
        if rule.error is not None:
            raise AgentError(rule.error, rule.message)
        return script


def _children(task: AgentInput, script: Script, node_type: NodeType | None) -> Plan:
    return Plan(
        tasks=tuple(
            _child(task, index, (index - 1,) if script.chain and index else (), node_type)
            for index in range(script.breadth)
        )
    )


def _child(
    task: AgentInput, index: int, depends_on: tuple[int, ...], node_type: NodeType | None
) -> PlannedTask:
    return PlannedTask(
        goal=f"{task.goal} / part {index + 1}",
        task_type=_TASK_TYPES[index % len(_TASK_TYPES)],
        node_type=node_type,
        depends_on=depends_on,
        details={"index": index},
    )


def _shown(node: RelatedNode) -> str:
    return f"{node.node_id} {node.state}"
