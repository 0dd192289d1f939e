"""The RPCs that let a project leave as a file and come in from one."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack
from typing import BinaryIO

from ramify.v1.state_service_pb2 import (
    ExportProjectRequest,
    ExportProjectResponse,
    ImportProjectRequest,
    ImportProjectResponse,
)
from state_svc.admin.arrival import ProjectFile, Record, records_of, settle, verify
from state_svc.admin.export import ExportSource, write_project
from state_svc.admin.identity import Identity
from state_svc.codec.payload import PayloadRecord
from state_svc.codec.segment import SegmentRecord, encode_segment
from state_svc.codec.snapshot import SnapshotRecord
from state_svc.errors import (
    CorruptRecord,
    InvalidRequest,
    Overloaded,
    RevisionCompacted,
    StoreUnavailable,
)
from state_svc.history.newcomer import store_newcomer
from state_svc.model.ids import NO_PROJECT_ID, is_project_id
from state_svc.model.project import LiveProject
from state_svc.rpc.gate import Gate
from state_svc.rpc.once import once
from state_svc.service import Service, now_micros
from state_svc.store.base import Commit, RequestRecord
from state_svc.store.payloads import ArchiveRecord, ReferenceRecord

_PIECE_BYTES = 512 << 10  #: of a file, in one message
_COMMIT_BYTES = 1 << 20  #: of stored segments, in one commit
_MAX_IMPORTS = 4  #: under way at one time; each holds its project in memory
_SPARE_BYTES = 256 << 20  #: left on the disk by a file that comes in
_THRESHOLD = 1_024


class PortableRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._imports = Gate("imports", _MAX_IMPORTS)

    async def export_project(self, request: ExportProjectRequest) -> AsyncGenerator[bytes, None]:
        """Yield encoded messages: the project at its present head."""
        service = self._service
        service.check_open()
        project = await service.live(request.project_id)
        view = project.view
        source = ExportSource(
            project_id=project.project_id,
            project_uid=project.uid,
            revision=view.revision,
            compacted=view.compacted,
            nodes=list(view.nodes.values()),
            micros=now_micros(),
        )
        try:
            async for data, revision in write_project(service.store, source):
                for start in range(0, len(data), _PIECE_BYTES):
                    yield ExportProjectResponse(
                        data=data[start : start + _PIECE_BYTES],
                        done_revision=revision,
                        last_revision=source.revision,
                    ).SerializeToString()
        except CorruptRecord:
            # Unless it was deleted or compacted meanwhile.
            compacted = (await service.live(request.project_id)).view.compacted
            if compacted > source.compacted:
                raise RevisionCompacted(compacted_revision=compacted) from None
            raise

    async def import_project(
        self, requests: AsyncIterator[ImportProjectRequest]
    ) -> ImportProjectResponse:
        """Take the whole file, verify it, store it as a new project."""
        service = self._service
        service.check_open()
        with ExitStack() as held:
            held.enter_context(self._imports.enter())
            try:
                file = held.enter_context(await asyncio.to_thread(self._open_scratch))
                first = await self._receive(requests, file)
                return await self._take(first, file, held)
            except OSError as error:
                raise StoreUnavailable(problem=str(error.strerror)) from error

    async def _receive(
        self, requests: AsyncIterator[ImportProjectRequest], file: BinaryIO
    ) -> ImportProjectRequest:
        first: ImportProjectRequest | None = None
        async for request in requests:
            if first is None:
                first = ImportProjectRequest(
                    project_id=request.project_id, request_id=request.request_id
                )
                if first.project_id and not is_project_id(first.project_id):
                    raise InvalidRequest(field="project_id", problem=NO_PROJECT_ID)
            elif request.project_id or request.request_id:
                raise InvalidRequest(field="project_id", problem="comes in the first message only")
            await asyncio.to_thread(self._write, file, request.data)
        if first is None:
            raise InvalidRequest(field="data", problem="is needed")
        return first

    async def _take(
        self, first: ImportProjectRequest, file: BinaryIO, held: ExitStack
    ) -> ImportProjectResponse:
        service = self._service

        async def work() -> RequestRecord:
            # It goes on when its caller gives up, and keeps its file and its place until its end.
            with held.pop_all():
                file.seek(0)
                found = await asyncio.to_thread(verify, file, service.limits)
                return await self._store(first, file, found)

        record = await once(service, "ImportProject", first.request_id, first.project_id, work)
        project = await service.live(record.project_id)
        return ImportProjectResponse(project=project.view.to_project())

    async def _store(
        self, first: ImportProjectRequest, file: BinaryIO, found: ProjectFile
    ) -> RequestRecord:
        """Store a verified file; the project exists once all of it is durable."""
        service = self._service
        project_id = first.project_id or found.header.project_id
        service.projects.check_free(project_id)
        identity = Identity(uuid.uuid4().hex, project_id)
        view = found.view
        identity.entity(view.entity)
        arrival = settle(view, micros=now_micros(), actor="import")
        if arrival is not None:
            view.apply(arrival)
        project = LiveProject(view)
        record = RequestRecord(
            "ImportProject", first.request_id, project_id, view.revision, now_micros()
        )

        async def write() -> None:
            await self._store_records(file, identity, found)
            if arrival is not None:
                segment = encode_segment(project.uid, [arrival], _THRESHOLD).record
                await service.store.commit(Commit(segments=[segment]))

        await store_newcomer(service.store, service.projects, project, record, write)
        return record

    async def _store_records(self, file: BinaryIO, identity: Identity, found: ProjectFile) -> None:
        store = self._service.store
        file.seek(0)
        records = records_of(file, identity, now_micros())
        run: list[SegmentRecord] = []
        size = 0
        while (record := await asyncio.to_thread(_next, records)) is not None:
            if isinstance(record, SnapshotRecord):
                await store.put_snapshot_chunk(record)
                continue
            if isinstance(record, PayloadRecord):
                await store.payloads.put(record)
                references = [
                    ReferenceRecord(identity.project_uid, record.digest, named[record.digest], late)
                    for late, named in ((False, found.references), (True, found.archived))
                    if record.digest in named
                ]
                await store.commit(Commit(references=references))
                continue
            if isinstance(record, ArchiveRecord):
                await store.commit(Commit(archive=[record]))
                continue
            run.append(record)
            size += len(record.data)
            if size >= _COMMIT_BYTES:
                await store.commit(Commit(segments=run))
                run, size = [], 0
        if run:
            await store.commit(Commit(segments=run))

    def _open_scratch(self) -> BinaryIO:
        """Open a file that goes away when it is closed, however that happens."""
        scratch = self._service.store.scratch
        scratch.mkdir(exist_ok=True)
        path = scratch / f"import-{uuid.uuid4().hex}"
        file = path.open("x+b")
        path.unlink()
        return file

    def _write(self, file: BinaryIO, data: bytes) -> None:
        if shutil.disk_usage(self._service.store.scratch).free < _SPARE_BYTES + len(data):
            raise Overloaded(problem="no room on the disk for the file")
        file.write(data)


def _next(records: Iterator[Record]) -> Record | None:
    return next(records, None)
