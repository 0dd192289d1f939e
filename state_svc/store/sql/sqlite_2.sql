-- Format 2 adds bodies by digest, what references them, and the archive of stage records.

-- `data` is as stored; its original bytes have the digest.
CREATE TABLE payloads (
    payload_key    INTEGER PRIMARY KEY,
    digest         TEXT NOT NULL UNIQUE,
    codec          INTEGER NOT NULL,
    original_bytes INTEGER NOT NULL,
    -- When it was last put.
    micros         INTEGER NOT NULL,
    data           BLOB NOT NULL
) STRICT;

-- `revision` is the latest at or below which a project names the payload. `archived` is 1 for
-- what the archive of stage records names, 0 for segments and snapshots.
CREATE TABLE payload_references (
    reference_key INTEGER PRIMARY KEY,
    project_key   INTEGER NOT NULL,
    digest        TEXT NOT NULL,
    archived      INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    UNIQUE (project_key, digest, archived)
) STRICT;

CREATE INDEX payload_references_by_digest ON payload_references (digest);

-- Segments that hold stage records only, of revisions that were compacted. `micros` is the latest
-- commit time among them.
CREATE TABLE stage_archive (
    archive_key    INTEGER PRIMARY KEY,
    project_key    INTEGER NOT NULL,
    first_revision INTEGER NOT NULL,
    last_revision  INTEGER NOT NULL,
    micros         INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    codec          INTEGER NOT NULL,
    checksum       INTEGER NOT NULL,
    data           BLOB NOT NULL,
    UNIQUE (project_key, last_revision)
) STRICT;
