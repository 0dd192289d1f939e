"""The latest revisions of one project, held once for all of its watchers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.v1.mutation_pb2 import Change
from state_svc.model.project import Applied

MAX_FEED_BYTES = 8 << 20  #: whoever needs older revisions reads the store
_CHANGE_BYTES = 1_024  #: what a change keeps in memory beside its encoded bytes, about


class Entry:
    """One revision, decoded at most once."""

    __slots__ = ("_changes", "applied", "size")

    def __init__(self, applied: Applied) -> None:
        self.applied = applied
        self.size = len(applied.body) + _CHANGE_BYTES * len(applied.images)
        self._changes: list[Change] | None = None

    @property
    def changes(self) -> list[Change]:
        """The changes; nobody may alter them."""
        if self._changes is None:
            self._changes = self.applied.changes()
        return self._changes


class Feed:
    """Everything after revision `start` up to `head`, bounded in bytes."""

    def __init__(self, head: int) -> None:
        self.start = head
        self.head = head
        self.bytes = 0
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def extend(self, run: Sequence[Applied]) -> bool:
        """Take the next revisions; return whether the bound has cost the oldest ones."""
        entries = [Entry(applied) for applied in run]
        self._entries += entries
        self.bytes += sum(entry.size for entry in entries)
        self.head = run[-1].revision
        drop = 0
        while self.bytes > MAX_FEED_BYTES:
            self.bytes -= self._entries[drop].size
            drop += 1
        self._drop(drop)
        return bool(drop)

    def after(self, revision: int) -> list[Entry]:
        """Return the revisions after one that is not before `start`."""
        return self._entries[revision - self.start :]

    def trim(self, revision: int) -> None:
        """Forget what is not after a revision."""
        count = min(max(0, revision - self.start), len(self._entries))
        self.bytes -= sum(entry.size for entry in self._entries[:count])
        self._drop(count)

    def _drop(self, count: int) -> None:
        if count:
            del self._entries[:count]
            self.start += count
