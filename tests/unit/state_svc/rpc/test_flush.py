"""FlushProject tells the truth about what was accepted before it (S0.7)."""

from __future__ import annotations

import asyncio

import pytest

from ramify.v1.state_service_pb2 import FlushProjectRequest
from state_svc.errors import StoreUnavailable
from tests.support.embedded import embedded
from tests.support.held_store import HeldStore
from tests.support.mutations import create

FLUSH = FlushProjectRequest(project_id="p")


async def test_a_flush_fails_if_what_was_accepted_could_not_be_stored() -> None:
    store = HeldStore()
    async with embedded(store) as running:
        await running.create("p")
        store.entered.clear()
        store.gate.clear()
        written = asyncio.create_task(running.commit("p", create("a")))
        await store.entered.wait()
        flushed = asyncio.create_task(running.projects.flush_project(FLUSH))
        await asyncio.sleep(0)
        store.fail_next = "before"
        store.gate.set()
        for task in (written, flushed):
            with pytest.raises(StoreUnavailable):
                await task
        assert (await running.projects.flush_project(FLUSH)).revision == 1
