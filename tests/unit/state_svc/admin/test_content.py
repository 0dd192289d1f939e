"""A file whose checksums are right is still not believed: what is in it obeys every rule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import pytest
from google.protobuf.message import Message

from ramify.v1.command_pb2 import Command
from ramify.v1.mutation_pb2 import Change, Delta, Removal
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review
from ramify.v1.state_service_pb2 import ForkProjectRequest
from state_svc.admin.arrival import records_of, verify
from state_svc.admin.export import ExportSource, write_project
from state_svc.admin.identity import Identity
from state_svc.codec.segment import SegmentRecord, decode_delta, decode_segment
from state_svc.codec.snapshot import SnapshotRecord, decode_chunk
from state_svc.errors import DamagedFile
from state_svc.model.limits import Limits
from state_svc.rpc.history import HistoryRpcs
from state_svc.storage.v1.file_pb2 import FileRecord
from state_svc.storage.v1.snapshot_pb2 import SnapshotChunk
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.files import forge
from tests.support.mutations import (
    READY,
    RUNNING,
    change_project,
    create,
    delete,
    open_review,
    order_cancel,
    order_outcome,
    patch,
    patch_review,
    resolve,
    stage,
)

UNKNOWN = b"\xf8\x7f\x01"  #: field 2047 of a newer contract, a varint


async def _write(running: Embedded) -> None:
    commit = running.commit
    await commit("p", create("b", "a"), create("a", depends_on=["c"]), create("c"), create("gone"))
    await commit("p", patch("a", state=READY, aux_upserts={}), patch("a", waiting_on="x"))
    await commit("p", delete("gone"), open_review("r", "b", message="so?"), open_review("s", "b"))
    await commit("p", order_cancel("o"), stage("b", "t"), change_project(label_upserts={"k": "v"}))
    await commit("p", patch("a", clear_fields=["waiting_on"]), order_outcome("o"))
    await commit("p", resolve("r", 1), patch_review("s", escalation_count=3))


async def _export(running: Embedded, project_id: str) -> bytes:
    live = await running.service.live(project_id)
    source = ExportSource(
        project_id=project_id,
        project_uid=live.uid,
        revision=live.view.revision,
        compacted=live.view.compacted,
        nodes=list(live.view.nodes.values()),
        micros=1,
    )
    return b"".join([part async for part, _ in write_project(running.service.store, source)])


async def _files() -> dict[str, bytes]:
    async with embedded(MemoryStore()) as running:
        await running.create("p", labels={"l": "m"})
        await _write(running)
        whole = await _export(running, "p")
        project = await running.service.live("p")
        await running.service.snapshots.compact(project, project.view.revision)
        await running.commit("p", patch("a", state=RUNNING, attempt=1), create("d", "b", 2))
        fork = ForkProjectRequest(project_id="p", new_project_id="f")
        await HistoryRpcs(running.service).fork_project(fork)
        await running.commit("f", patch("c", output_summary="forked"))
        return {
            "whole": whole,
            "compacted": await _export(running, "p"),
            "fork": await _export(running, "f"),
        }


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A project with all its history, the same compacted and gone on, and a fork of that."""
    return asyncio.run(_files())


def _read(data: bytes, **bounds: int) -> None:
    verify(BytesIO(data), replace(Limits(), **bounds))


@pytest.mark.parametrize("name", ["whole", "compacted", "fork"])
def test_what_was_exported_is_believed(files: dict[str, bytes], name: str) -> None:
    _read(files[name])
    assert forge(files[name], lambda _: None) == files[name]


# Changes of the log

Edit = Callable[[Change], object]


def _changes(pick: Callable[[Change], bool], edit: Edit) -> Callable[[list[FileRecord]], None]:
    """Return what edits each change that is picked."""

    def change(records: list[FileRecord]) -> None:
        count = 0
        for record in records:
            for segment in record.segments.segments:
                delta = Delta.FromString(segment.delta)
                for item in filter(pick, delta.changes):
                    edit(item)
                    count += 1
                segment.delta = delta.SerializeToString()
        assert count

    return change


def _of(node_id: str, effect: str) -> Callable[[Change], bool]:
    return lambda c: c.node.node_id == node_id and c.node.WhichOneof("effect") == effect


