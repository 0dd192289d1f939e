"""Backups and exports over the wire, as a client in any language takes them: bytes, joined."""

from __future__ import annotations

from pathlib import Path

from ramify.v1.state_service_pb2 import BackupRequest
from tests.support.wire import Wire

CALL_SECONDS = 30.0


async def take_backup(wire: Wire, path: Path) -> None:
    """Write a backup into a file."""
    with path.open("wb") as file:
        async for part in wire.stub.Backup(BackupRequest(), timeout=CALL_SECONDS):
            assert len(part.data) <= 1 << 20
            assert part.done_bytes <= part.total_bytes
            file.write(part.data)
        assert part.done_bytes == part.total_bytes
