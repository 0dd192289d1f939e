"""What is referenced stays, what is not goes after an hour (SEM 12)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection
from dataclasses import replace
from typing import TypeVar

import pytest
from prometheus_client import generate_latest

from ramify.v1.stage_pb2 import ToolCall
from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    CompactProjectRequest,
    DeleteProjectRequest,
    ForkProjectRequest,
    GetPayloadRequest,
    GetStatsRequest,
    ListStagesRequest,
    Stats,
)
from state_svc.codec.payload import PayloadInfo
from state_svc.errors import BatchRejected, PayloadNotFound
from state_svc.history.archive import archive_stages
from state_svc.model.payload import References
from state_svc.payload.payloads import KEEP_MICROS
from state_svc.rpc.admin import AdminRpcs
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.payloads import PayloadRpcs
from state_svc.rpc.stages import StageRpcs
from state_svc.service import now_micros
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, delete, patch, stage
from tests.support.payloads import named, put_here

_T = TypeVar("_T")
BODIES = [bytes([n]) * 10_000 for n in range(9)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def here(store: MemoryStore) -> AsyncIterator[Embedded]:
    async with embedded(store) as service:
        await service.create("p")
        await service.commit("p", create("n"))
        yield service


async def collect(here: Embedded, hours: float = 2) -> int:
    return await here.service.payloads.collect(now_micros() + int(hours * KEEP_MICROS))


async def compact(here: Embedded, project_id: str = "p", revision: int = 0) -> None:
    request = CompactProjectRequest(project_id=project_id, revision=revision)
    await HistoryRpcs(here.service).compact_project(request)


async def _kept(here: Embedded, *digests: str) -> list[bool]:
    await collect(here)
    found = {info.digest for info in await here.service.store.payloads.find(digests)}
    return [digest in found for digest in digests]


async def _readable(here: Embedded, project_id: str, digest: str) -> bool:
    request = GetPayloadRequest(project_id=project_id, digest=digest)
    try:
        messages = [m async for m in PayloadRpcs(here.service).get_payload(request)]
    except PayloadNotFound:
        return False
    return bool(messages)


async def test_a_body_that_nobody_names_goes_after_an_hour_and_not_before(here: Embedded) -> None:
    digest = await put_here(here, BODIES[0])
    assert await collect(here, hours=0.9) == 0
    assert await collect(here, hours=1.1) == 1
    with pytest.raises(BatchRejected, match="not in the payload store"):
        await here.commit("p", patch("n", result=named(digest)))
    assert await put_here(here, BODIES[0]) == digest
    assert await here.commit("p", patch("n", result=named(digest))) == 3


async def test_a_body_that_is_dropped_while_it_is_looked_up_is_not_known(
    here: Embedded, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a batch could name it, and its revision would have lost what it says."""
    digest = await put_here(here, BODIES[0])
    payloads, find = here.service.payloads, store.payloads.find
    payloads.known.clear()
    dropped: list[int] = []

    async def slow_find(digests: Collection[str]) -> list[PayloadInfo]:
        found = await find(digests)
        if not dropped:
            dropped.append(await collect(here))
        return found

    monkeypatch.setattr(store.payloads, "find", slow_find)
    assert not await payloads.learn([digest])
    assert dropped == [1]
    assert digest not in payloads.known


async def test_only_a_project_that_names_a_body_can_read_it(here: Embedded) -> None:
    await here.create("q")
    digest = await put_here(here, BODIES[0])
    assert not await _readable(here, "p", digest)
    await here.commit("p", patch("n", result=named(digest)))
    assert await _readable(here, "p", digest)
    assert not await _readable(here, "q", digest)


async def test_the_present_state_and_retained_revisions_keep_their_bodies(here: Embedded) -> None:
    old, new, staged = [await put_here(here, body) for body in BODIES[:3]]
    await here.commit("p", patch("n", result=named(old)))
    await here.commit("p", stage("n", tool_calls=[ToolCall(arguments=named(staged))]))
    await here.commit("p", patch("n", result=named(new)))
    assert await _kept(here, old, new, staged) == [True, True, True]
    await compact(here)
    assert await _kept(here, old, new, staged) == [False, True, True], "staged: by the archive"


