"""Puts what is too large for a batch into the payload store, and gets it back (SEM 12, 28)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc

from orchestrator_svc.errors import (
    Overloaded,
    ServerDraining,
    StoreUnavailable,
)
from orchestrator_svc.graph.mutation import AddStage, Mutation, OpenReview, PatchNode
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.trace import Body
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.errors_in import from_rpc
from ramify.v1 import mutation_pb2, payload_pb2
from ramify.v1 import state_service_pb2 as pb

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

MAX_BODY_BYTES = 16 << 20  #: what the payload store takes
MAX_RESULT_INLINE = 4 << 10  #: bytes of a node's result, and of a stage's output, in a batch
MAX_STAGE_INLINE = 1 << 10  #: bytes of any other body of a stage record in a batch
_PIECE = 512 << 10
_MOST_CHAR_BYTES = 4  #: of one character in UTF-8
_TIMEOUT = 60.0  #: seconds of one transfer
_KNOWN_SECONDS = 600.0  #: state_svc keeps what nobody names for an hour
_MAX_KNOWN = 10_000
_PASSES = (StoreUnavailable, Overloaded, ServerDraining)


class Bodies:
    """The payload store as this orchestrator uses it."""

    def __init__(self, stub: StateServiceAsyncStub) -> None:
        self._stub = stub
        self._known: dict[str, float] = {}  #: when a digest was put, monotonic

    def forget(self) -> None:
        """Assume nothing to be there any more: the store may be another, or an earlier one."""
        self._known.clear()

    async def move_out(self, messages: Iterable[mutation_pb2.Mutation]) -> None:
        """Replace every large body in some mutations by a reference, once it is durable.

        Waits for a store that is away.
        """
        large = [
            payload
            for message in messages
            for payload, limit in _bodies(message)
            if payload.WhichOneof("body") != "ref" and _size(payload) > limit
        ]
        contents: dict[str, bytes] = {}
        for payload in large:
            data = payload.text.encode() if payload.HasField("text") else payload.data
            if len(data) > MAX_BODY_BYTES:
                payload.text = f"({len(data)} bytes, which no payload may have)"
                continue
            digest = f"sha256:{sha256(data).hexdigest()}"
            contents[digest] = data
            payload.ref.CopyFrom(
                payload_pb2.PayloadRef(digest=digest, is_text=payload.HasField("text"))
            )
        if contents:
            await asyncio.gather(*(self._put(*item) for item in contents.items()))

    async def _put(self, digest: str, data: bytes) -> None:
        if self._known.get(digest, float("-inf")) > time.monotonic() - _KNOWN_SECONDS:
            return
        backoff = Backoff()
        while True:
            try:
                await self._stub.PutPayload(_parts(data, digest), timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                cause = from_rpc(error)
                if not isinstance(cause, _PASSES):
                    raise cause from error
            except grpc.aio.UsageError as error:
                raise StoreUnavailable("the connection to the state service is closed") from error
            else:
                break
            await asyncio.sleep(backoff.next_delay())
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[digest] = time.monotonic()

    async def fetch(self, project_id: str, result: Result) -> Result:
        """Return a result with its body, wherever that lies. Raises `RamifyError`."""
        if not result.digest:
            return result
        request = pb.GetPayloadRequest(project_id=project_id, digest=result.digest)
        try:
            call = self._stub.GetPayload(request, timeout=_TIMEOUT)
            data = b"".join([message.data async for message in call])
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        if result.is_text:
            text = data.decode(errors="replace")
            return Result(result.content_type, text=text, summary=result.summary)
        return Result(result.content_type, data=data, summary=result.summary)


def may_be_large(mutation: Mutation) -> bool:
    """Return whether some body of a mutation may be too large for a batch; cheap, and cautious."""
    if isinstance(mutation, PatchNode):
        result = mutation.changes.get("result")
        return result is not None and _most_bytes(result) > MAX_RESULT_INLINE
    if isinstance(mutation, AddStage):
        trace = mutation.trace
        bodies = (trace.input, trace.prompt, trace.response)
        return (
            bool(trace.tool_calls)
            or (trace.output is not None and _most_bytes(trace.output) > MAX_RESULT_INLINE)
            or any(body is not None and _most_bytes(body) > MAX_STAGE_INLINE for body in bodies)
        )
    return isinstance(mutation, OpenReview)


def _most_bytes(body: Body | Result) -> int:
    text = body.text
    return len(body.data) or (len(text) if text.isascii() else len(text) * _MOST_CHAR_BYTES)


def _bodies(message: mutation_pb2.Mutation) -> Iterator[tuple[payload_pb2.Payload, int]]:
    """Yield the bodies of a mutation and how large each may be in a batch."""
    kind = message.WhichOneof("target")
    if kind == "node":
        if message.node.patch.HasField("result"):
            yield message.node.patch.result, MAX_RESULT_INLINE
    elif kind == "review":
        if message.review.create.HasField("result"):
            yield message.review.create.result, MAX_RESULT_INLINE
    elif kind == "stage":
        record = message.stage.create
        # A result is in the same batch, where it costs nothing a second time.
        if record.HasField("output"):
            yield record.output, MAX_RESULT_INLINE
        for name in ("input", "prompt", "response"):
            if record.HasField(name):
                yield getattr(record, name), MAX_STAGE_INLINE
        for call in record.tool_calls:
            if call.HasField("arguments"):
                yield call.arguments, MAX_STAGE_INLINE
            if call.HasField("result"):
                yield call.result, MAX_STAGE_INLINE


def _size(payload: payload_pb2.Payload) -> int:
    if payload.HasField("data"):
        return len(payload.data)
    text = payload.text
    return len(text) if text.isascii() else len(text.encode())


async def _parts(data: bytes, digest: str) -> AsyncIterator[pb.PutPayloadRequest]:
    yield pb.PutPayloadRequest(digest=digest, data=data[:_PIECE])
    for start in range(_PIECE, len(data), _PIECE):
        yield pb.PutPayloadRequest(data=data[start : start + _PIECE])
