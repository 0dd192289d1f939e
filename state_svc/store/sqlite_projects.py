"""Rows of `projects`: what there is, and whether each can be relied on."""

from __future__ import annotations

import apsw

from state_svc.codec.project import ProjectRecord
from state_svc.store.base import ProjectHead
from state_svc.store.rows import as_stored, decode, is_sound

UNFINISHED = 2  #: value of `deleted` of a project that does not exist yet
SOUND = is_sound("projects")
#: Last revision of the row of `projects` at hand.
HEAD = """max(
    coalesce((SELECT max(last_revision) FROM segments
              WHERE segments.project_key = projects.project_key), 0),
    coalesce((SELECT max(revision) FROM snapshots
              WHERE snapshots.project_key = projects.project_key AND last), 0))
"""


def list_projects(db: apsw.Connection, after_uid: str, max_bytes: int) -> list[ProjectHead]:
    """Return projects as `StateStore.list_projects` says."""
    query = (
        f"SELECT {as_stored('project_uid')}, {as_stored('project_id')}, data, checksum,"
        f" compacted_revision, deleted, {HEAD}, {SOUND} FROM projects"
        f" WHERE project_key > ? AND (deleted <> {UNFINISHED} OR NOT {SOUND})"
        " ORDER BY project_key"
    )
    after = project_key(db, after_uid) if after_uid else 0
    found: list[ProjectHead] = []
    size = 0
    named = True  #: whether the last one found can be named in the next call
    for uid, project_id, data, checksum, compacted, deleted, head, sound in db.execute(
        query, (after,)
    ):
        size += len(data or b"")
        if found and named and size > max_bytes:
            break
        shown = str(decode(uid))
        named = shown.encode() == uid
        record = ProjectRecord(shown, str(decode(project_id)), data, checksum)
        gone = bool(deleted and sound)
        found.append(ProjectHead(record, head, compacted, gone, damaged=not sound))
    return found


def project_key(db: apsw.Connection, project_uid: str) -> int | None:
    """Return the key of a project; None if there is none."""
    for (key,) in db.execute(
        "SELECT project_key FROM projects WHERE project_uid = ?", (project_uid,)
    ):
        return int(key)
    return None


def read_head(db: apsw.Connection, project_uid: str) -> int:
    """Return the last stored revision of a project; 0 if it has none."""
    query = f"SELECT {HEAD} FROM projects WHERE project_uid = ?"
    for (revision,) in db.execute(query, (project_uid,)):
        return int(revision)
    return 0
