"""What all calls of a client share: both services, who calls, and how often a call is tried."""

from typing import TYPE_CHECKING, TypeVar

import grpc.aio
from google.protobuf.message import Message

from ramify.addresses import orchestrator_address, state_address
from ramify.calls import CallPolicy, call, new_request_id
from ramify.channel import open_channel
from ramify.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from ramify.v1.state_service_pb2_grpc import StateServiceStub

if TYPE_CHECKING:  # exist in the stub files only
    from ramify.v1.orchestrator_service_pb2_grpc import OrchestratorServiceAsyncStub
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Connection:
    """Both services as the calls of a client use them. Belongs to one event loop."""

    def __init__(
        self, state: str | None, orchestrator: str | None, actor: str, policy: CallPolicy | None
    ) -> None:
        self.state_address = state_address(state)
        self.orchestrator_address = orchestrator_address(orchestrator)
        self._actor = actor
        self._policy = policy or CallPolicy()
        self._state_channel = open_channel(self.state_address)
        self._orchestrator_channel = open_channel(self.orchestrator_address)
        self._state: StateServiceAsyncStub = StateServiceStub(self._state_channel)
        self._orchestrator: OrchestratorServiceAsyncStub = OrchestratorServiceStub(
            self._orchestrator_channel
        )

    async def aclose(self) -> None:
        """Close the connections; open calls and watches end."""
        await self._state_channel.close()
        await self._orchestrator_channel.close()

    async def _ask_state(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        return await call(method, request, address=self.state_address, policy=self._policy)

    async def _ask_orchestrator(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        return await call(method, request, address=self.orchestrator_address, policy=self._policy)

    def _order(self, project_id: str, reason: str, request_id: str) -> dict[str, str]:
        """Return the fields that every order has."""
        return {
            "project_id": project_id,
            "request_id": request_id or new_request_id(),
            "reason": reason,
            "actor": self._actor,
        }
