"""What a stream session does that no client over the wire can arrange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ramify.v1.error_pb2 import ErrorReason
from state_svc.errors import InvalidRequest
from state_svc.model.project import LiveProject
from state_svc.rpc.error_map import unwrap
from state_svc.rpc.stream import StreamSessions
from state_svc.service import Service
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
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
    with pytest.raises(ExceptionGroup) as caught:
        await pipe.close()
    cause = unwrap(caught.value)
    assert isinstance(cause, InvalidRequest)
    assert cause.fields["field"] == "frame"
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
