"""What a stream session does that no client over the wire can arrange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Mutation
from state_svc.errors import InvalidRequest, ProducerFenced, StoreUnavailable
from state_svc.ingest.batching import BatchLimits
from state_svc.model.project import LiveProject
from state_svc.rpc.stream import StreamSessions
from state_svc.service import Service
from state_svc.store.base import ProducerRecord
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.held_store import HeldStore
from tests.support.mutations import batch, create
from tests.support.pipe import Pipe


@asynccontextmanager
async def _stream(service: Service) -> AsyncIterator[Pipe]:
    pipe = Pipe()
    await pipe.open(service, StreamSessions(service), "producer", 1)
    yield pipe
    await pipe.close()


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def service(store: MemoryStore) -> AsyncIterator[Embedded]:
    async with embedded(store) as running:
        yield running


async def test_names_of_projects_that_do_not_exist_get_no_counters(service: Embedded) -> None:
    """A hostile producer could fill the memory with them, and push out those of real projects."""
    await service.create("p")
    async with _stream(service.service) as pipe:
        for name in ("nobody", "x" * 100_000, "p"):
            pipe.send(batch(name, 7, create("a")))
            assert (await pipe.answer()).reject.project_id == name
    metrics = service.service.metrics
    assert metrics.service.rejected == 3
    assert metrics.project("p").rejected == 1
    assert list(metrics._projects) == ["p"]


async def test_a_frame_of_too_many_batches_ends_the_call_without_an_answer_for_each(
    service: Embedded,
) -> None:
    """A batch can have two bytes and its reject hundreds: a flood could fill the memory."""
    pipe = Pipe()
    await pipe.open(service.service, StreamSessions(service.service), "producer", 1)
    pipe.send(*[batch("p", 1)] * 1_001)
    with pytest.raises(InvalidRequest) as caught:
        await pipe.close()
    assert caught.value.fields["field"] == "frame"
    assert pipe.unread() == 0


async def test_a_repeat_of_a_batch_that_then_fails_is_told_where_to_go_on(
    service: Embedded, store: MemoryStore
) -> None:
    await service.create("p")
    async with _stream(service.service) as pipe:
        store.fail_next = "before"
        same = batch("p", 1, create("a"))
        pipe.send(same, same)
        reasons = [(await pipe.answer()).reject.error for _ in range(2)]
        assert [error.reason for error in reasons] == [
            ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
            ErrorReason.ERROR_REASON_SEQUENCE_GAP,
        ]
        assert reasons[1].metadata["expected_sequence"] == "1"
        pipe.send(same)
        ack = (await pipe.answer()).acks.acks[0]
        assert (ack.first_sequence, ack.acked_sequence, ack.revision) == (1, 1, 2)


async def test_the_repeats_of_a_stream_that_is_gone_are_forgotten_while_the_store_is_away() -> None:
    """A producer that reconnects sends them again each time."""
    store = HeldStore()
    async with embedded(store) as service:
        await service.create("p")
        committer = service.service.committer
        pipe = Pipe()
        await pipe.open(service.service, StreamSessions(service.service), "producer", 1)
        store.entered.clear()
        store.gate.clear()
        same = batch("p", 1, create("a"))
        pipe.send(same, same, same)
        await store.entered.wait()
        await _turns()
        assert len(committer._waiters) == 2
        await pipe.cut()
        await _turns()
        assert not committer._waiters
        store.gate.set()


async def test_a_stream_without_credit_does_not_wait_for_the_age_of_its_batches() -> None:
    """Only a commit gives credit back, and the watermark may be far off."""
    async with embedded(MemoryStore()) as service:
        await service.create("p")
        patient = BatchLimits(max_mutations=1_000, max_delay=3_600.0, eager=False)
        service.service.committer._buffer._limits = patient
        async with _stream(service.service) as pipe:
            most = service.service.limits.credit_batches
            pipe.send(*(batch("p", n, create(f"n{n}")) for n in range(1, most + 1)))
            assert (await pipe.answer()).acks.acks[0].acked_sequence == most


async def test_the_next_frame_comes_while_one_is_taken(
    service: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame needs wake-ups of two threads; they would add to what taking a frame costs."""
    await service.create("p")
    held = asyncio.Event()
    live = Service.live

    async def live_when_let(self: Service, project_id: str) -> LiveProject:
        await held.wait()
        return await live(self, project_id)

    monkeypatch.setattr(Service, "live", live_when_let)
    async with _stream(service.service) as pipe:
        await pipe.asked(2)  # for the opening message, and for the first one after it
        pipe.attach("p")
        await pipe.asked(1)
        held.set()
        assert (await pipe.answer()).attached.project_id == "p"


