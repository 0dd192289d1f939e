"""Puts what is too large for a batch into the payload store, and gets it back (SEM 12, 28).

A large body leaves the run as soon as its call has ended: from then on a digest stands for it, and
its bytes wait in the buffer of the mutation stream, in memory or in the spool, until the payload
store has them. Only then the batch goes that names them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc

from orchestrator_svc.errors import (
    Overloaded,
    ServerDraining,
    StoreUnavailable,
)
from orchestrator_svc.graph.event import CallEnded, Produced
from orchestrator_svc.graph.mutation import AddStage, Mutation, OpenReview, PatchNode
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.trace import Body, ToolCall, Trace
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.errors_in import from_rpc
from orchestrator_svc.publish.spill import Kept, SpillBuffer
from ramify.v1 import mutation_pb2, payload_pb2
from ramify.v1 import state_service_pb2 as pb

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

MAX_BODY_BYTES = 16 << 20  #: what the payload store takes
MAX_RESULT_INLINE = 4 << 10  #: bytes of a node's result, and of a stage's output, in a batch
MAX_STAGE_INLINE = 1 << 10  #: bytes of any other body of a stage record in a batch
MAX_EXCERPT_CHARS = 2_048  #: of a text that is not held; more than any sibling is shown
MAX_SMALL_PUTS = 64  #: bodies that are being put at one time
MAX_LARGE_PUTS = 4  #: of those above `_SMALL_BYTES`
_SMALL_BYTES = 64 << 10
_PIECE = 512 << 10
_MOST_CHAR_BYTES = 4  #: of one character in UTF-8
_TIMEOUT = 60.0  #: seconds of one transfer
_KNOWN_SECONDS = 600.0  #: state_svc keeps what nobody names for an hour
_MAX_KNOWN = 10_000
_PASSES = (StoreUnavailable, Overloaded, ServerDraining)


class Bodies:
    """The payload store as this orchestrator uses it, and what is on its way there."""

    def __init__(self, stub: StateServiceAsyncStub, buffer: SpillBuffer) -> None:
        self._stub = stub
        self._buffer = buffer
        self._kept: dict[str, dict[str, Kept]] = {}  #: by project and digest, to be put
        self._known: dict[str, float] = {}  #: when a digest was put, monotonic
        self._small = asyncio.Semaphore(MAX_SMALL_PUTS)
        self._large = asyncio.Semaphore(MAX_LARGE_PUTS)

    def forget(self) -> None:
        """Assume nothing to be there any more: the store may be another, or an earlier one."""
        self._known.clear()

    def keep(self, project_id: str, data: bytes) -> str:
        """Take a body that a batch is going to name; return its digest."""
        digest = f"sha256:{sha256(data).hexdigest()}"
        kept = self._kept.setdefault(project_id, {})
        if digest not in kept:
            kept[digest] = self._buffer.keep(data)
        return digest

    def drop(self, project_id: str) -> None:
        """Let go of what waits of a project: nobody writes to it any more."""
        for kept in self._kept.pop(project_id, {}).values():
            self._buffer.release(kept)

    def without_large(self, project_id: str, ended: CallEnded) -> CallEnded:
        """Return the end of a call with references in place of its large bodies, which are kept."""
        outcome, trace = ended.outcome, ended.trace
        if isinstance(outcome, Produced):
            outcome = Produced(self._short_result(project_id, outcome.result))
        if trace is not None:
            trace = self._short_trace(project_id, trace)
        return replace(ended, outcome=outcome, trace=trace)

    def _short_result(self, project_id: str, result: Result) -> Result:
        if result.digest or _most_bytes(result) <= MAX_RESULT_INLINE:
            return result
        is_text = not result.data
        data = result.text.encode() if is_text else result.data
        if len(data) <= MAX_RESULT_INLINE:
            return result
        return Result(
            result.content_type,
            summary=result.summary,
            digest=self.keep(project_id, data),
            is_text=is_text,
            excerpt="" if result.summary else result.text[:MAX_EXCERPT_CHARS],
        )

    def _short_trace(self, project_id: str, trace: Trace) -> Trace:
        if not may_have_large(trace):
            return trace

        def short(body: Body | None, limit: int = MAX_STAGE_INLINE) -> Body | None:
            return None if body is None else self._short_body(project_id, body, limit)

        def short_call(call: ToolCall) -> ToolCall:
            return replace(call, arguments=short(call.arguments), result=short(call.result))

        return replace(
            trace,
            input=self._short_body(project_id, trace.input, MAX_STAGE_INLINE),
            output=short(trace.output, MAX_RESULT_INLINE),
            prompt=short(trace.prompt),
            response=short(trace.response),
            tool_calls=tuple(short_call(call) for call in trace.tool_calls),
        )

    def _short_body(self, project_id: str, body: Body, limit: int) -> Body:
        if body.digest or _most_bytes(body) <= limit:
            return body
        data = body.data or body.text.encode()
        if len(data) <= limit:
            return body
        if len(data) > MAX_BODY_BYTES:
            return Body(body.content_type, _refused(data))
        digest = self.keep(project_id, data)
        return Body(body.content_type, digest=digest, is_text=not body.data)

    def move_out(self, project_id: str, messages: Iterable[mutation_pb2.Mutation]) -> set[str]:
        """Replace what is large in some mutations by references.

        Return the digests of kept bodies that they name now: these are to be `put` before them.
        """
        named: set[str] = set()
        for message in messages:
            for payload, limit in _bodies(message):
                if payload.WhichOneof("body") != "ref":
                    self._replace(project_id, payload, limit)
                if payload.HasField("ref"):
                    named.add(payload.ref.digest)
        return named & self._kept.get(project_id, {}).keys()

    def _replace(self, project_id: str, payload: payload_pb2.Payload, limit: int) -> None:
        if _size(payload) <= limit:
            return
        is_text = payload.HasField("text")
        data = payload.text.encode() if is_text else payload.data
        if len(data) > MAX_BODY_BYTES:
            payload.text = _refused(data)
            return
        digest = self.keep(project_id, data)
        payload.ref.CopyFrom(payload_pb2.PayloadRef(digest=digest, is_text=is_text))

    async def put(self, project_id: str, digests: AbstractSet[str]) -> None:
        """Make bodies that are kept durable, and keep them no more. Waits for a store that is away.

        Raises `RamifyError`: why it never takes them, or `CorruptRecord` if the spool is damaged.
        """
        async with asyncio.TaskGroup() as group:
            for digest in digests:
                group.create_task(self._put(project_id, digest), name="put-body")

    async def _put(self, project_id: str, digest: str) -> None:
        kept = self._kept[project_id][digest]
        backoff = Backoff()
        while not self._is_known(digest):
            try:
                await self._put_once(digest, kept)
            except grpc.aio.AioRpcError as error:
                cause = from_rpc(error)
                if not isinstance(cause, _PASSES):
                    raise cause from error
                await asyncio.sleep(backoff.next_delay())
            except grpc.aio.UsageError as error:
                raise StoreUnavailable("the connection to the state service is closed") from error
            else:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[digest] = time.monotonic()
        self._kept[project_id].pop(digest, None)
        self._buffer.release(kept)

    async def _put_once(self, digest: str, kept: Kept) -> None:
        # Only who has a permit holds in memory what was in the spool.
        async with self._small if kept.size <= _SMALL_BYTES else self._large:
            data = self._buffer.read(kept)
            await self._stub.PutPayload(_parts(data, digest), timeout=_TIMEOUT)

    def _is_known(self, digest: str) -> bool:
        return self._known.get(digest, float("-inf")) > time.monotonic() - _KNOWN_SECONDS

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
    """Return whether some body of a mutation may not be in a batch; cheap, and cautious."""
    if isinstance(mutation, PatchNode):
        result = mutation.changes.get("result")
        return result is not None and _may_leave(result, MAX_RESULT_INLINE)
    if isinstance(mutation, AddStage):
        return may_have_large(mutation.trace)
    return isinstance(mutation, OpenReview)


def may_have_large(trace: Trace) -> bool:
    """Return whether some body of a stage record may not be in a batch."""
    bodies = (trace.input, trace.prompt, trace.response)
    return (
        bool(trace.tool_calls)
        or (trace.output is not None and _may_leave(trace.output, MAX_RESULT_INLINE))
        or any(body is not None and _may_leave(body, MAX_STAGE_INLINE) for body in bodies)
    )


def _may_leave(body: Body | Result, limit: int) -> bool:
    return bool(body.digest) or _most_bytes(body) > limit


def _refused(data: bytes) -> str:
    return f"({len(data)} bytes, which no payload may have)"


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
