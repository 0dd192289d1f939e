"""The services that every gRPC server is expected to have: health and reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import symbol_database
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from state_svc.rpc.abort import abort
from state_svc.rpc.gate import Gate
from state_svc.rpc.reflection_v1 import add_descriptor

MAX_HEALTH_WATCHES = 1_000
MAX_REFLECTIONS = 100

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class BoundedHealth(health.aio.HealthServicer):
    """Lets so many watch at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._watches = Gate("health watches", MAX_HEALTH_WATCHES)

    async def Watch(self, request: Any, context: Any) -> None:
        """Send the state of a service and what becomes of it, as long as the client listens."""
        try:
            with self._watches.enter():
                await super().Watch(request, context)
        except Exception as error:
            await abort(context, error)


def add_standard_services(server: grpc.aio.Server, servicer: BoundedHealth, name: str) -> None:
    """Add health, and reflection of it and of the service `name`."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (name, health.SERVICE_NAME, reflection.SERVICE_NAME, _REFLECTION_V1)
    add_descriptor()
    reflect = _reflecting(
        reflection.aio.ReflectionServicer(names), Gate("reflections", MAX_REFLECTIONS)
    )
    v1alpha = reflection.SERVICE_NAME
    handler = grpc.stream_stream_rpc_method_handler(
        reflect, _message("ServerReflectionRequest", v1alpha).FromString, _serialize
    )
    # Today's grpcurl asks for v1, whose messages are the same on the wire.
    for each in (v1alpha, _REFLECTION_V1):
        handlers = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(each, handlers),))


def _reflecting(servicer: Any, gate: Gate) -> Any:
    async def call(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            with gate.enter():
                async for answer in servicer.ServerReflectionInfo(requests, context):
                    yield answer
        except Exception as error:
            await abort(context, error)

    return call


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _message(name: str, service_name: str) -> Any:
    package = service_name.rpartition(".")[0]
    return symbol_database.Default().GetSymbol(f"{package}.{name}")
