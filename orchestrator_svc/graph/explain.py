"""Answers "why is this not running?": the chain of what blocks it, down to the root causes (S2.5).

A pure function of a scene and the time. It follows the links of `node_blocker.py` breadth first,
each node once, so a circle ends; then it keeps the root causes that matter most, each with the
shortest chain that leads to it.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from orchestrator_svc.errors import NodeNotFound
from orchestrator_svc.graph.blocker import Blocker, BlockerKind
from orchestrator_svc.graph.budget import Use
from orchestrator_svc.graph.circles import circles
from orchestrator_svc.graph.node_blocker import node_blockers
from orchestrator_svc.graph.project_blocker import project_blockers
from orchestrator_svc.graph.scene import Scene
from orchestrator_svc.graph.types import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    NodeState,
)

MAX_ROOT_CAUSES = 20  #: listed in one explanation; the others are counted
MAX_LINKS = 1_000  #: that lead to them; the middle of longer chains is left out

_BY_ITSELF = frozenset({BlockerKind.BACKOFF, BlockerKind.RATE_LIMIT, BlockerKind.SLOT})
_AT_WORK = frozenset({BlockerKind.CALL, BlockerKind.CANCELLING})


class Outlook(enum.StrEnum):
    """What will come of it; names equal those of the contract."""

    ENDED = "ENDED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    NEEDS_ACTION = "NEEDS_ACTION"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the subject is where it is."""

    subject: str  #: id of the node; empty: the project
    state: str
    outlook: Outlook
    summary: str
    blockers: tuple[Blocker, ...]  #: every listed root cause with its chain, nearest first
    omitted: int  #: root causes that are not listed
    budgets: tuple[Use, ...] = ()  #: those that cover the subject

    @property
    def root_causes(self) -> tuple[Blocker, ...]:
        """The links with nothing behind them."""
        return tuple(blocker for blocker in self.blockers if not blocker.leads_on)


def explain(scene: Scene, now: float, node_id: str = "") -> Explanation:
    """Explain a node, or the project if `node_id` is empty. Raises `NodeNotFound`."""
    if node_id and node_id not in scene.nodes:
        raise NodeNotFound(project_id=scene.project_id, node_id=node_id)
    subject = scene.nodes.get(node_id)
    state = str(subject.state if subject else scene.state)
    budgets = _covering(scene, scene.budgets(now), node_id)
    links: list[Blocker] = []
    if not (subject and subject.state in TERMINAL_NODE_STATES):
        links += project_blockers(scene, budgets)
    starts = [node_id] if node_id else _starts(scene)
    if _is_over(scene) and subject and subject.state not in TERMINAL_NODE_STATES:
        links.append(_too_late(scene, node_id))
        starts = []
    links += _follow(scene, starts, now)
    shown, omitted = _select(links)
    causes = [blocker for blocker in shown if not blocker.leads_on]
    ended = subject.state in TERMINAL_NODE_STATES if subject else _is_over(scene)
    outlook = Outlook.ENDED if ended else _outlook(causes)
    summary = _summary(state, outlook, causes, omitted)
    return Explanation(node_id, state, outlook, summary, tuple(shown), omitted, tuple(budgets))


def _covering(scene: Scene, uses: list[Use], node_id: str) -> list[Use]:
    """Return the budgets of a node and its ancestors; of the project, all."""
    if not node_id:
        return uses
    covering: set[str] = set()
    at = scene.nodes.get(node_id)
    while at is not None and at.node_id not in covering:
        covering.add(at.node_id)
        at = scene.nodes.get(at.parent_id)
    return [use for use in uses if use.node_id in covering]


def _is_over(scene: Scene) -> bool:
    return scene.state in TERMINAL_PROJECT_STATES


def _starts(scene: Scene) -> list[str]:
    """Return the nodes from which a project is explained: its root, or what failed in it."""
    if _is_over(scene):
        return [
            node.node_id
            for node in scene.nodes.values()
            if node.state is NodeState.FAILED and not (node.error and node.error.node_id)
        ]
    return [scene.root_id] if scene.root_id in scene.nodes else []