async def test_compaction_keeps_what_the_snapshot_it_begins_from_names(here: Embedded) -> None:
    first, second, third = [await put_here(here, body) for body in BODIES[:3]]
    await here.commit("p", patch("n", result=named(first)))
    await here.commit("p", patch("n", result=named(second)))
    await here.service.snapshots.take(await here.service.live("p"))
    await here.commit("p", patch("n", result=named(third)))
    await compact(here, revision=4)
    assert await _kept(here, first, second, third) == [False, True, True]
    await compact(here)
    assert await _kept(here, second, third) == [False, True]
    # Named again after it was dropped from the history, and back again.
    await here.commit("p", patch("n", result=named(await put_here(here, BODIES[0]))))
    await compact(here)
    assert await _kept(here, first, third) == [True, False]


async def test_a_node_that_was_deleted_keeps_its_body_until_compaction(here: Embedded) -> None:
    digest = await put_here(here, BODIES[0])
    await here.commit("p", create("leaf", "n", result=named(digest)))
    await here.commit("p", delete("leaf"))
    assert await _kept(here, digest) == [True]
    await compact(here)
    assert await _kept(here, digest) == [False]


async def test_a_fork_keeps_a_body_that_its_origin_has_lost(here: Embedded) -> None:
    digest, other = [await put_here(here, body) for body in BODIES[:2]]
    await here.commit("p", patch("n", result=named(digest)))
    await here.commit("p", patch("n", result=named(other)))
    request = ForkProjectRequest(project_id="p", at_revision=3, new_project_id="f")
    await HistoryRpcs(here.service).fork_project(request)
    await compact(here)
    assert await _kept(here, digest, other) == [True, True]
    assert await _readable(here, "f", digest)
    assert not await _readable(here, "f", other)
    await compact(here, "f")
    assert await _kept(here, digest) == [True]
    gone = DeleteProjectRequest(project_id="f", force=True)
    await HistoryRpcs(here.service).delete_project(gone)
    assert await _kept(here, digest, other) == [False, True]


async def test_a_project_that_is_deleted_lets_its_bodies_go(here: Embedded) -> None:
    mine, shared = [await put_here(here, body) for body in BODIES[:2]]
    await here.create("q")
    await here.commit("p", patch("n", result=named(mine)), stage("n", input=named(shared)))
    await here.commit("q", create("n", result=named(shared)))
    await compact(here)
    request = DeleteProjectRequest(project_id="p", force=True)
    await HistoryRpcs(here.service).delete_project(request)
    assert await _kept(here, mine, shared) == [False, True]


async def test_archived_stage_records_are_listed_with_the_others_and_go_by_their_own_age(
    here: Embedded, store: MemoryStore
) -> None:
    old, new = [await put_here(here, body) for body in BODIES[:2]]
    await here.commit("p", stage("n", "s1", input=named(old)), stage("n", "s2"))
    await here.commit("p", patch("n", waiting_on="x"))
    await here.commit("p", stage("n", "s3", input=named(new)))
    await compact(here)
    await here.commit("p", stage("n", "s4"))

    async def listed(**fields: int) -> list[str]:
        request = ListStagesRequest(project_id="p", **fields)  # type: ignore[arg-type]
        found = []
        while True:
            page = await StageRpcs(here.service).list_stages(request)
            found += [record.stage_id for record in page.stages]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    assert await store.read_segments((await here.service.live("p")).uid, 0, 1 << 20) != []
    for fields in ({}, {"page_size": 1}, {"page_size": 3}):
        assert await listed(**fields) == ["s1", "s2", "s3", "s4"]
    assert await listed(after_revision=3) == ["s3", "s4"]
    await here.service.forget_stages(0.0)
    assert len(await listed()) == 4, "0 keeps them for ever"
    await here.service.forget_stages(1e-9)
    assert await listed() == ["s4"]
    assert await _kept(here, old, new) == [False, False]


