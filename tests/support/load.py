"""Producers and watchers that survive everything, and the judge of what they saw.

A batch of producer P with sequence n creates node `P-n` and sets the counter node `P` to n, so
that every revision shows whose it is, and half of one would show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio

from ramify.v1.mutation_pb2 import Change, MutationBatch
from ramify.v1.state_service_pb2 import Coalescing, WatchProjectRequest
from tests.support.mutations import batch, create, patch
from tests.support.producer import RawProducer
from tests.support.watch import RawWatch, WatchLog
from tests.support.wire import Wire, connect

_RETRY_SECONDS = 0.05
_IN_FLIGHT = 12


def make(project_id: str, producer_id: str, sequence: int) -> MutationBatch:
    """Return the batch that this producer sends as this sequence."""
    first = [create(producer_id)] if sequence == 1 else []
    return batch(
        project_id,
        sequence,
        *first,
        create(f"{producer_id}-{sequence}"),
        patch(producer_id, output_summary=str(sequence)),
        immediate=sequence % 7 == 0,
    )


@dataclass
class LoadProducer:
    """Writes to its projects until told to stop; resends all that is unacknowledged."""

    address: str
    producer_id: str
    projects: Sequence[str]
    options: list[tuple[str, int]] = field(default_factory=list)
    acked: dict[tuple[str, int], int] = field(default_factory=dict)  #: revision
    sent: dict[str, int] = field(default_factory=dict)  #: highest sequence by project
    connections: int = 0
    stopping: bool = False
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    def top(self, project_id: str) -> int:
        """Return the highest sequence up to which everything is acknowledged."""
        sequence = 0
        while (project_id, sequence + 1) in self.acked:
            sequence += 1
        return sequence

    async def run(self) -> None:
        """Write; return once told to stop and everything sent is acknowledged."""
        while not self._done():
            with suppress(grpc.aio.AioRpcError, AssertionError):
                async with connect(self.address, self.options) as wire:
                    await self._write(wire)
            await asyncio.sleep(_RETRY_SECONDS)

    def _done(self) -> bool:
        return self.stopping and all(
            self.top(project_id) >= self.sent.get(project_id, 0) for project_id in self.projects
        )

    async def _write(self, wire: Wire) -> None:
        async with wire.producer(self.producer_id, 1) as producer:
            producer.on_ack = self._note
            self.connections += 1
            for project_id in self.projects:
                position = await producer.attach(project_id)
                top = self.top(project_id)
                if not top <= position.last_sequence <= self.sent.get(project_id, 0):
                    raise Lost(f"{project_id}: {position.last_sequence}, acknowledged {top}")
                # Exactly once: also what is durable already is sent again.
                for sequence in range(max(1, top - 2), self.sent.get(project_id, 0) + 1):
                    await producer.send(make(project_id, self.producer_id, sequence))
            while not self._done():
                if producer.done or producer.drain is not None or producer.rejects:
                    return
                self._progress.clear()
                wrote = False
                for project_id in self.projects:
                    if not self.stopping and self._in_flight(project_id) < _IN_FLIGHT:
                        await self._send_frame(producer, project_id)
                        wrote = True
                if not wrote:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self._progress.wait()

    def _in_flight(self, project_id: str) -> int:
        first = self.sent.get(project_id, 0)
        count = 0
        while count <= _IN_FLIGHT and first - count > 0:
            if (project_id, first - count) in self.acked:
                break
            count += 1
        return count

    async def _send_frame(self, producer: RawProducer, project_id: str) -> None:
        start = self.sent.get(project_id, 0) + 1
        # Noted first: what may have been sent counts as sent.
        self.sent[project_id] = start + 2
        await producer.send(*[make(project_id, self.producer_id, start + n) for n in range(3)])

    def _note(self, project_id: str, sequence: int, revision: int) -> None:
        known = self.acked.setdefault((project_id, sequence), revision)
        if revision and known != revision:
            raise Lost(f"{project_id}: {sequence} was {known} and is {revision}")
        self._progress.set()


class Lost(Exception):
    """An acknowledged batch is gone, or has become another revision."""


@dataclass
class LoadWatcher:
    """Watches a project through every disconnect and notes each revision once."""

    address: str
    project_id: str
    options: list[tuple[str, int]] = field(default_factory=list)
    log: WatchLog = field(default_factory=WatchLog)
    connections: int = 0  #: of which something came
    stopping: bool = False
    target: int = 0  #: with `stopping`: the revision to reach

    async def run(self) -> None:
        """Watch; return once told to stop and the target is reached."""
        while not self._done():
            async with connect(self.address, self.options) as wire:
                if self.log.resume:
                    request = WatchProjectRequest(
                        project_id=self.project_id, after_revision=self.log.resume
                    )
                else:
                    request = WatchProjectRequest(project_id=self.project_id, from_beginning=True)
                    self.log = WatchLog()
                request.bookmark_interval_ms = 200
                request.coalescing = Coalescing.COALESCING_NEVER
                told = len(self.log.messages)
                async with RawWatch(wire.stub, request, self.log) as watch:
                    while not watch.done and not self._done():
                        await watch.changed()
                self.connections += len(self.log.messages) > told
            await asyncio.sleep(_RETRY_SECONDS)

    def _done(self) -> bool:
        return self.stopping and self.log.announced >= self.target


async def read_log(wire: Wire, project_id: str) -> WatchLog:
    """Return the whole log of a project as it is now."""
    head = (await wire.project(project_id)).revision
    async with wire.watch(project_id, from_beginning=True) as watch:
        return await watch.through(head)


def judge(project_id: str, log: WatchLog, producers: Sequence[LoadProducer]) -> None:
    """Check a log against what producers know: exactly once, whole, in order, without holes."""
    assert sorted(log.changes) == list(range(1, log.announced + 1)), "revisions without holes"
    found: dict[tuple[str, int], int] = {}
    for revision, changes in log.changes.items():
        if revision > 1:
            key = identify(changes)
            assert key not in found, f"{key} is there twice"
            found[key] = revision
    for producer in producers:
        if project_id not in producer.projects:
            continue
        mine = {n: r for (name, n), r in found.items() if name == producer.producer_id}
        assert sorted(mine) == list(range(1, len(mine) + 1)), "sequences without holes"
        assert list(mine.values()) == sorted(mine.values()), "in the order of the sequences"
        assert len(mine) <= producer.sent.get(project_id, 0)
        for (name, sequence), revision in producer.acked.items():
            if name == project_id:
                assert sequence in mine, f"acknowledged {sequence} of {producer} is lost"
                assert not revision or mine[sequence] == revision


def identify(changes: Sequence[Change]) -> tuple[str, int]:
    """Return (producer, sequence) of a revision, which must be whole."""
    *first, created, counted = changes
    producer_id = counted.node.node_id
    sequence = int(counted.node.patch.output_summary)
    assert created.node.node_id == f"{producer_id}-{sequence}"
    assert created.node.WhichOneof("effect") == "node"
    assert [change.node.node_id for change in first] == [producer_id] * (sequence == 1)
    assert [change.index for change in changes] == list(range(len(changes)))
    assert counted.node.version == sequence + 1
    return producer_id, sequence


def check_watcher(watcher: LoadWatcher, stored: WatchLog) -> None:
    """Check that a watcher was told the stored log, each revision once, as far as it came."""
    for revision, changes in watcher.log.changes.items():
        assert changes == stored.changes[revision], f"revision {revision} is another one now"
    assert sorted(watcher.log.changes) == list(range(1, watcher.log.announced + 1))
