"""A pin, or its removal, is answered when it is durable: history may go by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ramify.v1.state_service_pb2 import PinRevisionRequest, UnpinRevisionRequest
from state_svc.errors import StoreUnavailable
from state_svc.rpc.pins import PinRpcs
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded

PIN = PinRevisionRequest(project_id="p", pin="release", revision=1)
UNPIN = UnpinRevisionRequest(project_id="p", pin="release")


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def service(store: MemoryStore) -> AsyncIterator[Embedded]:
    async with embedded(store) as running:
        await running.create("p")
        yield running


async def _pinned(service: Embedded) -> dict[str, int]:
    return dict((await service.service.live("p")).view.entity.pins.revisions)


async def test_a_repeat_is_not_answered_with_a_pin_that_failed(
    service: Embedded, store: MemoryStore
) -> None:
    pins = PinRpcs(service.service)
    store.fail_next = "before"
    first, repeat = await asyncio.gather(
        pins.pin_revision(PIN), pins.pin_revision(PIN), return_exceptions=True
    )
    assert isinstance(first, StoreUnavailable)
    assert isinstance(repeat, StoreUnavailable) or await _pinned(service) == {"release": 1}


async def test_a_repeat_is_not_answered_with_a_removal_that_failed(
    service: Embedded, store: MemoryStore
) -> None:
    pins = PinRpcs(service.service)
    await pins.pin_revision(PIN)
    store.fail_next = "before"
    first, repeat = await asyncio.gather(
        pins.unpin_revision(UNPIN), pins.unpin_revision(UNPIN), return_exceptions=True
    )
    assert isinstance(first, StoreUnavailable)
    assert isinstance(repeat, StoreUnavailable) or not await _pinned(service)