async def test_a_compaction_that_was_cut_off_archives_no_record_twice(
    here: Embedded, store: MemoryStore
) -> None:
    await here.commit("p", stage("n", "s1"))
    uid = (await here.service.live("p")).uid
    await compact(here)
    await here.commit("p", stage("n", "s2"))
    await archive_stages(store, uid, 3, 4)
    await here.commit("p", stage("n", "s3"))
    request = ListStagesRequest(project_id="p")
    rpcs = StageRpcs(here.service)
    assert [s.stage_id for s in (await rpcs.list_stages(request)).stages] == ["s1", "s2", "s3"]
    await compact(here)
    assert [s.stage_id for s in (await rpcs.list_stages(request)).stages] == ["s1", "s2", "s3"]


async def _after(ticks: int, work: Awaitable[_T]) -> _T:
    for _ in range(ticks):
        await asyncio.sleep(0)
    return await work


async def test_what_is_named_while_a_collection_runs_is_not_lost(
    here: Embedded, store: MemoryStore
) -> None:
    """At each moment of the collection: either the batch keeps the body, or it is refused."""

    async def name_it(digest: str) -> bool:
        try:
            await here.commit("p", patch("n", result=named(digest)))
        except BatchRejected:
            return False
        return True

    outcomes = set()
    for lead in range(-12, 12):
        digest = await put_here(here, BODIES[0] + b"%d" % lead)
        if lead % 2:
            here.service.payloads.known.clear()
        accepted, _ = await asyncio.gather(
            _after(-lead, name_it(digest)), _after(lead, collect(here))
        )
        assert accepted == (digest in store.payloads.records), lead
        outcomes.add(accepted)
    assert outcomes == {True, False}


async def test_a_put_while_a_collection_runs_is_not_lost(
    here: Embedded, store: MemoryStore
) -> None:
    for ticks in range(8):
        body = BODIES[1] + b"%d" % ticks
        digest = await put_here(here, body)
        store.payloads.records[digest] = replace(store.payloads.records[digest], micros=1)
        await asyncio.gather(
            _after(ticks, put_here(here, body)), here.service.payloads.collect(now_micros())
        )
        assert digest in store.payloads.records
        await here.commit("p", patch("n", result=named(digest)))


async def test_a_batch_without_references_asks_the_store_nothing(
    here: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> object:
        raise AssertionError("asked")

    monkeypatch.setattr(References, "resolve", never)
    monkeypatch.setattr(here.service.payloads, "learn", never)
    request = CommitBatchRequest(project_id="p", mutations=[patch("n", waiting_on="y")])
    await here.projects.commit_batch(request)


async def test_what_the_store_holds_and_what_was_collected_is_counted(here: Embedded) -> None:
    rpcs = AdminRpcs(here.service, "")

    async def shown() -> Stats:
        return (await rpcs.get_stats(GetStatsRequest())).stats

    digest = await put_here(here, BODIES[0])
    assert await put_here(here, BODIES[0]) == digest
    await put_here(here, BODIES[1])
    await here.commit("p", patch("n", result=named(digest)))
    before = await shown()
    assert (before.payload_count, before.payload_original_bytes, before.payload_puts) == (
        2,
        20_000,
        3,
    )
    assert 0 < before.payload_stored_bytes < 1_000
    await collect(here)
    after = await shown()
    assert (after.payload_count, after.payload_original_bytes) == (1, 10_000)
    assert (after.payload_collections, after.payloads_collected) == (1, 1)
    text = generate_latest(here.service.metrics.registry).decode()
    for line in (
        "ramify_state_payloads 1.0",
        "ramify_state_payload_original_bytes 10000.0",
        f"ramify_state_payload_stored_bytes {float(after.payload_stored_bytes)}",
        "ramify_state_payload_puts_total 3.0",
        "ramify_state_payload_collections_total 1.0",
        "ramify_state_payloads_collected_total 1.0",
    ):
        assert line in text
