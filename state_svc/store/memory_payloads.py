"""The payloads of the store in memory: see `payloads.py` for what they promise."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from state_svc.codec.payload import PayloadInfo, PayloadRecord, is_damaged
from state_svc.errors import StoreUnavailable
from state_svc.store.payloads import ArchiveRecord, PayloadTotals, ReferenceRecord


class MemoryPayloads:
    """Implements `PayloadStore`."""

    def __init__(self) -> None:
        self.records: dict[str, PayloadRecord] = {}
        self.references: dict[tuple[str, str, bool], ReferenceRecord] = {}
        self.archive: dict[str, dict[int, ArchiveRecord]] = {}  #: by uid and last revision

    def check(self, references: Iterable[ReferenceRecord]) -> None:
        """Raise `StoreUnavailable` if a payload that is named is not there."""
        for reference in references:
            if reference.digest not in self.records:
                problem = f"payload {reference.digest} is not stored any more"
                raise StoreUnavailable(problem=problem)

    def add(self, references: Iterable[ReferenceRecord], archive: Iterable[ArchiveRecord]) -> None:
        """Take what a commit holds."""
        for reference in references:
            key = (reference.project_uid, reference.digest, reference.archived)
            known = self.references.get(key)
            if known is None or known.revision < reference.revision:
                self.references[key] = reference
        for record in archive:
            segment = record.segment
            self.archive.setdefault(segment.project_uid, {})[segment.last_revision] = record

    def forget_project(self, project_uid: str) -> None:
        """Drop what belongs to a project."""
        self.archive.pop(project_uid, None)
        self.references = {k: r for k, r in self.references.items() if k[0] != project_uid}

    async def totals(self) -> PayloadTotals:
        """See `PayloadStore`."""
        records = self.records.values()
        return PayloadTotals(
            len(records), sum(r.original_bytes for r in records), sum(len(r.data) for r in records)
        )

    async def put(self, record: PayloadRecord) -> PayloadInfo:
        """See `PayloadStore`."""
        known = self.records.get(record.digest, record)
        if is_damaged(known, record):
            known = record
        micros = max(known.micros, record.micros)
        self.records[record.digest] = replace(known, micros=micros)
        return (await self.find([record.digest]))[0]

    async def find(self, digests: Collection[str]) -> list[PayloadInfo]:
        """See `PayloadStore`."""
        return [
            PayloadInfo(
                digest=digest,
                codec=record.codec,
                original_bytes=record.original_bytes,
                stored_bytes=len(record.data),
            )
            for digest in sorted(digests)
            if (record := self.records.get(digest)) is not None
        ]

    async def read(self, digest: str) -> PayloadRecord | None:
        """See `PayloadStore`."""
        return self.records.get(digest)

    async def list_references(self, project_uid: str) -> list[ReferenceRecord]:
        """See `PayloadStore`."""
        mine = [key for key in self.references if key[0] == project_uid]
        return [self.references[key] for key in sorted(mine)]

    async def is_referenced(self, project_uid: str, digest: str) -> bool:
        """See `PayloadStore`."""
        return any((project_uid, digest, archived) in self.references for archived in (False, True))

    async def drop_references(
        self, project_uid: str, revision: int, kept: Collection[str], *, archived: bool = False
    ) -> None:
        """See `PayloadStore`."""
        for reference in await self.list_references(project_uid):
            old = reference.revision <= revision and reference.archived == archived
            if old and reference.digest not in kept:
                del self.references[project_uid, reference.digest, archived]

    async def list_unreferenced(self, before_micros: int) -> list[str]:
        """See `PayloadStore`."""
        named = {digest for _, digest, _ in self.references}
        return [
            digest
            for digest, record in self.records.items()
            if digest not in named and record.micros < before_micros
        ]

    async def drop_payloads(self, digests: Collection[str], before_micros: int) -> int:
        """See `PayloadStore`."""
        gone = set(digests).intersection(await self.list_unreferenced(before_micros))
        for digest in gone:
            del self.records[digest]
        return len(gone)

    async def read_archive(
        self, project_uid: str, after_revision: int, max_bytes: int
    ) -> list[ArchiveRecord]:
        """See `PayloadStore`."""
        found: list[ArchiveRecord] = []
        size = 0
        for last, record in sorted(self.archive.get(project_uid, {}).items()):
            if last <= after_revision:
                continue
            size += len(record.segment.data)
            if found and size > max_bytes:
                break
            found.append(record)
        return found

    async def drop_archive_after(self, project_uid: str, revision: int) -> None:
        """See `PayloadStore`."""
        records = self.archive.get(project_uid, {})
        for last in [last for last in records if last > revision]:
            del records[last]

    async def drop_archive_before(self, project_uid: str, micros: int) -> int:
        """See `PayloadStore`."""
        records = self.archive.get(project_uid, {})
        dropped = 0
        for last, record in sorted(records.items()):
            if record.micros >= micros:
                break
            del records[last]
            dropped = last
        return dropped
