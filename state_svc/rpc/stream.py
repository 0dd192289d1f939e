"""The mutation stream: frames in, acks and rejects out.

A session reads a frame, admits its batches one after the other, and goes on reading; a second
task writes what the commit loop reports. The next frame comes while one is being admitted, as that
takes wake-ups of two threads. Credits bound what is in flight: beyond them the session reads no
more than one frame, and HTTP/2 flow control holds the producer back.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from ramify.v1.error_pb2 import Error
from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.state_service_pb2 import (
    Ack,
    Acks,
    Attached,
    AttachProject,
    Credits,
    Drain,
    Fenced,
    OpenStream,
    Reject,
    StreamMutationsRequest,
    StreamMutationsResponse,
    Welcome,
)
from state_svc.errors import (
    BatchRejected,
    InvalidRequest,
    LimitReached,
    ProducerFenced,
    RamifyError,
    SequenceGap,
)
from state_svc.ingest.admission import admit
from state_svc.ingest.committer import PendingBatch
from state_svc.model.ids import is_producer_id
from state_svc.model.limits import MAX_CONTROL_BYTES
from state_svc.model.producer import Verdict, expected_sequence, judge, trim
from state_svc.model.project import LiveProject, Origin
from state_svc.rpc.begun import Begun
from state_svc.rpc.convert import check_parsed, limits_message
from state_svc.rpc.error_map import to_error
from state_svc.service import Service, new_id, now_micros

_EPHEMERAL = "ephemeral"
_EPHEMERAL_ID = re.compile(rf"{_EPHEMERAL}-[0-9a-f]{{12}}")  #: as `new_id` makes them
_MAX_EPOCH = (1 << 63) - 1  #: what every store can hold

ServicerContext = grpc.aio.ServicerContext[StreamMutationsRequest, StreamMutationsResponse]


@dataclass(slots=True)
class _Outgoing:
    """A message to the producer and the credits that it gives back once it is written."""

    message: StreamMutationsResponse
    batches: int = 0
    size: int = 0


@dataclass(slots=True)
class _Opening:
    """A producer with epochs that are not durable yet; the highest one is in force."""

    durable: int
    storing: dict[int, asyncio.Task[None]] = field(default_factory=dict)


class StreamSessions:
    """The open streams by producer, so that a newer epoch ends the older ones at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: dict[str, set[StreamSession]] = {}
        self._openings: dict[str, _Opening] = {}  #: by producer id

    async def open(self, session: StreamSession, request: OpenStream) -> Welcome:
        """Register a stream.

        Raises `InvalidRequest`, `ProducerFenced`, `CorruptRecord` or `StoreUnavailable`.

        A new epoch is durable before this returns; from the first moment on nothing of an older
        one is accepted.
        """
        service = self._service
        producer_id, epoch = request.producer_id, request.epoch
        # An id that is made here is nobody else's, so there is nothing to fence.
        assigned = not epoch
        if assigned:
            if producer_id:
                raise InvalidRequest(
                    field="open.epoch", problem="a producer with an id must name its epoch"
                )
            producer_id, epoch = new_id(_EPHEMERAL), 1
        if not is_producer_id(producer_id):
            raise InvalidRequest(field="open.producer_id", problem="is not a valid producer id")
        if epoch > _MAX_EPOCH:
            raise InvalidRequest(field="open.epoch", problem=f"at most {_MAX_EPOCH} is allowed")
        current = service.producers.get(producer_id, 0)
        if epoch < current:
            raise ProducerFenced(producer_id=producer_id, current_epoch=current)
        service.damage.check("producers", producer_id)
        session.producer_id, session.epoch = producer_id, epoch
        session.may_have_written = (
            not assigned and epoch == 1 and _EPHEMERAL_ID.fullmatch(producer_id) is not None
        )
        if epoch > current and not assigned:
            most = service.limits.max_producers
            if not current and len(service.producers) >= most:
                remedy = "use an id again with a higher epoch, or raise max_producers"
                raise LimitReached(limit="max_producers", most=most, remedy=remedy)
            opening = self._openings.setdefault(producer_id, _Opening(durable=current))
            storing = asyncio.create_task(
                self._store(producer_id, epoch), name=f"epoch {epoch} of {producer_id}"
            )
            # Its callers may be gone: then nobody else looks at how it ended.
            storing.add_done_callback(lambda task: task.cancelled() or task.exception())
            opening.storing[epoch] = storing
            service.producers[producer_id] = epoch
            for older in list(self._sessions.get(producer_id, ())):
                older.fence(epoch)
        opened = self._openings.get(producer_id)
        if opened is not None and epoch in opened.storing:
            # Perhaps by another stream: an epoch that is not durable may yet be nothing.
            await asyncio.shield(opened.storing[epoch])
            current = service.producers.get(producer_id, 0)
            if epoch < current:  # a newer one opened while this one waited, and found no stream
                raise ProducerFenced(producer_id=producer_id, current_epoch=current)
        self._sessions.setdefault(producer_id, set()).add(session)
        service.metrics.streams.inc()
        return Welcome(
            store_id=service.store.store_id,
            producer_id=producer_id,
            epoch=epoch,
            credits=Credits(
                batches=service.limits.credit_batches, bytes=service.limits.credit_bytes
            ),
            limits=limits_message(service.limits),
        )

    async def _store(self, producer_id: str, epoch: int) -> None:
        """Make an epoch durable, though all who wait for it may go away."""
        service, opening = self._service, self._openings[producer_id]
        try:
            await service.committer.put_producer(producer_id, epoch)
            opening.durable = max(opening.durable, epoch)
        finally:
            del opening.storing[epoch]
            in_force = max([opening.durable, *opening.storing])
            if in_force:
                service.producers[producer_id] = in_force
            else:
                del service.producers[producer_id]
            if not opening.storing:
                del self._openings[producer_id]

    def may_write(self, producer_id: str) -> bool:
        """Whether a producer has a name of its own, or an open stream."""
        return producer_id in self._service.producers or producer_id in self._sessions

    def close(self, session: StreamSession) -> None:
        """Forget a stream. Idempotent."""
        sessions = self._sessions.get(session.producer_id, set())
        if session in sessions:
            sessions.remove(session)
            self._service.metrics.streams.dec()
            if not sessions:
                del self._sessions[session.producer_id]

    def drain(self, grace: float) -> None:
        """Tell every producer that the server stops."""
        for sessions in self._sessions.values():
            for session in sessions:
                session.drain(grace)


