"""Checks a data file: every record, the row of revisions, and replay against snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import apsw
from google.protobuf.message import DecodeError

from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from state_svc.admin.progress import Progress, silent
from state_svc.codec.compression import MAX_INFLATED_BYTES
from state_svc.codec.payload import decode_payload
from state_svc.codec.project import decode_project
from state_svc.codec.segment import decode_delta, decode_segment
from state_svc.codec.snapshot import SnapshotRecord, decode_snapshot
from state_svc.errors import CorruptRecord
from state_svc.history.archive import DIGEST_MARK, digests_of_change, digests_of_view
from state_svc.history.replay import Replay
from state_svc.model.checksum import view_checksum
from state_svc.model.project import View
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.store.data_file import DataFile, StoredProject
from state_svc.store.rows import COLUMNS, PROBLEM, Row
from state_svc.store.sqlite_schema import FORMAT_VERSION

#: What decoding and replay raise for content that no ramify has written.
BROKEN = (CorruptRecord, DecodeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where."""

    file: str
    #: `database`, `project`, `segment`, `snapshot`, `history`, `archive`, `payload`, `reference`,
    #: `producer`, `request` or `meta`.
    record: str
    problem: str
    project_id: str = ""
    project_uid: str = ""
    first_revision: int = 0  #: 0: not about a revision
    last_revision: int = 0

    def __str__(self) -> str:
        place = f"{self.file}: {self.record}"
        if self.project_id:
            place += f" of project {self.project_id}"
        if self.first_revision:
            place += f", revision {self.first_revision}"
        if self.last_revision > self.first_revision:
            place += f" to {self.last_revision}"
        return f"{place}: {self.problem}"


