"""OrchestratorService: checks requests, writes through state_svc, wakes the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_svc import __version__
from orchestrator_svc.agents.profile import PLAN_PROFILE, ProfileRegistry
from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import (
    InvalidRequest,
    ProfileNotFound,
    ServerDraining,
)
from orchestrator_svc.graph.node import Json
from orchestrator_svc.graph.plan import MAX_GOAL_CHARS, MIN_GOAL_CHARS
from orchestrator_svc.graph.settings import Scalar
from orchestrator_svc.graph.text import control_problem
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.enums import read_project_state
from orchestrator_svc.publish.stream import MutationStream
from orchestrator_svc.publish.value import read_fields
from orchestrator_svc.rpc.explain import Explainer
from orchestrator_svc.rpc.orders import OrderDesk, check_request_id
from orchestrator_svc.rpc.plans import (
    SILENCE_IS_WORK,
    checked_plan,
    needed_settings,
    refuse_if_unreviewable,
)
from orchestrator_svc.rpc.review import ReviewDesk
from orchestrator_svc.settings import (
    InvalidSetting,
    from_message,
    settle,
    to_message,
    to_state_message,
)
from ramify.v1 import orchestrator_service_pb2 as pb
from ramify.v1 import project_pb2, state_service_pb2
from ramify.v1.command_pb2 import CommandType

LARGE_PLAN_BYTES = 32_768  #: that are checked in a thread; it takes up to seconds


@dataclass(frozen=True, slots=True)
class _Work:
    """What a run is about."""

    goal: str
    profile: str
    settings: project_pb2.ExecutionSettings


class OrchestratorServicer:
    """Handlers by RPC name; errors are `RamifyError`s, translated by `rpc/server.py`."""

    def __init__(
        self,
        *,
        client: StateClient,
        stream: MutationStream,
        supervisor: Supervisor,
        profiles: ProfileRegistry,
        default_profile: str,
        execution: Mapping[str, Scalar],
        holder: str,
        started: Timestamp,
    ) -> None:
        self._client = client
        self._stream = stream
        self._supervisor = supervisor
        self._orders = OrderDesk(client, supervisor)
        self._reviews = ReviewDesk(client, supervisor)
        self._profiles = profiles
        self._default_profile = default_profile
        self._execution = execution
        self._holder = holder
        self._started = started
        self.explainer = Explainer(client=client, supervisor=supervisor)
        self.draining = False

    async def start_project(self, request: pb.StartProjectRequest) -> pb.StartProjectResponse:
        """Create a project, or find the one of the same `request_id`, and execute it."""
        self._check_open()
        # In a thread: a plan may have tens of thousands of tasks, a corpus may lie on a slow disk.
        work = await asyncio.to_thread(self._checked_work_of, request)
        if request.validate_only:
            return pb.StartProjectResponse(project=_shown(request, work))
        project = await self._client.create_project(
            state_service_pb2.CreateProjectRequest(
                project_id=request.project_id,
                goal=work.goal,
                profile=work.profile,
                settings=work.settings,
                state_settings=self._state_settings_for(request),
                agent_options=request.agent_options,
                labels=request.labels,
                request_id=request.request_id,
                actor=request.actor,
                plan=request.plan if request.HasField("plan") else None,
            )
        )
        if read_project_state(project.state) not in TERMINAL_PROJECT_STATES:
            self._supervisor.take_up(project.project_id)
        return pb.StartProjectResponse(project=project)

    async def cancel_project(self, request: pb.CancelProjectRequest) -> pb.CancelProjectResponse:
        """Make the order durable; the holder of the lease carries it out (SEM 19, 20)."""
        self._check_open()
        receipt = await self._orders.give(request, CommandType.COMMAND_TYPE_CANCEL_PROJECT)
        return pb.CancelProjectResponse(command_id=receipt.command_id, revision=receipt.revision)

    async def pause_project(self, request: pb.PauseProjectRequest) -> pb.PauseProjectResponse:
        """Dispatch nothing more (SEM 20)."""
        self._check_open()
        receipt = await self._orders.carry_out(request, CommandType.COMMAND_TYPE_PAUSE_PROJECT)
        return pb.PauseProjectResponse(receipt=receipt)

    async def resume_project(self, request: pb.ResumeProjectRequest) -> pb.ResumeProjectResponse:
        """Go on after a pause."""
        self._check_open()
        receipt = await self._orders.carry_out(request, CommandType.COMMAND_TYPE_RESUME_PROJECT)
        return pb.ResumeProjectResponse(receipt=receipt)

    async def cancel_node(self, request: pb.CancelNodeRequest) -> pb.CancelNodeResponse:
        """Cancel one node with everything below it."""
        self._check_open()
        receipt = await self._orders.carry_out(request, CommandType.COMMAND_TYPE_CANCEL_NODE)
        return pb.CancelNodeResponse(receipt=receipt)

    async def retry_node(self, request: pb.RetryNodeRequest) -> pb.RetryNodeResponse:
        """Give a failed node another attempt (SEM 25)."""
        self._check_open()
        receipt = await self._orders.carry_out(request, CommandType.COMMAND_TYPE_RETRY_NODE)
        return pb.RetryNodeResponse(receipt=receipt)

    async def replan_node(self, request: pb.ReplanNodeRequest) -> pb.ReplanNodeResponse:
        """Let a node be planned anew."""
        self._check_open()
        receipt = await self._orders.carry_out(request, CommandType.COMMAND_TYPE_REPLAN_NODE)
        return pb.ReplanNodeResponse(receipt=receipt)

    async def resolve_review(self, request: pb.ResolveReviewRequest) -> pb.ResolveReviewResponse:
        """Decide a review; the holder of the lease acts on it (SEM 19, 27)."""
        self._check_open()
        return await self._reviews.resolve(request)

    async def get_runner(self, _: pb.GetRunnerRequest) -> pb.GetRunnerResponse:
        """Return what this orchestrator does now."""
        return pb.GetRunnerResponse(
            version=__version__,
            holder=self._holder,
            start_time=self._started,
            projects=[
                pb.ActiveProject(
                    project_id=active.project_id,
                    lease_epoch=active.lease_epoch,
                    running_nodes=active.running_nodes,
                    ready_nodes=active.ready_nodes,
                    steps=active.steps,
                    settings=to_message(active.settings),
                )
                for active in self._supervisor.active()
            ],
            profiles=self._profiles.names(),
            missing_profiles=self._supervisor.missing_profiles,
            unacked_batches=self._stream.held_batches,
            settings=to_message(settle(self._execution)),
        )

    def _checked_work_of(self, request: pb.StartProjectRequest) -> _Work:
        work = self._work_of(request)
        self._check_start(request, work.goal, work.profile)
        return work

    def _work_of(self, request: pb.StartProjectRequest) -> _Work:
        """Return what a request is about. Its settings are all keys of the run: its own, else
        those that follow from its plan, else those of this orchestrator."""
        try:
            chosen = from_message(request.settings)
            if not request.HasField("plan"):
                settings = to_message(settle(self._execution, chosen), self._execution, chosen)
                return _Work(request.goal, request.profile or self._default_profile, settings)
            tree = checked_plan(request, self._profiles)
            needed = needed_settings(tree, settle(self._execution), chosen)
            layers = (SILENCE_IS_WORK, self._execution, needed, chosen)
            settled = settle(*layers)
            refuse_if_unreviewable(tree, settled)
            settings = to_message(settled, *layers)
            return _Work(request.plan.goal, PLAN_PROFILE, settings)
        except InvalidSetting as error:
            raise InvalidRequest(error.problem, field=f"settings.{error.key}") from error

    def _state_settings_for(self, request: pb.StartProjectRequest) -> project_pb2.StateSettings:
        """Return how a run is stored: its own keys, else those of this orchestrator."""
        try:
            return to_state_message(self._execution, from_message(request.state_settings))
        except InvalidSetting as error:
            raise InvalidRequest(error.problem, field=f"state_settings.{error.key}") from error

    def _check_open(self) -> None:
        if self.draining:
            raise ServerDraining()

    def _check_start(self, request: pb.StartProjectRequest, goal: str, profile: str) -> None:
        """Refuse what could not run, before a project is made of it."""
        check_request_id(request.request_id)
        length = len(goal)
        if not MIN_GOAL_CHARS <= length <= MAX_GOAL_CHARS:
            raise InvalidRequest(
                f"a goal has {MIN_GOAL_CHARS} to {MAX_GOAL_CHARS} characters, not {length}",
                field="goal",
            )
        if control := control_problem(goal):
            raise InvalidRequest(control, field="goal")
        entry = self._profiles.get(profile)
        if entry is None:
            raise ProfileNotFound(profile=profile, known=", ".join(self._profiles.names()))
        if profile == PLAN_PROFILE and not request.HasField("plan"):
            raise InvalidRequest(f"the profile {PLAN_PROFILE} needs one", field="plan")
        options = read_fields(request.agent_options)
        if any("\0" in text for text in _texts(options)):
            raise InvalidRequest("holds a zero byte", field="agent_options")
        try:
            entry.check_options(options)
        except ValueError as error:
            raise InvalidRequest(str(error), field="agent_options") from error


def _texts(value: Json) -> Iterator[str]:
    """Yield every text in a value, keys included."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _shown(request: pb.StartProjectRequest, work: _Work) -> project_pb2.Project:
    """Return the project that a request would make."""
    return project_pb2.Project(
        project_id=request.project_id,
        goal=work.goal,
        profile=work.profile,
        settings=work.settings,
        agent_options=request.agent_options,
        labels=request.labels,
        plan=request.plan if request.HasField("plan") else None,
    )
