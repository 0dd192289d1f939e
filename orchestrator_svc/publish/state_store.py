"""state_svc as the engine sees it: the concrete side of `engine/store.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from orchestrator_svc.errors import InvalidMutation
from orchestrator_svc.graph.event import CallEnded
from orchestrator_svc.graph.mutation import Mutation, concerned
from orchestrator_svc.graph.node import Result
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.bodies import Bodies, may_be_large
from orchestrator_svc.publish.client import CALL_TIMEOUT, translated
from orchestrator_svc.publish.convert import read_node
from orchestrator_svc.publish.encode import encode, to_any_message
from orchestrator_svc.publish.pack import pack, portions
from orchestrator_svc.publish.records import LoadedProject, Sighting
from orchestrator_svc.publish.stream import MutationStream
from orchestrator_svc.publish.watch import follow_project, load_project
from ramify.v1 import mutation_pb2
from ramify.v1.state_service_pb2 import GetNodeRequest

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

LONG_BATCH_MUTATIONS = 1_000
MUTATIONS_AT_ONCE = 500  #: encoded before others have their turn
BATCH_MARGIN_BYTES = 4 << 10  #: of a batch, for its fields beside the mutations


class StateServiceStore:
    """Loads, follows and writes projects over one stub and one mutation stream."""

    def __init__(
        self, stub: StateServiceAsyncStub, stream: MutationStream, metrics: Metrics
    ) -> None:
        self._stub = stub
        self._stream = stream
        self._metrics = metrics
        self._bodies = Bodies(stub, stream.buffer)
        self._bodies_of = 0  #: number of the connection since which `_bodies` knows what is there

    async def quiesce(self, project_id: str) -> None:
        """See `Store`."""
        await self._stream.quiesce(project_id)

    async def load(self, project_id: str) -> LoadedProject:
        """See `Store`."""
        return await load_project(self._stub, project_id)

    async def read_results(self, project_id: str, node_ids: Sequence[str]) -> dict[str, Result]:
        """See `Store`."""
        requests = (GetNodeRequest(project_id=project_id, node_id=node_id) for node_id in node_ids)
        calls = [self._stub.GetNode(request, timeout=CALL_TIMEOUT) for request in requests]
        answers = await asyncio.gather(*(translated(call) for call in calls))
        nodes = (read_node(answer.node) for answer in answers)
        found = {node.node_id: node.result for node in nodes if node.result is not None}
        whole = await asyncio.gather(
            *(self._bodies.fetch(project_id, result) for result in found.values())
        )
        return dict(zip(found, whole, strict=True))

    def follow(
        self, project_id: str, project_uid: str, after_revision: int
    ) -> AsyncIterator[Sighting]:
        """See `Store`."""
        return follow_project(self._stub, project_id, project_uid, after_revision)

    async def open_lane(self, project_id: str, project_uid: str) -> None:
        """See `Store`."""
        await self._stream.open_lane(project_id, project_uid)

    def close_lane(self, project_id: str) -> None:
        """See `Store`."""
        self._stream.close_lane(project_id)
        self._bodies.drop(project_id)

    def without_large(self, project_id: str, ended: CallEnded) -> CallEnded:
        """See `Store`."""
        return self._bodies.without_large(project_id, ended)

    def is_ready(self, groups: Sequence[Sequence[Mutation]]) -> bool:
        """See `Store`."""
        return self._stream.has_room and not any(
            may_be_large(mutation) for group in groups for mutation in group
        )

    async def offer(
        self, project_id: str, lease_epoch: int, groups: Sequence[Sequence[Mutation]]
    ) -> list[asyncio.Future[int]]:
        """See `Store`."""
        limits = self._stream.limits
        if self._stream.connections != self._bodies_of:
            self._bodies_of = self._stream.connections
            self._bodies.forget()
        futures: list[asyncio.Future[int]] = []
        for part in portions(groups, limits.max_batch_mutations):
            batches = pack(
                await self._encoded(project_id, part),
                max_mutations=limits.max_batch_mutations,
                max_bytes=limits.max_batch_bytes - BATCH_MARGIN_BYTES,
            )
            for batch in batches:
                self._metrics.batch_mutations.observe(len(batch))
                futures.append(await self._stream.offer(project_id, batch, lease_epoch=lease_epoch))
                if len(batch) >= LONG_BATCH_MUTATIONS:
                    await asyncio.sleep(0)  # others are not kept waiting by a large plan
        return futures

    async def _encoded(
        self, project_id: str, groups: Sequence[Sequence[Mutation]]
    ) -> list[list[bytes]]:
        """Return mutations as they are sent; what is too large for a batch is stored first."""
        encoded: list[list[bytes]] = []
        large: list[tuple[list[bytes], int, mutation_pb2.Mutation]] = []
        count = 0
        for group in groups:
            row: list[bytes] = []
            for mutation in group:
                try:
                    if may_be_large(mutation):
                        large.append((row, len(row), to_any_message(mutation)))
                        row.append(b"")
                    else:
                        row.append(encode(mutation))
                except Exception as error:  # of a value that no check has foreseen
                    text = f"a change cannot be encoded: {type(error).__name__}: {error}"
                    raise InvalidMutation(text, node_id=concerned(mutation)) from error
                count += 1
                if count % MUTATIONS_AT_ONCE == 0:
                    await asyncio.sleep(0)  # others are not kept waiting by a large plan
            encoded.append(row)
        if large:
            named = self._bodies.move_out(project_id, (message for _, _, message in large))
            for row, place, message in large:
                row[place] = message.SerializeToString()
            if named:
                large.clear()
                await self._bodies.put(project_id, named)
        return encoded
