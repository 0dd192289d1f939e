"""Restores a backup into a data directory of its own. Nothing that exists is ever replaced."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import apsw

from state_svc.admin.backup import read_backup
from state_svc.admin.check import Report, check_file
from state_svc.admin.identity import Identity
from state_svc.admin.progress import Progress, silent
from state_svc.codec.project import decode_project, encode_project
from state_svc.codec.segment import decode_segment, pack_segment
from state_svc.codec.snapshot import decode_chunk, encode_chunk
from state_svc.errors import CorruptRecord, DamagedFile, DataDirectoryInUse
from state_svc.store.data_file import DataFile, StoredProject
from state_svc.store.rows import put_row
from state_svc.store.sqlite import (
    FILE_NAME,
    LOCK_NAME,
    SCRATCH_NAME,
    hold_directory,
)
from state_svc.store.sqlite_schema import FORMAT_VERSION, upgrade

_THRESHOLD = 1_024


@dataclass(frozen=True, slots=True)
class Restored:
    """What has been restored."""

    store_id: str
    from_store_id: str
    report: Report


def restore(backup: Path, directory: Path, progress: Progress = silent) -> Restored:
    """Make a store from a backup: a new store id, and a new uid for every project (SEM 13).

    The directory must be empty or not exist. The store appears in it at once, after everything
    is verified; if anything is wrong, or the process dies, it stays empty.

    Raises `DataDirectoryInUse`, `DataDirectoryLocked`, `DamagedFile` or `OSError`.
    """
    with backup.open("rb") as stream, hold_directory(directory):
        _check_empty(directory)
        scratch = directory / SCRATCH_NAME
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            built = scratch / FILE_NAME
            header = read_backup(stream, built, progress)
            try:
                with DataFile(built, writable=True) as data:
                    store_id = _renew(data, progress)
                report = _verify(built, progress)
            except (apsw.Error, CorruptRecord) as error:
                raise DamagedFile(problem=f"the store in it is damaged: {error}") from error
            _sync(built)
            built.rename(directory / FILE_NAME)
            _sync(directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Restored(store_id, header.store_id, report)


def _check_empty(directory: Path) -> None:
    found = sorted(entry.name for entry in directory.iterdir())
    others = [name for name in found if name not in (LOCK_NAME, SCRATCH_NAME)]
    if others:
        raise DataDirectoryInUse(data=directory, found=others[0])


def _renew(data: DataFile, progress: Progress) -> str:
    """Give the store and every project in it another identity; return the store's."""
    if not 0 < data.format_version() <= FORMAT_VERSION:
        problem = f"store format {data.format_version()}; this version reads {FORMAT_VERSION}"
        raise DamagedFile(problem=problem)
    db = data.db
    # Nobody sees this file before it is whole and fsynced.
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    upgrade(db)
    for row in data.damaged_rows():
        raise row.damage(db)
    store_id = uuid.uuid4().hex
    db.execute(put_row("meta"), ("store_id", store_id))
    projects = [data.project(key) for key in data.project_keys()]
    moved = {stored.record.project_uid: uuid.uuid4().hex for stored in projects if stored}
    for number, stored in enumerate(filter(None, projects)):
        progress(f"{number:,} of {len(projects):,} projects renewed")
        uid = moved[stored.record.project_uid]
        _renew_project(data, stored, Identity(uid, stored.record.project_id, moved), progress)
    db.execute("COMMIT")
    return store_id


def _renew_project(
    data: DataFile, stored: StoredProject, identity: Identity, progress: Progress
) -> None:
    db = data.db
    record, checksum = b"", 0
    if not stored.deleted:
        entity = decode_project(stored.record)
        identity.entity(entity)
        encoded = encode_project(entity)
        record, checksum = encoded.data, encoded.checksum
    db.execute(
        "UPDATE projects SET project_uid = ?1, data = ?2, checksum = ?3,"
        " row_checksum = checksum_of(?1, project_id, compacted_revision, deleted)"
        " WHERE project_key = ?4",
        (identity.project_uid, record, checksum, stored.key),
    )
    if stored.deleted:
        return
    for number, key in enumerate(data.segment_keys(stored)):
        if not number % 1_000:
            progress(f"{stored.record.project_id}: {number:,} segments renewed")
        segment = decode_segment(data.segment(stored, key).record)
        identity.segment(segment)
        packed = pack_segment(segment, _THRESHOLD).record
        db.execute(
            "UPDATE segments SET codec = ?, checksum = ?, data = ? WHERE segment_key = ?",
            (packed.codec, packed.checksum, packed.data, key),
        )
    for key, archived in data.archive(stored):
        segment = decode_segment(archived)
        identity.segment(segment)
        packed = pack_segment(segment, _THRESHOLD).record
        db.execute(
            "UPDATE stage_archive SET codec = ?, checksum = ?, data = ? WHERE archive_key = ?",
            (packed.codec, packed.checksum, packed.data, key),
        )
    for revision in data.snapshot_revisions(stored):
        for row in data.snapshot(stored, revision):
            chunk = decode_chunk(row.record)
            identity.chunk(chunk)
            renewed = encode_chunk(chunk)
            db.execute(
                "UPDATE snapshots SET codec = ?, checksum = ?, data = ? WHERE snapshot_key = ?",
                (renewed.codec, renewed.checksum, renewed.data, row.key),
            )


def _verify(path: Path, progress: Progress) -> Report:
    report = Report()
    with DataFile(path) as data:
        check_file(data, report, progress)
    if report.problems:
        raise DamagedFile(problem=f"the store in it is damaged: {report.problems[0]}")
    return report


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
