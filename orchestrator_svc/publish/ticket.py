"""Batches that are not acked, and who waits for each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchestrator_svc.errors import RamifyError
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.encode import with_sequence
from orchestrator_svc.publish.spill import Kept, SpillBuffer


@dataclass(slots=True, eq=False)
class Ticket:
    """A batch that somebody waits for."""

    batch: Kept  #: encoded, without its sequence
    future: asyncio.Future[int]  #: its revision, once it is durable
    offered_at: float  #: loop time


class Tickets:
    """Keeps the batches of all tickets. Owned by the mutation stream."""

    def __init__(self, buffer: SpillBuffer, metrics: Metrics) -> None:
        self._buffer = buffer
        self._metrics = metrics
        self.memory_bytes = 0  #: of the batches that are not in the spool

    def issue(self, batch: bytes) -> Ticket:
        """Keep a batch, where there is room for it."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(self._buffer.keep(batch), loop.create_future(), loop.time())
        self.memory_bytes += ticket.batch.memory_bytes
        return ticket

    def body(self, ticket: Ticket, sequence: int) -> bytes:
        """Return a batch to be sent. Raises `CorruptRecord` if the spool has damaged it."""
        return with_sequence(self._buffer.read(ticket.batch), sequence)

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
        self.memory_bytes -= ticket.batch.memory_bytes
        self._buffer.release(ticket.batch)
