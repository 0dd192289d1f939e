"""Backups and exports over the wire, as a client in any language takes them: bytes, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import (
    BackupRequest,
    ExportProjectRequest,
    ImportProjectRequest,
)
from state_svc.admin.check import Problem, Report, check_file
from state_svc.admin.portable import FileReader, FileWriter
from state_svc.codec.snapshot import SnapshotRecord, decode_snapshot, encode_chunk
from state_svc.history.replay import Replay
from state_svc.model.checksum import view_checksum
from state_svc.storage.v1.file_pb2 import FileRecord, FileTrailer
from state_svc.store.data_file import DataFile
from state_svc.store.sqlite import FILE_NAME
from tests.support.bound import WAIT_SECONDS
from tests.support.wire import Wire


async def take_backup(wire: Wire, path: Path) -> None:
    """Write a backup into a file."""
    with path.open("wb") as file:
        async for part in wire.stub.Backup(BackupRequest(), timeout=WAIT_SECONDS):
            assert len(part.data) <= 1 << 20
            assert part.done_bytes <= part.total_bytes
            file.write(part.data)
        assert part.done_bytes == part.total_bytes


async def export_project(wire: Wire, project_id: str) -> bytes:
    """Return a project as a file."""
    data = b""
    async for part in wire.stub.ExportProject(
        ExportProjectRequest(project_id=project_id), timeout=WAIT_SECONDS
    ):
        assert len(part.data) <= 1 << 20
        data += part.data
    assert part.done_revision == part.last_revision
    return data


async def import_project(
    wire: Wire, data: bytes, project_id: str = "", request_id: str = "", piece: int = 100_000
) -> Project:
    """Send a file; return the project that it has become."""

    def requests() -> Iterator[ImportProjectRequest]:
        yield ImportProjectRequest(project_id=project_id, request_id=request_id, data=data[:piece])
        for start in range(piece, len(data), piece):
            yield ImportProjectRequest(data=data[start : start + piece])

    return (await wire.stub.ImportProject(requests(), timeout=WAIT_SECONDS)).project


def flip(data: bytes, place: int) -> bytes:
    """Return data with one bit changed."""
    return data[:place] + bytes((data[place] ^ 0x04,)) + data[place + 1 :]


def find_problems(directory: Path) -> list[Problem]:
    """Return what `check` finds in a data directory."""
    report = Report()
    with DataFile(directory / FILE_NAME) as data:
        check_file(data, report)
    return report.problems


def rewrite(data: bytes, change: Callable[[list[FileRecord]], object]) -> bytes:
    """Change the records of a file; its checksums are right again, save that of the view."""
    records, trailer = _read(data)
    change(records)
    return _written(records, trailer)


def forge(data: bytes, change: Callable[[list[FileRecord]], object]) -> bytes:
    """Change the records of a file; all its checksums are right again, if it can be replayed."""
    records, trailer = _read(data)
    change(records)
    try:
        view = _replayed(records).view
        trailer.view_checksum = view_checksum(view.nodes.values())
        trailer.node_count = len(view.nodes)
    except Exception:  # whatever the content makes of it; it is not to be replayed then
        pass
    return _written(records, trailer)


def _read(data: bytes) -> tuple[list[FileRecord], FileTrailer]:
    reader = FileReader(BytesIO(data))
    records = list(reader.records())
    assert reader.trailer is not None
    return records, reader.trailer


def _written(records: list[FileRecord], trailer: FileTrailer) -> bytes:
    writer = FileWriter()
    parts = [writer.begin(records[0]), *[writer.add(record) for record in records[1:]]]
    parts.append(writer.end(view_checksum=trailer.view_checksum, node_count=trailer.node_count))
    return b"".join(parts)


def _replayed(records: list[FileRecord]) -> Replay:
    replay = Replay()
    chunks: list[SnapshotRecord] = []
    for record in records:
        if record.HasField("snapshot"):
            chunks.append(encode_chunk(record.snapshot))
            if record.snapshot.last:
                replay.view, _ = decode_snapshot(chunks)
        for segment in record.segments.segments:
            replay.add_segment(segment)
    return replay
