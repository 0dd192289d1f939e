"""Makes the children of a node from a plan that was checked and, where asked for, approved."""

from __future__ import annotations

from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.plan import DraftTask, canonical, child_id, sub_graph_id
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.types import NodeState

_FIRST_PLAN = 1


def adopt_plan(run: Run, node: Node, tasks: tuple[DraftTask, ...]) -> None:
    """Write the children and the parent's PLAN_DONE in one revision (SEM 11)."""
    ids = tuple(child_id(node.node_id, _FIRST_PLAN, index) for index in range(len(tasks)))
    children = [
        run.create(
            node_id=ids[index],
            goal=task.goal,
            task_type=task.task_type,
            node_type=task.node_type,
            state=NodeState.PENDING if task.depends_on else NodeState.READY,
            parent=node,
            depends_on=tuple(ids[i] for i in task.depends_on),
            details={key: canonical(value) for key, value in task.details.items()},
            budget=task.budget,
        )
        for index, task in enumerate(tasks)
    ]
    changes = NodeChanges(
        state=NodeState.PLAN_DONE,
        children=ids,
        sub_graph_id=sub_graph_id(node.node_id, _FIRST_PLAN),
    )
    if node.error is not None:
        changes["error"] = None
    if node.crash_redispatches:
        changes["crash_redispatches"] = 0
    if node.review_id:
        changes["review_id"] = ""
    run.patch(node, **changes)
    run.index_children(children)
    run.queue.extend(child.node_id for child in children if child.state is NodeState.READY)
