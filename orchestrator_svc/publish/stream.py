"""The one mutation stream to state_svc, for all projects: reconnects, resends, never drops.

Owns the outbox. Runners call `offer` and get a future that resolves to the batch's revision
when it is durable, or raises what state_svc refused it with. Whatever ends a connection, the
outbox goes on with the next one; only a newer epoch of the same producer ends the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from orchestrator_svc.errors import (
    CorruptRecord,
    InvalidMutation,
    ProducerFenced,
    ProjectReplaced,
    RamifyError,
)
from orchestrator_svc.logs import get_logger
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.encode import (
    SEQUENCE_BYTES,
    concerned_node,
    encode_batch,
    frame_request,
)
from orchestrator_svc.publish.errors_in import TRANSIENT, from_rpc, from_stream
from orchestrator_svc.publish.outbox import Entry, LaneState, Outbox, PositionLost
from orchestrator_svc.publish.spill import SpillBuffer
from orchestrator_svc.publish.spool import Spool
from orchestrator_svc.publish.ticket import Ticket, Tickets
from ramify.v1 import state_service_pb2
from ramify.v1.error_pb2 import ErrorReason

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

MAX_HELD_BATCHES = 20_000  #: `offer` waits above it
MAX_HELD_BYTES = 64 << 20  #: in memory
FRAME_MARGIN_BYTES = 64 << 10  #: left free in a frame for what is not a batch

_GAP = ErrorReason.ERROR_REASON_SEQUENCE_GAP

_log = get_logger(__name__)

Request = state_service_pb2.StreamMutationsRequest
Response = state_service_pb2.StreamMutationsResponse
Call = grpc.aio.StreamStreamCall[Request, Response]
_Entry = tuple[str, Entry[Ticket]]  #: project, batch
_Place = tuple[str, int]  #: project, sequence


class _ConnectionEnded(Exception):
    """The stream is over; the next connection continues."""


class MutationStream:
    """Sends batches of all projects in order and exactly once. Owned by the event loop."""

    def __init__(
        self,
        stub: StateServiceAsyncStub,
        *,
        producer_id: str,
        epoch: int,
        metrics: Metrics,
        spool: Spool | None = None,
    ) -> None:
        self.buffer = SpillBuffer(spool, metrics)  #: of all that waits to be sent
        self._tickets = Tickets(self.buffer, metrics)
        self._stub = stub
        self._producer_id = producer_id
        self._epoch = epoch
        self._epoch_raised = False
        self._metrics = metrics
        self._outbox: Outbox[Ticket] = Outbox()
        self._attach_waiters: dict[str, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()  #: set and replaced whenever room or idleness may come
        self._welcomed = asyncio.Event()
        self._draining = False  #: the server stops; only its answers are read
        self._store_id = ""
        self.connections = 0  #: so far; each may be to another store
        self._backoff = Backoff()
        self.limits = state_service_pb2.Limits(
            max_batch_mutations=5_000,
            max_batch_bytes=3 << 20,
            max_frame_batches=1_000,
            max_message_bytes=4 << 20,
        )

    @property
    def epoch(self) -> int:
        """Generation of this producer."""
        return self._epoch

    @property
    def held_batches(self) -> int:
        """Batches that are not acked."""
        return self._outbox.held_batches

    @property
    def held_bytes(self) -> int:
        """Bytes in memory of batches that are not acked."""
        return self._tickets.memory_bytes

    @property
    def has_room(self) -> bool:
        """Whether `offer` would not wait."""
        return self.held_batches < MAX_HELD_BATCHES and self.held_bytes < MAX_HELD_BYTES

    async def ready(self) -> None:
        """Wait until state_svc has welcomed this producer for the first time."""
        await self._welcomed.wait()

    # For runners

    async def open_lane(self, project_id: str, project_uid: str) -> None:
        """Begin to write to a project; returns when its position is known.

        Goes on waiting while state_svc refuses for now. Raises `ProjectReplaced`,
        `ProjectNotFound`, or what else state_svc answers.
        """
        self._outbox.open_lane(project_id, project_uid)
        waiter = asyncio.get_running_loop().create_future()
        self._attach_waiters[project_id] = waiter
        self._wake.set()
        try:
            await waiter
        except BaseException:
            self.close_lane(project_id)
            raise
        finally:
            self._attach_waiters.pop(project_id, None)

    def close_lane(self, project_id: str) -> None:
        """Write no more to a project; futures of unacked batches are cancelled."""
        for ticket in self._outbox.close_lane(project_id):
            self._tickets.dropped(ticket)
        self._progressed()

    async def quiesce(self, project_id: str) -> None:
        """Wait until nothing of a project's closed lane can become durable any more."""
        while self._outbox.lane(project_id) is not None:
            await self._progress.wait()

    async def offer(
        self, project_id: str, mutations: Sequence[bytes], *, lease_epoch: int
    ) -> asyncio.Future[int]:
        """Append a batch of encoded mutations; waits for room.

        Raises `ProjectReplaced` if the lane was ended.
        """
        outbox = self._outbox
        while not self.has_room:
            await self._progress.wait()
        lane = outbox.lane(project_id)
        if lane is None or lane.state is LaneState.CLOSED:
            raise ProjectReplaced(project_id=project_id)
        batch = encode_batch(project_id, lease_epoch, mutations)
        ticket = self._tickets.issue(batch)
        outbox.offer(project_id, ticket, len(batch) + SEQUENCE_BYTES)
        self._wake.set()
        return ticket.future

    async def flush(self) -> None:
        """Wait until every batch is acked."""
        while self._outbox.held_batches:
            await self._progress.wait()

    # The connection

    async def run(self) -> None:
        """Keep a connection until cancelled. Raises `ProducerFenced` when replaced."""
        while True:
            try:
                await self._connection()
            except (_ConnectionEnded, grpc.aio.AioRpcError) as error:
                cause = from_rpc(error) if isinstance(error, grpc.aio.AioRpcError) else error
                if isinstance(cause, ProducerFenced):
                    self._fenced(int(cause.fields.get("current_epoch", self._epoch)))
                delay = self._backoff.next_delay()
                level = _log.warning if self._backoff.failures == 1 else _log.debug
                level("mutation stream ended", cause=str(cause), retry_in=round(delay, 3))
            else:
                delay = 0.0
            self._metrics.stream_connected.set(0)
            await asyncio.sleep(delay)

    async def _connection(self) -> None:
        call = self._stub.StreamMutations()
        try:
            opening = state_service_pb2.OpenStream(producer_id=self._producer_id, epoch=self._epoch)
            await self._write(call, Request(open=opening))
            if not self._admitted(await self._read(call)):
                return
            # Not a task group: one that fails in the moment in which its own task is cancelled
            # forgets the cancellation before Python 3.13 (CPython gh-116720), and `run` goes on.
            tasks = (
                asyncio.create_task(self._receive(call), name="mutation-stream-receive"),
                asyncio.create_task(self._send(call), name="mutation-stream-send"),
            )
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            _raise_first(tasks)
        finally:
            call.cancel()

    async def _write(self, call: Call, request: Request) -> None:
        try:
            await call.write(request)
        except asyncio.InvalidStateError as error:  # how gRPC says it of a call that is over
            raise _ConnectionEnded("the server ended the stream") from error

    async def _read(self, call: Call) -> Response:
        response = await call.read()
        if not isinstance(response, Response):
            raise _ConnectionEnded("the server closed the stream")
        return response

    def _admitted(self, response: Response) -> bool:
        """Take the answer to `open`. False: the epoch was too low, try again."""
        if response.HasField("fenced"):
            self._fenced(response.fenced.current_epoch)
            return False
        if not response.HasField("welcome"):
            raise _ConnectionEnded("the server did not welcome the stream")
        welcome = response.welcome
        if self._store_id and welcome.store_id != self._store_id:
            _log.error("the store was replaced", before=self._store_id, now=welcome.store_id)
            self._fail_all(ProjectReplaced(store_id=welcome.store_id))
        self._store_id = welcome.store_id
        self.limits = welcome.limits
        self._draining = False
        self.connections += 1
        self._backoff.reset()
        self._outbox.connected(welcome.credits.batches, welcome.credits.bytes)
        self._welcomed.set()
        self._metrics.stream_connected.set(1)
        self._progressed()
        _log.info("mutation stream open", producer=self._producer_id, epoch=self._epoch)
        return True

    def _fenced(self, current: int) -> None:
        """Raise the epoch if the clock of an earlier process ran ahead; that is tried once.

        Once this epoch was in force, a higher one is another process: raise `ProducerFenced`.
        """
        if self._welcomed.is_set() or self._epoch_raised:
            error = ProducerFenced(
                f"another orchestrator_svc took over as {self._producer_id}; "
                "give each one a --data or a --name of its own",
                current_epoch=current,
            )
            self._fail_all(error)
            raise error
        _log.warning("clock is behind the last epoch", epoch=self._epoch, current=current)
        self._epoch = current + 1
        self._epoch_raised = True

    async def _send(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            if not self._draining:
                for project_id in self._outbox.take_attaches(now):
                    attach = state_service_pb2.AttachProject(project_id=project_id)
                    await self._write(call, Request(attach=attach))
                max_bytes = self.limits.max_message_bytes - FRAME_MARGIN_BYTES
                batches = self._outbox.take_frame(self.limits.max_frame_batches, max_bytes, now)
                if batches:
                    request = self._frame(batches)
                    if request is not None:
                        self._metrics.frame_batches.observe(len(batches))
                        await self._write(call, request)
                    continue
            elif not self._outbox.frames_in_flight:
                await call.done_writing()  # lets the server stop without waiting for us
                return
            resume_at = self._outbox.next_resume(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(resume_at):
                    await self._wake.wait()

    def _frame(self, entries: Sequence[_Entry]) -> Request | None:
        """Return the message that carries some batches; None if none of them can be sent.

        A lane ends with its first batch that cannot be sent, before any gap of it.
        """
        bodies: dict[_Place, bytes] = {}
        rest = self._passing(entries, lambda entry: bodies.update([self._body(entry)]))
        try:
            return frame_request([bodies[_place(entry)] for entry in rest]) if rest else None
        except DecodeError:  # whose fault it is each batch tells alone
            rest = self._passing(rest, lambda entry: _check_frame(bodies[_place(entry)]))
        return frame_request([bodies[_place(entry)] for entry in rest]) if rest else None

    def _body(self, entry: _Entry) -> tuple[_Place, bytes]:
        return _place(entry), self._tickets.body(entry[1].body, entry[1].sequence)

    def _passing(self, entries: Sequence[_Entry], check: Callable[[_Entry], None]) -> list[_Entry]:
        """Return the entries that a check lets pass; end the lanes of the others."""
        passing: list[_Entry] = []
        ended: set[str] = set()
        for entry in entries:
            project_id, sequence = _place(entry)
            if project_id in ended:
                self._outbox.answered(project_id, sequence)
                continue
            try:
                check(entry)
            except (CorruptRecord, InvalidMutation) as error:
                _log.error("a batch cannot be sent", project_id=project_id, cause=error.message)
                ended.add(project_id)
                self._fail_lane(project_id, error, sequence)
            else:
                passing.append(entry)
        return passing

    async def _receive(self, call: Call) -> None:
        while True:
            response = await self._read(call)
            kind = response.WhichOneof("message")
            if kind == "acks":
                for ack in response.acks.acks:
                    self._acked(ack)
            elif kind == "reject":
                self._rejected(response.reject)
            elif kind == "attached":
                self._attached(response.attached)
            elif kind == "drain":
                self._draining = True
            elif kind == "fenced":
                self._fenced(response.fenced.current_epoch)
            self._wake.set()
            self._progressed()

    def _progressed(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    # Answers

    def _acked(self, ack: state_service_pb2.Ack) -> None:
        first_revision = ack.first_revision if ack.revision_known else 0
        acked = self._outbox.acks(
            ack.project_id, ack.first_sequence, ack.acked_sequence, first_revision
        )
        for item in acked:
            self._tickets.durable(item.body, item.revision)

    def _attached(self, attached: state_service_pb2.Attached) -> None:
        project_id = attached.project_id
        try:
            self._outbox.attached(project_id, attached.project_uid, attached.last_sequence)
        except PositionLost as error:
            self._fail_lane(project_id, ProjectReplaced(str(error), project_id=project_id))
            return
        waiter = self._attach_waiters.get(project_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _rejected(self, reject: state_service_pb2.Reject) -> None:
        project_id, sequence = reject.project_id, reject.sequence
        now = asyncio.get_running_loop().time()
        lane = self._outbox.lane(project_id)
        if lane is None:
            return
        error = from_stream(reject.error)
        self._metrics.rejects.labels(reason=type(error).__name__).inc()
        backoff = Backoff()
        backoff.failures = lane.stalls
        if reject.error.reason == _GAP:
            expected = int(reject.error.metadata.get("expected_sequence", "0"))
            try:
                self._outbox.gap(project_id, sequence, expected, now + backoff.next_delay())
            except PositionLost as lost:
                self._fail_lane(project_id, ProjectReplaced(str(lost), project_id=project_id))
        elif isinstance(error, TRANSIENT):
            resume_at = now + backoff.next_delay()
            if sequence:
                what, stalls = "batch", self._outbox.stall(project_id, sequence, resume_at)
            else:
                what, stalls = "attach", self._outbox.attach_later(project_id, resume_at)
            level = _log.warning if stalls == 1 else _log.debug
            level("refused for now", what=what, project_id=project_id, cause=error.message)
        else:
            if reject.error.violations:
                index = reject.error.violations[0].index
                node_id = self._concerned_node(lane.unacked, sequence, index)
                error.fields.update({"node_id": node_id} if node_id else {})
            self._fail_lane(project_id, error, sequence)

    def _concerned_node(self, unacked: Iterable[Entry[Ticket]], sequence: int, index: int) -> str:
        """Return the node whose change was refused; empty if that cannot be told."""
        found = next((entry for entry in unacked if entry.sequence == sequence), None)
        if found is None:
            return ""
        try:
            return concerned_node(self._tickets.body(found.body, sequence), index)
        except CorruptRecord:
            return ""

    def _fail_lane(self, project_id: str, error: RamifyError, sequence: int = 0) -> None:
        """End a lane; its owner learns why from every future it still holds."""
        self._outbox.answered(project_id, sequence)
        for ticket in self._outbox.close_lane(project_id):
            self._tickets.refused(ticket, error)
        waiter = self._attach_waiters.get(project_id)
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _fail_all(self, error: RamifyError) -> None:
        for lane in self._outbox.lanes():
            self._fail_lane(lane.project_id, error)


def _place(entry: _Entry) -> _Place:
    return entry[0], entry[1].sequence


def _check_frame(body: bytes) -> None:
    """Raise `InvalidMutation` for a batch that no reader of a frame could decode."""
    try:
        frame_request([body])
    except DecodeError as error:
        raise InvalidMutation(f"a batch is no message of the contract: {error}") from error


def _raise_first(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Raise why the first of some ended tasks failed, and mark the others' errors as seen."""
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise errors[0]


def new_epoch() -> int:
    """Return an epoch above those of earlier processes: Unix milliseconds."""
    return time.time_ns() // 1_000_000
