"""Fixtures and hooks for tests on real processes; a conftest imports what it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import state_process
from tests.support.hold import Hold
from tests.support.orchestrator_process import OrchestratorProcess, Services
from tests.support.runs import Runs, connect_both
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect

__all__ = [
    "hold",
    "make_services",
    "pytest_runtest_makereport",
    "runs",
    "shared_orchestrator",
    "shared_state",
    "shared_wire",
    "start_state",
    "state",
    "wire",
]

_SHOWN_CHARS = 1_500  #: of each log: the traceback above must be seen too


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add what the services logged during a test to its report when it has failed."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "setup":
        for path in state_process.logs:
            state_process.logs[path] = path.stat().st_size if path.exists() else 0
    if report.failed:
        for path, start in state_process.logs.items():
            if path.exists():
                with path.open(errors="replace") as log:
                    log.seek(start)
                    text = log.read()
                if text:
                    report.sections.append((f"log {path.name}", text[-_SHOWN_CHARS:]))


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """What a failpoint `hold:FILE` of this test waits for."""
    made = Hold(tmp_path / "hold")
    yield made
    made.release()


@pytest.fixture
def start_state(tmp_path: Path) -> Iterator[Callable[..., StateProcess]]:
    """Start services of this test; all are ended after it."""
    started: list[StateProcess] = []

    def start(*flags: str, name: str = "data", failpoints: str = "") -> StateProcess:
        process = StateProcess(tmp_path / name, *flags)
        started.append(process)
        return process.start(failpoints=failpoints)

    yield start
    for process in started:
        process.kill()
        state_process.logs.pop(process.log, None)


@pytest.fixture
def state(start_state: Callable[..., StateProcess]) -> StateProcess:
    """A service of this test alone."""
    return start_state()


@pytest.fixture
async def wire(state: StateProcess) -> AsyncIterator[Wire]:
    """A connection to `state`."""
    async with connect(state.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateProcess]:
    """A service that the tests of a module share; each uses projects of its own."""
    process = StateProcess(tmp_path_factory.mktemp("state") / "data")
    process.start()
    yield process
    assert process.stop() == 0
    state_process.logs.pop(process.log, None)


@pytest.fixture
async def shared_wire(shared_state: StateProcess) -> AsyncIterator[Wire]:
    """A connection to `shared_state`."""
    async with connect(shared_state.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_orchestrator(
    shared_state: StateProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OrchestratorProcess]:
    """An orchestrator on `shared_state`, as a user runs it."""
    folder = tmp_path_factory.mktemp("orchestrator")
    process = OrchestratorProcess(folder / "data", shared_state.address, witnessed=False)
    process.start()
    yield process
    assert process.stop() == 0
    state_process.logs.pop(process.log, None)


@pytest.fixture
async def runs(
    shared_state: StateProcess, shared_orchestrator: OrchestratorProcess
) -> AsyncIterator[Runs]:
    """A connection to both shared services."""
    async with connect_both(shared_state.address, shared_orchestrator.address) as opened:
        yield opened


@pytest.fixture
def make_services(tmp_path: Path) -> Iterator[Callable[..., Services]]:
    """Make pairs of services of this test alone, not started yet; all are ended after it."""
    made: list[Services] = []

    def make(*flags: str, name: str = "services") -> Services:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Services(folder, *flags))
        return made[-1]

    yield make
    for services in made:
        services.end()
