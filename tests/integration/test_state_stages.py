"""Stage records over the wire: written, watched, listed (S4.9, SEM 28)."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from ramify.v1.payload_pb2 import Payload
from ramify.v1.stage_pb2 import Stage, StageRecord
from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    EntityKind,
    ListStagesRequest,
    WatchFilter,
)
from tests.support.files import export_project
from tests.support.mutations import READY, RUNNING, create, patch, stage
from tests.support.wire import Wire, refusal

PLAN, EXECUTE = Stage.STAGE_PLAN, Stage.STAGE_EXECUTE


async def list_stages(wire: Wire, project_id: str, **fields: Any) -> list[StageRecord]:
    """Return all stage records that a listing shows, page by page."""
    found: list[StageRecord] = []
    request = ListStagesRequest(project_id=project_id, **fields)
    while True:
        page = await wire.stub.ListStages(request)
        found.extend(page.stages)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def _life(wire: Wire) -> str:
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("root", state=READY), create("leaf", "root"))
    await wire.commit(project_id, patch("root", state=RUNNING, attempt=1))
    await wire.commit(project_id, stage("root", "r1", stage=PLAN), stage("leaf", "l1"))
    await wire.commit(project_id, patch("root", waiting_on="x"), stage("root", "r2", attempt=2))
    await wire.commit(project_id, stage("leaf", "l2", output=Payload(text="done")))
    return project_id


async def test_records_are_listed_by_node_attempt_and_stage_in_pages(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = await _life(wire)
    for fields, expected in (
        ({}, ["r1", "l1", "r2", "l2"]),
        ({"page_size": 1}, ["r1", "l1", "r2", "l2"]),
        ({"node_id": "root"}, ["r1", "r2"]),
        ({"node_id": "root", "attempt": 2}, ["r2"]),
        ({"stage": EXECUTE, "page_size": 2}, ["l1", "r2", "l2"]),
        ({"after_revision": 4}, ["r2", "l2"]),
        ({"node_id": "leaf", "stage": PLAN}, []),
    ):
        found = await list_stages(wire, project_id, **fields)
        assert [record.stage_id for record in found] == expected, fields
    records = await list_stages(wire, project_id, node_id="leaf", page_size=1)
    assert [record.revision for record in records] == [4, 6]
    assert records[1].output.text == "done"
    assert records[1].create_time.seconds


async def test_records_of_many_repeated_words_are_listed_and_exported_after_a_compaction(
    shared_wire: Wire,
) -> None:
    """They shrink twentyfold: a few stored bytes of them are more than a record may inflate to."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("n"))
    words = "Answer in JSON, with the fields a, b and c. " * 22_000
    ids = [f"s{number}" for number in range(70)]
    for name in ids:
        await wire.commit(project_id, stage("n", name, prompt=Payload(text=name + words)))
    request = CompactProjectRequest(project_id=project_id)
    assert (await wire.stub.CompactProject(request)).compacted_revision == len(ids) + 2
    found = await list_stages(wire, project_id, page_size=1_000)
    assert [record.stage_id for record in found] == ids
    assert {len(record.prompt.text) - len(record.stage_id) for record in found} == {len(words)}
    assert await export_project(wire, project_id)


async def test_records_are_watched_when_asked_for_and_hidden_otherwise(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = await _life(wire)

    async def seen(**fields: Any) -> list[tuple[int, str | None]]:
        async with wire.watch(project_id, **fields) as watch:
            log = await watch.through(7)
        return [
            (revision, change.WhichOneof("entity"))
            for revision, changes in log.changes.items()
            for change in changes
        ]

    only = WatchFilter(kinds=[EntityKind.ENTITY_KIND_STAGE])
    async with wire.watch(project_id, head=True) as live:
        await live.started()
        await wire.commit(project_id, stage("leaf", "l3"), patch("leaf", waiting_on="y"))
        log = await live.through(7)
    assert [c.WhichOneof("entity") for c in log.changes[7]] == ["node"]
    records = [(4, "stage"), (4, "stage"), (5, "stage"), (6, "stage"), (7, "stage")]
    assert await seen(from_beginning=True, filter=only) == records
    plain = await seen(from_beginning=True)
    assert [revision for revision, _ in plain] == [1, 2, 2, 3, 5, 7]
    assert {kind for _, kind in plain} == {"node", "project"}


@pytest.mark.parametrize(
    "fields, code",
    [
        ({"node_id": "nobody"}, "NODE_NOT_FOUND"),
        ({"stage": 77}, "INVALID_REQUEST"),
        ({"page_size": 1_001}, "INVALID_REQUEST"),
        ({"page_token": "here"}, "INVALID_REQUEST"),
    ],
)
async def test_a_listing_that_cannot_be_is_refused(
    shared_wire: Wire, fields: dict[str, Any], code: str
) -> None:
    project_id = (await shared_wire.create_project()).project_id
    request = ListStagesRequest(project_id=project_id, **fields)
    refused = await refusal(shared_wire.stub.ListStages(request))
    assert refused.reason == code
    assert refused.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
