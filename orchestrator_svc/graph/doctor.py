"""Finds what keeps a run from going on, and mends it, so that every run ends (S2.5, SEM 29).

The engine is meant never to need it: it is for trees that somebody else has written and for
states that no rule foresaw. It looks at the whole tree when a run is taken up and when nothing
can happen any more (*quiescence*), and at a part of it every `PATROL_STEPS` steps. The same
finding about the same node is answered with the next of its pattern's actions each time; when
they are used up, the node fails, and in the end the project does, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator_svc.graph.circles import circles
from orchestrator_svc.graph.dispatch import fill_slots
from orchestrator_svc.graph.forced import Action, Pattern
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.run import ROOT_ID, Run
from orchestrator_svc.graph.treat import fail_project, treat
from orchestrator_svc.graph.types import TERMINAL_NODE_STATES, NodeState, ProjectState

PATROL_STEPS = 50  #: dispatches between two looks at a part of the tree
PATROL_NODES = 256  #: most nodes looked at each time, so that a step costs the same in any tree
MAX_ROUNDS = 100  #: of mending a run at rest, before the project fails


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one node that keeps it from going on."""

    pattern: Pattern
    node_id: str
    reason: str


#: What is done about a finding, the first time, the second time …; then the node fails.
ACTIONS: dict[Pattern, tuple[Action, ...]] = {
    Pattern.CIRCULAR_DEPENDENCY: (Action.FAIL,),
    Pattern.PARENT_CHILD_SYNC: (Action.RESET_STATE, Action.RETRY),
    Pattern.STUCK_AGGREGATION: (Action.RETRY, Action.FORCE_COMPLETE),
    Pattern.ORPHANED_NODES: (Action.SKIP,),
    Pattern.SINGLE_NODE_HANG: (Action.RETRY, Action.REPLAN),
    Pattern.RESOURCE_STARVATION: (Action.RESET_STATE, Action.RETRY),
    Pattern.UNKNOWN: (Action.FAIL,),
}


def is_quiescent(run: Run) -> bool:
    """Return whether nothing can happen any more, although something should."""
    return (
        run.state is ProjectState.RUNNING
        and not run.draining
        and not run.queue
        and not run.busy
        and not run.open_orders
        and run.next_due() is None
    )


def admit(run: Run, now: float) -> bool:
    """Mend what makes no sense in a tree that was just loaded; return whether the run goes on.

    What is below a CANCELLED node is cancelled by `recover.take_up` anyway.
    """
    if not run.root_id and ROOT_ID in run.nodes:
        run.patch_project(run.state, root_id=ROOT_ID, pause_time=run.pause_time)
    if run.root_id not in run.nodes:
        fail_project(run, f"its root {run.root_id!r} does not exist")
        return False
    strays = _strays(run)
    for node in sorted(run.nodes.values(), key=lambda node: node.layer):
        if node.state in TERMINAL_NODE_STATES or node.superseded:
            continue
        parent = run.nodes.get(node.parent_id)
        finding = strays.get(node.node_id)
        if finding is None and parent is not None and parent.state is not NodeState.CANCELLED:
            finding = _late(run, node)
        if finding is not None:
            _answer(run, finding, now)
    return not run.ended


def consult(run: Run, now: float) -> None:
    """Mend a run at rest until something can happen or it has ended."""
    for _ in range(MAX_ROUNDS):
        if not is_quiescent(run):
            return
        findings = examine(run)
        if not findings:
            fail_project(run, "nothing of it can run, and no known reason applies")
        for finding in findings:
            if run.nodes[finding.node_id].state not in TERMINAL_NODE_STATES and not run.ended:
                _answer(run, finding, now)
        fill_slots(run)
    if is_quiescent(run):
        fail_project(run, f"it could not go on after it was mended {MAX_ROUNDS} times")


def patrol(run: Run, now: float) -> None:
    """Look at the next part of the tree if enough steps were made since the last look."""
    if run.steps < run.patrol_at or run.draining or run.state is not ProjectState.RUNNING:
        return
    run.patrol_at = run.steps + PATROL_STEPS
    if not run.patrol_ids:
        run.patrol_ids = [*run.nodes]
    ids, run.patrol_ids = run.patrol_ids[-PATROL_NODES:], run.patrol_ids[:-PATROL_NODES]
    for node_id in ids:
        node = run.nodes.get(node_id)
        finding = _look_at(run, node) if node else None
        if finding is not None:
            _answer(run, finding, now)
    fill_slots(run)


def examine(run: Run) -> list[Finding]:
    """Return what is wrong with a run at rest: with single nodes or, if nothing is, circles."""
    strays = _strays(run)
    found = []
    for node in run.nodes.values():
        finding = strays.get(node.node_id) or _look_at(run, node)
        if finding is not None:
            found.append(finding)
    return found or list(_circles(run))


def _answer(run: Run, finding: Finding, now: float) -> None:
    key = (finding.pattern, finding.node_id)
    times = run.treated.get(key, 0)
    run.treated[key] = times + 1
    actions = ACTIONS[finding.pattern]
    node = run.nodes[finding.node_id]
    action = actions[times] if times < len(actions) else Action.FAIL
    if finding.pattern is Pattern.PARENT_CHILD_SYNC and _late(run, node) is not None:
        action = Action.SKIP
    run.cut()
    treat(run, node, finding.pattern, action, finding.reason, now)


