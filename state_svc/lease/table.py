"""When leases expire (SEM 16). Pure; the caller gives monotonic times.

Who holds a lease, its epoch and its length are part of the project and durable. When it runs out
is kept here only: after a restart of the service every lease has its full time again.
"""

from __future__ import annotations

DEFAULT_TTL = 10.0  #: seconds
MIN_TTL = 1.0
MAX_TTL = 60.0


class LeaseTable:
    """Deadlines by (project_uid, lease_epoch)."""

    def __init__(self, *, now: float) -> None:
        self._started = now
        self._deadlines: dict[tuple[str, int], float] = {}

    def renew(self, project_uid: str, epoch: int, *, ttl: float, now: float) -> None:
        """Give a lease its full time of `ttl` seconds, for the first time or again."""
        self._deadlines[project_uid, epoch] = now + ttl

    def expired(self, project_uid: str, epoch: int, *, ttl: float, now: float) -> bool:
        """Whether a lease of `ttl` seconds has run out; one from before the start began then."""
        return now >= self._deadlines.get((project_uid, epoch), self._started + ttl)

    def end(self, project_uid: str, epoch: int) -> None:
        """Forget a lease that was released or taken over."""
        self._deadlines.pop((project_uid, epoch), None)