async def test_a_frame_that_was_read_waits_for_room() -> None:
    """Each of many streams can have one, read while there was room or as it came back."""
    store = HeldStore()
    async with embedded(store, "--max-pending-bytes", str(1 << 20)) as service:
        for project_id in ("p", "q"):
            await service.create(project_id)
        project = await service.service.live("q")
        async with _stream(service.service) as pipe:
            store.entered.clear()
            store.gate.clear()
            first = asyncio.create_task(service.commit("p", create("first")))
            await store.entered.wait()
            large = asyncio.create_task(service.commit("p", *_large("a"), *_large("b")))
            await _turns()
            assert not service.service.committer.has_room
            pipe.send(batch("q", 1, create("a")))
            await _turns()
            assert project.revision == 1
            store.gate.set()
            assert (await pipe.answer()).acks.acks[0].revision == 2
            await asyncio.gather(first, large)


async def test_an_epoch_is_durable_before_any_of_its_streams_is_welcome() -> None:
    """The second of two that open it at once could write, and nobody knew its epoch later."""
    store = HeldStore()
    async with embedded(store) as service:
        sessions = StreamSessions(service.service)
        store.gate.clear()
        opened = [
            asyncio.create_task(Pipe().open(service.service, sessions, "producer", 5))
            for _ in range(2)
        ]
        await _turns()
        assert not any(task.done() for task in opened)
        store.fail_next = "before"
        store.gate.set()
        await asyncio.wait(opened)
        assert all(isinstance(task.exception(), StoreUnavailable) for task in opened)
        assert service.service.producers == {}
        pipe = Pipe()
        await pipe.open(service.service, sessions, "producer", 5)
        assert await store.list_producers() == [ProducerRecord("producer", 5)]
        await pipe.close()


async def test_an_epoch_whose_opener_went_away_is_stored_for_the_next() -> None:
    store = HeldStore()
    async with embedded(store) as service:
        sessions, gone, pipe = StreamSessions(service.service), Pipe(), Pipe()
        store.gate.clear()
        opening = asyncio.create_task(gone.open(service.service, sessions, "producer", 5))
        await store.entered.wait()
        await gone.cut()
        await asyncio.wait([opening])
        store.fail_next = "before"
        store.gate.set()
        await _turns()
        await pipe.open(service.service, sessions, "producer", 5)
        assert await store.list_producers() == [ProducerRecord("producer", 5)]
        await pipe.close()


async def test_of_epochs_that_fail_together_none_stays_in_force() -> None:
    store = HeldStore()
    async with embedded(store) as service:
        sessions, first = StreamSessions(service.service), Pipe()
        await first.open(service.service, sessions, "producer", 4)
        store.gate.clear()
        opened = []
        for epoch in (5, 6):
            pipe = Pipe()
            opened.append(
                asyncio.create_task(pipe.open(service.service, sessions, "producer", epoch))
            )
            await _turns()
        store.fail_next = "before"
        store.readable.clear()
        store.gate.set()
        await store.asked.wait()
        opened.append(asyncio.create_task(Pipe().open(service.service, sessions, "producer", 7)))
        await asyncio.wait(opened[2:])
        assert service.service.producers == {"producer": 6}
        store.fail_next = "before"
        store.readable.set()
        outcomes = await asyncio.gather(*opened, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        assert service.service.producers == {"producer": 4}
        with pytest.raises(ProducerFenced):
            await first.close()


async def _turns() -> None:
    """Let all go as far as it can; nothing here waits for a thread or a timer."""
    for _ in range(100):
        await asyncio.sleep(0)


def _large(node_id: str) -> list[Mutation]:
    return [create(node_id, result={"text": "x" * 600_000})]