class StreamSession:
    """One mutation stream. It is the owner of the batches it hands to the commit loop."""

    def __init__(
        self, service: Service, sessions: StreamSessions, context: ServicerContext
    ) -> None:
        self._service = service
        self._sessions = sessions
        self._context = context
        self.producer_id = ""
        self.epoch = 0
        self.may_have_written = False  #: under an id that the server gave to a stream before
        self._outgoing: deque[_Outgoing] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._in_flight_batches = 0
        self._in_flight_bytes = 0
        self._fenced_by = 0
        self._misuse: InvalidRequest | None = None  #: what the stream ends with
        self._closing = False
        self._repeats: set[asyncio.Future[bool]] = set()  #: of batches that are pending

    async def run(self) -> None:
        """Serve the stream until the producer half-closes, misuses it, is fenced or goes away.

        Raises a `RamifyError` to end the call with it; what was accepted is acknowledged before.
        """
        first = _frame(await self._context.read())
        if first is None:
            return
        if first.WhichOneof("message") != "open":
            raise InvalidRequest(field="message", problem="the first message must be open")
        _check_control("open", first.open.ByteSize())
        welcome = await self._sessions.open(self, first.open)
        self._send(StreamMutationsResponse(welcome=welcome))
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(), name="stream-writer")
                reader = tasks.create_task(self._read(), name="stream-reader")
                await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
                reader.cancel()
                if not writer.done():
                    await self._finish()
        finally:
            self._sessions.close(self)
            for outcome in list(self._repeats):
                outcome.cancel()
        if self._fenced_by:
            raise ProducerFenced(producer_id=self.producer_id, current_epoch=self._fenced_by)
        if self._misuse is not None:
            raise self._misuse

    def fence(self, epoch: int) -> None:
        """End the stream because a newer epoch of its producer is in force."""
        self._fenced_by = epoch
        self._send(StreamMutationsResponse(fenced=Fenced(current_epoch=epoch)))
        self._closing = True
        self._wake.set()

    def drain(self, grace: float) -> None:
        """Ask the producer to stop sending."""
        message = Drain()
        message.grace.FromNanoseconds(int(grace * 1e9))
        self._send(StreamMutationsResponse(drain=message))

    # Owner of batches

    def on_durable(self, batches: Sequence[PendingBatch]) -> None:
        """See `Owner`: acknowledge runs of sequences, one message for all of them."""
        acks: list[Ack] = []
        last: dict[LiveProject, Ack] = {}
        size = 0
        for batch in batches:
            size += batch.size
            sequence, revision = batch.applied.origin.sequence, batch.applied.revision
            ack = last.get(batch.project)
            if (
                ack is not None
                and sequence == ack.acked_sequence + 1
                and revision == ack.revision + 1
            ):
                ack.acked_sequence = sequence
                ack.revision = revision
                continue
            ack = last[batch.project] = Ack(
                project_id=batch.project.project_id,
                first_sequence=sequence,
                acked_sequence=sequence,
                first_revision=revision,
                revision=revision,
                revision_known=True,
            )
            acks.append(ack)
        self._send(StreamMutationsResponse(acks=Acks(acks=acks)), len(batches), size)

    def on_failed(self, batches: Sequence[PendingBatch], error: RamifyError) -> None:
        """See `Owner`: reject each batch; none has consumed its sequence."""
        shown = to_error(error)
        for batch in batches:
            self._service.metrics.rejected(batch.project.project_id)
            self._reject(batch.project.project_id, batch.applied.origin.sequence, shown, batch.size)

    # Reading

    async def _read(self) -> None:
        ahead = Begun(self._context.read())
        try:
            while not self._closing:
                request = _frame(await ahead)
                if request is None:
                    return
                ahead = Begun(self._context.read())
                await self._take_request(request)
                await self._wait_for_room()
        except InvalidRequest as error:
            self._misuse = error
        finally:
            ahead.cancel()

    async def _take_request(self, request: StreamMutationsRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "frame":
            # Others that waited for room with this one may have filled it again.
            await self._service.committer.room()
            await self._take_frame(request)
        elif kind == "attach":
            _check_control("attach", request.attach.ByteSize())
            await self._attach(request.attach)
        else:
            raise InvalidRequest(field="message", problem="after open, attach or frame is expected")

    async def _take_frame(self, request: StreamMutationsRequest) -> None:
        """Take a frame batch by batch. Raises `InvalidRequest` if it has too many of them."""
        limits = self._service.limits
        batches = request.frame.batches
        if len(batches) > limits.max_frame_batches:
            # Not one answer for each: tiny batches would get far more bytes than they have.
            problem = f"has {len(batches)} batches, at most {limits.max_frame_batches} are allowed"
            raise InvalidRequest(field="frame", problem=problem)
        size = request.ByteSize()
        if size <= limits.max_message_bytes:
            for batch in batches:
                await self._take(batch)
            return
        problem = f"has {size} bytes, at most {limits.max_message_bytes} are allowed"
        error = to_error(InvalidRequest(field="frame", problem=problem))
        for batch in batches:
            self._count_refusal(batch.project_id)
            self._reject(batch.project_id, batch.sequence, error, None)

    async def _wait_for_room(self) -> None:
        limits = self._service.limits
        while (
            self._in_flight_batches >= limits.credit_batches
            or self._in_flight_bytes >= limits.credit_bytes
            # Answers that take no credit: a client that reads none must not pile them up.
            or len(self._outgoing) >= limits.credit_batches
        ):
            # Only a commit gives credit back, and its watermark may be far off.
            self._service.committer.hurry()
            self._room.clear()
            await self._room.wait()
        await self._service.committer.room()

    async def _attach(self, request: AttachProject) -> None:
        try:
            project = await self._service.live(request.project_id)
        except RamifyError as error:
            self._reject(request.project_id, 0, to_error(error), None)
            return
        position = project.producers.get(self.producer_id)
        known = position is not None and position.epoch == self.epoch
        attached = Attached(
            project_id=request.project_id,
            project_uid=project.uid,
            last_sequence=position.committed if known and position is not None else 0,
            revision=project.view.revision,
        )
        self._send(StreamMutationsResponse(attached=attached))

    async def _take(self, batch: MutationBatch) -> None:
        """Admit one batch, or answer it: it is all or nothing, and others are not affected."""
        size = batch.ByteSize()
        self._in_flight_batches += 1
        self._in_flight_bytes += size
        try:
            project = self._service.projects.loaded(batch.project_id)
            if project is None or not project.view.revision:
                project = await self._service.live(batch.project_id)
            try:
                self._admit(project, batch, size)
            except BatchRejected as rejected:
                if not rejected.missing or not await self._service.payloads.learn(rejected.missing):
                    raise
                # It may be gone since.
                project = await self._service.live(batch.project_id)
                self._admit(project, batch, size)
        except RamifyError as error:
            self._count_refusal(batch.project_id)
            self._reject(batch.project_id, batch.sequence, to_error(error), size)

    def _admit(self, project: LiveProject, batch: MutationBatch, size: int) -> None:
        service = self._service
        service.check_open()
        if self._fenced_by:
            raise ProducerFenced(producer_id=self.producer_id, current_epoch=self._fenced_by)
        sequence = batch.sequence
        position = project.producers.get(self.producer_id)
        verdict = judge(position, self.epoch, sequence)
        if verdict is Verdict.ACCEPT:
            if position is None:
                self._make_room(project, batch.lease_epoch)
            applied = admit(
                project,
                batch,
                limits=service.limits,
                micros=now_micros(),
                origin=Origin(self.producer_id, self.epoch, sequence),
                payloads=service.payloads.known,
            )
            service.committer.submit(
                PendingBatch(
                    project=project,
                    applied=applied,
                    owner=self,
                    size=size,
                    immediate=batch.immediate,
                )
            )
        elif verdict is Verdict.REPEAT:
            self._acknowledge_again(project, sequence, size)
        elif verdict is Verdict.PENDING:
            outcome = service.committer.outcome(project)
            self._repeats.add(outcome)
            outcome.add_done_callback(lambda o: self._settle_repeat(o, project, sequence, size))
        elif verdict is Verdict.FENCED:
            current = position.epoch if position is not None else 0
            raise ProducerFenced(producer_id=self.producer_id, current_epoch=current)
        else:
            raise SequenceGap(expected_sequence=expected_sequence(position, self.epoch))

    def _make_room(self, project: LiveProject, lease_epoch: int) -> None:
        """Make room for one more producer of a project.

        Whoever holds the lease is let in all the same: nobody else can carry the run on. Raises
        `LimitReached`, or `ProducerFenced` if what the producer has written may be forgotten: a
        repeat would then be carried out again.
        """
        view = project.view
        if view.forgot_producers and self.may_have_written:
            problem = "its place in this project may be forgotten; read, and begin with epoch 0"
            raise ProducerFenced(producer_id=self.producer_id, problem=problem)
        most = self._service.limits.max_project_producers
        known = len(project.producers)
        fits = trim(project.producers, most - 1, self._sessions.may_write)
        view.forgot_producers |= len(project.producers) < known
        if fits:
            return
        lease = project.entity.lease
        if not lease.holder or lease_epoch != lease.lease_epoch:
            remedy = (
                "use the id of a producer that has written here, with a higher epoch, or end"
                " streams of ephemeral producers"
            )
            raise LimitReached(limit="max_project_producers", most=most, remedy=remedy)

    def _settle_repeat(
        self, outcome: asyncio.Future[bool], project: LiveProject, sequence: int, size: int
    ) -> None:
        """Answer the repeat of a batch that was pending, now that its outcome is known."""
        self._repeats.discard(outcome)
        if outcome.cancelled():
            return
        position = project.producers.get(self.producer_id)
        if judge(position, self.epoch, sequence) is Verdict.REPEAT:
            self._acknowledge_again(project, sequence, size)
            return
        gap = SequenceGap(expected_sequence=expected_sequence(position, self.epoch))
        self._reject(project.project_id, sequence, to_error(gap), size)

    def _acknowledge_again(self, project: LiveProject, sequence: int, size: int) -> None:
        revision = project.producers[self.producer_id].revision_of(sequence)
        self._service.metrics.repeated(project.project_id)
        ack = Ack(
            project_id=project.project_id,
            first_sequence=sequence,
            acked_sequence=sequence,
            first_revision=revision or 0,
            revision=revision or 0,
            revision_known=revision is not None,
        )
        self._send(StreamMutationsResponse(acks=Acks(acks=[ack])), 1, size)

    def _count_refusal(self, project_id: str) -> None:
        known = project_id in self._service.projects
        # Whatever else a client calls a project gets no counters of its own.
        self._service.metrics.rejected(project_id if known else None)

    def _reject(self, project_id: str, sequence: int, error: Error, size: int | None) -> None:
        reject = Reject(project_id=project_id, sequence=sequence, error=error)
        batches = 0 if size is None else 1
        self._send(StreamMutationsResponse(reject=reject), batches, size or 0)

    # Writing

    def _send(self, message: StreamMutationsResponse, batches: int = 0, size: int = 0) -> None:
        self._outgoing.append(_Outgoing(message, batches, size))
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while self._outgoing:
                outgoing = self._outgoing.popleft()
                await self._context.write(outgoing.message)
                self._in_flight_batches -= outgoing.batches
                self._in_flight_bytes -= outgoing.size
                self._room.set()
            if self._closing and (self._fenced_by or not self._in_flight_batches):
                return
            self._wake.clear()
            await self._wake.wait()

    async def _finish(self) -> None:
        """After the producer's half-close: let the writer send the last acks and end."""
        self._closing = True
        self._wake.set()


def _check_control(field: str, size: int) -> None:
    if size > MAX_CONTROL_BYTES:
        problem = f"has {size} bytes, at most {MAX_CONTROL_BYTES} are allowed"
        raise InvalidRequest(field=field, problem=problem)


def _frame(read: object) -> StreamMutationsRequest | None:
    """Return what was read; None after the producer's half-close."""
    request: object = check_parsed(read)
    return request if isinstance(request, StreamMutationsRequest) else None
