"""Starts orchestrator_svc as a real process beside a state_svc, and kills and restarts both."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path

from tests.support.hold import Hold
from tests.support.state_process import StateProcess
from tests.support.witness import AgentCall, hold_index, hold_roots, read_calls

ORCHESTRATOR = "orchestrator"
STATE = "state"


class OrchestratorProcess(StateProcess):
    """One orchestrator over one data folder; a restart comes back at its address."""

    def __init__(self, data: Path, state_address: str, *flags: str, witnessed: bool = True) -> None:
        module = "tests.support.witness" if witnessed else "orchestrator_svc"
        super().__init__(data, "--state", state_address, *flags, module=module)

    def hold_roots(self, stage: str = "aggregate") -> Hold:
        """Keep its runs from ending; see `witness.hold_roots`."""
        return hold_roots(self.data, stage)

    def hold_index(self) -> Hold:
        """Keep what it indexes from being complete; see `witness.hold_index`."""
        return hold_index(self.data)

    def calls(self) -> list[AgentCall]:
        """Return the agent calls of this process and of those before it, oldest first."""
        return read_calls(self.data)


class Services:
    """Both services of one test. Kills are immediate, waiting and starting leave the loop free."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.state = StateProcess(folder / STATE)
        self._folder = folder
        self._flags = flags
        self._orchestrator: OrchestratorProcess | None = None

    @property
    def orchestrator(self) -> OrchestratorProcess:
        """The orchestrator; it exists once `start` has given state_svc an address."""
        assert self._orchestrator is not None
        return self._orchestrator

    async def start(self, *, failpoints: str = "") -> Services:
        """Start both."""
        await asyncio.to_thread(self.state.start, failpoints=failpoints)
        self._orchestrator = OrchestratorProcess(
            self._folder / ORCHESTRATOR, self.state.address, *self._flags
        )
        await asyncio.to_thread(self._orchestrator.start)
        return self

    def named(self, name: str) -> StateProcess:
        """Return a service by its name."""
        return self.state if name == STATE else self.orchestrator

    async def kill_and_restart(
        self, names: Iterable[str], number: signal.Signals = signal.SIGKILL
    ) -> None:
        """End some services at this very moment; start them again, all at the same time."""
        victims = [self.named(name) for name in names]
        for victim in victims:
            victim.signal(number)
        await asyncio.gather(*(asyncio.to_thread(_come_back, victim, number) for victim in victims))

    async def await_death_and_restart(self, name: str) -> None:
        """Wait until a service has died of a failpoint and start it again without one."""
        await asyncio.to_thread(_come_back, self.named(name), signal.SIGKILL)

    def end(self) -> None:
        """Kill what still runs."""
        for process in (self._orchestrator, self.state):
            if process is not None:
                process.kill()


def _come_back(process: StateProcess, number: signal.Signals) -> None:
    code = process.wait()
    expected = -signal.SIGKILL if number == signal.SIGKILL else 0
    assert code == expected, f"it ended with {code}; log:\n{process.read_log()[-4_000:]}"
    process.start()
