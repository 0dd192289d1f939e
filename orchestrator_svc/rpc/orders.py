"""Orders to a run: made durable through state_svc, then followed until their answer (SEM 19)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import CommandRefused, InvalidRequest, ProducerFenced, ProjectEnded
from orchestrator_svc.graph.types import ProjectState
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.enums import read_project_state
from ramify.v1 import command_pb2, project_pb2
from ramify.v1 import orchestrator_service_pb2 as pb

MAX_REASON_CHARS = 4_096
MAX_REQUEST_ID_CHARS = 128
REOPENING_TRIES = 12  #: for the lease to be released, with backoff
ANSWER_SECONDS = 5.0  #: longest wait for the holder's answer; the order stays durable
_COMMAND_ID_BYTES = 16

_OrderRequest = (
    pb.CancelProjectRequest
    | pb.PauseProjectRequest
    | pb.ResumeProjectRequest
    | pb.CancelNodeRequest
    | pb.RetryNodeRequest
    | pb.ReplanNodeRequest
)


class OrderDesk:
    """Takes orders for any project, whichever orchestrator executes it."""

    def __init__(self, client: StateClient, supervisor: Supervisor) -> None:
        self._client = client
        self._supervisor = supervisor

    async def give(
        self, request: _OrderRequest, kind: command_pb2.CommandType.ValueType
    ) -> pb.CommandReceipt:
        """Make an order durable; do not wait for its answer.

        Raises, the first that holds, `InvalidRequest`, `ProjectNotFound`, `NodeNotFound`,
        `ProjectEnded`, `CommandRefused`. What only the run can tell is in its answer.
        """
        if not request.project_id:
            raise InvalidRequest("is needed", field="project_id")
        if len(request.reason) > MAX_REASON_CHARS:
            raise InvalidRequest(f"at most {MAX_REASON_CHARS} characters", field="reason")
        check_request_id(request.request_id)
        node_id = getattr(request, "node_id", "")
        if "node_id" in request.DESCRIPTOR.fields_by_name and not node_id:
            raise InvalidRequest("is needed", field="node_id")
        if node_id:
            await self._client.get_node(request.project_id, node_id)
        command = command_pb2.Command(
            command_id=_command_id(kind, request.project_id, request.request_id),
            type=kind,
            actor=request.actor,
            message=request.reason,
            node_id=node_id,
        )
        revision = await self._write(request, command)
        self._supervisor.take_up(request.project_id)
        return pb.CommandReceipt(
            command_id=command.command_id,
            revision=revision,
            state=command_pb2.CommandState.COMMAND_STATE_OPEN,
        )

    async def _write(self, request: _OrderRequest, command: command_pb2.Command) -> int:
        """Make an order durable; return its revision. Some orders reopen a project that ended."""
        project_id, request_id = request.project_id, request.request_id
        try:
            return await self._client.give_command(project_id, command, request_id=request_id)
        except ProjectEnded:
            if not isinstance(request, pb.RetryNodeRequest | pb.ReplanNodeRequest):
                raise
        project = await self._client.get_project(project_id)
        state = read_project_state(project.state)
        _check_reopening(request, project, state)
        backoff = Backoff()
        while True:
            try:
                return await self._client.give_command(
                    project_id, command, request_id=request_id, reopens=state
                )
            except ProducerFenced:  # the runner that ended it still holds the lease
                if backoff.failures >= REOPENING_TRIES:
                    raise
                await asyncio.sleep(backoff.next_delay())

    async def carry_out(
        self, request: _OrderRequest, kind: command_pb2.CommandType.ValueType
    ) -> pb.CommandReceipt:
        """Make an order durable and wait for its answer. Raises `CommandRefused`.

        The receipt says OPEN if nobody answered in time: the order is durable all the same.
        """
        receipt = await self.give(request, kind)
        command = await self._client.command_answer(
            request.project_id, receipt.command_id, receipt.revision, ANSWER_SECONDS
        )
        if command is None:
            return receipt
        if command.state == command_pb2.CommandState.COMMAND_STATE_REFUSED:
            raise CommandRefused(
                command.answer, project_id=request.project_id, command_id=command.command_id
            )
        receipt.state = command.state
        receipt.answer = command.answer
        return receipt


def _check_reopening(
    request: pb.RetryNodeRequest | pb.ReplanNodeRequest,
    project: project_pb2.Project,
    state: ProjectState,
) -> None:
    """Raise `CommandRefused` if an order about an ended project cannot have an effect (SEM 25)."""
    node_id, root_id = request.node_id, project.root_node_id
    if state is ProjectState.CANCELLED:
        raise CommandRefused(
            "the project is CANCELLED and that is final; ForkProject copies it",
            project_id=project.project_id,
        )
    if node_id != root_id:
        raise CommandRefused(
            f"the project is {state}, so what is above {node_id} has ended; ReplanNode {root_id} "
            "takes it up again, ForkProject goes back to an earlier revision",
            project_id=project.project_id,
        )
    if isinstance(request, pb.RetryNodeRequest) and state is not ProjectState.FAILED:
        raise CommandRefused(
            f"{root_id} is DONE; ReplanNode {root_id} makes a new plan",
            project_id=project.project_id,
        )


def check_request_id(request_id: str) -> None:
    """Raise `InvalidRequest` for a request id that is too long."""
    if len(request_id) > MAX_REQUEST_ID_CHARS:
        raise InvalidRequest(f"at most {MAX_REQUEST_ID_CHARS} characters", field="request_id")


def _command_id(kind: command_pb2.CommandType.ValueType, project_id: str, request_id: str) -> str:
    """Return the id of an order: the same for the same request, so that a repeat is one order."""
    name = command_pb2.CommandType.Name(kind).removeprefix("COMMAND_TYPE_")
    prefix = name.lower().replace("_project", "").replace("_", "-") + "-"
    if not request_id:
        return prefix + secrets.token_hex(_COMMAND_ID_BYTES)
    digest = hashlib.sha256(f"{project_id}\0{request_id}".encode()).hexdigest()
    return prefix + digest[: 2 * _COMMAND_ID_BYTES]
