-- Format 3 gives a checksum to rows that hold no encoded record: see `rows.py`.

ALTER TABLE meta ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET row_checksum = checksum_of(key, value);

ALTER TABLE producers ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT 0;
UPDATE producers SET row_checksum = checksum_of(producer_id, epoch);

ALTER TABLE requests ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT 0;
UPDATE requests SET row_checksum =
    checksum_of(method, request_id, project_id, revision, micros);

ALTER TABLE payload_references ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT 0;
UPDATE payload_references SET row_checksum = checksum_of(project_key, digest, archived, revision);

-- Of what `checksum` does not cover.
ALTER TABLE projects ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT 0;
UPDATE projects SET row_checksum =
    checksum_of(project_uid, project_id, compacted_revision, deleted);
