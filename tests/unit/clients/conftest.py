"""Fixtures for tests against the in-process fake of both services."""

from collections.abc import AsyncIterator

import pytest

from ramify.backoff import Backoff
from ramify.calls import CallPolicy
from ramify.client import AsyncClient
from ramify.watch import WatchPolicy
from tests.support.bound import WAIT_SECONDS
from tests.unit.clients.fake_state import FakeServices, fake_services

AT_ONCE = Backoff(base=0.0, cap=0.0)


@pytest.fixture
async def services() -> AsyncIterator[FakeServices]:
    """Both fakes behind a server of their own."""
    async with fake_services() as running:
        yield running


@pytest.fixture
async def client(services: FakeServices) -> AsyncIterator[AsyncClient]:
    """A client of the fakes that retries without waiting."""
    policy = CallPolicy(timeout=WAIT_SECONDS, backoff=AT_ONCE)
    async with AsyncClient(services.address, services.address, policy=policy) as running:
        yield running


@pytest.fixture
def at_once() -> WatchPolicy:
    """Reconnects without waiting."""
    return WatchPolicy(backoff=AT_ONCE)
