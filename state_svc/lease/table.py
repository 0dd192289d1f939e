"""When leases expire (SEM 16). Pure; the caller gives monotonic times.

Who holds a lease, and its epoch, are part of the project and durable. How long it still lasts
is kept here only: after a restart of the service every lease has its full time again.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TTL = 10.0  #: seconds
MIN_TTL = 1.0
MAX_TTL = 60.0


@dataclass(slots=True)
class _Term:
    deadline: float
    ttl: float


class LeaseTable:
    """Deadlines by (project_uid, lease_epoch)."""

    def __init__(self, *, now: float) -> None:
        self._started = now
        self._terms: dict[tuple[str, int], _Term] = {}

    def grant(self, project_uid: str, epoch: int, *, ttl: float, now: float) -> None:
        """Start a lease of `ttl` seconds."""
        self._terms[project_uid, epoch] = _Term(now + ttl, ttl)

    def renew(self, project_uid: str, epoch: int, *, now: float) -> float:
        """Give a lease its full time again; return that time in seconds."""
        term = self._terms.get((project_uid, epoch))
        if term is None:
            term = self._terms[project_uid, epoch] = _Term(0.0, DEFAULT_TTL)
        term.deadline = now + term.ttl
        return term.ttl

    def expired(self, project_uid: str, epoch: int, *, now: float) -> bool:
        """Whether a lease has run out. One from before the start has the default time."""
        term = self._terms.get((project_uid, epoch))
        return now >= (self._started + DEFAULT_TTL if term is None else term.deadline)

    def end(self, project_uid: str, epoch: int) -> None:
        """Forget a lease that was released or taken over."""
        self._terms.pop((project_uid, epoch), None)