def _is(kind: str, effect: str) -> Callable[[Change], bool]:
    return lambda c: c.HasField(kind) and getattr(c, kind).WhichOneof("effect") == effect  # type: ignore[arg-type]


def _set(path: str, value: object) -> Edit:
    """Return what sets a field by its path; a message is copied."""

    def edit(change: Change) -> None:
        *parents, last = path.split(".")
        at: Message = change
        for name in parents:
            at = getattr(at, name)
        if isinstance(value, list):
            getattr(at, last)[:] = value
        else:
            setattr(at, last, value)

    return edit


A, B, PATCH = _of("a", "node"), _of("b", "node"), _of("a", "patch")
PROJECT, LABELS = _is("project", "project"), _is("project", "patch")
REVIEW, DECIDED = _is("review", "review"), _is("review", "patch")
ORDER, OUTCOME = _is("command", "command"), _is("command", "patch")


def _stage(change: Change) -> bool:
    return change.HasField("stage")


BAD_CHANGES: dict[str, tuple[Callable[[Change], bool], Edit]] = {
    "own parent": (B, lambda c: _set("node.node.parent_node_id", "b")(c)),
    "layer": (B, _set("node.node.layer", 7)),
    "no such parent": (B, _set("node.node.parent_node_id", "nobody")),
    "dependency on itself": (A, _set("node.node.depends_on", ["a"])),
    "no such dependency": (A, _set("node.node.depends_on", ["nobody"])),
    "state of a new node": (A, _set("node.node.state", 42)),
    "no state": (A, _set("node.node.state", 0)),
    "no goal": (A, _set("node.node.goal", "")),
    "long goal": (A, _set("node.node.goal", "x" * 3_000_000)),
    "task type": (A, _set("node.node.task_type", 42)),
    "another id inside": (A, _set("node.node.node_id", "z")),
    "no id": (A, _set("node.node_id", "")),
    "id": (
        _of("c", "node"),
        lambda c: (_set("node.node_id", "/")(c), _set("node.node.node_id", "/")(c)),
    ),
    "created twice": (
        _of("c", "node"),
        lambda c: (_set("node.node_id", "a")(c), _set("node.node.node_id", "a")(c)),
    ),
    "create time": (A, _set("node.node.create_time.seconds", 1 << 60)),
    "version": (A, _set("node.version", 5)),
    "version of a patch": (PATCH, _set("node.version", 9)),
    "state of a patch": (PATCH, _set("node.patch.state", 42)),
    "state before": (PATCH, _set("node.previous_state", 42)),
    "agent before": (PATCH, _set("node.previous_agent_name", "x")),
    "lost id": (PATCH, _set("node.patch.clear_fields", ["node_id"])),
    "unknown field": (PATCH, _set("node.patch.clear_fields", ["nothing"])),
    "patch of nothing": (PATCH, _set("node.node_id", "nobody")),
    "left": (_of("gone", "removal"), _set("node.removal", Removal.REMOVAL_LEFT)),
    "deleted parent": (_of("gone", "removal"), _set("node.node_id", "a")),
    "deleted twice": (_of("gone", "removal"), _set("node.node_id", "nobody")),
    "no effect": (PATCH, lambda c: c.node.ClearField("patch")),
    "state of the project": (PROJECT, _set("project.project.state", 42)),
    "counts of the project": (PROJECT, lambda c: c.project.project.node_counts.update({"DONE": 3})),
    "reviews of the project": (PROJECT, _set("project.project.review_count", 3)),
    "long label": (LABELS, lambda c: c.project.patch.label_upserts.update({"k": "v" * 300})),
    "setting": (LABELS, _set("project.patch.settings.max_parallel_nodes", 1 << 31 - 1)),
    "lost uid": (LABELS, _set("project.patch.clear_fields", ["project_uid"])),
    "lease epoch": (LABELS, _set("project.patch.lease.lease_epoch", (1 << 64) - 1)),
    "pins": (
        LABELS,
        lambda c: c.project.patch.pins.revisions.update({f"p{n}": 1 for n in range(65)}),
    ),
    "version of the project": (LABELS, _set("project.version", 77)),
    "type of a command": (ORDER, _set("command.command.type", 42)),
    "state of a command": (ORDER, _set("command.command.state", 42)),
    "id of a command": (ORDER, _set("command.command_id", "x y")),
    "outcome": (OUTCOME, _set("command.patch.state", 42)),
    "long answer": (OUTCOME, _set("command.patch.answer", "x" * 5_000)),
    "state of a review": (REVIEW, _set("review.review.state", 42)),
    "checkpoint": (REVIEW, _set("review.review.checkpoint", 42)),
    "version of a review": (REVIEW, _set("review.review.version", 0)),
    "decision": (DECIDED, _set("review.patch.decision", 42)),
    "no such review": (DECIDED, _set("review.review_id", "nobody")),
    "stage": (_stage, _set("stage.stage.stage", 42)),
    "id of a stage": (_stage, _set("stage.stage.stage_id", "")),
    "time of a stage": (_stage, _set("stage.stage.create_time.seconds", -1 << 60)),
    "nothing": (_stage, lambda c: c.ClearField("stage")),
}


