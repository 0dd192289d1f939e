"""A file system under SQLite that fails when it is told to: full disk, I/O errors, failed syncs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

_BASE = "unix"
_NAME = "failing"


class Disk:
    """What fails at present; nothing at first."""

    def __init__(self) -> None:
        self.full = False  #: writing says that there is no room
        self.unwritable = False  #: writing fails
        self.unreadable = False  #: reading fails
        self.unsynced = 0  #: so many syncs fail, after their data were written
        self.synced = 0  #: so many syncs succeed before that

    def write(self) -> None:
        """Raise what writing fails with, if it does."""
        if self.full:
            raise _error(apsw.FullError, apsw.SQLITE_FULL, apsw.SQLITE_FULL)
        if self.unwritable:
            raise _error(apsw.IOError, apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_WRITE)

    def read(self) -> None:
        """Raise what reading fails with, if it does."""
        if self.unreadable:
            raise _error(apsw.IOError, apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_READ)

    def sync(self) -> None:
        """Raise what a sync fails with, if it does."""
        if self.unsynced and self.synced:
            self.synced -= 1
        elif self.unsynced:
            self.unsynced -= 1
            raise _error(apsw.IOError, apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_FSYNC)


def _error(kind: type[apsw.Error], result: int, extended: int) -> apsw.Error:
    error = kind("the disk was told to fail")
    vars(error).update(result=result, extendedresult=extended)
    return error


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__(_BASE, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.write()
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.read()
        return super().xRead(amount, offset)

    def xSync(self, flags: int) -> None:
        self._disk.sync()
        super().xSync(flags)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(_NAME, _BASE, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self._disk, name, flags)


@contextmanager
def failing_disk() -> Iterator[Disk]:
    """Put every database that is opened from here on upon a disk that can be made to fail."""
    disk = Disk()
    vfs = _Vfs(disk)
    try:
        yield disk
    finally:
        vfs.unregister()
