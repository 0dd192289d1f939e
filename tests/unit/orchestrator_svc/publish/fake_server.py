"""StateService in this process, for the mutation stream only; it answers as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.channel import open_channel
from orchestrator_svc.publish.spool import Spool
from orchestrator_svc.publish.stream import MutationStream
from ramify.v1 import error_pb2, mutation_pb2
from ramify.v1 import state_service_pb2 as pb
from ramify.v1.state_service_pb2_grpc import StateServiceStub

Context = grpc.aio.ServicerContext[pb.StreamMutationsRequest, pb.StreamMutationsResponse]


class FakeServer:
    """Accepts what comes in order; `refuse` and `fence_below` change its mind."""

    def __init__(self) -> None:
        self.store_id = "store"
        self.uids: dict[str, str] = {}
        self.fence_below = 0
        self.opens: list[tuple[str, int]] = []
        self.durable: dict[str, list[mutation_pb2.MutationBatch]] = {}
        self.received: list[tuple[str, int]] = []  #: project and sequence of every batch
        self.refuse: list[error_pb2.Error] = []  #: answers to the next batches
        self.refuse_attach: list[error_pb2.Error] = []  #: answers to the next attaches
        self.silent = False  #: commits without an ack
        self.hang_up_after: int | None = None  #: batches until the connection ends
        self.hung_up = asyncio.Event()
        self.half_closed = asyncio.Event()
        self.context: Context | None = None
        self.fenced = False
        self._writing = asyncio.Lock()

    async def stream_mutations(
        self, requests: AsyncIterator[pb.StreamMutationsRequest], context: Context
    ) -> None:
        """See `StateService.StreamMutations`."""
        self.context = context
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "open":
                self.opens.append((request.open.producer_id, request.open.epoch))
                if request.open.epoch < self.fence_below:
                    fenced = pb.Fenced(current_epoch=self.fence_below)
                    await self._write(context, pb.StreamMutationsResponse(fenced=fenced))
                    return
                await self._write(context, self._welcome())
            elif kind == "attach":
                project_id = request.attach.project_id
                if self.refuse_attach:
                    reject = pb.Reject(project_id=project_id, error=self.refuse_attach.pop(0))
                    await self._write(context, pb.StreamMutationsResponse(reject=reject))
                    continue
                attached = pb.Attached(
                    project_id=project_id,
                    project_uid=self.uids.get(project_id, "uid"),
                    last_sequence=len(self.durable.get(project_id, ())),
                )
                await self._write(context, pb.StreamMutationsResponse(attached=attached))
            else:
                for batch in request.frame.batches:
                    await self._batch(batch, context)
                    if self.hang_up_after == 0:
                        self.hang_up_after = None
                        self.hung_up.set()
                        return
        self.half_closed.set()

    async def _write(self, context: Context, response: pb.StreamMutationsResponse) -> None:
        async with self._writing:  # gRPC refuses a second write while one is under way
            await context.write(response)

    def _welcome(self) -> pb.StreamMutationsResponse:
        limits = pb.Limits(
            max_batch_mutations=5_000,
            max_batch_bytes=3 << 20,
            max_frame_batches=1_000,
            max_message_bytes=4 << 20,
        )
        credit = pb.Credits(batches=100, bytes=1 << 20)
        welcome = pb.Welcome(store_id=self.store_id, credits=credit, limits=limits)
        return pb.StreamMutationsResponse(welcome=welcome)

    async def _batch(self, batch: mutation_pb2.MutationBatch, context: Context) -> None:
        self.received.append((batch.project_id, batch.sequence))
        durable = self.durable.setdefault(batch.project_id, [])
        if self.refuse:
            await self._reject(batch, self.refuse.pop(0), context)
            return
        if batch.sequence > len(durable) + 1:
            error = error_pb2.Error(
                reason=error_pb2.ERROR_REASON_SEQUENCE_GAP,
                metadata={"expected_sequence": str(len(durable) + 1)},
            )
            await self._reject(batch, error, context)
            return
        if batch.sequence == len(durable) + 1:
            durable.append(batch)
        if self.hang_up_after is not None:
            self.hang_up_after -= 1
        if self.silent or self.hang_up_after == 0:
            return
        revision = 10 + batch.sequence
        ack = pb.Ack(
            project_id=batch.project_id,
            first_sequence=batch.sequence,
            acked_sequence=batch.sequence,
            first_revision=revision,
            revision=revision,
            revision_known=True,
        )
        await self._write(context, pb.StreamMutationsResponse(acks=pb.Acks(acks=[ack])))

    async def _reject(
        self, batch: mutation_pb2.MutationBatch, error: error_pb2.Error, context: Context
    ) -> None:
        reject = pb.Reject(project_id=batch.project_id, sequence=batch.sequence, error=error)
        await self._write(context, pb.StreamMutationsResponse(reject=reject))

    async def drain(self) -> None:
        """Ask the producer to stop sending."""
        assert self.context is not None
        await self._write(self.context, pb.StreamMutationsResponse(drain=pb.Drain()))

    async def fence(self, epoch: int) -> None:
        """Tell the present producer that a newer one exists."""
        assert self.context is not None
        self.fenced = True
        fenced = pb.Fenced(current_epoch=epoch)
        await self._write(self.context, pb.StreamMutationsResponse(fenced=fenced))


@asynccontextmanager
async def serving(
    fake: FakeServer, epoch: int = 5, spool: Spool | None = None
) -> AsyncIterator[MutationStream]:
    """Run the server and a stream that is connected to it."""
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        fake.stream_mutations,
        pb.StreamMutationsRequest.FromString,
        pb.StreamMutationsResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(
        "ramify.v1.StateService", {"StreamMutations": handler}
    )
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = open_channel(f"127.0.0.1:{port}")
    stream = MutationStream(
        StateServiceStub(channel),
        producer_id="orchestrator/x",
        epoch=epoch,
        metrics=Metrics(),
        spool=spool,
    )
    task = asyncio.create_task(stream.run(), name="stream")
    fake_done = asyncio.create_task(stream.ready(), name="ready")
    try:
        await asyncio.wait([task, fake_done], return_when=asyncio.FIRST_COMPLETED)
        yield stream
        if fake.fenced:
            await task
    finally:
        fake_done.cancel()
        task.cancel()
        await asyncio.wait([task, fake_done])
        if not task.cancelled():
            task.exception()
        await channel.close()
        await server.stop(None)
