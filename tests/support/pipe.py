"""A mutation stream without a network: the session of the server and the two ends it talks to."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.state_service_pb2 import (
    AttachProject,
    MutationFrame,
    OpenStream,
    StreamMutationsRequest,
    StreamMutationsResponse,
)
from state_svc.rpc.stream import StreamSession, StreamSessions
from state_svc.service import Service
from tests.support.bound import WAIT_SECONDS


class Pipe:
    """What grpc.aio gives to a session, and at the other end short ways to use it."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[StreamMutationsRequest | None] = asyncio.Queue()
        self._answers: asyncio.Queue[StreamMutationsResponse] = asyncio.Queue()
        self._session: asyncio.Task[None] | None = None
        self._reads = asyncio.Semaphore(0)

    # The end of the session

    async def read(self) -> StreamMutationsRequest | None:
        """Return the next frame; None after the half-close."""
        self._reads.release()
        return await self._requests.get()

    async def write(self, message: StreamMutationsResponse) -> None:
        """Take an answer."""
        await self._answers.put(message)

    # The end of the producer

    async def open(
        self, service: Service, sessions: StreamSessions, producer_id: str, epoch: int
    ) -> None:
        """Open the stream; raises the error that ended the call, if it was refused."""
        session = StreamSession(service, sessions, cast("Any", self))
        self._session = asyncio.create_task(session.run())
        hello = OpenStream(producer_id=producer_id, epoch=epoch)
        self._requests.put_nowait(StreamMutationsRequest(open=hello))
        welcome = asyncio.create_task(self.answer())
        await asyncio.wait([self._session, welcome], return_when=asyncio.FIRST_COMPLETED)
        if not welcome.done():
            welcome.cancel()
            await self._session
        assert (await welcome).HasField("welcome")

    def send(self, *batches: MutationBatch) -> None:
        """Send one frame."""
        frame = MutationFrame(batches=batches)
        self._requests.put_nowait(StreamMutationsRequest(frame=frame))

    def attach(self, project_id: str) -> None:
        """Ask for the producer's position."""
        self._requests.put_nowait(
            StreamMutationsRequest(attach=AttachProject(project_id=project_id))
        )

    async def answer(self) -> StreamMutationsResponse:
        """Return the next answer."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._answers.get()

    async def asked(self, frames: int) -> None:
        """Return once the session has asked for so many more frames."""
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(frames):
                await self._reads.acquire()

    def unread(self) -> int:
        """Return how many answers wait to be read."""
        return self._answers.qsize()

    async def close(self) -> None:
        """Half-close; return when the session has ended, or raise what ended it."""
        self._requests.put_nowait(None)
        if self._session is not None:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._session

    async def cut(self) -> None:
        """End the session as a lost connection does."""
        if self._session is not None:
            self._session.cancel()
            await asyncio.wait([self._session])
