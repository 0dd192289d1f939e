"""The contract of a store's payloads, what references them, and the archive of stage records.

A backend must hold, besides what `base.py` says of every store:

- A payload is stored once by its digest. To put it again changes nothing but its time, unless what
  is stored is damaged: then it is replaced.
- A commit that names a payload which is not there fails whole, with `StoreUnavailable`.
- Of two references of one project to one payload the later revision counts, for the log and for
  the archive each on its own.
- `drop_payloads` drops a payload only if nothing references it at that moment and it was put
  before the given time; whoever references or puts it at the same moment comes before or after.
- When a project is deleted, its references and its archive go with the rest of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from state_svc.codec.payload import PayloadInfo, PayloadRecord
from state_svc.codec.segment import SegmentRecord


@dataclass(frozen=True, slots=True)
class ReferenceRecord:
    """A payload that a project names at or before a revision."""

    project_uid: str
    digest: str
    revision: int
    archived: bool = False  #: by the archive of stage records, not by segments and snapshots


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """Stage records of compacted revisions: a segment that holds nothing else."""

    segment: SegmentRecord
    micros: int  #: latest commit time in it, microseconds since 1970


@dataclass(frozen=True, slots=True)
class PayloadTotals:
    """How much a payload store holds."""

    count: int = 0
    original_bytes: int = 0
    stored_bytes: int = 0

    def plus(self, count: int, original_bytes: int, stored_bytes: int) -> PayloadTotals:
        """Return the totals after a change."""
        return PayloadTotals(
            self.count + count,
            self.original_bytes + original_bytes,
            self.stored_bytes + stored_bytes,
        )


class PayloadStore(Protocol):
    """The part of a `StateStore` that keeps bodies."""

    async def totals(self) -> PayloadTotals:
        """Return how much is there, without looking at each body."""

    async def put(self, record: PayloadRecord) -> PayloadInfo:
        """Store a body durably, or renew the time of the one that is there; return what is.

        One that is damaged is replaced.
        """

    async def find(self, digests: Collection[str]) -> list[PayloadInfo]:
        """Return which of some bodies are there."""

    async def read(self, digest: str) -> PayloadRecord | None:
        """Return a body; None if it is not there."""

    async def list_references(self, project_uid: str) -> list[ReferenceRecord]:
        """Return what a project references, by digest."""

    async def is_referenced(self, project_uid: str, digest: str) -> bool:
        """Whether a project references a payload."""

    async def drop_references(
        self, project_uid: str, revision: int, kept: Collection[str], *, archived: bool = False
    ) -> None:
        """Forget references up to a revision, save those to `kept`."""

    async def list_unreferenced(self, before_micros: int) -> list[str]:
        """Return digests that nothing references and that were put before a time."""

    async def drop_payloads(self, digests: Collection[str], before_micros: int) -> int:
        """Drop those of some payloads that may go now; return how many."""

    async def read_archive(
        self, project_uid: str, after_revision: int, max_bytes: int
    ) -> list[ArchiveRecord]:
        """Return the archive behind a revision, oldest first, as `read_segments` does."""

    async def drop_archive_after(self, project_uid: str, revision: int) -> None:
        """Forget what the archive holds behind a revision."""

    async def drop_archive_before(self, project_uid: str, micros: int) -> int:
        """Forget what the archive holds from before a time; return the last revision of it.

        0 if there was nothing. What follows a record that stays, stays too.
        """
