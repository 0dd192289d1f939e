"""A service in a process of its own that puts, names, compacts and collects bodies until it dies.

`python -m tests.support.payload_worker DATA JOURNAL SECONDS`. What was answered is in the journal
before anything else is asked. A start first looks whether all of that is there; then it goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    DeleteProjectRequest,
    ForkProjectRequest,
    GetPayloadRequest,
    GetPayloadResponse,
)
from state_svc.errors import BatchRejected
from state_svc.payload.payloads import KEEP_MICROS
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.payloads import PayloadRpcs
from state_svc.service import now_micros
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, patch, stage
from tests.support.payloads import named, put_here

_PROJECTS = 3
_RESULTS = 40  #: different results, so that they come, go and come back


def body(number: int) -> bytes:
    """Return the body of a number."""
    return random.Random(number % _RESULTS).randbytes(6_000 + number % _RESULTS)


class Worker:
    """One life of the process."""

    def __init__(self, running: Embedded, journal: Path) -> None:
        self._running = running
        self._history = HistoryRpcs(running.service)
        self._journal = journal
        self._acked: dict[str, int] = {}  #: number of the last named body by project
        self._next = 1

    async def verify(self) -> None:
        """Look whether everything that was answered is there."""
        lines = self._journal.read_text().split("\n")[:-1] if self._journal.exists() else []
        for line in lines:
            project_id, number = line.split()
            self._acked[project_id] = int(number)
            self._next = max(self._next, int(number) + 1)
        for project_id, acked in self._acked.items():
            # What was not answered any more may have happened, once.
            if await self._check(project_id) not in (acked, self._next):
                raise ValueError(f"what was acknowledged of {project_id} is lost")
        for project_id in await self._forks():
            await self._check(project_id)

    async def run(self, seconds: float) -> None:
        """Work for so long."""
        until = time.monotonic() + seconds
        if not self._acked:
            for number in range(_PROJECTS):
                await self._make(f"p{number}")
        while time.monotonic() < until:
            await self._turn(self._next)
            self._next += 1

    async def _turn(self, number: int) -> None:
        project_id = f"p{number % _PROJECTS}"
        await self._name(project_id, number)
        self._note(project_id, number)
        if number % 4 == 0:
            await self._history.compact_project(CompactProjectRequest(project_id=project_id))
        if number % 5 == 0:
            await self._running.service.payloads.collect(now_micros() + 2 * KEEP_MICROS)
        if number % 9 == 0:
            for fork in await self._forks():
                request = DeleteProjectRequest(project_id=fork, force=True)
                await self._history.delete_project(request)
            await self._history.fork_project(ForkProjectRequest(project_id=project_id))

    async def _make(self, project_id: str) -> None:
        if project_id not in self._running.service.projects:
            await self._running.create(project_id)
            await self._running.commit(project_id, create("n"))

    async def _name(self, project_id: str, number: int) -> None:
        await self._make(project_id)
        while True:
            result = named(await put_here(self._running, body(number)))
            result.content_type = f"test/{number}"
            record = stage("n", input=named(await put_here(self._running, b"input" * 2_000)))
            try:
                await self._running.commit(project_id, patch("n", result=result), record)
            except BatchRejected as rejected:
                if not rejected.missing:  # else it was collected since it was put
                    raise
            else:
                return

    async def _forks(self) -> list[str]:
        entities = self._running.service.projects.entities()
        found = [entity.project_id async for entity, *_ in entities]
        return [project_id for project_id in found if project_id.startswith("fork")]

    async def _check(self, project_id: str) -> int:
        """Read the result of a project; return its number."""
        view = (await self._running.service.live(project_id)).view
        result = view.nodes["n"].to_node().result
        number = int(result.content_type.rpartition("/")[2])
        request = GetPayloadRequest(project_id=project_id, digest=result.ref.digest)
        parts = PayloadRpcs(self._running.service).get_payload(request)
        data = b"".join([GetPayloadResponse.FromString(part).data async for part in parts])
        if data != body(number):
            raise ValueError(f"the result of {project_id} is not what was put")
        return number

    def _note(self, project_id: str, number: int) -> None:
        with self._journal.open("a") as journal:
            journal.write(f"{project_id} {number}\n")
            journal.flush()
            os.fsync(journal.fileno())


async def main(data: Path, journal: Path, seconds: float) -> None:
    """Live once."""
    async with embedded(data) as running:
        worker = Worker(running, journal)
        await worker.verify()
        await worker.run(seconds)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
