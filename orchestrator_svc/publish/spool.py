"""Holds batches in a file while state_svc is away, so that waiting costs disk instead of memory.

What a spool is for, and what it is not (SEM 17): it belongs to one epoch, which is one process.
Nothing in it was acked, so nothing in it was promised; after a crash the projects are loaded from
the store and go on from what is durable there, and a file that is left over is removed. It lets
many calls end during a long outage without their results filling the memory, in order and exactly
once, like everything in the outbox. It is never synced.

Every record is checked when it is read back: a flipped bit is `CorruptRecord`, never sent.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator_svc.errors import CorruptRecord
from orchestrator_svc.logs import get_logger

PREFIX = "spool-"  #: of the file; the epoch follows

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Slip:
    """Where a record is, and what it has to look like."""

    offset: int
    size: int
    checksum: int


class Spool:
    """One epoch's file in the data folder. Owned by the mutation stream."""

    def __init__(self, folder: Path, epoch: int, max_bytes: int) -> None:
        self._path = folder / f"{PREFIX}{epoch}"
        self._max_bytes = max_bytes
        self._file: int | None = None
        self._end = 0
        self._records = 0
        self._failed = False
        for left_over in folder.glob(f"{PREFIX}*"):
            _log.warning("a spool has died with its epoch", file=left_over.name)
            left_over.unlink(missing_ok=True)

    @property
    def held_bytes(self) -> int:
        """Size of the file."""
        return self._end

    def put(self, data: bytes) -> Slip | None:
        """Append a record; None if there is no room for it, here or on the disk."""
        if self._end + len(data) > self._max_bytes:
            return None
        try:
            if self._file is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._file = os.open(self._path, flags, 0o600)
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._end + written)
        except OSError as error:
            if not self._failed:
                _log.warning("the spool cannot be written", cause=str(error))
            self._failed = True
            return None
        self._failed = False
        slip = Slip(self._end, len(data), zlib.crc32(data))
        self._end += len(data)
        self._records += 1
        return slip

    def read(self, slip: Slip) -> bytes:
        """Return a record. Raises `CorruptRecord` if it is not what was written."""
        data = b""
        if self._file is not None:
            with suppress(OSError):
                data = os.pread(self._file, slip.size, slip.offset)
        if len(data) != slip.size or zlib.crc32(data) != slip.checksum:
            raise CorruptRecord(file=self._path.name, offset=slip.offset)
        return data

    def release(self, slip: Slip) -> None:
        """Forget a record. The file is emptied when it holds none."""
        self._records -= 1
        if not self._records and self._file is not None:
            self._end = 0
            with suppress(OSError):
                os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Remove the file: the epoch is over."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)
