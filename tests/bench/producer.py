"""A producer that costs as little as possible: frames are encoded before the clock starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import grpc

from ramify.v1 import state_service_pb2 as pb
from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.node_pb2 import TaskType

_LETTERS = "etaoinshrdlu"
_WORDS = ["".join(Random(n).choices(_LETTERS, k=2 + n % 7)) for n in range(2_000)]
_PATH = "/ramify.v1.StateService/StreamMutations"


def create_batch(project_id: str, sequence: int, first: int, count: int) -> MutationBatch:
    """Return a batch that creates nodes n{first} …"""
    batch = MutationBatch(project_id=project_id, sequence=sequence)
    for number in range(first, first + count):
        node = batch.mutations.add().node
        node.node_id = f"n{number}"
        node.create.goal = f"Find out what part {number} of the question needs, and write it down"
        node.create.task_type = TaskType.TASK_TYPE_SEARCH
    return batch


def patch_batch(
    project_id: str, sequence: int, first: int, count: int, nodes: int
) -> MutationBatch:
    """Return a batch of small patches, each of which changes its node."""
    batch = MutationBatch(project_id=project_id, sequence=sequence)
    for number in range(first, first + count):
        mutation = batch.mutations.add().node
        mutation.node_id = f"n{number % nodes}"
        mutation.patch.retry_count = number // nodes + 1
        mutation.patch.waiting_on = f"dependency:n{number}"
    return batch


def result_batch(
    project_id: str, sequence: int, first: int, count: int, nodes: int, size: int
) -> MutationBatch:
    """Return a batch of results of `size` bytes each: text as agents write it, no two alike."""
    batch = MutationBatch(project_id=project_id, sequence=sequence)
    random = Random(first)
    for number in range(first, first + count):
        mutation = batch.mutations.add().node
        mutation.node_id = f"n{number % nodes}"
        words = random.choices(_WORDS, k=size // 5)
        mutation.patch.result.text = f"{number}: {' '.join(words)}"[:size]
    return batch


def frame(batches: Sequence[MutationBatch]) -> bytes:
    """Return an encoded frame."""
    return pb.StreamMutationsRequest(frame=pb.MutationFrame(batches=batches)).SerializeToString()


class Producer:
    """One mutation stream that sends encoded frames and notes when each batch is acked."""

    def __init__(self, channel: grpc.aio.Channel, producer_id: str) -> None:
        self._call: Any = channel.stream_stream(
            _PATH,
            request_serializer=lambda data: data,
            response_deserializer=pb.StreamMutationsResponse.FromString,
        )()
        self._producer_id = producer_id
        self.acked: dict[str, int] = {}
        self.ack_seconds: list[float] = []
        self._sent_at: dict[tuple[str, int], float] = {}

    async def open(self) -> None:
        """Open the stream."""
        request = pb.StreamMutationsRequest(
            open=pb.OpenStream(producer_id=self._producer_id, epoch=1)
        )
        await self._call.write(request.SerializeToString())
        response = await self._call.read()
        assert response.HasField("welcome"), response

    async def send(self, data: bytes, project_id: str, sequence: int) -> None:
        """Send a frame whose last batch has this sequence."""
        self._sent_at[project_id, sequence] = time.perf_counter()
        await self._call.write(data)

    async def read(self) -> None:
        """Read one answer."""
        response = await self._call.read()
        assert response.HasField("acks"), response
        now = time.perf_counter()
        for ack in response.acks.acks:
            for sequence in range(ack.first_sequence, ack.acked_sequence + 1):
                sent = self._sent_at.pop((ack.project_id, sequence), None)
                if sent is not None:
                    self.ack_seconds.append(now - sent)
            self.acked[ack.project_id] = ack.acked_sequence

    async def run(
        self,
        frames: Sequence[bytes],
        project_id: str,
        first: int,
        *,
        window: int,
        rate: float = 0.0,
    ) -> None:
        """Send frames with sequences from `first` on, at most `window` unacked.

        `rate` paces frames per second; 0 sends as fast as acks allow.
        """
        last = first + len(frames) - 1
        room = asyncio.Semaphore(window)

        async def receive() -> None:
            done = first - 1
            while done < last:
                await self.read()
                for _ in range(self.acked.get(project_id, done) - done):
                    room.release()
                done = self.acked.get(project_id, done)

        async def transmit() -> None:
            start = time.perf_counter()
            for number, data in enumerate(frames):
                if rate:
                    delay = start + number / rate - time.perf_counter()
                    if delay > 0:
                        await asyncio.sleep(delay)
                await room.acquire()
                await self.send(data, project_id, first + number)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(receive())
            tasks.create_task(transmit())

    async def run_many(self, frames: Sequence[tuple[bytes, str, int]], *, window: int) -> None:
        """Send (frame, project, its last sequence) of many projects, at most `window` unacked."""
        room, left = asyncio.Semaphore(window), len(frames)

        async def receive() -> None:
            nonlocal left
            while left:
                known = len(self.ack_seconds)
                await self.read()
                for _ in range(len(self.ack_seconds) - known):
                    left -= 1
                    room.release()

        async def transmit() -> None:
            for data, project_id, sequence in frames:
                await room.acquire()
                await self.send(data, project_id, sequence)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(receive())
            tasks.create_task(transmit())


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000 if ordered else 0.0
