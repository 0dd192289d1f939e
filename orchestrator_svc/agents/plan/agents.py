"""The five roles of a project whose plan was given (`Project.plan`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

from google.protobuf.json_format import ParseDict, ParseError
from pydantic import JsonValue

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Output,
    Plan,
    PlannedTask,
    TaskType,
    Verdict,
)
from orchestrator_svc.agents.edits import edited
from orchestrator_svc.agents.plan.actions import Actions
from orchestrator_svc.agents.plan.report import failure_of, report_on, task_id
from orchestrator_svc.agents.plan.tree import TASK_KEY, InvalidPlan, PlanTree, Task, read_plan
from orchestrator_svc.agents.processes.client import Processes
from ramify.v1 import plan_pb2

OPTION = "plan"  #: agent option that holds the plan, as JSON of `ramify.v1.Plan`
MANY_TASKS = 1_000  #: of a plan that is made in a thread; fewer take less time than that is worth
MAX_TREES = 256  #: plans that are kept as trees; the oldest is read again

_TASK_TYPES = {
    "command": TaskType.CODE_INTERPRET,
    "python": TaskType.CUSTOM,
    "http": TaskType.SEARCH,
    None: TaskType.AGGREGATE,
}


def tree_of(options: Mapping[str, JsonValue]) -> PlanTree:
    """Return the plan of a project's options. Raises ValueError."""
    given = options.get(OPTION)
    if not isinstance(given, dict):
        raise ValueError("the project has no plan; `ramify run --plan FILE` gives one")
    try:
        plan = ParseDict(given, plan_pb2.Plan())
    except ParseError as error:
        raise ValueError(f"the project's plan cannot be read: {error}") from error
    return read_plan(plan)


class PlanAgents:
    """Plays all roles; keeps nothing between calls but plans it has read."""

    def __init__(self, processes: Processes) -> None:
        self._actions = Actions(processes)
        self._reading = asyncio.Lock()  #: so that each plan is read once
        self._trees: dict[str, tuple[Mapping[str, JsonValue], PlanTree]] = {}

    async def aclose(self) -> None:
        """Close connections."""
        await self._actions.aclose()

    async def atomize(self, task: AgentInput) -> Verdict:
        """Return what the plan says; nodes of a plan are never in doubt."""
        _, found = await self._find(task)
        group = found is None or bool(found.tasks)
        return Verdict(node_type=NodeType.PLAN if group else NodeType.EXECUTE)

    async def plan(self, task: AgentInput) -> Plan:
        """Return the tasks of the root or of a group."""
        tree, found = await self._find(task)
        children = tree.tasks if found is None else found.tasks
        if len(children) < MANY_TASKS:
            return _plan(children)
        return await asyncio.to_thread(_plan, children)

    async def modify(self, task: AgentInput) -> Plan:
        """Return the proposed plan without the tasks that are to be dropped.

        A task needs an action, so none can be added from a sentence.
        """
        if task.proposal is None:
            raise AgentError(ErrorClass.EXECUTION, "there is no plan to change")
        return edited(task.proposal, task.instructions, _cannot_add)

    async def execute(self, task: AgentInput) -> Output:
        """Run the task's action."""
        _, found = await self._find(task)
        if found is None or found.tasks:
            raise AgentError(ErrorClass.EXECUTION, "a group of a plan cannot be executed")
        dependencies: dict[str, JsonValue] = {}
        if found.message.pass_dependencies:
            if cut := [task_id(node) for node in task.dependencies if node.shortened]:
                raise AgentError(
                    ErrorClass.LIMIT,
                    f"the results of {', '.join(cut)} are too long to be handed on whole; "
                    "raise max_context_tokens, or write them to files",
                )
            dependencies = {task_id(node): _value(node.output) for node in task.dependencies}
        env = {
            "RAMIFY_PROJECT_ID": task.project_id,
            "RAMIFY_NODE_ID": task.node_id,
            "RAMIFY_TASK_ID": found.message.id,
            "RAMIFY_ATTEMPT": str(task.attempt),
        }
        return await self._actions.run(found, env, dependencies)

    async def aggregate(self, task: AgentInput) -> Output:
        """Return what became of the tasks below; a group of which one is not done has failed.

        What depends on a group needs all of it. The root reports what there is instead, since the
        project's state says already that it is not all (SEM 26).
        """
        tree, found = await self._find(task)
        if found is None:
            return report_on(tree.plan.goal, tree.by_id, task.children)
        if failure := failure_of(task.children):
            raise AgentError(ErrorClass.DEPENDENCY_FAILED, failure)
        return report_on(found.message.id, tree.by_id, task.children)

    async def _find(self, task: AgentInput) -> tuple[PlanTree, Task | None]:
        """Return the plan of a call, and its task; None for the root."""
        tree = self._known(task) or await self._read(task)
        if not task.layer:
            return tree, None
        found = tree.by_id.get(str(task.details.get(TASK_KEY)))
        if found is None:
            raise AgentError(ErrorClass.LIMIT, "the plan has no such task")
        return tree, found

    def _known(self, task: AgentInput) -> PlanTree | None:
        known = self._trees.get(task.project_id)
        return known[1] if known is not None and known[0] is task.options else None

    async def _read(self, task: AgentInput) -> PlanTree:
        """Read the plan of a call's project in a thread: a large one takes seconds."""
        async with self._reading:
            tree = self._known(task)
            if tree is not None:
                return tree
            try:
                tree = await asyncio.to_thread(tree_of, task.options)
            except InvalidPlan as error:
                raise AgentError(ErrorClass.LIMIT, f"the plan cannot be run: {error}") from error
            except ValueError as error:
                raise AgentError(ErrorClass.LIMIT, str(error)) from error
            if len(self._trees) >= MAX_TREES:
                self._trees.pop(next(iter(self._trees)))
            self._trees[task.project_id] = (task.options, tree)
            return tree


def _cannot_add(goal: str) -> PlannedTask:
    text = f"{goal[:200]!r} cannot be added: a task of a plan needs an action; change the file"
    raise AgentError(ErrorClass.EXECUTION, text)


def _plan(tasks: Sequence[Task]) -> Plan:
    return Plan(tasks=tuple(planned(task) for task in tasks))


def planned(task: Task) -> PlannedTask:
    """Return a task as planners propose it."""
    message = task.message
    return PlannedTask(
        goal=task.goal,
        task_type=_TASK_TYPES[message.WhichOneof("action")],
        node_type=NodeType.PLAN if task.tasks else NodeType.EXECUTE,
        depends_on=task.depends_on,
        details={TASK_KEY: message.id},
        max_retries=task.retries,
        on_exhausted=task.on_exhausted,
        on_dependency_failure=task.on_dependency_failure,
        budget=task.budget,
    )


def _value(output: Output | None) -> JsonValue:
    """Return a result as JSON: parsed where it is JSON, else its text."""
    if output is None:
        return None
    if output.content_type == "application/json":
        value: JsonValue = json.loads(output.text)
        return value
    return output.text or output.data.decode(errors="replace")
