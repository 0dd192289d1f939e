"""Carries out a repeatable unary call once (SEM 15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from state_svc.errors import InvalidRequest
from state_svc.model import validate
from state_svc.service import Service
from state_svc.store.base import RequestRecord


async def once(
    service: Service, method: str, request_id: str, work: Callable[[], Awaitable[RequestRecord]]
) -> RequestRecord:
    """Return the answer of `work`, or the one that its `request_id` has got before."""
    if problem := validate.check_request_id(request_id):
        raise InvalidRequest(field="request_id", problem=problem)
    return await service.requests.once(method, request_id, work)
