"""Builds the gRPC server: handlers by the descriptor, errors, health and reflection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import symbol_database
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # noqa: F401 - so that reflection knows it
from grpc_health.v1 import health_pb2

from ramify.v1 import state_service_pb2
from state_svc.errors import AddressInUse
from state_svc.rpc.abort import abort
from state_svc.rpc.admin import AdminRpcs
from state_svc.rpc.backup import BackupRpcs
from state_svc.rpc.convert import NO_MESSAGE, Unparsed, check_parsed
from state_svc.rpc.gate import Gate
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.idle import Pace, received, sent
from state_svc.rpc.leases import LeaseRpcs
from state_svc.rpc.nodes import NodeRpcs
from state_svc.rpc.options import server_options
from state_svc.rpc.payloads import PayloadRpcs
from state_svc.rpc.pins import PinRpcs
from state_svc.rpc.portable import PortableRpcs
from state_svc.rpc.projects import ProjectRpcs
from state_svc.rpc.reviews import ReviewRpcs
from state_svc.rpc.stages import StageRpcs
from state_svc.rpc.standard import BoundedHealth, add_standard_services
from state_svc.rpc.stream import StreamSession, StreamSessions
from state_svc.rpc.watch import WatchRpcs
from state_svc.service import Service

SERVICE = state_service_pb2.DESCRIPTOR.services_by_name["StateService"]

MAX_TRANSFERS = 250  #: uploads and downloads under way; they may last, so no call waits for them
MAX_LEASE_CALLS = 1_000  #: apart from others, which may not cost anybody a lease
_LEASE_CALLS = frozenset({"AcquireLease", "RenewLeases", "ReleaseLease"})

Unary = Callable[[Any], Awaitable[Message]]
Stream = Callable[[Any], AsyncGenerator[bytes, None]]
Upload = Callable[[AsyncIterator[Any]], Awaitable[Message]]


class RpcServer:
    """The listening end of the service."""

    def __init__(self, service: Service, sqlite_version: str) -> None:
        self.sessions = StreamSessions(service)
        self._service = service
        self._streams = Gate("max_streams", service.limits.max_streams)
        left = service.requests.left
        self._calls = Gate("max_calls", service.limits.max_calls, lambda: left.count)
        self._transfers = Gate("transfers", MAX_TRANSFERS)
        self._lease_calls = Gate("lease calls", MAX_LEASE_CALLS)
        self._health = BoundedHealth()
        self._server = grpc.aio.server(options=server_options(service.limits.max_message_bytes))
        projects, nodes = ProjectRpcs(service), NodeRpcs(service)
        history, reviews = HistoryRpcs(service), ReviewRpcs(service)
        leases, admin = LeaseRpcs(service), AdminRpcs(service, sqlite_version)
        pins = PinRpcs(service)
        unary: dict[str, Unary] = {
            "CommitBatch": projects.commit_batch,
            "CreateProject": projects.create_project,
            "GetProject": projects.get_project,
            "ListProjects": projects.list_projects,
            "FlushProject": projects.flush_project,
            "DiffProject": history.diff_project,
            "ForkProject": history.fork_project,
            "CompactProject": history.compact_project,
            "DeleteProject": history.delete_project,
            "PinRevision": pins.pin_revision,
            "UnpinRevision": pins.unpin_revision,
            "GetNode": nodes.get_node,
            "ListNodes": nodes.list_nodes,
            "ListNodeHistory": nodes.list_node_history,
            "ListStages": StageRpcs(service).list_stages,
            "GetReview": reviews.get_review,
            "ListReviews": reviews.list_reviews,
            "AcquireLease": leases.acquire_lease,
            "RenewLeases": leases.renew_leases,
            "ReleaseLease": leases.release_lease,
            "GetServerInfo": admin.get_server_info,
            "GetStats": admin.get_stats,
        }
        portable, payloads = PortableRpcs(service), PayloadRpcs(service)
        streams: dict[str, Stream] = {
            "WatchProject": WatchRpcs(service).watch_project,
            "Backup": BackupRpcs(service).backup,
            "ExportProject": portable.export_project,
            "GetPayload": payloads.get_payload,
        }
        uploads: dict[str, Upload] = {
            "ImportProject": portable.import_project,
            "PutPayload": payloads.put_payload,
        }
        self._add_handlers(unary, streams, uploads)
        add_standard_services(self._server, self._health, SERVICE.full_name)

    async def listen(self, address: str) -> int:
        """Start to serve; return the port. Raises `AddressInUse`."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise AddressInUse(listen=address) from error
        if not port:
            raise AddressInUse(listen=address)
        await self._server.start()
        for name in ("", SERVICE.full_name):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop_accepting(self) -> None:
        """Report NOT_SERVING; calls under way go on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """End what is still open after `grace` seconds."""
        await self._server.stop(grace)

    def _add_handlers(
        self, unary: dict[str, Unary], streams: dict[str, Stream], uploads: dict[str, Upload]
    ) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in SERVICE.methods:
            request = symbol_database.Default().GetSymbol(method.input_type.full_name)
            parser = _parser(request, self._service.limits.max_message_bytes)
            if method.name == "StreamMutations":
                handlers[method.name] = grpc.stream_stream_rpc_method_handler(
                    # Of a frame that is too large each batch is rejected.
                    self._stream_mutations,
                    _parser(request),
                    _serialize,
                )
            elif method.client_streaming:
                handlers[method.name] = grpc.stream_unary_rpc_method_handler(
                    _uploading(uploads[method.name], self._transfers), parser, _serialize
                )
            elif method.server_streaming:
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(
                    # Watches have a bound of their own, and a slow watcher harms nobody.
                    _watching(streams[method.name])
                    if method.name == "WatchProject"
                    else _downloading(streams[method.name], self._transfers),
                    parser,
                    _serialize,
                )
            else:
                gate = self._lease_calls if method.name in _LEASE_CALLS else self._calls
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                    _unary(unary[method.name], gate), parser, _serialize
                )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),)
        )

    async def _stream_mutations(
        self, _: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        session = StreamSession(self._service, self.sessions, context)
        try:
            self._service.check_open()
            with self._streams.enter():
                await session.run()
        except Exception as error:
            await abort(context, error)


def _unary(
    handler: Unary, gate: Gate
) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            with gate.enter():
                return await handler(check_parsed(request))
        except Exception as error:
            await abort(context, error)

    return call


def _watching(
    handler: Stream,
) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            async with aclosing(handler(check_parsed(request))) as messages:
                async for message in messages:
                    await context.write(message)
        except Exception as error:
            await abort(context, error)

    return call


def _downloading(
    handler: Stream, gate: Gate
) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            with gate.enter():
                pace = Pace()
                async with aclosing(handler(check_parsed(request))) as messages:
                    async for message in messages:
                        await sent(context.write(message), len(message), pace)
        except Exception as error:
            await abort(context, error)

    return call


def _uploading(
    handler: Upload, gate: Gate
) -> Callable[[AsyncIterator[Any], grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
    async def call(
        requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        try:
            with gate.enter():
                async with aclosing(received(requests)) as messages:
                    return await handler(check_parsed(message) async for message in messages)
        except Exception as error:
            await abort(context, error)

    return call


def _parser(request: Any, max_bytes: int | None = None) -> Callable[[bytes], Any]:
    """Return a deserializer that never raises: gRPC would answer UNKNOWN with our class names.

    It takes no message of more than `max_bytes`.
    """

    def parse(data: bytes) -> Any:
        if max_bytes is not None and len(data) > max_bytes:
            return Unparsed(f"has {len(data)} bytes, at most {max_bytes} are allowed")
        try:
            return request.FromString(data)
        except DecodeError:
            return NO_MESSAGE

    return parse


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def bound_address(listen: str, port: int) -> str:
    """Return the address with the port that was picked."""
    return f"{listen.rpartition(':')[0]}:{port}"


__all__: Sequence[str] = ("SERVICE", "RpcServer", "bound_address")
