"""Bodies that are put and read at one time have a bound in memory, however small they arrive."""

from __future__ import annotations

import asyncio

import pytest
import zstandard

from ramify.v1.state_service_pb2 import GetPayloadRequest
from state_svc.codec.payload import PayloadInfo, PayloadRecord
from state_svc.errors import Overloaded
from state_svc.payload import payloads
from state_svc.rpc.payloads import PayloadRpcs
from state_svc.store.memory import MemoryStore
from tests.support.embedded import embedded
from tests.support.mutations import create
from tests.support.payloads import ZSTD, named, parts, put_here
from tests.support.wire import eventually

_BODY = bytes(100_000)


async def test_compressed_bodies_count_with_what_they_inflate_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payloads, "MAX_BYTES_IN_TRANSIT", 3 * len(_BODY))
    store, told = MemoryStore(), asyncio.Event()
    put = store.payloads.put

    async def slow(record: PayloadRecord) -> PayloadInfo:
        await told.wait()
        return await put(record)

    monkeypatch.setattr(store.payloads, "put", slow)
    frame = zstandard.ZstdCompressor().compress(_BODY)
    assert len(frame) < 100
    async with embedded(store) as running:
        rpcs = PayloadRpcs(running.service)
        puts = [
            asyncio.create_task(rpcs.put_payload(parts(frame, encoding=ZSTD))) for _ in range(10)
        ]
        await eventually(lambda: sum(task.done() for task in puts) == 8, "two fit, eight do not")
        assert all(isinstance(task.exception(), Overloaded) for task in puts if task.done())
        told.set()
        await asyncio.wait(puts)
        assert sum(task.exception() is None for task in puts) == 2
        await rpcs.put_payload(parts(frame, encoding=ZSTD))


async def test_bodies_that_are_read_count_and_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        digest = await put_here(running, _BODY)
        await running.commit("p", create("n", result=named(digest)))
        monkeypatch.setattr(payloads, "MAX_BYTES_IN_TRANSIT", 2 * len(_BODY))
        rpcs = PayloadRpcs(running.service)
        request = GetPayloadRequest(project_id="p", digest=digest)
        slow = rpcs.get_payload(request)
        await anext(slow)
        with pytest.raises(Overloaded):
            await anext(rpcs.get_payload(request))
        await slow.aclose()
        assert len([message async for message in rpcs.get_payload(request)]) == 1
