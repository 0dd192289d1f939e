"""The numbers of SEM 33. What they do is shown by tests/faults; how long they take, only here."""

from __future__ import annotations

import pytest

from orchestrator_svc.publish.channel import KEEPALIVE_OPTIONS
from orchestrator_svc.rpc.server import SERVER_OPTIONS
from ramify.channel import OPTIONS
from state_svc.rpc.options import server_options
from state_svc.watch.session import MAX_BOOKMARK_SECONDS

ENDS = {
    "a client": OPTIONS,
    "the orchestrator as a client": KEEPALIVE_OPTIONS,
    "the orchestrator": SERVER_OPTIONS,
    "the state service": server_options(4 << 20),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_pings_after_10_s_and_gives_up_5_s_later(end: str) -> None:
    options = dict(ENDS[end])
    assert options["grpc.keepalive_time_ms"] == 10_000
    assert options["grpc.http2.ping_timeout_ms"] == 5_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


def test_a_watch_has_a_bookmark_every_10_s() -> None:
    assert MAX_BOOKMARK_SECONDS == 10.0
