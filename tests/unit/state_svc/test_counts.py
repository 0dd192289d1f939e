"""What would only grow, for ever, has a limit: projects, producers, answers to request ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    DeleteProjectRequest,
    ExportProjectRequest,
    ExportProjectResponse,
    ForkProjectRequest,
    ImportProjectRequest,
    StreamMutationsResponse,
)
from state_svc.errors import LimitReached, ProjectExists
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.leases import LeaseRpcs
from state_svc.rpc.portable import PortableRpcs
from state_svc.rpc.stream import StreamSessions
from state_svc.service import Damage, Requests, now_micros
from state_svc.store.base import RequestRecord
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import batch, create, order_cancel, patch
from tests.support.pipe import Pipe


async def test_projects_beyond_their_number_are_refused_however_they_come() -> None:
    async with embedded(MemoryStore(), "--max-projects", "2") as running:
        await running.create("p")
        history, portable = HistoryRpcs(running.service), PortableRpcs(running.service)
        messages = portable.export_project(ExportProjectRequest(project_id="p"))
        file = b"".join([ExportProjectResponse.FromString(m).data async for m in messages])

        async def upload() -> AsyncIterator[ImportProjectRequest]:
            yield ImportProjectRequest(project_id="imported", data=file)

        await running.create("gone")
        await history.delete_project(DeleteProjectRequest(project_id="gone", force=True))
        for refused in (
            running.create("third"),
            history.fork_project(ForkProjectRequest(project_id="p")),
            portable.import_project(upload()),
        ):
            with pytest.raises(LimitReached) as caught:
                await refused
            assert caught.value.fields["limit"] == "max_projects"
            assert "raise max_projects" in caught.value.fields["remedy"]
        with pytest.raises(ProjectExists):
            await running.create("p")
        assert await running.commit("p", create("n")) == 2, "what is there goes on"


async def test_producers_beyond_their_number_are_refused_and_known_ones_are_not() -> None:
    store = MemoryStore()
    async with embedded(store, "--max-producers", "2") as running:
        for name, epoch in (("a", 1), ("b", 7), ("a", 2), ("", 0), ("", 0)):
            await _opened(running, name, epoch)
        with pytest.raises(LimitReached) as caught:
            await _opened(running, "c", 1)
        assert caught.value.fields["limit"] == "max_producers"
        assert {record.producer_id for record in await store.list_producers()} == {"a", "b"}
    async with embedded(store, "--max-producers", "3") as running:
        await _opened(running, "c", 1)


async def test_a_producer_whose_epoch_could_not_be_stored_takes_no_place() -> None:
    store = MemoryStore()
    async with embedded(store, "--max-producers", "1") as running:
        store.fail_next = "before"
        with pytest.raises(Exception, match="told to fail"):
            await _opened(running, "a", 1)
        await _opened(running, "b", 1)


async def test_a_project_keeps_the_place_of_named_producers_and_forgets_ephemeral_ones() -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        running.service.limits = replace(running.service.limits, max_project_producers=3)
        await running.create("p")
        project = await running.service.live("p")
        await _wrote(running, "a", 1, batch("p", 1, create("n")))
        for _ in range(5):
            await _wrote(running, "", 0, batch("p", 1, patch("n", output_summary="x")))
        assert len(project.producers) == 3, "the ephemeral ones that wrote last"
        for name in ("b", "c"):
            await _wrote(running, name, 1, batch("p", 1, patch("n", output_summary=name)))
        assert set(project.producers) == {"a", "b", "c"}, "who has a name keeps its place"
        before = project.view.revision
        for name, epoch in (("d", 1), ("", 0)):
            reject = (await _answer(running, name, epoch, batch("p", 1, create("m")))).reject
            assert reject.error.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
            assert reject.error.metadata["limit"] == "max_project_producers"
        assert project.view.revision == before
        await _wrote(running, "a", 2, batch("p", 1, patch("n", output_summary="again")))


async def test_a_forgotten_producer_that_comes_back_writes_nothing_twice() -> None:
    """Nobody knows whether its batch was committed: not now, and not after a restart (SEM 5)."""
    store, first = MemoryStore(), batch("p", 1, create("n"))
    async with embedded(store) as running:
        running.service.limits = replace(running.service.limits, max_project_producers=1)
        for project_id in ("p", "q"):
            await running.create(project_id)
        await _wrote(running, "", 0, first)
        project = await running.service.live("p")
        (forgotten,) = project.producers
        repeat = await _answer(running, forgotten, 1, first)
        assert [ack.revision for ack in repeat.acks.acks] == [2], "it is not forgotten yet"
    async with embedded(store) as running:
        running.service.limits = replace(running.service.limits, max_project_producers=1)
        running.service.producers.clear()  # as if it had not come back
        await _wrote(running, "", 0, batch("p", 1, patch("n", output_summary="x")))
        project = await running.service.live("p")
        assert forgotten not in project.producers
        assert await running.service.snapshots.take(project) == 3
    for _ in range(2):
        async with embedded(store) as running:
            reject = (await _answer(running, forgotten, 1, first)).reject
            assert reject.error.reason == ErrorReason.ERROR_REASON_PRODUCER_FENCED
            assert (await running.service.live("p")).view.revision == 3
    async with embedded(store) as running:
        await _wrote(running, forgotten, 1, batch("q", 1, create("n")))
        await _wrote(running, "newcomer", 1, batch("p", 1, create("m")))
        await _wrote(running, "", 0, batch("p", 1, create("o")))


async def test_an_open_stream_keeps_its_place_however_many_others_write() -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        running.service.limits = replace(running.service.limits, max_project_producers=3)
        await running.create("p")
        sessions, idle = StreamSessions(running.service), Pipe()
        await idle.open(running.service, sessions, "", 0)
        idle.send(batch("p", 1, create("n")))
        assert (await idle.answer()).HasField("acks")
        for _ in range(5):
            other = Pipe()
            await other.open(running.service, sessions, "", 0)
            other.send(batch("p", 1, patch("n", output_summary="x")))
            assert (await other.answer()).HasField("acks")
            await other.close()
        for sequence, revision in ((1, 2), (2, 8)):
            idle.send(batch("p", sequence, patch("n", output_summary="y")))
            (ack,) = (await idle.answer()).acks.acks
            assert (ack.acked_sequence, ack.revision) == (sequence, revision)
        await idle.close()
        assert len((await running.service.live("p")).producers) == 3


async def test_a_project_that_is_loaded_again_knows_the_open_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with embedded(store) as running:
        service = running.service
        monkeypatch.setattr(
            service.projects, "_limits", replace(service.limits, max_project_producers=1)
        )
        await running.create("p")
        sessions, idle = StreamSessions(service), Pipe()
        await idle.open(service, sessions, "", 0)
        idle.send(batch("p", 1, create("n")))
        assert (await idle.answer()).HasField("acks")
        await _wrote(running, "a", 1, batch("p", 1, patch("n", output_summary="x")))
        for _ in range(3):
            service.projects.sweep(0, lambda _: False)
        assert service.projects.live() == []
        idle.send(batch("p", 2, patch("n", output_summary="y")))
        assert (await idle.answer()).HasField("acks")
        await idle.close()


async def test_an_id_that_looks_like_those_of_the_server_is_a_name_like_any_other() -> None:
    """Else its repeats were carried out again (SEM 5)."""
    async with embedded(MemoryStore()) as running:
        running.service.limits = replace(running.service.limits, max_project_producers=2)
        await running.create("p")
        for name in ("ephemeral-builds", "ephemeral-0123456789ab"):
            await _wrote(running, name, 1, batch("p", 1, create(name)))
        reject = (await _answer(running, "", 0, batch("p", 1, create("n")))).reject
        assert reject.error.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
        for name, revision in (("ephemeral-builds", 2), ("ephemeral-0123456789ab", 3)):
            repeat = await _answer(running, name, 1, batch("p", 1, create(name)))
            assert [ack.revision for ack in repeat.acks.acks] == [revision]


async def test_a_project_full_of_producers_lets_in_who_holds_its_lease() -> None:
    async with embedded(MemoryStore()) as running:
        running.service.limits = replace(running.service.limits, max_project_producers=1)
        await running.create("p")
        await _wrote(running, "a", 1, batch("p", 1, create("n")))
        request = AcquireLeaseRequest(project_id="p", holder="b")
        lease = (await LeaseRpcs(running.service).acquire_lease(request)).lease_epoch
        for lease_epoch in (0, lease + 1):
            sent = batch("p", 1, order_cancel("c"), lease_epoch=lease_epoch)
            reject = (await _answer(running, "c", 1, sent)).reject
            assert reject.error.reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
        taken_over = batch("p", 1, patch("n", output_summary="b"), lease_epoch=lease)
        await _wrote(running, "b", 1, taken_over)
        project = await running.service.live("p")
        assert set(project.producers) == {"a", "b"}


async def test_the_oldest_answers_are_forgotten_in_memory_and_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Requests, "MOST", 3)
    store = MemoryStore()
    async with embedded(store) as running:
        service = running.service
        answered: list[str] = []

        async def ask(name: str) -> None:
            async def work() -> RequestRecord:
                answered.append(name)
                record = RequestRecord("CommitBatch", name, "p", 1, now_micros() + len(answered))
                store._requests["CommitBatch", name] = record
                return record

            await service.requests.once("CommitBatch", name, work)

        for name in ("a", "b", "c", "d", "e", "e", "c"):
            await ask(name)
        assert answered == ["a", "b", "c", "d", "e"], "of the latest three a repeat is known"
        await service.forget_requests()
        assert [r.request_id for r in await store.list_requests(0)] == ["c", "d", "e"]
        await ask("a")
        assert answered[-1] == "a", "it was forgotten"
    again = Requests(await store.list_requests(0), Damage([]))
    assert {name for _, name in again._records} == {"d", "e", "a"}, "and so after a restart"


async def _opened(running: Embedded, name: str, epoch: int) -> None:
    pipe = Pipe()
    await pipe.open(running.service, StreamSessions(running.service), name, epoch)
    await pipe.close()


async def _answer(
    running: Embedded, name: str, epoch: int, sent: MutationBatch
) -> StreamMutationsResponse:
    pipe = Pipe()
    await pipe.open(running.service, StreamSessions(running.service), name, epoch)
    pipe.send(sent)
    answer = await pipe.answer()
    await pipe.close()
    return answer


async def _wrote(running: Embedded, name: str, epoch: int, sent: MutationBatch) -> None:
    answer = await _answer(running, name, epoch, sent)
    assert answer.HasField("acks"), answer