@pytest.mark.parametrize("name", BAD_CHANGES)
def test_a_change_that_no_producer_could_have_made_is_refused(
    files: dict[str, bytes], name: str
) -> None:
    with pytest.raises(DamagedFile):
        _read(forge(files["whole"], _changes(*BAD_CHANGES[name])))


def _revisions(edit: Callable[[Delta], object]) -> Callable[[list[FileRecord]], None]:
    def change(records: list[FileRecord]) -> None:
        segment = records[-1].segments.segments[-1]
        delta = Delta.FromString(segment.delta)
        edit(delta)
        segment.delta = delta.SerializeToString()

    return change


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: setattr(d.revisions[-1].commit_time, "seconds", 5),
        lambda d: setattr(d.revisions[-1].commit_time, "seconds", 1 << 62),
        lambda d: setattr(d.revisions[-1], "actor", "x" * 300),
        lambda d: setattr(d.revisions[-1], "revision", 99),
        lambda d: d.revisions.pop(),
        lambda d: d.changes.reverse(),
    ],
)
def test_a_revision_that_cannot_be_is_refused(
    files: dict[str, bytes], edit: Callable[[Delta], object]
) -> None:
    with pytest.raises(DamagedFile):
        _read(forge(files["whole"], _revisions(edit)))


def test_a_segment_that_claims_very_many_revisions_is_refused_at_once(
    files: dict[str, bytes],
) -> None:
    def claim(records: list[FileRecord]) -> None:
        records[-1].segments.segments[-1].last_revision = 1 << 62

    with pytest.raises(DamagedFile, match="not the revisions"):
        _read(forge(files["whole"], claim))


# Snapshots


def _entity(edit: Callable[[Project], object]) -> Callable[[SnapshotChunk], None]:
    def change(chunk: SnapshotChunk) -> None:
        entity = Project.FromString(chunk.project)
        edit(entity)
        chunk.project = entity.SerializeToString()

    return change


def _node(edit: Callable[[Node], object]) -> Callable[[SnapshotChunk], None]:
    def change(chunk: SnapshotChunk) -> None:
        item = next(i for i in chunk.nodes if Node.FromString(i.data).node_id == "b")
        node = Node.FromString(item.data)
        edit(node)
        item.data = node.SerializeToString()

    return change


def _review(edit: Callable[[Review], object]) -> Callable[[SnapshotChunk], None]:
    def change(chunk: SnapshotChunk) -> None:
        review = Review.FromString(chunk.reviews[0])
        edit(review)
        chunk.reviews[0] = review.SerializeToString()

    return change


def _command(edit: Callable[[Command], object]) -> Callable[[SnapshotChunk], None]:
    def change(chunk: SnapshotChunk) -> None:
        command = Command.FromString(chunk.commands[0])
        edit(command)
        chunk.commands[0] = command.SerializeToString()

    return change


