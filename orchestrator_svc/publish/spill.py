"""What waits for state_svc as bytes: in memory, or in the spool when there is much already."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.spool import Slip, Spool

SPOOL_ABOVE_BYTES = 16 << 20  #: in memory; what comes then goes into the spool while it has room


@dataclass(slots=True, eq=False)
class Kept:
    """A byte string that waits."""

    data: bytes | None  #: None: it is in the spool, or was released
    size: int  #: bytes, wherever they are
    slip: Slip | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes that it takes in memory."""
        return 0 if self.data is None else len(self.data)


class SpillBuffer:
    """Keeps byte strings until they are released, the first ones in memory. It has no bound.

    Owned by the event loop. What the spool has no room for stays in memory too; whoever adds
    without being told to has to look at `memory_bytes`.
    """

    def __init__(self, spool: Spool | None, metrics: Metrics) -> None:
        self._spool = spool
        self._metrics = metrics
        self.memory_bytes = 0  #: of all that is not in the spool

    def keep(self, data: bytes) -> Kept:
        """Take a byte string."""
        if self._spool is not None and self.memory_bytes + len(data) > SPOOL_ABOVE_BYTES:
            slip = self._spool.put(data)
            self._metrics.spooled_bytes.set(self._spool.held_bytes)
            if slip is not None:
                return Kept(None, len(data), slip)
        self.memory_bytes += len(data)
        return Kept(data, len(data))

    def read(self, kept: Kept) -> bytes:
        """Return a byte string. Raises `CorruptRecord` if the spool has damaged it."""
        if kept.data is not None:
            return kept.data
        assert self._spool is not None
        assert kept.slip is not None, "it was released"
        return self._spool.read(kept.slip)

    def release(self, kept: Kept) -> None:
        """Let go of a byte string. Idempotent."""
        self.memory_bytes -= kept.memory_bytes
        kept.data = None
        slip, kept.slip = kept.slip, None
        if slip is not None and self._spool is not None:
            self._spool.release(slip)
            self._metrics.spooled_bytes.set(self._spool.held_bytes)
