"""What the engine needs of a store; `publish/state_store.py` is state_svc behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from orchestrator_svc.graph.event import CallEnded
from orchestrator_svc.graph.mutation import Mutation
from orchestrator_svc.graph.node import Result
from orchestrator_svc.publish.records import LoadedProject, Sighting


class Store(Protocol):
    """Loads, follows and writes projects.

    - A project is written through its *lane*: batches become durable in the order of `offer`.
    - `load` is called only after `quiesce` and after the lease was acquired: it then shows
      everything that this process wrote before, and nobody else writes any more.
    - Any failure is a `RamifyError`.
    """

    async def quiesce(self, project_id: str) -> None:
        """Wait until nothing of a closed lane can become durable any more."""

    async def load(self, project_id: str) -> LoadedProject:
        """Return the project at its head."""

    async def read_results(self, project_id: str, node_ids: Sequence[str]) -> dict[str, Result]:
        """Return what some nodes have produced, fetched at one time; those without are left out."""

    def follow(
        self, project_id: str, project_uid: str, after_revision: int
    ) -> AsyncIterator[Sighting]:
        """Yield what happens after a revision, across reconnects, until cancelled."""

    async def open_lane(self, project_id: str, project_uid: str) -> None:
        """Begin to write. Raises `ProjectReplaced` if `project_uid` is not the present one."""

    def close_lane(self, project_id: str) -> None:
        """Stop writing; cancels the futures of batches that are not durable. Idempotent."""

    def without_large(self, project_id: str, ended: CallEnded) -> CallEnded:
        """Return the end of a call with references in place of its large bodies.

        The store keeps those, until a batch that names them was offered or the lane is closed.
        """

    def is_ready(self, groups: Sequence[Sequence[Mutation]]) -> bool:
        """Return whether `offer` would not have to wait; if not, it may be for long."""

    async def offer(
        self, project_id: str, lease_epoch: int, groups: Sequence[Sequence[Mutation]]
    ) -> list[asyncio.Future[int]]:
        """Append mutations to the lane, as few batches as possible; waits for room.

        Each future resolves to its batch's revision when it is durable, or raises why not.
        """