BAD_SNAPSHOTS: dict[str, Callable[[SnapshotChunk], object]] = {
    "own parent": _node(lambda n: setattr(n, "parent_node_id", "b")),
    "cycle": _node(lambda n: n.depends_on.append("b")),
    "state": _node(lambda n: setattr(n, "state", 42)),
    "goal": _node(lambda n: setattr(n, "goal", "x" * 20_000)),
    "twice": lambda c: c.nodes.append(c.nodes[0]),
    "version": lambda c: setattr(c.nodes[0], "version", (1 << 64) - 1),
    "time": lambda c: setattr(c.nodes[0], "update_micros", -1),
    "revision": lambda c: setattr(c.nodes[0], "update_revision", 1 << 40),
    "commit time": lambda c: setattr(c, "commit_micros", 1 << 62),
    "deleted": lambda c: c.deleted_node_ids.append("a"),
    "deleted id": lambda c: c.deleted_node_ids.append("not an id"),
    "state of the project": _entity(lambda e: setattr(e, "state", 42)),
    "reviews of the project": _entity(lambda e: setattr(e, "open_review_count", 7)),
    "long name": _entity(lambda e: setattr(e, "profile", "x" * 300)),
    "state of a review": _review(lambda r: setattr(r, "state", 42)),
    "review twice": lambda c: c.reviews.append(c.reviews[0]),
    "type of a command": _command(lambda o: setattr(o, "type", 42)),
    "id of a command": _command(lambda o: setattr(o, "command_id", "")),
}


@pytest.mark.parametrize("name", BAD_SNAPSHOTS)
def test_a_snapshot_that_no_producer_could_have_made_is_refused(
    files: dict[str, bytes], name: str
) -> None:
    def change(records: list[FileRecord]) -> None:
        BAD_SNAPSHOTS[name](next(r.snapshot for r in records if r.HasField("snapshot")))

    with pytest.raises(DamagedFile):
        _read(forge(files["compacted"], change))


@pytest.mark.parametrize("empty", [True, False])
def test_an_archive_without_stage_records_is_refused(files: dict[str, bytes], empty: bool) -> None:
    def change(records: list[FileRecord]) -> None:
        archive = next(r.archive for r in records if r.HasField("archive"))
        delta = Delta() if empty else Delta.FromString(archive.delta)
        for item in delta.changes:
            item.node.node_id = "a"
        archive.delta = delta.SerializeToString()

    with pytest.raises(DamagedFile):
        _read(forge(files["compacted"], change))


@pytest.mark.parametrize("name", ["whole", "compacted"])
@pytest.mark.parametrize(
    "bound, most, beyond",
    [
        ("max_project_nodes", 5, 2),
        ("max_project_reviews", 2, 1),
        ("max_open_reviews", 2, 0),
        ("max_project_commands", 1, -1_000),
    ],
)
def test_a_project_in_a_file_has_the_greatest_numbers_of_others(
    files: dict[str, bytes], name: str, bound: str, most: int, beyond: int
) -> None:
    _read(files[name], **{bound: most})
    with pytest.raises(DamagedFile, match="more than"):
        _read(files[name], **{bound: beyond})


def test_fields_of_a_newer_contract_are_dropped(files: dict[str, bytes]) -> None:
    """No limit holds for them, so they are not stored, as if a producer had sent them."""

    def change(records: list[FileRecord]) -> None:
        for record in records:
            chunk = record.snapshot
            if record.HasField("snapshot"):
                chunk.project += UNKNOWN
                chunk.reviews[0] += UNKNOWN
                chunk.commands[0] += UNKNOWN
                for item in chunk.nodes:
                    item.data += UNKNOWN
            for segment in record.segments.segments:
                delta = Delta.FromString(segment.delta)
                delta.changes[0].node.MergeFromString(UNKNOWN)
                segment.delta = delta.SerializeToString() + UNKNOWN

    data = forge(files["compacted"], change)
    assert data.count(UNKNOWN) or len(data) > len(files["compacted"])
    _read(data)
    stored, plain = (
        list(records_of(BytesIO(d), Identity("new-uid", "p"), 5))
        for d in (data, files["compacted"])
    )
    for one, other in zip(stored, plain, strict=True):
        if isinstance(one, SnapshotRecord) and isinstance(other, SnapshotRecord):
            assert decode_chunk(one) == decode_chunk(other)
        elif isinstance(one, SegmentRecord) and isinstance(other, SegmentRecord):
            assert decode_delta(decode_segment(one)) == decode_delta(decode_segment(other))
