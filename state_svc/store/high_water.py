"""The number of the last commit that returned, kept outside the database.

SQLite takes a commit whose bytes in the WAL were damaged after a crash for one that was never
finished: it and all that follow are gone without a word. The mark tells. It is written after each
commit, so it is never ahead of what is durable, and not synced, so it costs next to nothing: it
survives the death of the process; after a power loss it may be older, and then tells less.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path

import apsw

from state_svc.errors import DataDirectoryUnreadable
from state_svc.store.rows import read_meta

NAME = "state.highwater"
_RECORD = struct.Struct(">32sQ")  #: id of the store, number of the commit; a crc32 follows
_CHECKSUM = struct.Struct(">I")

_log = logging.getLogger(__name__)


class HighWater:
    """The mark of an open store. Belongs to its writer thread."""

    def __init__(self, directory: Path) -> None:
        """Open the mark, made if needed. Raises `DataDirectoryUnreadable`."""
        path = directory / NAME
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirectoryUnreadable(path=path, problem=error.strerror) from error
        self._writable = True

    def write(self, store_id: str, number: int) -> None:
        """Note that a commit has returned; if that fails the mark stays, which is true as well."""
        record = _RECORD.pack(store_id.encode(), number)
        try:
            os.pwrite(self._file, record + _CHECKSUM.pack(zlib.crc32(record)), 0)
        except OSError as error:
            if self._writable:
                fields = {"file": NAME, "problem": error.strerror}
                _log.warning("missing commits may go unnoticed", extra={"fields": fields})
            self._writable = False
        else:
            self._writable = True

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)


def read_high_water(directory: Path, store_id: str) -> int:
    """Return the number of the last commit of a store that returned; 0 if no mark tells.

    A mark that is damaged, or that another store left, tells nothing.
    """
    try:
        data = (directory / NAME).read_bytes()
    except OSError:
        return 0
    record, checksum = data[: _RECORD.size], data[_RECORD.size :]
    if checksum != _CHECKSUM.pack(zlib.crc32(record)) or len(record) != _RECORD.size:
        return 0
    owner, number = _RECORD.unpack(record)
    return int(number) if owner == store_id.encode() else 0


def last_number(db: apsw.Connection) -> int:
    """Return the number of the last transaction that a database holds.

    Commits with segments have it in their rows; others note it in `meta`. Raises `CorruptRecord`.
    """
    text = read_meta(db, "commit_id") or ""
    found = int(text) if text.isdecimal() else 0
    for (number,) in db.execute("SELECT commit_id FROM segments ORDER BY segment_key DESC LIMIT 1"):
        found = max(found, number) if isinstance(number, int) else found
    return found
