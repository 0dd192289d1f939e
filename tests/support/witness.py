"""`python -m tests.support.witness`: orchestrator_svc whose agents note each call in a file.

The service, its flags and its agents are the real ones; only the agents' Protocol seam is
wrapped, and what fills an index. A line is written before the agent begins, so it outlives a
SIGKILL: the file of `read_calls` is what really was called, whatever the store says.

`hold_roots` holds up the planning or the aggregation of roots, so that a run is certainly not over
yet, however late a busy machine lets the test do what it means to do in the middle of it.
`hold_index` does so with the indexing of a corpus.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator_svc import __main__ as service
from orchestrator_svc import config
from orchestrator_svc.agents.base import AgentInput, Modifier, Output, Plan, Verdict
from orchestrator_svc.agents.corpus import index
from orchestrator_svc.agents.profile import (
    AgentSet,
    ProfileEntry,
    ProfileRegistry,
    built_in_profiles,
)
from tests.support.hold import Hold, wait

_HOLD_SECONDS = 0.005


@dataclass(frozen=True)
class AgentCall:
    """One call that an agent received."""

    project_id: str
    node_id: str
    attempt: int
    stage: str
    time: float  #: Unix seconds
    pid: int


def calls_file(data: Path) -> Path:
    """Return the file that belongs to a service's data folder."""
    return data.parent / f"{data.name}.calls"


def hold_roots(data: Path, stage: str = "aggregate") -> Hold:
    """Hold up this call of every root of a service, by its data folder; it is announced first."""
    return Hold(_hold_file(data, stage))


def hold_index(data: Path) -> Hold:
    """Hold up every index of a service when all is in it, and before it is complete."""
    return Hold(_hold_file(data, "index"))


def _hold_file(data: Path, stage: str) -> Path:
    return data.parent / f"{data.name}.hold-{stage}"


def read_calls(*folders: Path) -> list[AgentCall]:
    """Return the calls of services by their data folders, oldest first."""
    lines: list[str] = []
    for data in folders:
        path = calls_file(data)
        lines += path.read_text().splitlines() if path.exists() else ()
    # A line without its end was cut off by a kill, or is being written: no agent was called yet.
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return sorted((AgentCall(**call) for call in whole), key=lambda call: call.time)


class Witness:
    """Hands each call on and notes it."""

    def __init__(self, agents: AgentSet, data: Path) -> None:
        self._agents = agents
        self._file = os.open(calls_file(data), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._data = data

    async def atomize(self, task: AgentInput) -> Verdict:
        """Note it and hand it on."""
        self._note(task, "atomize")
        return await self._agents.atomize(task)

    async def plan(self, task: AgentInput) -> Plan:
        """Note it and hand it on."""
        self._note(task, "plan")
        await self._held(task, "plan")
        return await self._agents.plan(task)

    async def execute(self, task: AgentInput) -> Output:
        """Note it and hand it on."""
        self._note(task, "execute")
        return await self._agents.execute(task)

    async def aggregate(self, task: AgentInput) -> Output:
        """Note it and hand it on."""
        self._note(task, "aggregate")
        await self._held(task, "aggregate")
        return await self._agents.aggregate(task)

    async def aclose(self) -> None:
        """Hand it on."""
        aclose = getattr(self._agents, "aclose", None)
        if aclose is not None:
            await aclose()

    async def modify(self, task: AgentInput) -> Plan:
        """Note it and hand it on."""
        self._note(task, "modify")
        assert isinstance(self._agents, Modifier)
        return await self._agents.modify(task)

    async def _held(self, task: AgentInput, stage: str) -> None:
        while not task.layer and _hold_file(self._data, stage).exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(_HOLD_SECONDS)

    def _note(self, task: AgentInput, stage: str) -> None:
        call = AgentCall(
            task.project_id, task.node_id, task.attempt, stage, time.time(), os.getpid()
        )
        os.write(self._file, b"\n" + json.dumps(asdict(call)).encode() + b"\n")


def main() -> int:
    """Run the service; return its exit code."""
    data = Path(sys.argv[sys.argv.index("--data") + 1])

    def witnessed(corpus_cache_dir: Path, **more: Any) -> ProfileRegistry:
        known = built_in_profiles(corpus_cache_dir, **more)
        entries = ((name, known.get(name)) for name in known.names())
        return ProfileRegistry({name: _wrap(entry, data) for name, entry in entries if entry})

    assert hasattr(config, "built_in_profiles"), "what the service makes its profiles with"
    config.built_in_profiles = witnessed
    _wrap_index(_hold_file(data, "index"))
    return service.main()


def _wrap_index(hold: Path) -> None:
    fill = index._fill

    def held(*arguments: Any) -> int:
        count = fill(*arguments)
        wait(hold)
        return count

    index._fill = held  # type: ignore[assignment]


def _wrap(entry: ProfileEntry, data: Path) -> ProfileEntry:
    names = entry.option_names
    return ProfileEntry(
        entry.profile,
        lambda: Witness(entry.agents, data),
        entry.check_options,
        entry.service_options,
        entry.refusal,
        None if names is None else lambda: names,
    )


if __name__ == "__main__":
    sys.exit(main())
