"""The calls of a client that start, steer and explain runs."""

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Value

from ramify.calls import new_request_id
from ramify.connection import Connection
from ramify.v1 import explain_pb2
from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb2
from ramify.v1.explain_pb2 import Explanation
from ramify.v1.plan_pb2 import Plan
from ramify.v1.project_pb2 import ExecutionSettings, Project, StateSettings


class Runs(Connection):
    """Calls of the orchestrator about runs and their nodes."""

    async def start_project(
        self,
        goal: str = "",
        *,
        plan: Plan | None = None,
        project_id: str = "",
        profile: str = "",
        settings: ExecutionSettings | None = None,
        state_settings: StateSettings | None = None,
        agent_options: Mapping[str, Value] | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
        validate_only: bool = False,
    ) -> Project:
        """Create a project and begin to execute it; return it as it is then.

        It has either a goal, which agents plan, or a plan (`ramify.plan_file` reads one from a
        file). Repeating a `request_id` within 24 hours returns the first project;
        `validate_only` returns what it would be like. Raises `PlanNotAllowedError`.
        """
        if bool(goal) == (plan is not None):
            raise ValueError("a run has either a goal or a plan")
        request = orchestrator_pb2.StartProjectRequest(
            request_id=request_id or new_request_id(),
            project_id=project_id,
            plan=plan,
            profile=profile,
            settings=settings,
            state_settings=state_settings,
            agent_options=agent_options,
            labels=labels,
            actor=self._actor,
            validate_only=validate_only,
        )
        if plan is None:
            request.goal = goal
        return (await self._ask_orchestrator(self._orchestrator.StartProject, request)).project

    async def cancel_project(
        self, project_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CancelProjectResponse:
        """Order the end of a run. The order is durable on return; the run may still be ending.

        Raises `ProjectEndedError` if there is nothing left to cancel.
        """
        request = orchestrator_pb2.CancelProjectRequest(
            **self._order(project_id, reason, request_id)
        )
        return await self._ask_orchestrator(self._orchestrator.CancelProject, request)

    async def pause_project(
        self, project_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a run dispatch nothing more; the receipt's `answer` says what still runs.

        Raises `ProjectEndedError`, or `CommandRefusedError` with what would work.
        """
        request = orchestrator_pb2.PauseProjectRequest(
            **self._order(project_id, reason, request_id)
        )
        return (await self._ask_orchestrator(self._orchestrator.PauseProject, request)).receipt

    async def resume_project(
        self, project_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a paused run go on. Raises `CommandRefusedError` if it is not paused."""
        request = orchestrator_pb2.ResumeProjectRequest(
            **self._order(project_id, reason, request_id)
        )
        return (await self._ask_orchestrator(self._orchestrator.ResumeProject, request)).receipt

    async def cancel_node(
        self, project_id: str, node_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Cancel a node with everything below it.

        Raises `CommandRefusedError` if there is nothing to cancel.
        """
        request = orchestrator_pb2.CancelNodeRequest(
            node_id=node_id, **self._order(project_id, reason, request_id)
        )
        return (await self._ask_orchestrator(self._orchestrator.CancelNode, request)).receipt

    async def retry_node(
        self, project_id: str, node_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Give a failed node another attempt, with fresh counts.

        What failed for it goes on when it is done. Raises `CommandRefusedError` with what would
        work instead.
        """
        request = orchestrator_pb2.RetryNodeRequest(
            node_id=node_id, **self._order(project_id, reason, request_id)
        )
        return (await self._ask_orchestrator(self._orchestrator.RetryNode, request)).receipt

    async def replan_node(
        self, project_id: str, node_id: str, *, reason: str = "", request_id: str = ""
    ) -> orchestrator_pb2.CommandReceipt:
        """Let a node be planned anew; the planner is told the reason.

        Raises `CommandRefusedError` with what would work instead.
        """
        request = orchestrator_pb2.ReplanNodeRequest(
            node_id=node_id, **self._order(project_id, reason, request_id)
        )
        return (await self._ask_orchestrator(self._orchestrator.ReplanNode, request)).receipt

    async def get_runner(self) -> orchestrator_pb2.GetRunnerResponse:
        """Return what the orchestrator does at the moment."""
        request = orchestrator_pb2.GetRunnerRequest()
        return await self._ask_orchestrator(self._orchestrator.GetRunner, request)

    async def explain_project(self, project_id: str) -> Explanation:
        """Return why a project is not running, or what it does."""
        request = explain_pb2.ExplainProjectRequest(project_id=project_id)
        return (
            await self._ask_orchestrator(self._orchestrator.ExplainProject, request)
        ).explanation

    async def explain_node(self, project_id: str, node_id: str) -> Explanation:
        """Return why a node is not running, with its latest changes of state."""
        request = explain_pb2.ExplainNodeRequest(project_id=project_id, node_id=node_id)
        return (await self._ask_orchestrator(self._orchestrator.ExplainNode, request)).explanation
