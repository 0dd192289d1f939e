"""What holds back the whole of a project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator_svc.graph.blocker import Blocker, BlockerKind
from orchestrator_svc.graph.budget import Use
from orchestrator_svc.graph.scene import Scene
from orchestrator_svc.graph.settings import BudgetPolicy
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES, ProjectState

SLOW_STORE_SECONDS = 1.0  #: a decision that is not durable for longer is a blocker


def project_blockers(scene: Scene, budgets: Sequence[Use] = ()) -> Iterator[Blocker]:
    """Yield what holds back the whole of a project that has not ended."""
    live, name = scene.live, scene.project_id
    if scene.state in TERMINAL_PROJECT_STATES:
        return
    if scene.state in (ProjectState.PAUSED, ProjectState.PAUSING):
        yield Blocker(
            kind=BlockerKind.PAUSED,
            blocked="",
            message=f"the project is {scene.state}: nothing is dispatched until it is resumed",
            since=scene.since,
            remedy=f"ramify resume {name}",
        )
        raises = scene.settings.budget_policy is BudgetPolicy.PAUSE
        for use in budgets:
            if raises and use.forbids(plans=True):
                yield Blocker(
                    kind=BlockerKind.BUDGET,
                    blocked="",
                    message=f"{use}; resuming the project allows as much again",
                    remedy=f"ramify resume {name}",
                    live=live is not None,
                )
    elif scene.state is ProjectState.CANCELLING:
        yield Blocker(
            kind=BlockerKind.CANCELLING,
            blocked="",
            message="the project is being cancelled: calls in flight are ended",
            since=scene.since,
            remedy=f"ramify watch {name}",
        )
    if scene.setback and live is None:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message=f"its last execution ended, it is tried again: {scene.setback}",
            since=scene.since,
            remedy=f"ramify cancel {name}",
        )
    elif not scene.holder and scene.profile_problem:
        yield Blocker(
            kind=BlockerKind.AGENT,
            blocked="",
            message=f"no orchestrator executes it: {scene.profile_problem}",
            since=scene.since,
            remedy="ramify up --config FILE",
        )
    elif not scene.holder and scene.no_room:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message=f"no orchestrator executes the project: {scene.no_room}",
            since=scene.since,
            remedy="ramify up --config FILE",
        )
    elif not scene.holder:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message="no orchestrator executes the project; one takes it up when it has room",
            since=scene.since,
            remedy="ramify up",
        )
    elif live is not None and not live.lease_valid:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message=f"{scene.holder} cannot renew its lease, so it begins no agent call",
            remedy="ramify stats",
            live=True,
        )
    elif live is not None and live.draining:
        yield Blocker(
            kind=BlockerKind.LEASE,
            blocked="",
            message=f"{scene.holder} is stopping; another orchestrator continues",
            remedy="ramify up",
            live=True,
        )
    if live is not None and live.unsent_seconds > SLOW_STORE_SECONDS:
        yield Blocker(
            kind=BlockerKind.STORE,
            blocked="",
            message=f"decisions wait for {live.unsent_seconds:.1f} s to become durable: "
            "the state service is away or cannot commit",
            remedy="ramify stats",
            live=True,
        )
    if scene.nodes and scene.root_id not in scene.nodes:
        yield Blocker(
            kind=BlockerKind.MISSING,
            blocked="",
            message=f"its root {scene.root_id!r} does not exist",
            since=scene.since,
            remedy=f"ramify show {name}",
        )
    if not scene.nodes and scene.holder:
        yield Blocker(
            kind=BlockerKind.CALL,
            blocked="",
            message=f"{scene.holder} is taking the project up",
            since=scene.since,
            remedy=f"ramify watch {name}",
        )