def _too_late(scene: Scene, node_id: str) -> Blocker:
    return Blocker(
        kind=BlockerKind.CANCELLED,
        blocked=node_id,
        message=f"the project is {scene.state}: nothing of it runs any more",
        since=scene.since,
        remedy=f"ramify show {scene.project_id}",
    )


def _follow(scene: Scene, starts: list[str], now: float) -> list[Blocker]:
    """Return every link that is reached, breadth first, with circles reported as links."""
    links: list[Blocker] = []
    depths = dict.fromkeys(starts, 0)
    waiting = deque(starts)
    pairs: list[tuple[str, str]] = []
    while waiting:
        node_id = waiting.popleft()
        depth = depths[node_id]
        for blocker in node_blockers(scene, scene.nodes[node_id], now):
            blocker.depth = depth
            links.append(blocker)
            if not blocker.leads_on:
                continue
            pairs.append((node_id, blocker.by))
            if blocker.by not in depths:
                depths[blocker.by] = depth + 1
                waiting.append(blocker.by)
    links += (_circle(scene, ring, depths) for ring in circles(pairs))
    return links


def _circle(scene: Scene, ring: list[str], depths: dict[str, int]) -> Blocker:
    first = min(ring, key=lambda node_id: depths[node_id])
    return Blocker(
        kind=BlockerKind.CYCLE,
        blocked=first,
        message="these wait for each other: " + " → ".join([*ring, ring[0]]),
        since=scene.since_of.get(first),
        remedy=f"ramify watch {scene.project_id}",
        depth=depths[first],
    )


def _select(links: list[Blocker]) -> tuple[list[Blocker], int]:
    """Return the most telling root causes with their chains, and how many are left out."""
    into: dict[str, Blocker] = {}
    for link in links:
        if link.leads_on:
            into.setdefault(link.by, link)
    causes = sorted((link for link in links if not link.leads_on), key=_rank)
    chosen: dict[int, Blocker] = {}
    for cause in causes[:MAX_ROOT_CAUSES]:
        at: Blocker | None = cause
        while at is not None and id(at) not in chosen:
            chosen[id(at)] = at
            at = into.get(at.blocked) if at.depth else None
    between = sorted((at for at in chosen.values() if at.leads_on), key=lambda at: at.depth)
    if len(between) > MAX_LINKS:
        for left_out in between[MAX_LINKS // 2 : -MAX_LINKS // 2]:
            del chosen[id(left_out)]
    shown = sorted(
        chosen.values(), key=lambda link: (link.depth, link.blocked != "", not link.leads_on)
    )
    return shown, max(0, len(causes) - MAX_ROOT_CAUSES)


def _rank(cause: Blocker) -> tuple[int, int]:
    if cause.kind in _AT_WORK:
        return 2, cause.depth
    return int(cause.kind in _BY_ITSELF), cause.depth


def _outlook(causes: list[Blocker]) -> Outlook:
    """Return what is to be expected: work somewhere in the chain is work."""
    kinds = {cause.kind for cause in causes}
    project_wide = {c.kind for c in causes if not c.blocked} - _AT_WORK
    if project_wide:
        return Outlook.NEEDS_ACTION
    if kinds & _AT_WORK:
        return Outlook.RUNNING
    return Outlook.WAITING if kinds & _BY_ITSELF else Outlook.NEEDS_ACTION


def _summary(state: str, outlook: Outlook, causes: list[Blocker], omitted: int) -> str:
    if not causes:
        return f"it is {state}" + ("" if outlook is Outlook.ENDED else ", nothing blocks it")
    first = min(causes, key=_rank)
    who = f"{first.blocked}: " if first.blocked else ""
    more = len(causes) + omitted - 1
    rest = f" (and {more} more)" if more else ""
    return f"it is {state}; {who}{first.message}{rest}"
