"""Carries out a repeatable unary call once (SEM 15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from state_svc.errors import InvalidRequest
from state_svc.model import validate
from state_svc.service import Service
from state_svc.store.base import RequestRecord


async def once(
    service: Service,
    method: str,
    request_id: str,
    project_id: str,
    work: Callable[[], Awaitable[RequestRecord]],
) -> RequestRecord:
    """Return the answer of `work`, or the one that its `request_id` has got before.

    `project_id` is the project that the request names, empty if it leaves that to the service.
    Raises `InvalidRequest` if the answer is about another: what is asked for was never done.
    """
    if problem := validate.check_request_id(request_id):
        raise InvalidRequest(field="request_id", problem=problem)
    record = await service.requests.once(method, request_id, work)
    if project_id and project_id != record.project_id:
        problem = f"was used for project {record.project_id!r} before; choose another"
        raise InvalidRequest(field="request_id", problem=problem)
    return record
