"""Decides when accepted batches are due for a commit. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Bounds on an open commit; reaching any one of them makes it due. Ceilings, not delays."""

    max_mutations: int = 50  #: `state_batch_size`
    max_bytes: int = 1 << 20
    max_delay: float = 0.1  #: `state_batch_timeout_ms`, in seconds since the *first* batch


class BatchBuffer(Generic[Item]):
    """Holds accepted batches, in arrival order, until a commit is due.

    Owned by the commit loop alone, so it has no lock. It never drops, splits or merges a batch:
    `take` hands all of them to the caller, who commits them or fails them.
    """

    def __init__(self, limits: BatchLimits, *, eager: bool) -> None:
        self._limits = limits
        self._eager = eager
        self._items: list[Item] = []
        self._mutations = 0
        self._bytes = 0
        self._opened_at = 0.0
        self._urgent = False

    @property
    def mutations(self) -> int:
        """Mutations that wait."""
        return self._mutations

    @property
    def size(self) -> int:
        """Encoded bytes that wait."""
        return self._bytes

    def add(
        self, item: Item, *, mutations: int, size: int, now: float, immediate: bool = False
    ) -> None:
        """Append one batch received at monotonic time `now`; `immediate` makes all of it due."""
        if not self._items:
            self._opened_at = now
        self._items.append(item)
        self._mutations += mutations
        self._bytes += size
        self._urgent = self._urgent or immediate

    def hurry(self) -> None:
        """Make what waits due now, as a flush does."""
        self._urgent = bool(self._items)

    def due_in(self, now: float) -> float | None:
        """Seconds left until a commit is due; None while nothing waits.

        Asked when no commit runs, so an eager buffer is due as soon as it holds anything: the
        next commit fills while the present one is written, and group commit follows the load.
        """
        limits = self._limits
        if not self._items:
            return None
        if self._eager or self._urgent:
            return 0.0
        if self._mutations >= limits.max_mutations or self._bytes >= limits.max_bytes:
            return 0.0
        return max(0.0, self._opened_at + limits.max_delay - now)

    def take(self) -> list[Item]:
        """Return everything that waits and start anew."""
        items, self._items = self._items, []
        self._mutations = self._bytes = 0
        self._urgent = False
        return items
