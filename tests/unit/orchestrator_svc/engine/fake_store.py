"""A store in memory behind the engine's `Store` seam; acks come when the test lets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from orchestrator_svc.errors import LeaseHeld, RamifyError, StoreUnavailable
from orchestrator_svc.graph.event import CallEnded, CommandGiven
from orchestrator_svc.graph.mutation import AddStage, Mutation
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.settings import Scalar
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES, CommandType
from orchestrator_svc.publish.records import LoadedProject, Sighting, UnfinishedProject
from tests.unit.orchestrator_svc.ledger import Ledger


class FakeStore:
    """Projects by id; each batch is durable at once unless `hold` is set."""

    def __init__(self) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self.profiles: dict[str, str] = {}
        self.options: dict[str, dict[str, object]] = {}
        self.settings: dict[str, dict[str, Scalar]] = {}
        self.room = asyncio.Event()  #: cleared: `offer` waits
        self.room.set()
        self.hold = False
        self.held: list[tuple[str, Sequence[Sequence[Mutation]], asyncio.Future[int]]] = []
        self.refuse: list[RamifyError] = []  #: answers to the next batches
        self.batches: list[tuple[str, int]] = []  #: project, lease epoch
        self.stages: list[AddStage] = []
        self.lanes: set[str] = set()
        self.loads = 0
        self.loading: Callable[[], object] = lambda: None  #: what happens during a load
        self.away: list[RamifyError] = []  #: answers to the next `read_results`
        self.reading: Callable[[], None] = lambda: None  #: what happens during a `read_results`
        self.fetched: list[list[str]] = []  #: nodes of each `read_results`
        self.changed = asyncio.Event()
        self._watchers: dict[str, list[asyncio.Queue[Sighting]]] = {}

    def add(
        self,
        project_id: str = "p",
        *,
        profile: str = "scripted",
        settings: dict[str, Scalar] | None = None,
        **options: object,
    ) -> Ledger:
        """Create a project."""
        self.profiles[project_id] = profile
        self.options[project_id] = options
        self.settings[project_id] = settings or {}
        ledger = self.ledgers[project_id] = Ledger()
        return ledger

    def order_cancel(self, project_id: str = "p", command_id: str = "c") -> None:
        """Order the end of a project."""
        self.order(CommandType.CANCEL_PROJECT, project_id=project_id, command_id=command_id)

    def order(
        self,
        kind: CommandType,
        node_id: str = "",
        *,
        project_id: str = "p",
        command_id: str = "c",
    ) -> None:
        """Make an order durable and visible."""
        ledger = self.ledgers[project_id]
        command = CommandGiven(command_id, kind, node_id)
        ledger.give(command)
        self._show(project_id, Sighting(ledger.revision, (command,)))

    async def until_ended(self, project_id: str = "p") -> Ledger:
        """Wait until a project is in a terminal state."""
        ledger = self.ledgers[project_id]
        while ledger.state not in TERMINAL_PROJECT_STATES:
            await self.changed.wait()
        return ledger

    async def until_held(self) -> None:
        """Wait until a batch waits for its ack."""
        while not self.held:
            await self.changed.wait()

    def release(self) -> None:
        """Make what is held durable, in order, and hold no more."""
        self.hold = False
        held, self.held = self.held, []
        for project_id, groups, future in held:
            self._commit(project_id, groups, future)

    def _commit(
        self,
        project_id: str,
        groups: Sequence[Sequence[Mutation]],
        future: asyncio.Future[int],
    ) -> None:
        revision = self.ledgers[project_id].commit(groups)
        self.stages += (m for group in groups for m in group if isinstance(m, AddStage))
        if not future.done():
            future.set_result(revision)
        self._show(project_id, Sighting(revision))
        self._progressed()

    def _show(self, project_id: str, sighting: Sighting) -> None:
        for queue in self._watchers.get(project_id, ()):
            queue.put_nowait(sighting)

    def _progressed(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    # Store

    async def quiesce(self, project_id: str) -> None:
        """See `Store`."""
        assert project_id not in self.lanes

    async def load(self, project_id: str) -> LoadedProject:
        """See `Store`."""
        self.loads += 1
        answer = self.loading()
        if isinstance(answer, Awaitable):
            await answer
        ledger = self.ledgers[project_id]
        return replace(
            ledger.load(),
            project_id=project_id,
            profile=self.profiles[project_id],
            settings=self.settings[project_id],
            agent_options=self.options[project_id],  # type: ignore[arg-type]
            open_commands=tuple(ledger.open_commands()),
        )

    async def read_results(self, project_id: str, node_ids: Sequence[str]) -> dict[str, Result]:
        """See `Store`."""
        self.fetched.append(list(node_ids))
        self.reading()
        if self.away:
            raise self.away.pop(0)
        nodes = (self.ledgers[project_id].nodes[node_id] for node_id in node_ids)
        return {node.node_id: node.result for node in nodes if node.result is not None}

    async def follow(
        self, project_id: str, project_uid: str, after_revision: int
    ) -> AsyncIterator[Sighting]:
        """See `Store`."""
        queue: asyncio.Queue[Sighting] = asyncio.Queue()
        self._watchers.setdefault(project_id, []).append(queue)
        yield Sighting(self.ledgers[project_id].revision)
        while True:
            yield await queue.get()

    async def open_lane(self, project_id: str, project_uid: str) -> None:
        """See `Store`."""
        self.lanes.add(project_id)

    def close_lane(self, project_id: str) -> None:
        """See `Store`."""
        self.lanes.discard(project_id)
        self.held = [item for item in self.held if item[0] != project_id]

    def without_large(self, project_id: str, ended: CallEnded) -> CallEnded:
        """See `Store`."""
        return ended

    def is_ready(self, groups: Sequence[Sequence[Mutation]]) -> bool:
        """See `Store`."""
        return self.room.is_set()

    async def offer(
        self, project_id: str, lease_epoch: int, groups: Sequence[Sequence[Mutation]]
    ) -> list[asyncio.Future[int]]:
        """See `Store`."""
        await self.room.wait()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.batches.append((project_id, lease_epoch))
        if self.refuse:
            future.set_exception(self.refuse.pop(0))
        elif self.hold:
            self.held.append((project_id, groups, future))
            self._progressed()
        else:
            self._commit(project_id, groups, future)
        return [future]


class FakeLeases:
    """The lease calls and the list of unfinished projects."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.holders: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.away = False
        self.answering = asyncio.Event()  #: cleared: leases are granted, but nobody learns of it
        self.answering.set()
        self.renewals = 0
        self.listed: list[bool] = []
        self.looks = 0  #: for orders

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable()

    async def acquire_lease(self, project_id: str, holder: str, ttl: float) -> int:
        """See `LeaseClient`."""
        self._check()
        present = self.holders.get(project_id)
        if present is not None and present != holder:
            raise LeaseHeld(project_id=project_id, holder=present)
        if present is None:
            self.epochs[project_id] = self.epochs.get(project_id, 0) + 1
        self.holders[project_id] = holder
        await self.answering.wait()
        return self.epochs[project_id]

    async def renew_leases(
        self, holder: str, leases: Sequence[tuple[str, int]], timeout: float
    ) -> list[tuple[str, int]]:
        """See `LeaseClient`."""
        self._check()
        self.renewals += 1
        return [
            (project_id, epoch)
            for project_id, epoch in leases
            if (self.holders.get(project_id), self.epochs.get(project_id)) != (holder, epoch)
        ]

    async def release_lease(self, project_id: str, holder: str, lease_epoch: int) -> bool:
        """See `LeaseClient`."""
        self._check()
        return self.holders.pop(project_id, None) is not None

    async def unfinished(self, *, leased: bool) -> list[UnfinishedProject]:
        """See `Projects`."""
        self._check()
        self.listed.append(leased)
        return [
            UnfinishedProject(
                project_id,
                holder,
                self.epochs.get(project_id, 1),
                self.store.profiles[project_id],
                ledger.state,
                ledger.revision,
            )
            for project_id, ledger in self.store.ledgers.items()
            if ledger.state not in TERMINAL_PROJECT_STATES
            and leased == (project_id in self.holders)
            for holder in [self.holders.get(project_id, "")]
        ]

    async def has_orders(self, project_id: str) -> bool:
        """See `Projects`."""
        self.looks += 1
        return bool(self.store.ledgers[project_id].open_commands())
