"""Makes the children of a node from a plan that was checked and, where asked for, approved.

Of the children of a plan that it replaces, those that are DONE and that the new plan names
(`DraftTask.reuse`), or has the same task for, stay children; all others are superseded with
everything below them. The same task is one with equal goal, task type and details whose
dependencies are all reused and are those of the finished child, so that its result would be made
from the same inputs.

A child that was planned and has FAILED with something finished below it goes on in the same way, if
the new plan has the same task: it gets a new plan itself, and reuses its own finished children.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from orchestrator_svc.graph.details import canonical
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Json, Node
from orchestrator_svc.graph.plan import DraftTask, child_id, in_order, sub_graph_id
from orchestrator_svc.graph.replan import replan
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import make_ready
from orchestrator_svc.graph.staging import half_staged, is_staged
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    TaskType,
)


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
    named = set(chosen.values())
    free: dict[_Work, deque[str]] = {}
    for node_id, child in finished.items():
        if node_id not in named:
            work = _work(child.goal, child.task_type, child.depends_on, child.details)
            free.setdefault(work, deque()).append(node_id)
    if not free:
        return chosen
    for index in in_order(tasks):
        task = tasks[index]
        if index in chosen or any(needed not in chosen for needed in task.depends_on):
            continue
        needs = (chosen[needed] for needed in task.depends_on)
        details = {key: canonical(value) for key, value in task.details.items()}
        same = free.get(_work(task.goal, task.task_type, needs, details))
        if same:
            chosen[index] = same.popleft()
    return chosen


def resumable(run: Run, node: Node) -> dict[str, Node]:
    """Return the failed children of the node's present plan below which something is finished.

    One with a budget of its own has used some of it, and so begins anew.
    """
    children = (run.nodes.get(child_id) for child_id in node.children)
    return {
        child.node_id: child
        for child in children
        if child is not None
        and child.state is NodeState.FAILED
        and not (child.superseded or child.budget)
        and child.layer < run.max_layer(child)
        and any(item.state is NodeState.DONE for item in run.descendants(child))
    }


def resume(
    tasks: Sequence[DraftTask], failed: Mapping[str, Node], reused: Mapping[int, str]
) -> dict[int, str]:
    """Return the failed child that goes on with each task, by the task's index."""
    free: dict[_Group, deque[str]] = {}
    for node_id, child in failed.items():
        work = _work(child.goal, child.task_type, child.depends_on, child.details)
        free.setdefault((work, *_policies(child)), deque()).append(node_id)
    chosen: dict[int, str] = {}
    for index, task in enumerate(tasks) if free else ():
        taken = index in reused or task.budget or task.node_type is NodeType.EXECUTE
        if taken or any(needed not in reused for needed in task.depends_on):
            continue
        needs = (reused[needed] for needed in task.depends_on)
        details = {key: canonical(value) for key, value in task.details.items()}
        work = _work(task.goal, task.task_type, needs, details)
        same = free.get((work, *_policies(task)))
        if same:
            chosen[index] = same.popleft()
    return chosen


def _policies(made: Node | DraftTask) -> tuple[OnExhausted | None, OnDependencyFailure | None, int]:
    retries = -1 if made.max_retries is None else made.max_retries
    return made.on_exhausted, made.on_dependency_failure, retries


#: What a task does: goal, type, the finished nodes that it needs, and details as JSON.
_Work = tuple[str, TaskType, frozenset[str], str]

#: The same, and the policies of its node, which are made with it.
_Group = tuple[_Work, OnExhausted | None, OnDependencyFailure | None, int]


def _work(
    goal: str, task_type: TaskType, needs: Iterable[str], details: Mapping[str, Json]
) -> _Work:
    return goal, task_type, frozenset(needs), json.dumps(dict(details), sort_keys=True)


def adopt_plan(run: Run, node: Node, tasks: tuple[DraftTask, ...]) -> None:
    """Write the children and the parent's PLAN_DONE, in one revision if they fit (SEM 11)."""
    plan_number = node.plan_count + 1
    staged = is_staged(node, tasks, run.goal)
    reused = reuse(tasks, reusable(run, node))
    kept = {**reused, **resume(tasks, resumable(run, node), reused)}
    sub_graph = sub_graph_id(node.node_id, plan_number)
    ids = tuple(kept.get(index) or child_id(sub_graph, index) for index in range(len(tasks)))
    if node.children:
        _supersede(run, node, set(ids))
    children = [run.nodes[id_] for id_ in kept.values()]
    for child in children:
        if child.state is NodeState.FAILED:
            replan(run, child, node.replan_reason, ordered=True)
            run.cut()
    for index in in_order(tasks) if staged else range(len(tasks)):
        task = tasks[index]
        if index in kept:
            continue
        if staged:
            run.cut()
        needs = tuple(ids[i] for i in task.depends_on)
        waits = staged or any(i not in reused for i in task.depends_on)
        children.append(
            run.create(
                node_id=ids[index],
                goal=task.goal,
                task_type=task.task_type,
                node_type=task.node_type,
                state=NodeState.PENDING if waits else NodeState.READY,
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
        sub_graph_id=sub_graph,
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
    run.index_plan(node, children, set(kept.values()))
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
