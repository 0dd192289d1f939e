"""Backups and exports over the wire, as a client in any language takes them: bytes, joined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import (
    BackupRequest,
    ExportProjectRequest,
    ImportProjectRequest,
)
from state_svc.admin.check import Problem, Report, check_file
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
