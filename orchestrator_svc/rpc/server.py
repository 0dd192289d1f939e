"""Builds the gRPC server: handlers by the descriptor, errors, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # noqa: F401 - so that reflection knows it
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from orchestrator_svc.errors import InvalidRequest, RamifyError, StartupError, leaves
from orchestrator_svc.logs import get_logger
from orchestrator_svc.publish.channel import KEEPALIVE_OPTIONS
from orchestrator_svc.rpc.error_map import to_status
from orchestrator_svc.rpc.reflection_v1 import add_descriptor
from orchestrator_svc.rpc.servicer import OrchestratorServicer
from ramify.v1 import explain_pb2, orchestrator_service_pb2

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

SERVICE = orchestrator_service_pb2.DESCRIPTOR.services_by_name["OrchestratorService"]
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
MAX_REQUEST_BYTES = 2 << 20  #: a plan has up to 1 MiB

#: A server with default options ends a stream whose client pings as often as ours do.
SERVER_OPTIONS: list[tuple[str, int]] = [
    *KEEPALIVE_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.so_reuseport", 0),
]

_log = get_logger(__name__)


class RpcServer:
    """The listening end of the service."""

    def __init__(self, servicer: OrchestratorServicer) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "StartProject": _unary(
                servicer.start_project, orchestrator_service_pb2.StartProjectRequest
            ),
            "CancelProject": _unary(
                servicer.cancel_project, orchestrator_service_pb2.CancelProjectRequest
            ),
            "PauseProject": _unary(
                servicer.pause_project, orchestrator_service_pb2.PauseProjectRequest
            ),
            "ResumeProject": _unary(
                servicer.resume_project, orchestrator_service_pb2.ResumeProjectRequest
            ),
            "ResolveReview": _unary(
                servicer.resolve_review, orchestrator_service_pb2.ResolveReviewRequest
            ),
            "CancelNode": _unary(servicer.cancel_node, orchestrator_service_pb2.CancelNodeRequest),
            "RetryNode": _unary(servicer.retry_node, orchestrator_service_pb2.RetryNodeRequest),
            "ReplanNode": _unary(servicer.replan_node, orchestrator_service_pb2.ReplanNodeRequest),
            "GetRunner": _unary(servicer.get_runner, orchestrator_service_pb2.GetRunnerRequest),
            "ExplainProject": _unary(
                servicer.explainer.explain_project, explain_pb2.ExplainProjectRequest
            ),
            "ExplainNode": _unary(servicer.explainer.explain_node, explain_pb2.ExplainNodeRequest),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._add_reflection()

    def _add_reflection(self) -> None:
        """Serve reflection as v1alpha and, for today's grpcurl, as v1: equal on the wire."""
        names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME, REFLECTION_V1)
        add_descriptor()
        reflection.enable_server_reflection(names, self._server)
        servicer = reflection.aio.ReflectionServicer(names)
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    REFLECTION_V1, {"ServerReflectionInfo": handler}
                ),
            )
        )

    async def listen(self, address: str) -> str:
        """Start to serve; return the address with the port in use. Raises `StartupError`."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(
                f"{address} cannot be listened on; stop what uses it, or pass another --listen"
            ) from error
        await self._server.start()
        for name in ("", SERVICE.full_name):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return f"{address.rpartition(':')[0]}:{port}"

    async def stop_accepting(self) -> None:
        """Report NOT_SERVING; calls under way go on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """End what is still open after `grace` seconds."""
        await self._server.stop(grace)


def _unary(
    handler: Callable[[RequestT], Awaitable[ResponseT]], request: type[RequestT]
) -> grpc.RpcMethodHandler[RequestT | None, ResponseT]:
    async def call(
        message: RequestT | None,
        context: grpc.aio.ServicerContext[RequestT | None, ResponseT],
    ) -> ResponseT:
        try:
            if message is None:
                raise InvalidRequest("the bytes are not a message of this method")
            return await handler(message)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not all(isinstance(cause, RamifyError) for cause in leaves(error)):
                _log.error("unexpected error in a call", exc_info=error)
            await context.abort_with_status(rpc_status.to_status(to_status(error)))
            raise

    def parse(data: bytes) -> RequestT | None:
        """Never raise: gRPC would answer UNKNOWN with our class names."""
        try:
            return request.FromString(data)
        except DecodeError:
            return None

    return grpc.unary_unary_rpc_method_handler(call, parse, _serialize)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
