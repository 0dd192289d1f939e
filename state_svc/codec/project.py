"""Project entities: how the project itself lies in the store, beside its segments."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ramify.v1.project_pb2 import Project
from state_svc.errors import CorruptRecord


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """The project itself, stored when it is created and whenever it changes."""

    project_uid: str
    project_id: str
    data: bytes  #: encoded `ramify.v1.Project`
    checksum: int  #: crc32 of uid, id and data


def encode_project(entity: Project) -> ProjectRecord:
    """Return a project entity as it is stored."""
    data = entity.SerializeToString()
    uid, project_id = entity.project_uid, entity.project_id
    return ProjectRecord(uid, project_id, data, _checksum(uid, project_id, data))


def decode_project(record: ProjectRecord) -> Project:
    """Return the entity of a record; raises `CorruptRecord` if a bit differs."""
    if record.checksum != _checksum(record.project_uid, record.project_id, record.data):
        raise CorruptRecord(project_uid=record.project_uid, problem="checksum does not match")
    try:
        return Project.FromString(record.data)
    except DecodeError as error:
        raise CorruptRecord(project_uid=record.project_uid, problem=str(error)) from error


def _checksum(uid: str, project_id: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{uid}/{project_id}".encode()))
