"""A network that resets, stalls, swallows and half-closes: producers and watchers recover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from tests.support.bound import WAIT_SECONDS
from tests.support.load import LoadProducer, LoadWatcher, check_watcher, judge, read_log
from tests.support.mutations import batch, create
from tests.support.proxy import Proxy
from tests.support.state_process import StateProcess
from tests.support.wire import KEEPALIVE, Wire, connect, eventually

Start = Callable[..., StateProcess]


class Traffic:
    """A producer and two watchers behind a proxy."""

    def __init__(
        self, proxy: Proxy, project_id: str, options: list[tuple[str, int]] | None = None
    ) -> None:
        self.project_id = project_id
        self.producer = LoadProducer(proxy.address, f"of-{project_id}", [project_id], options or [])
        self.watchers = [LoadWatcher(proxy.address, project_id, options or []) for _ in range(2)]

    async def flows(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait until batches are acknowledged and every watcher is told."""
        acked = len(self.producer.acked)
        told = [watcher.log.announced for watcher in self.watchers]

        def more() -> bool:
            return len(self.producer.acked) > acked + 30 and all(
                watcher.log.announced > before + 30
                for watcher, before in zip(self.watchers, told, strict=True)
            )

        await eventually(more, "batches are acknowledged and told", seconds)

    async def finish(self, wire: Wire) -> None:
        """Stop writing and let the watchers reach the end."""
        self.producer.stopping = True
        await eventually(
            lambda: (
                self.producer.top(self.project_id) >= self.producer.sent.get(self.project_id, 0)
            ),
            "all is acknowledged",
        )
        head = (await wire.project(self.project_id)).revision
        for watcher in self.watchers:
            watcher.target = head
            watcher.stopping = True

    async def check(self, wire: Wire) -> None:
        """Compare what everyone knows."""
        log = await read_log(wire, self.project_id)
        judge(self.project_id, log, [self.producer])
        assert log.announced == 1 + self.producer.sent[self.project_id]
        for watcher in self.watchers:
            check_watcher(watcher, log)
            assert watcher.log.announced == log.announced


@pytest.mark.parametrize("fault", ["reset", "half_close", "stall", "all"])
async def test_producers_and_watchers_recover_from_a_bad_network(
    shared_state: StateProcess, shared_wire: Wire, fault: str
) -> None:
    project_id = (await shared_wire.create_project()).project_id
    async with Proxy(shared_state.address) as proxy:
        traffic = Traffic(proxy, project_id)
        async with asyncio.TaskGroup() as tasks:
            for runner in (traffic.producer.run, *[w.run for w in traffic.watchers]):
                tasks.create_task(runner())
            await traffic.flows()
            for _ in range(4):
                if fault in ("reset", "all"):
                    assert proxy.reset()
                    await traffic.flows()
                if fault in ("half_close", "all"):
                    proxy.half_close()
                    await traffic.flows()
                if fault in ("stall", "all"):
                    proxy.stall()
                    acked = len(traffic.producer.acked)
                    await asyncio.sleep(0.3)  # the length of the stall, not a wait
                    assert len(traffic.producer.acked) <= acked + 40
                    proxy.heal()
                    await traffic.flows()
            await traffic.finish(shared_wire)
        await traffic.check(shared_wire)
        if fault != "stall":
            assert traffic.producer.connections > 4


@pytest.mark.slow
async def test_a_black_hole_is_noticed(shared_state: StateProcess, shared_wire: Wire) -> None:
    """By the clients, and by the server, which forgets their watches (SEM 33).

    It takes 16 seconds, on a busy machine a little longer; without keepalive it would be minutes.
    """
    project_id = (await shared_wire.create_project()).project_id
    async with Proxy(shared_state.address) as proxy, connect(proxy.address, KEEPALIVE) as wire:
        async with (
            wire.watch(project_id, snapshot=True) as watch,
            wire.producer("prod", 1) as producer,
        ):
            await watch.through(1)
            await producer.write_batch(batch(project_id, 1, create("a")))
            await watch.through(2)
            proxy.swallow()
            await producer.send(batch(project_id, 2, create("b")))
            watch_error, producer_error = await asyncio.gather(watch.end(), producer.end())
            for error in (watch_error, producer_error):
                assert error is not None
                assert error.code() is grpc.StatusCode.UNAVAILABLE

        async def forgotten() -> bool:
            return (await shared_wire.stats(project_id)).watchers == 0

        await eventually(forgotten, "the server gives the watch up")
        proxy.reset()
        proxy.heal()
    async with Proxy(shared_state.address) as proxy:
        traffic = Traffic(proxy, (await shared_wire.create_project()).project_id, KEEPALIVE)
        async with asyncio.TaskGroup() as tasks:
            for runner in (traffic.producer.run, *[w.run for w in traffic.watchers]):
                tasks.create_task(runner())
            await traffic.flows()
            proxy.swallow()
            await asyncio.sleep(1)  # the length of the outage, not a wait
            proxy.heal()
            await traffic.flows()
            await traffic.finish(shared_wire)
        await traffic.check(shared_wire)


async def test_a_stream_broken_before_its_acks_is_resumed_without_a_double(
    shared_state: StateProcess, shared_wire: Wire
) -> None:
    """Swallowed acks: the batches are durable, the producer does not know; it resends all."""
    project_id = (await shared_wire.create_project()).project_id
    batches = [batch(project_id, n, create(f"n{n}")) for n in range(1, 31)]
    async with Proxy(shared_state.address) as proxy:
        async with connect(proxy.address) as wire, wire.producer("blind", 1) as producer:
            await producer.attach(project_id)
            proxy.stall()
            await producer.send(*batches)
            proxy.heal()

            async def durable() -> bool:
                return (await shared_wire.project(project_id)).revision == 31

            await eventually(durable, "the batches are durable")
            proxy.reset()
            await producer.end()
        async with connect(proxy.address) as wire, wire.producer("blind", 1) as producer:
            await producer.send(*batches)
            revisions = [await producer.acked(project_id, n) for n in range(1, 31)]
    assert revisions == list(range(2, 32))
    assert len(await shared_wire.nodes(project_id)) == 30
