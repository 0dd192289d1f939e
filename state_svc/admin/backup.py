"""A backup: the database of a store as a portable file. Read and written in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from state_svc import __version__
from state_svc.admin.portable import FILE_VERSION, FileReader, FileWriter, check_version
from state_svc.admin.progress import Progress, silent
from state_svc.model.node import set_micros
from state_svc.storage.v1.file_pb2 import BackupHeader, FileRecord

PIECE_BYTES = 256 << 10  #: of the database, in one record


def write_backup(
    database: BinaryIO, size: int, *, store_id: str, micros: int
) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes of a backup file, piece by piece, and how much of the database they hold."""
    writer = FileWriter()
    header = BackupHeader(
        file_version=FILE_VERSION, writer_version=__version__, store_id=store_id, data_bytes=size
    )
    set_micros(header.create_time, micros)
    yield writer.begin(FileRecord(backup=header)), 0
    done = 0
    while data := database.read(PIECE_BYTES):
        done += len(data)
        yield writer.add(FileRecord(data=data)), done
    yield writer.end(), done


def read_backup(stream: BinaryIO, target: Path, progress: Progress = silent) -> BackupHeader:
    """Write the database of a backup into a new file and verify all of it; return the header.

    Raises `DamagedFile`; then what was written must not be used.
    """
    reader = FileReader(stream)
    records = reader.records()
    first = next(records, None)
    if first is None or first.WhichOneof("record") != "backup":
        raise reader.damaged("it is not a backup")
    header = first.backup
    check_version(reader, header.file_version)
    written = 0
    with target.open("xb") as database:
        for record in records:
            if record.WhichOneof("record") != "data":
                raise reader.damaged("a record that is not part of a backup")
            written += database.write(record.data)
            progress(f"{written >> 20:,} of {header.data_bytes >> 20:,} MiB verified")
    if written != header.data_bytes:
        raise reader.damaged(f"it holds {written} of {header.data_bytes} bytes")
    return header
