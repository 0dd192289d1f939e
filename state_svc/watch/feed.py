"""The latest revisions of one project, held once for all of its watchers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ramify.v1.mutation_pb2 import Change
from state_svc.model.project import Applied

MAX_FEED_BYTES = 8 << 20  #: whoever needs older revisions reads the store
MAX_FEEDS_BYTES = 64 << 20  #: of all projects together
_CHANGE_BYTES = 1_024  #: what a change keeps in memory beside its encoded bytes, about


class Entry:
    """One revision, decoded at most once."""

    __slots__ = ("_changes", "applied", "size")

    def __init__(self, applied: Applied) -> None:
        self.applied = applied
        changes = _CHANGE_BYTES * len(applied.images)
        self.size = len(applied.body) + changes + applied.held_bytes
        self._changes: list[Change] | None = None

    @property
    def changes(self) -> list[Change]:
        """The changes; nobody may alter them."""
        if self._changes is None:
            self._changes = self.applied.changes()
        return self._changes


class Held:
    """The bytes that all feeds hold together."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


def fair_share(sizes: Collection[int], most: int) -> int:
    """Return what no feed may exceed, so that all of them have at most `most` bytes together.

    Those that hold less keep all of it: who is further behind than others gives way.
    """
    left, count = most, len(sizes)
    for size in sorted(sizes):
        if size * count > left:
            return left // count
        left -= size
        count -= 1
    return max(sizes, default=0)


class Feed:
    """Everything after revision `start` up to `head`, bounded in bytes."""

    def __init__(self, head: int, held: Held) -> None:
        self.start = head
        self.head = head
        self.bytes = 0
        self._held = held
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def extend(self, run: Sequence[Applied]) -> bool:
        """Take the next revisions; return whether the bound has cost the oldest ones."""
        entries = [Entry(applied) for applied in run]
        self._entries += entries
        self._count(sum(entry.size for entry in entries))
        self.head = run[-1].revision
        return self.shrink(MAX_FEED_BYTES)

    def shrink(self, most: int) -> bool:
        """Forget the oldest revisions beyond so many bytes; return whether there were any."""
        drop = freed = 0
        while self.bytes - freed > most:
            freed += self._entries[drop].size
            drop += 1
        self._count(-freed)
        self._drop(drop)
        return bool(drop)

    def after(self, revision: int) -> list[Entry]:
        """Return the revisions after one that is not before `start`."""
        return self._entries[revision - self.start :]

    def trim(self, revision: int) -> None:
        """Forget what is not after a revision."""
        count = min(max(0, revision - self.start), len(self._entries))
        self._count(-sum(entry.size for entry in self._entries[:count]))
        self._drop(count)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._held.bytes += size

    def _drop(self, count: int) -> None:
        if count:
            del self._entries[:count]
            self.start += count
