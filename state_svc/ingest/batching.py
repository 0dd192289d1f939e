"""Decides when accepted batches are due for a commit. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The watermark of a pool; reaching any part of it makes a commit due. Ceilings, not delays."""

    max_mutations: int = 50  #: `state_batch_size`; with 1 a commit takes one batch of the pool
    max_bytes: int = 1 << 20
    max_delay: float = 0.1  #: `state_batch_timeout_ms`, in seconds since the *first* batch
    eager: bool = True  #: due as soon as no commit runs


class _Pool:
    """What waits under one watermark."""

    __slots__ = ("count", "limits", "mutations", "opened_at", "size")

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.count = self.mutations = self.size = 0
        self.opened_at = 0.0

    def due_in(self, now: float) -> float:
        limits = self.limits
        if limits.eager or self.mutations >= limits.max_mutations or self.size >= limits.max_bytes:
            return 0.0
        return max(0.0, self.opened_at + limits.max_delay - now)


class BatchBuffer(Generic[Item]):
    """Holds accepted batches, in arrival order, until a commit is due.

    Batches wait in pools: one that is shared, and one for each project with a watermark of its
    own. A commit is due as soon as one pool is, and takes along whatever waits in the others; so
    a watermark can bring a commit forward, for all, and puts off none but its own pool's.

    Owned by the commit loop alone, so it has no lock. It never drops, splits or merges a batch:
    `take` hands them to the caller, who commits them or fails them.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits  #: of the shared pool
        self._items: list[tuple[Item, str, int, int, float]] = []
        self._pools: dict[str, _Pool] = {}
        self._size = 0
        self._singles = 0  #: pools of which a commit takes one batch
        self._urgent = False

    @property
    def size(self) -> int:
        """Encoded bytes that wait."""
        return self._size

    def add(
        self,
        item: Item,
        *,
        mutations: int,
        size: int,
        now: float,
        immediate: bool = False,
        pool: str = "",
        limits: BatchLimits | None = None,
    ) -> None:
        """Append one batch received at monotonic time `now`; `immediate` makes all of it due.

        `pool` names the pool, by default the shared one; `limits` is its watermark.
        """
        self._put(item, pool, mutations, size, now, limits)
        self._urgent = self._urgent or immediate

    def _put(
        self,
        item: Item,
        name: str,
        mutations: int,
        size: int,
        now: float,
        limits: BatchLimits | None,
    ) -> None:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool(limits or self._limits)
            self._singles += pool.limits.max_mutations == 1
        if not pool.count:
            pool.opened_at = now
        pool.count += 1
        pool.mutations += mutations
        pool.size += size
        self._size += size
        self._items.append((item, name, mutations, size, now))

    def hurry(self) -> None:
        """Make what waits due now, as a flush does."""
        self._urgent = bool(self._items)

    def due_in(self, now: float) -> float | None:
        """Seconds left until a commit is due; None while nothing waits.

        Asked when no commit runs, so an eager pool is due as soon as it holds anything: the next
        commit fills while the present one is written, and group commit follows the load.
        """
        if not self._items:
            return None
        if self._urgent:
            return 0.0
        return min(pool.due_in(now) for pool in self._pools.values())

    def take(self) -> list[Item]:
        """Return what the next commit holds.

        That is everything that waits; but of a pool whose watermark is one mutation only the
        first batch, so that each of its batches has a commit of its own. The others stay.
        """
        if not self._singles:
            return self.take_all()
        items, pools, urgent = self._items, self._pools, self._urgent
        self._clear()
        taken: list[Item] = []
        seen: set[str] = set()
        for item, name, mutations, size, now in items:
            limits = pools[name].limits
            if limits.max_mutations == 1 and name in seen:
                self._put(item, name, mutations, size, now, limits)
            else:
                seen.add(name)
                taken.append(item)
        self._urgent = urgent and bool(self._items)
        return taken

    def take_all(self) -> list[Item]:
        """Return everything that waits and start anew."""
        items = self._items
        self._clear()
        return [item[0] for item in items]

    def _clear(self) -> None:
        self._items, self._pools = [], {}
        self._size = self._singles = 0
        self._urgent = False
