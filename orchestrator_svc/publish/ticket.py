"""Batches that are not acked: each in memory, or in the spool when there is much already."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchestrator_svc.errors import RamifyError
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.encode import with_sequence
from orchestrator_svc.publish.spool import Slip, Spool

SPOOL_ABOVE_BYTES = 16 << 20  #: in memory; further batches go into the spool while it has room


@dataclass(slots=True, eq=False)
class Ticket:
    """A batch that somebody waits for."""

    batch: bytes | None  #: encoded, without its sequence; None: it is in the spool
    future: asyncio.Future[int]  #: its revision, once it is durable
    offered_at: float  #: loop time
    size: int = 0  #: bytes in memory
    slip: Slip | None = None


class Tickets:
    """Keeps the batches of all tickets. Owned by the mutation stream."""

    def __init__(self, spool: Spool | None, metrics: Metrics) -> None:
        self._spool = spool
        self._metrics = metrics
        self.memory_bytes = 0  #: of the batches that are not in the spool

    def issue(self, batch: bytes) -> Ticket:
        """Keep a batch, where there is room for it."""
        size = len(batch)
        loop = asyncio.get_running_loop()
        ticket = Ticket(batch, loop.create_future(), loop.time())
        if self._spool is not None and self.memory_bytes + size > SPOOL_ABOVE_BYTES:
            ticket.slip = self._spool.put(batch)
            self._metrics.spooled_bytes.set(self._spool.held_bytes)
        if ticket.slip is not None:
            ticket.batch = None
        else:
            ticket.size = size
            self.memory_bytes += size
        return ticket

    def body(self, ticket: Ticket, sequence: int) -> bytes:
        """Return a batch to be sent. Raises `CorruptRecord` if the spool has damaged it."""
        batch = ticket.batch
        if batch is None:
            assert self._spool is not None
            assert ticket.slip is not None
            batch = self._spool.read(ticket.slip)
        return with_sequence(batch, sequence)

    def durable(self, ticket: Ticket, revision: int) -> None:
        """Let go of a batch that is durable, and say so; revision 0: it is forgotten which."""
        self._release(ticket)
        self._metrics.ack_seconds.observe(asyncio.get_running_loop().time() - ticket.offered_at)
        if not ticket.future.done():
            ticket.future.set_result(revision)

    def refused(self, ticket: Ticket, error: RamifyError) -> None:
        """Let go of a batch that will never be durable, and say why."""
        self._release(ticket)
        if not ticket.future.done():
            ticket.future.set_exception(error)

    def dropped(self, ticket: Ticket) -> None:
        """Let go of a batch that nobody waits for any more."""
        self._release(ticket)
        ticket.future.cancel()

    def _release(self, ticket: Ticket) -> None:
        self.memory_bytes -= ticket.size
        ticket.size = 0
        if ticket.slip is not None and self._spool is not None:
            self._spool.release(ticket.slip)
            self._metrics.spooled_bytes.set(self._spool.held_bytes)
            ticket.slip = None
