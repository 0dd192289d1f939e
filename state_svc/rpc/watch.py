"""The watch RPC: checks the request, then forwards what the session yields."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ramify.v1.node_pb2 import NodeState, TaskType
from ramify.v1.project_pb2 import WatchPriority
from ramify.v1.state_service_pb2 import (
    Coalescing,
    EntityKind,
    WatchMode,
    WatchProjectRequest,
)
from state_svc.errors import InvalidRequest
from state_svc.model.ids import is_id
from state_svc.model.validate import check_name
from state_svc.service import Service
from state_svc.watch.mask import NAMES
from state_svc.watch.session import WatchSession

_MIN_BOOKMARK_MS = 100
_MAX_BOOKMARK_MS = 10_000
_MAX_VALUES = 100
_MAX_INTERVAL_MS = 60_000
_MAX_ENCODINGS = 10
_ENUMS = {
    "mode": frozenset(WatchMode.values()),
    "coalescing": frozenset(Coalescing.values()),
    "priority": frozenset(WatchPriority.values()),
}


class WatchRpcs:
    """Handler of WatchProject."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def watch_project(self, request: WatchProjectRequest) -> AsyncGenerator[bytes, None]:
        """Yield encoded messages until the server stops or the client goes away."""
        service = self._service
        service.check_open()
        check_request(request)
        project = await service.live(request.project_id)
        session = WatchSession(service.hub, service.store, project, request, service.broadcast)
        async with aclosing(session.messages()) as messages:
            async for message in messages:
                yield message
                service.metrics.watch_messages.inc()


def check_request(request: WatchProjectRequest) -> None:
    """Raise `InvalidRequest` for values outside the contract."""
    interval = request.bookmark_interval_ms
    if interval and not _MIN_BOOKMARK_MS <= interval <= _MAX_BOOKMARK_MS:
        raise InvalidRequest(
            field="bookmark_interval_ms",
            problem=f"is {interval}, allowed are {_MIN_BOOKMARK_MS} to {_MAX_BOOKMARK_MS}",
        )
    if request.max_interval_ms > _MAX_INTERVAL_MS:
        raise InvalidRequest(
            field="max_interval_ms",
            problem=f"is {request.max_interval_ms}, allowed are 0 to {_MAX_INTERVAL_MS}",
        )
    if request.force_immediate and request.max_interval_ms:
        raise InvalidRequest(field="max_interval_ms", problem="contradicts force_immediate")
    if len(request.accept_encodings) > _MAX_ENCODINGS:
        raise InvalidRequest(
            field="accept_encodings", problem=f"has more than {_MAX_ENCODINGS} values"
        )
    for name, known in _ENUMS.items():
        if getattr(request, name) not in known:
            raise InvalidRequest(
                field=name, problem=f"{getattr(request, name)} is not an allowed value"
            )
    start = request.WhichOneof("start")
    if start in ("snapshot", "from_beginning", "head") and not getattr(request, start):
        raise InvalidRequest(field=start, problem="must be true when it is given")
    allowed = {
        "kinds": frozenset(EntityKind.values()) - {0},
        "states": frozenset(NodeState.values()) - {0},
        "task_types": frozenset(TaskType.values()) - {0},
        "node_fields": NAMES,
    }
    root = request.filter.subtree_root_node_id
    if root and not is_id(root):
        raise InvalidRequest(field="filter.subtree_root_node_id", problem="is not a valid id")
    if problem := next(filter(None, map(check_name, request.filter.agent_names)), ""):
        raise InvalidRequest(field="filter.agent_names", problem=problem)
    for field, value in request.filter.ListFields():
        if field.is_repeated and len(value) > _MAX_VALUES:
            raise InvalidRequest(
                field=f"filter.{field.name}", problem=f"has more than {_MAX_VALUES} values"
            )
        unknown = (
            [item for item in value if item not in allowed[field.name]]
            if (field.name in allowed)
            else []
        )
        if unknown:
            raise InvalidRequest(
                field=f"filter.{field.name}", problem=f"{unknown[0]} is not an allowed value"
            )
