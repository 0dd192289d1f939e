"""The leases of this orchestrator: acquired per project, renewed together (SEM 2, 16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from orchestrator_svc.errors import RamifyError
from orchestrator_svc.logs import get_logger
from orchestrator_svc.metrics import Metrics

RENEWALS_PER_TTL = 3
MAX_RENEWED_AT_ONCE = 10_000

_log = get_logger(__name__)


class LeaseClient(Protocol):
    """The lease calls of state_svc."""

    async def acquire_lease(self, project_id: str, holder: str, ttl: float) -> int:
        """Return the lease epoch; raises `LeaseHeld`."""

    async def renew_leases(
        self, holder: str, leases: Sequence[tuple[str, int]], timeout: float
    ) -> Iterable[tuple[str, int]]:
        """Return those of `leases` that are lost."""

    async def release_lease(self, project_id: str, holder: str, lease_epoch: int) -> bool:
        """Return whether there was something to release."""


class Lease:
    """A claim on one project. Valid for the TTL after the latest renewal was *sent*."""

    def __init__(self, project_id: str, lease_epoch: int, valid_until: float) -> None:
        self.project_id = project_id
        self.lease_epoch = lease_epoch
        self.on_lost: Callable[[], None] = lambda: None
        self._valid_until = valid_until
        self._renewed = asyncio.Event()

    def is_valid(self) -> bool:
        """Return whether an agent call may begin (SEM 16)."""
        return asyncio.get_running_loop().time() < self._valid_until

    async def valid(self) -> None:
        """Wait until the lease is valid."""
        while not self.is_valid():
            await self._renewed.wait()

    def extend(self, valid_until: float) -> None:
        """Take note of a renewal."""
        self._valid_until = valid_until
        self._renewed.set()
        self._renewed = asyncio.Event()


class LeaseKeeper:
    """Holds and renews all leases. The only caller of the lease RPCs."""

    def __init__(self, client: LeaseClient, *, holder: str, ttl: float, metrics: Metrics) -> None:
        self.holder = holder
        self.ttl = ttl
        self._client = client
        self._metrics = metrics
        self._leases: dict[str, Lease] = {}

    async def acquire(self, project_id: str) -> Lease:
        """Claim a project. Raises `LeaseHeld` or what else state_svc answers."""
        sent_at = asyncio.get_running_loop().time()
        lease_epoch = await self._client.acquire_lease(project_id, self.holder, self.ttl)
        lease = Lease(project_id, lease_epoch, sent_at + self.ttl)
        self._leases[project_id] = lease
        return lease

    def holds(self, lease: Lease) -> bool:
        """Return whether a lease is still renewed."""
        return self._leases.get(lease.project_id) is lease

    def forget(self, lease: Lease) -> None:
        """Renew a lease no more: somebody else holds it."""
        if self.holds(lease):
            del self._leases[lease.project_id]

    async def release(self, lease: Lease) -> None:
        """Give a project back; if state_svc is away, the lease expires by itself."""
        self.forget(lease)
        try:
            await self._client.release_lease(lease.project_id, self.holder, lease.lease_epoch)
        except RamifyError as error:
            _log.warning("lease not released", project_id=lease.project_id, cause=error.message)

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self.ttl / RENEWALS_PER_TTL)
            await self.renew_now()

    async def renew_now(self) -> None:
        """Renew all leases once; runners of lost ones are told."""
        leases = list(self._leases.values())
        for start in range(0, len(leases), MAX_RENEWED_AT_ONCE):
            await self._renew(leases[start : start + MAX_RENEWED_AT_ONCE])

    async def _renew(self, leases: list[Lease]) -> None:
        sent_at = asyncio.get_running_loop().time()
        held = [(lease.project_id, lease.lease_epoch) for lease in leases]
        try:
            lost = set(
                await self._client.renew_leases(
                    self.holder, held, timeout=self.ttl / RENEWALS_PER_TTL
                )
            )
        except RamifyError as error:
            _log.warning("leases not renewed", leases=len(held), cause=error.message)
            return
        for lease, key in zip(leases, held, strict=True):
            if key not in lost:
                lease.extend(sent_at + self.ttl)
            elif self.holds(lease):
                self.forget(lease)
                self._metrics.leases_lost.inc()
                _log.warning("lease lost", project_id=lease.project_id)
                lease.on_lost()
