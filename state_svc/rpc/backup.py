"""The backup RPC: a copy of the store, made beside it, then sent piece by piece."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO

from ramify.v1.state_service_pb2 import BackupRequest, BackupResponse
from state_svc.admin.backup import write_backup
from state_svc.errors import Overloaded, StoreUnavailable
from state_svc.service import Service, now_micros

_log = logging.getLogger(__name__)


class BackupRpcs:
    """Handler of Backup. One at a time: each needs as much room on disk as the store."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running = False

    async def backup(self, request: BackupRequest) -> AsyncGenerator[bytes, None]:
        """Yield encoded messages. In memory there is one piece at a time."""
        service = self._service
        service.check_open()
        if self._running:
            raise Overloaded(problem="another backup is under way")
        self._running = True
        scratch = service.store.scratch
        path = scratch / f"backup-{uuid.uuid4().hex}"
        try:
            copy = await self._copy(scratch, path)
            with copy:
                size = copy.seek(0, 2)
                copy.seek(0)
                pieces = write_backup(
                    copy, size, store_id=service.store.store_id, micros=now_micros()
                )
                while (piece := await asyncio.to_thread(_next, pieces)) is not None:
                    data, done = piece
                    yield BackupResponse(
                        data=data, done_bytes=done, total_bytes=size
                    ).SerializeToString()
            _log.info("backup sent", extra={"fields": {"bytes": size}})
        finally:
            self._running = False
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _copy(self, scratch: Path, path: Path) -> BinaryIO:
        try:
            await asyncio.to_thread(scratch.mkdir, exist_ok=True)
            await self._service.store.backup(path)
            return await asyncio.to_thread(_open_unnamed, path)
        except OSError as error:
            raise StoreUnavailable(path=path, problem=str(error.strerror)) from error


def _open_unnamed(path: Path) -> BinaryIO:
    """Open a file that goes away with its last reader, however that ends."""
    file = path.open("rb")
    path.unlink()
    return file


def _next(pieces: Iterator[tuple[bytes, int]]) -> tuple[bytes, int] | None:
    return next(pieces, None)
