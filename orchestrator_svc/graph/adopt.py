"""Makes the children of a node from a plan that was checked and, where asked for, approved.

Of the children of a plan that it replaces, those that are DONE and that the new plan names
(`DraftTask.reuse`), or has the same task for, stay children; all others are superseded with
everything below them. The same task is one with equal goal, task type and details whose
dependencies are all reused and are those of the finished child, so that its result would be made
from the same inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.plan import DraftTask, canonical, child_id, sub_graph_id
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import make_ready
from orchestrator_svc.graph.staging import half_staged, in_order, is_staged
from orchestrator_svc.graph.types import TERMINAL_NODE_STATES, NodeState


def reusable(run: Run, node: Node) -> dict[str, Node]:
    """Return the finished children of the node's present plan, by id."""
    children = (run.nodes.get(child_id) for child_id in node.children)
    return {
        child.node_id: child
        for child in children
        if child is not None and child.state is NodeState.DONE and not child.superseded
    }


def reuse_problems(run: Run, node: Node, tasks: Sequence[DraftTask]) -> list[str]:
    """Return why what the tasks name cannot be reused."""
    finished = reusable(run, node)
    problems = []
    named: set[str] = set()
    for index, task in enumerate(tasks):
        if not task.reuse:
            continue
        if task.reuse not in finished:
            problems.append(f"task {index}: {task.reuse!r} is no finished task of the last plan")
        elif task.reuse in named:
            problems.append(f"task {index}: {task.reuse!r} is reused twice")
        named.add(task.reuse)
    return problems


def reuse(tasks: Sequence[DraftTask], finished: Mapping[str, Node]) -> dict[int, str]:
    """Return the finished child that does each task, by the task's index. The plan is valid."""
    chosen = {index: task.reuse for index, task in enumerate(tasks) if task.reuse}
    free = {id_: child for id_, child in finished.items() if id_ not in chosen.values()}
    if not free:
        return chosen
    waiting = [index for index in range(len(tasks)) if index not in chosen]
    found = True
    while found and waiting:
        found = False
        for index in list(waiting):
            task = tasks[index]
            if any(needed not in chosen for needed in task.depends_on):
                continue
            waiting.remove(index)
            needs = {chosen[needed] for needed in task.depends_on}
            same = next((c for c in free.values() if _same_task(task, c, needs)), None)
            if same is not None:
                found = True
                chosen[index] = same.node_id
                del free[same.node_id]
    return chosen


def _same_task(task: DraftTask, child: Node, needs: set[str]) -> bool:
    return (
        task.goal == child.goal
        and task.task_type is child.task_type
        and needs == set(child.depends_on)
        and {key: canonical(value) for key, value in task.details.items()} == child.details
    )


def adopt_plan(run: Run, node: Node, tasks: tuple[DraftTask, ...]) -> None:
    """Write the children and the parent's PLAN_DONE, in one revision if they fit (SEM 11)."""
    plan_number = node.plan_count + 1
    staged = is_staged(tasks, run.goal)
    reused = reuse(tasks, reusable(run, node))
    ids = tuple(
        reused.get(index) or child_id(node.node_id, plan_number, index)
        for index in range(len(tasks))
    )
    if node.children:
        _supersede(run, node, set(ids))
    children = [run.nodes[id_] for id_ in reused.values()]
    for index in in_order(tasks) if staged else range(len(tasks)):
        task = tasks[index]
        if index in reused:
            continue
        if staged:
            run.cut()
        needs = tuple(ids[i] for i in task.depends_on)
        waits = any(i not in reused for i in task.depends_on)
        children.append(
            run.create(
                node_id=ids[index],
                goal=task.goal,
                task_type=task.task_type,
                node_type=task.node_type,
                state=NodeState.PENDING if waits or staged else NodeState.READY,
                parent=node,
                depends_on=needs,
                details={key: canonical(value) for key, value in task.details.items()},
                budget=task.budget,
                max_retries=task.max_retries,
                on_exhausted=task.on_exhausted,
                on_dependency_failure=task.on_dependency_failure,
            )
        )
    changes = NodeChanges(
        state=NodeState.PLAN_DONE,
        children=ids,
        sub_graph_id=sub_graph_id(node.node_id, plan_number),
        plan_count=plan_number,
    )
    if node.error is not None:
        changes["error"] = None
    if node.replan_reason:
        changes["replan_reason"] = ""
    if node.crash_redispatches:
        changes["crash_redispatches"] = 0
    if node.review_id:
        changes["review_id"] = ""
    if staged:
        run.cut()
    run.patch(node, **changes)
    run.index_plan(node, children, set(reused.values()))
    if staged:
        for child in children:
            if child.state is NodeState.PENDING:
                make_ready(run, child)
    else:
        run.queue.extend(child.node_id for child in children if child.state is NodeState.READY)
    if not node.open_children:  # everything is reused
        run.queue.appendleft(node.node_id)


def supersede_half_staged(run: Run) -> None:
    """Replace what is there of plans that were cut off before their PLAN_DONE (SEM 11)."""
    for parent_id, children in half_staged(run.nodes).items():
        parent = run.nodes[parent_id]
        for child in children:
            run.cut()
            if child.state in TERMINAL_NODE_STATES:
                if not child.superseded:
                    run.patch(child, superseded=True)
            else:
                run.patch(child, state=NodeState.CANCELLED, superseded=True)
        run.cut()
        run.patch(parent, plan_count=parent.plan_count + 1)
        parent.open_children = 0
        parent.done_children = 0


def _supersede(run: Run, node: Node, kept: set[str]) -> None:
    """Mark what a new plan replaces. All of it is terminal; a crash in between loses nothing."""
    for child_id_ in node.children:
        child = run.nodes.get(child_id_)
        if child is None or child_id_ in kept:
            continue
        for item in (child, *run.descendants(child)):
            if not item.superseded:
                run.patch(item, superseded=True)
                item.result = None
                run.cut()
