"""Files that leave the service: records with checksums, one after the other. No I/O of its own.

The format is described at `FileRecord` in `protos/state_svc/storage/v1/file.proto`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import BinaryIO

from google.protobuf.message import DecodeError

from state_svc.codec.compression import MAX_INFLATED_BYTES, CompressionError, compress, decompress
from state_svc.errors import DamagedFile
from state_svc.storage.v1.file_pb2 import FileRecord, FileTrailer

FILE_VERSION = 1
#: Of a project whose snapshot has commands or deleted ids behind its first chunk.
SPREAD_VERSION = 2
MAGIC = b"\x89RMF\r\n\x1a\n"
_HEAD = struct.Struct(">IIB")
_THRESHOLD = 256


class FileWriter:
    """Turns records into the bytes of a file; keeps count and checksum for the trailer."""

    def __init__(self) -> None:
        self._digest = sha256()
        self._count = 0

    def begin(self, header: FileRecord) -> bytes:
        """Return the first bytes of the file."""
        self._digest.update(MAGIC)
        return MAGIC + self.add(header)

    def add(self, record: FileRecord) -> bytes:
        """Return the next bytes of the file."""
        data = _pack(record)
        self._digest.update(data)
        self._count += 1
        return data

    def end(self, *, view_checksum: int = 0, node_count: int = 0) -> bytes:
        """Return the last bytes of the file."""
        trailer = FileTrailer(
            record_count=self._count,
            sha256=self._digest.digest(),
            view_checksum=view_checksum,
            node_count=node_count,
        )
        return _pack(FileRecord(trailer=trailer))


def _pack(record: FileRecord) -> bytes:
    codec, body = compress(record.SerializeToString(), _THRESHOLD)
    return _HEAD.pack(len(body), zlib.crc32(body, zlib.crc32(bytes((codec,)))), codec) + body


class FileReader:
    """Reads a file record by record; nothing is believed before its checksum is right."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = sha256()
        self._count = 0
        self.offset = 0  #: where the latest record begins
        self.trailer: FileTrailer | None = None  #: once everything was read and is right

    def records(self) -> Iterator[FileRecord]:
        """Yield the records between beginning and trailer. Raises `DamagedFile`."""
        if self._read(len(MAGIC)) != MAGIC:
            raise self.damaged("it is not a file of ramify")
        self._digest.update(MAGIC)
        self.offset = len(MAGIC)
        while True:
            head = self._read(_HEAD.size)
            size, checksum, codec = _HEAD.unpack(head)
            if size > MAX_INFLATED_BYTES:
                raise self.damaged(f"a record of {size} bytes")
            body = self._read(size)
            record = self._decode(checksum, codec, body)
            if record.WhichOneof("record") == "trailer":
                self._check(record.trailer)
                return
            self._digest.update(head)
            self._digest.update(body)
            self._count += 1
            yield record
            self.offset += len(head) + size

    def damaged(self, problem: str, **place: object) -> DamagedFile:
        """Return the error that names the latest record."""
        return DamagedFile(offset=self.offset, record=self._count, **place, problem=problem)

    def _decode(self, checksum: int, codec: int, body: bytes) -> FileRecord:
        if zlib.crc32(body, zlib.crc32(bytes((codec,)))) != checksum:
            raise self.damaged("checksum does not match")
        try:
            return FileRecord.FromString(decompress(codec, body))
        except (CompressionError, DecodeError) as error:
            raise self.damaged(str(error)) from error

    def _check(self, trailer: FileTrailer) -> None:
        if trailer.record_count != self._count:
            raise self.damaged(f"{trailer.record_count} records were written")
        if trailer.sha256 != self._digest.digest():
            raise self.damaged("the checksum of the file does not match")
        if self._stream.read(1):
            raise self.damaged("something follows the end")
        self.trailer = trailer

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise self.damaged("the file ends too early")
        return data


def check_version(reader: FileReader, version: int) -> None:
    """Raise `DamagedFile` for a file that this version cannot read."""
    if version not in (FILE_VERSION, SPREAD_VERSION):
        known = f"{FILE_VERSION} and {SPREAD_VERSION}"
        raise reader.damaged(f"file format {version}; this version reads {known}")