@dataclass(slots=True)
class Report:
    """What was looked at and what is wrong with it."""

    format_version: int = 0
    store_id: str = ""
    live: bool = False
    projects: int = 0
    revisions: int = 0
    segments: int = 0
    snapshots: int = 0
    nodes: int = 0
    payloads: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must be equal however a view was rebuilt."""

    nodes: int
    checksum: int  #: of SEM 31
    content: str
    entity: Project
    deleted: frozenset[str]

    def difference(self, other: Fingerprint) -> str:
        """Return what differs; empty if nothing does."""
        for name in ("nodes", "checksum", "content", "entity", "deleted"):
            if getattr(self, name) != getattr(other, name):
                return {"checksum": "view checksum", "entity": "project"}.get(name, name)
        return ""


def fingerprint(view: View) -> Fingerprint:
    """Return the fingerprint of a view; it does not depend on how nodes happen to be encoded."""
    digest = sha256()
    for node in view.nodes.values():
        digest.update(Node.FromString(node.data).SerializeToString(deterministic=True))
        digest.update(b"%d %d %d;" % (node.version, node.revision, node.micros))
    for command_id in sorted(view.commands):
        digest.update(view.commands[command_id].SerializeToString(deterministic=True))
    for review_id in sorted(view.reviews):
        digest.update(view.reviews[review_id].SerializeToString(deterministic=True))
    return Fingerprint(
        len(view.nodes),
        view_checksum(view.nodes.values()),
        digest.hexdigest(),
        view.entity,
        frozenset(view.deleted),
    )


def check_file(data: DataFile, report: Report, progress: Progress = silent) -> None:
    """Check everything in a data file that may be in use; add what is wrong to the report."""
    try:
        report.format_version = data.format_version()
        if report.format_version != FORMAT_VERSION:
            report.problems.append(_version_problem(data.name, report.format_version))
            return
        progress("checking pages and indexes")
        for finding in data.findings():
            report.problems.append(Problem(file=data.name, record="database", problem=finding))
        for row in data.damaged_rows():
            report.problems.append(_row_problem(data.name, row))
        _check_identity(data, report)
        keys = data.project_keys()
    except apsw.Error as error:
        report.problems.append(Problem(file=data.name, record="database", problem=str(error)))
        return
    for number, key in enumerate(keys):
        progress(
            f"{number} of {len(keys)} projects, {report.segments} segments,"
            f" {len(report.problems)} problems"
        )
        _check_project(data, key, report, progress)
    try:
        _check_payloads(data, report, progress)
    except apsw.Error as error:
        report.problems.append(Problem(file=data.name, record="database", problem=str(error)))


def _row_problem(name: str, row: Row) -> Problem:
    fields = dict(zip(COLUMNS[row.table], row.values, strict=True))
    record = {"payload_references": "reference"}.get(row.table, row.table.removesuffix("s"))
    revision = fields.get("revision")
    known = revision if isinstance(revision, int) else 0
    return Problem(
        file=name,
        record=record,
        problem=f"row {row.name}: {PROBLEM}",
        project_id=str(fields.get("project_id", "")),
        project_uid=str(fields.get("project_uid", "")),
        first_revision=known,
        last_revision=known,
    )


def _check_identity(data: DataFile, report: Report) -> None:
    """Check the id of the store, and that it holds what was acknowledged."""
    found = ""
    try:
        report.store_id = data.store_id()
        missing = data.missing()
    except CorruptRecord:
        return  # it is among the damaged rows
    if not report.store_id:
        found = "the store has no id"
    elif missing is not None:
        found = f"commits {missing[0]} to {missing[1]} were acknowledged and are missing"
    if found:
        report.problems.append(Problem(file=data.name, record="database", problem=found))


def _check_payloads(data: DataFile, report: Report, progress: Progress) -> None:
    """Check that every body has its digest."""
    for key in data.payload_keys():
        payload = data.payload(key)
        if payload is None:
            continue  # dropped since
        report.payloads += 1
        if not report.payloads % 100:
            progress(f"{report.payloads} payloads")
        try:
            decode_payload(payload, MAX_INFLATED_BYTES)
        except BROKEN as error:
            text = f"{payload.digest}: {_text(error)}"
            report.problems.append(Problem(file=data.name, record="payload", problem=text))


def _check_project(data: DataFile, key: int, report: Report, progress: Progress) -> None:
    stored = None
    try:
        with data.moment():
            stored = data.project(key)
            if stored is None or stored.deleted:
                return
            report.projects += 1
            ProjectCheck(data, stored, report, progress).run()
    except apsw.Error as error:
        report.problems.append(
            Problem(
                file=data.name,
                record="database",
                problem=str(error),
                project_id=stored.record.project_id if stored else "",
                project_uid=stored.record.project_uid if stored else "",
            )
        )


def _version_problem(name: str, version: int) -> Problem:
    if version > FORMAT_VERSION:
        text = f"format {version} is newer than {FORMAT_VERSION}, which this version reads"
    elif version:
        text = f"format {version} is older than {FORMAT_VERSION}; start state_svc to upgrade it"
    else:
        text = "it is not the file of a store"
    return Problem(file=name, record="database", problem=text)


class ProjectCheck:
    """The check of one project."""

    def __init__(
        self, data: DataFile, stored: StoredProject, report: Report, progress: Progress
    ) -> None:
        self._data = data
        self._stored = stored
        self._report = report
        self._progress = progress
        self._fingerprints: dict[int, Fingerprint] = {}  #: of readable snapshots, by revision
        self._named: set[str] = set()  #: digests in segments, snapshots and the archive
        self._replay: Replay | None = None  #: None: the history is broken before this place

    def run(self) -> None:
        """Check the project's own record, its snapshots, its segments and how they fit."""
        entity = self._check_record()
        self._check_archive()
        for revision in self._data.snapshot_revisions(self._stored):
            self._check_snapshot(revision)
        last = self._check_segments(self._base())
        self._check_references()
        newest = max(self._fingerprints, default=0)
        if newest > last:
            self._found("history", "the log ends before the snapshot", last + 1, newest)
        replay = self._replay
        if replay is None or not replay.view.revision:
            return
        self._report.nodes += len(replay.view.nodes)
        if entity is not None and entity != replay.view.entity:
            self._found("project", "differs from what its history says")

    def _check_record(self) -> Project | None:
        record = self._stored.record
        try:
            entity = decode_project(record)
        except BROKEN as error:
            self._found("project", _text(error))
            return None
        if (entity.project_uid, entity.project_id) != (record.project_uid, record.project_id):
            self._found("project", "content and key differ")
        return entity

    def _check_snapshot(self, revision: int) -> None:
        records = [row.record for row in self._data.snapshot(self._stored, revision)]
        if not records[-1].last:
            return  # being written, or cut off: never read, and replaced or dropped later
        self._report.snapshots += 1
        view = self._read_snapshot(records)
        if view is not None:
            self._fingerprints[revision] = fingerprint(view)
            self._named.update(digests_of_view(view))

    def _read_snapshot(self, records: Sequence[SnapshotRecord]) -> View | None:
        try:
            return decode_snapshot(records)[0]
        except BROKEN as error:
            chunk = error.fields.get("chunk", "") if isinstance(error, CorruptRecord) else ""
            where = f"chunk {chunk}: " if chunk else ""
            self._found("snapshot", where + _text(error), records[0].revision)
            return None

    def _base(self) -> int:
        """Begin the replay where the history begins; return its revision."""
        base = self._stored.compacted
        if not base:
            self._replay = Replay()
        elif base in self._fingerprints:
            self._restore(base)
        else:
            self._found("history", "it begins here, but there is no readable snapshot", base)
        return base

    def _restore(self, revision: int) -> None:
        records = [row.record for row in self._data.snapshot(self._stored, revision)]
        self._replay = Replay()
        self._replay.view, self._replay.producers = decode_snapshot(records)

    def _check_segments(self, base: int) -> int:
        """Check and replay the segments behind `base`; return the last revision."""
        last = base
        for row in self._data.segments(self._stored):
            record = row.record
            self._report.segments += 1
            if not self._report.segments % 1_000:
                self._progress(f"{self._stored.record.project_id}, revision {last}")
            if record.last_revision > base and record.first_revision != last + 1:
                if record.first_revision > last:
                    text = "revisions are missing"
                    self._found("history", text, last + 1, record.first_revision - 1)
                else:
                    text = "revisions are there twice"
                    self._found("history", text, record.first_revision, last)
                self._replay = None
            try:
                segment = decode_segment(record)
                if record.last_revision <= base:
                    continue  # on its way out
                self._name(segment)
                self._report.revisions += record.last_revision - record.first_revision + 1
                if self._replay is not None:
                    self._replay.add_segment(segment)
            except BROKEN as error:
                self._found("segment", _text(error), record.first_revision, record.last_revision)
                self._replay = None
            last = max(last, record.last_revision)
            self._compare(record.last_revision)
        return last

    def _check_archive(self) -> None:
        for _, record in self._data.archive(self._stored):
            try:
                self._name(decode_segment(record))
            except BROKEN as error:
                self._found("archive", _text(error), record.first_revision, record.last_revision)

    def _name(self, segment: Segment) -> None:
        if DIGEST_MARK in segment.delta:
            for change in decode_delta(segment).changes:
                self._named.update(digests_of_change(change))

    def _check_references(self) -> None:
        """Check that what is named is referenced and there, so that nothing drops it."""
        references = self._data.references(self._stored)
        for digest in sorted(self._named):
            if digest not in references:
                self._found("payload", f"{digest} is named, but not referenced")
        for digest in sorted(references):
            if not self._data.has_payload(digest):
                self._found("payload", f"{digest} is referenced, but not there")

    def _compare(self, revision: int) -> None:
        """Compare replay and snapshot, where there is one; go on from it after damage."""
        known = self._fingerprints.get(revision)
        if known is None:
            return
        if self._replay is None:
            self._restore(revision)
            return
        difference = known.difference(fingerprint(self._replay.view))
        if difference:
            text = f"replay of the segments gives another result: {difference}"
            self._found("snapshot", text, revision)

    def _found(self, record: str, problem: str, first: int = 0, last: int = 0) -> None:
        self._report.problems.append(
            Problem(
                file=self._data.name,
                record=record,
                problem=problem,
                project_id=self._stored.record.project_id,
                project_uid=self._stored.record.project_uid,
                first_revision=first,
                last_revision=max(first, last),
            )
        )


def _text(error: Exception) -> str:
    if isinstance(error, CorruptRecord):
        return error.fields["problem"]
    return f"{type(error).__name__}: {error}"