def _strays(run: Run) -> dict[str, Finding]:
    """Return the open nodes that are not below the root."""
    below = {run.root_id}
    found: dict[str, Finding] = {}
    for node in sorted(run.nodes.values(), key=lambda node: node.layer):
        if node.node_id == run.root_id:
            continue
        if node.parent_id in below:
            below.add(node.node_id)
        elif node.state not in TERMINAL_NODE_STATES and not node.superseded:
            where = f"below {node.parent_id!r}" if node.parent_id else "beside the root"
            reason = f"it is {where}, not below the root {run.root_id!r}"
            found[node.node_id] = Finding(Pattern.ORPHANED_NODES, node.node_id, reason)
    return found


def _late(run: Run, node: Node) -> Finding | None:
    """Return whether a node is open although its parent has ended."""
    parent = run.nodes.get(node.parent_id)
    if parent is None or parent.state not in TERMINAL_NODE_STATES or node.open_call:
        return None
    reason = f"its parent {parent.node_id} is {parent.state} already"
    return Finding(Pattern.PARENT_CHILD_SYNC, node.node_id, reason)


def _look_at(run: Run, node: Node) -> Finding | None:
    """Return what is wrong with one node, as far as it and its neighbours show.

    A node with an open call, a timer or a place in the line goes on by itself, and one that waits
    for a human, or for a budget about which one is asked, does so for good reason.
    """
    if node.state in TERMINAL_NODE_STATES or node.superseded or node.open_call:
        return None
    late = _late(run, node)
    if late is not None:
        return late
    if node.next_attempt_time is not None or run.reviews.is_open(node.review_id):
        return None
    if node.node_id in run.held:
        return None
    if node.state is NodeState.PENDING:
        return _held_back(run, node)
    if node.state is NodeState.PLAN_DONE:
        return _unaggregated(run, node)
    if run.queue:  # full slots; a node that is not in the line is found when the line is empty
        return None
    if node.state is NodeState.AGGREGATING:
        reason = "it is AGGREGATING, but no aggregator works on it"
        return Finding(Pattern.STUCK_AGGREGATION, node.node_id, reason)
    if node.state is NodeState.READY:
        reason = f"it is READY, {run.busy} slots are in use, and it has no turn"
        return Finding(Pattern.RESOURCE_STARVATION, node.node_id, reason)
    reason = f"it is {node.state}, but no agent works on it"
    return Finding(Pattern.SINGLE_NODE_HANG, node.node_id, reason)


def _held_back(run: Run, node: Node) -> Finding | None:
    parent = run.nodes.get(node.parent_id)
    if parent is not None and parent.state is not NodeState.PLAN_DONE:
        return None
    needed = [run.nodes[i] for i in node.depends_on if i in run.nodes]
    if any(dependency.state not in TERMINAL_NODE_STATES for dependency in needed):
        return None
    reason = "it is PENDING, but everything that it waited for has ended"
    return Finding(Pattern.PARENT_CHILD_SYNC, node.node_id, reason)


def _unaggregated(run: Run, node: Node) -> Finding | None:
    """A PLAN_DONE node whose children have ended is in the line for its aggregation."""
    children = (run.nodes[i] for i in node.children if i in run.nodes)
    if any(c.state not in TERMINAL_NODE_STATES and not c.superseded for c in children):
        return None
    if node.node_id in run.queue or (node.open_children and not is_quiescent(run)):
        return None
    reason = f"its {len(node.children)} children have ended, but it is not aggregated"
    return Finding(Pattern.STUCK_AGGREGATION, node.node_id, reason)


def _circles(run: Run) -> Iterator[Finding]:
    """Yield one node of each group of nodes that wait for each other, over parents too."""
    edges = (
        (node.node_id, other)
        for node in run.nodes.values()
        if node.state not in TERMINAL_NODE_STATES and not node.superseded
        for other in _waits_for(run, node)
    )
    for ring in circles(edges):
        weakest = max(
            (run.nodes[node_id] for node_id in ring),
            key=lambda node: (node.state is NodeState.PENDING, node.layer, node.node_id),
        )
        text = " → ".join([*ring, ring[0]])
        reason = f"these wait for each other: {text}"
        yield Finding(Pattern.CIRCULAR_DEPENDENCY, weakest.node_id, reason)


def _waits_for(run: Run, node: Node) -> Iterator[str]:
    nodes = run.nodes
    if node.state is NodeState.PENDING:
        parent = nodes.get(node.parent_id)
        if parent is not None and parent.state is not NodeState.PLAN_DONE:
            yield parent.node_id
        waited_for = node.depends_on
    elif node.state is NodeState.PLAN_DONE:
        waited_for = node.children
    else:
        return
    for other_id in waited_for:
        other = nodes.get(other_id)
        if other is not None and other.state not in TERMINAL_NODE_STATES:
            yield other_id
