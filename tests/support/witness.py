"""`python -m tests.support.witness`: orchestrator_svc whose agents note each call in a file.

The service, its flags and its agents are the real ones; only the agents' Protocol seam is
wrapped. A line is written before the agent begins, so it outlives a SIGKILL: the file of
`read_calls` is what really was called, whatever the store says.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator_svc import __main__ as service
from orchestrator_svc import app
from orchestrator_svc.agents.base import AgentInput, Modifier, Output, Plan, Verdict
from orchestrator_svc.agents.profile import (
    AgentSet,
    ProfileEntry,
    ProfileRegistry,
    built_in_profiles,
)


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


def read_calls(*folders: Path) -> list[AgentCall]:
    """Return the calls of services by their data folders, oldest first."""
    lines: list[str] = []
    for data in folders:
        path = calls_file(data)
        lines += path.read_text().splitlines() if path.exists() else ()
    return sorted((AgentCall(**json.loads(line)) for line in lines), key=lambda call: call.time)


class Witness:
    """Hands each call on and notes it."""

    def __init__(self, agents: AgentSet, path: Path) -> None:
        self._agents = agents
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def atomize(self, task: AgentInput) -> Verdict:
        """Note it and hand it on."""
        self._note(task, "atomize")
        return await self._agents.atomize(task)

    async def plan(self, task: AgentInput) -> Plan:
        """Note it and hand it on."""
        self._note(task, "plan")
        return await self._agents.plan(task)

    async def execute(self, task: AgentInput) -> Output:
        """Note it and hand it on."""
        self._note(task, "execute")
        return await self._agents.execute(task)

    async def aggregate(self, task: AgentInput) -> Output:
        """Note it and hand it on."""
        self._note(task, "aggregate")
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

    def _note(self, task: AgentInput, stage: str) -> None:
        call = AgentCall(
            task.project_id, task.node_id, task.attempt, stage, time.time(), os.getpid()
        )
        os.write(self._file, json.dumps(asdict(call)).encode() + b"\n")


def main() -> int:
    """Run the service; return its exit code."""
    path = calls_file(Path(sys.argv[sys.argv.index("--data") + 1]))

    def witnessed(corpus_cache_dir: Path, **more: Any) -> ProfileRegistry:
        known = built_in_profiles(corpus_cache_dir, **more)
        entries = ((name, known.get(name)) for name in known.names())
        return ProfileRegistry({name: _wrap(entry, path) for name, entry in entries if entry})

    app.built_in_profiles = witnessed  # type: ignore[attr-defined]
    return service.main()


def _wrap(entry: ProfileEntry, path: Path) -> ProfileEntry:
    return ProfileEntry(
        entry.profile,
        lambda: Witness(entry.agents, path),
        entry.check_options,
        entry.service_options,
        entry.refusal,
    )


if __name__ == "__main__":
    sys.exit(main())
