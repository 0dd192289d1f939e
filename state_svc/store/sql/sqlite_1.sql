-- Format 1 of the SQLite store. Times are microseconds since 1970, checksums crc32.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The order of creation is the order of project_key.
CREATE TABLE projects (
    project_key INTEGER PRIMARY KEY,
    project_uid TEXT NOT NULL UNIQUE,
    project_id  TEXT NOT NULL UNIQUE,
    data        BLOB NOT NULL,
    checksum    INTEGER NOT NULL,
    -- Segments up to this revision may be gone.
    compacted_revision INTEGER NOT NULL DEFAULT 0,
    -- 1: deleted; it keeps its row, so that its id is never reused. 2: being stored, it does not
    -- exist yet.
    deleted     INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row per project and commit. Rows of one commit share commit_id.
CREATE TABLE segments (
    segment_key    INTEGER PRIMARY KEY,
    commit_id      INTEGER NOT NULL,
    project_key    INTEGER NOT NULL,
    first_revision INTEGER NOT NULL,
    last_revision  INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    codec          INTEGER NOT NULL,
    writer_version TEXT NOT NULL,
    checksum       INTEGER NOT NULL,
    data           BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX segments_by_revision ON segments (project_key, last_revision);

-- Rows of one snapshot share (project_key, revision); the one with last = 1 completes it.
CREATE TABLE snapshots (
    snapshot_key   INTEGER PRIMARY KEY,
    project_key    INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    chunk          INTEGER NOT NULL,
    last           INTEGER NOT NULL,
    format_version INTEGER NOT NULL,
    codec          INTEGER NOT NULL,
    checksum       INTEGER NOT NULL,
    data           BLOB NOT NULL,
    UNIQUE (project_key, revision, chunk)
) STRICT;

CREATE TABLE producers (
    producer_id TEXT PRIMARY KEY,
    epoch       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    method     TEXT NOT NULL,
    request_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    micros     INTEGER NOT NULL,
    PRIMARY KEY (method, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_time ON requests (micros);
