"""A producer on the bare stub: it sends what it is told and notes every answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio

from ramify.ending import Ending
from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.state_service_pb2 import (
    Attached,
    AttachProject,
    Drain,
    Fenced,
    MutationFrame,
    OpenStream,
    Reject,
    StreamMutationsRequest,
    StreamMutationsResponse,
    Welcome,
)
from tests.support.bound import WAIT_SECONDS

if TYPE_CHECKING:
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub


class RawProducer:
    """One `StreamMutations` call; used as an asynchronous context, opened on entry."""

    def __init__(self, stub: StateServiceAsyncStub, producer_id: str, epoch: int) -> None:
        self.welcome: Welcome | None = None
        self.acks: dict[tuple[str, int], int] = {}  #: revision by (project, sequence); 0 unknown
        self.ack_count = 0
        self.rejects: list[Reject] = []
        self.attached: dict[str, Attached] = {}
        self.fenced: Fenced | None = None
        self.drain: Drain | None = None
        self.error: grpc.aio.AioRpcError | None = None
        self.on_ack: Callable[[str, int, int], None] | None = None
        self._open = OpenStream(producer_id=producer_id, epoch=epoch)
        self._stub = stub
        self._changed = asyncio.Condition()
        self._done = False

    async def __aenter__(self) -> Self:
        self._call = self._stub.StreamMutations()
        self._ending = Ending(self._call)
        self._reader = asyncio.create_task(self._read(), name="producer-reader")
        await self._write(StreamMutationsRequest(open=self._open))
        await self.until(lambda: self.welcome is not None or self._done)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.cancel()
        await self._reader

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return self._done

    async def send(self, *batches: MutationBatch) -> None:
        """Send one frame."""
        await self._write(StreamMutationsRequest(frame=MutationFrame(batches=batches)))

    async def write(self, request: StreamMutationsRequest) -> None:
        """Send any message."""
        await self._write(request)

    async def attach(self, project_id: str) -> Attached:
        """Ask for the position in a project."""
        self.attached.pop(project_id, None)
        await self._write(StreamMutationsRequest(attach=AttachProject(project_id=project_id)))
        await self.until(lambda: project_id in self.attached)
        return self.attached[project_id]

    async def acked(self, project_id: str, sequence: int, *, corrected: bool = False) -> int:
        """Wait for the ack of a batch; return its revision.

        Fails at once if it was rejected, unless the reject is of an earlier attempt.
        """
        key = (project_id, sequence)
        await self.until(lambda: key in self.acks or (not corrected and bool(self._refused(*key))))
        assert key in self.acks, self.rejects[0]
        return self.acks[key]

    async def rejected(self, project_id: str, sequence: int) -> Reject:
        """Wait for the latest reject of a batch."""

        def find() -> list[Reject]:
            return [r for r in self.rejects if (r.project_id, r.sequence) == (project_id, sequence)]

        await self.until(lambda: find())
        return find()[-1]

    async def write_batch(self, batch: MutationBatch) -> int:
        """Send one batch alone and wait for its ack; return its revision."""
        await self.send(batch)
        return await self.acked(batch.project_id, batch.sequence)

    async def half_close(self) -> None:
        """Say that nothing more comes."""
        await self._call.done_writing()

    async def end(self, seconds: float = WAIT_SECONDS) -> grpc.aio.AioRpcError | None:
        """Wait until the call ends; return its error, None if it ended well."""
        async with asyncio.timeout(seconds):
            await asyncio.wait((self._reader,))
        return self.error

    async def until(self, holds: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        """Wait until something holds; fail if the stream ends before."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                while not holds():
                    assert not self._done, f"the stream ended: {self.error}"
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds} s; {len(self.acks)} acks, {len(self.rejects)} rejects"
            ) from None

    def _refused(self, project_id: str, sequence: int) -> list[Reject]:
        key = (project_id, sequence)
        return [r for r in self.rejects if (r.project_id, r.sequence) == key]

    async def _write(self, request: StreamMutationsRequest) -> None:
        try:
            await self._call.write(request)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await asyncio.wait((self._reader,))
            if self.error is not None:
                raise self.error from None
            raise

    async def _read(self) -> None:
        try:
            async for response in self._call:
                async with self._changed:
                    self._take(response)
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = await self._ending.cause(error)
        except asyncio.CancelledError:
            if not self._call.cancelled():
                raise
        finally:
            async with self._changed:
                self._done = True
                self._changed.notify_all()

    def _take(self, response: StreamMutationsResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self.welcome = response.welcome
        elif kind == "attached":
            self.attached[response.attached.project_id] = response.attached
        elif kind == "acks":
            for ack in response.acks.acks:
                count = ack.acked_sequence - ack.first_sequence
                assert count >= 0
                if ack.revision_known:
                    assert ack.revision - ack.first_revision == count
                else:
                    assert ack.revision == ack.first_revision == 0
                for offset in range(count + 1):
                    sequence = ack.first_sequence + offset
                    revision = ack.first_revision + offset if ack.revision_known else 0
                    self._take_ack(ack.project_id, sequence, revision)
        elif kind == "reject":
            self.rejects.append(response.reject)
        elif kind == "fenced":
            self.fenced = response.fenced
        elif kind == "drain":
            self.drain = response.drain
        else:
            raise AssertionError(f"unknown message {response}")

    def _take_ack(self, project_id: str, sequence: int, revision: int) -> None:
        known = self.acks.get((project_id, sequence))
        assert not known or not revision or known == revision, "a repeat gets its revision"
        self.acks[project_id, sequence] = revision or known or 0
        self.ack_count += 1
        if self.on_ack is not None:
            self.on_ack(project_id, sequence, revision)
