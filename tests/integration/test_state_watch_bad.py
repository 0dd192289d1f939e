"""Watches that ask for what is not allowed: a typed error that names the field."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from ramify.v1.state_service_pb2 import WatchFilter, WatchProjectRequest
from tests.support.wire import Wire, read_refusal


def unknown(number: int) -> Any:
    """Return an enum number that the contract does not have; the wire carries it all the same."""
    return number


BAD_WATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "bookmarks too often": ({"bookmark_interval_ms": 99}, "bookmark_interval_ms"),
    "bookmarks too rare": ({"bookmark_interval_ms": 10_001}, "bookmark_interval_ms"),
    "start is false": ({"from_beginning": False}, "from_beginning"),
    "unknown kind": ({"filter": WatchFilter(kinds=[unknown(9)])}, "filter.kinds"),
    "unknown state": ({"filter": WatchFilter(states=[unknown(99)])}, "filter.states"),
    "unknown task type": ({"filter": WatchFilter(task_types=[unknown(99)])}, "filter.task_types"),
    "unknown mode": ({"mode": unknown(9)}, "mode"),
    "unknown coalescing": ({"coalescing": unknown(9)}, "coalescing"),
    "unknown priority": ({"priority": unknown(9)}, "priority"),
    "interval too long": ({"max_interval_ms": 60_001}, "max_interval_ms"),
    "interval and at once": ({"max_interval_ms": 1, "force_immediate": True}, "max_interval_ms"),
    "too many encodings": ({"accept_encodings": ["zstd"] * 11}, "accept_encodings"),
    "unknown field": ({"filter": WatchFilter(node_fields=["colour"])}, "filter.node_fields"),
    "too many agents": ({"filter": WatchFilter(agent_names=["a"] * 101)}, "filter.agent_names"),
    "long agent": ({"filter": WatchFilter(agent_names=["a" * 256])}, "filter.agent_names"),
    "root is no id": (
        {"filter": WatchFilter(subtree_root_node_id="a" * 129)},
        "filter.subtree_root_node_id",
    ),
}


@pytest.mark.parametrize("kind", BAD_WATCHES)
async def test_a_bad_watch_is_refused_with_its_field(shared_wire: Wire, kind: str) -> None:
    project_id = (await shared_wire.create_project()).project_id
    fields, field = BAD_WATCHES[kind]
    request = WatchProjectRequest(project_id=project_id, **fields)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared_wire.stub.WatchProject(request).read()
    shown = read_refusal(caught.value)
    assert (shown.code, shown.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert shown.fields == [field]
