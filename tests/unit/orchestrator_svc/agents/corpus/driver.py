"""A recursive driver of agents: atomize → plan → execute → aggregate, without the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import JsonValue

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Output,
    PlannedTask,
    RelatedNode,
    TaskType,
)
from orchestrator_svc.agents.corpus import CorpusAgents


@dataclass
class Ran:
    """A node after its run."""

    input: AgentInput
    planned: bool = False
    output: Output | None = None
    error: AgentError | None = None
    children: list[Ran] = field(default_factory=list)

    def related(self) -> RelatedNode:
        """Return the node as other agents see it."""
        return RelatedNode(
            node_id=self.input.node_id,
            goal=self.input.goal,
            task_type=self.input.task_type,
            state="DONE" if self.output else "FAILED",
            output=self.output,
            error=f"{self.error.error_class}: {self.error.message}" if self.error else "",
        )

    def walk(self) -> list[Ran]:
        """Return the node and everything below it."""
        return [self, *(node for child in self.children for node in child.walk())]

    @property
    def layers(self) -> int:
        """Number of layers in use."""
        return 1 + max(node.input.layer for node in self.walk())


@dataclass
class Driver:
    """Runs one project in process; without `agents`, every call gets fresh ones."""

    options: dict[str, JsonValue]
    max_depth: int = 5
    agents: CorpusAgents | None = None

    async def run(self, question: str) -> Ran:
        """Run `question` to its end."""
        root = PlannedTask(goal=question, task_type=TaskType.WRITE)
        return await self._node(root, question, layer=0, node_id="root", ancestors=(), ran=[])

    async def _node(
        self,
        planned: PlannedTask,
        question: str,
        *,
        layer: int,
        node_id: str,
        ancestors: tuple[RelatedNode, ...],
        ran: list[Ran],
    ) -> Ran:
        task = AgentInput(
            project_id="p",
            node_id=node_id,
            attempt=1,
            goal=planned.goal,
            task_type=planned.task_type,
            node_type=planned.node_type,
            layer=layer,
            max_depth=self.max_depth,
            overall_objective=question,
            ancestors=ancestors,
            dependencies=tuple(ran[i].related() for i in planned.depends_on),
            details=planned.details,
            options=self.options,
        )
        node = Ran(task)
        if any(ran[i].error for i in planned.depends_on):
            node.error = AgentError(ErrorClass.EXECUTION, "DEPENDENCY_FAILED")
            return node
        agents = self.agents or CorpusAgents()
        try:
            verdict = await agents.atomize(task)
            task = task.model_copy(update={"node_type": verdict.node_type})
            node.input = task
            if verdict.node_type is NodeType.EXECUTE:
                node.output = await agents.execute(task)
                return node
            node.planned = True
            plan = await agents.plan(task)
            for number, child in enumerate(plan.tasks):
                node.children.append(
                    await self._node(
                        child,
                        question,
                        layer=layer + 1,
                        node_id=f"{node_id}.{number}",
                        ancestors=(*ancestors, node.related()),
                        ran=node.children,
                    )
                )
            children = tuple(child.related() for child in node.children)
            node.output = await agents.aggregate(task.model_copy(update={"children": children}))
        except AgentError as error:
            node.error = error
        return node
