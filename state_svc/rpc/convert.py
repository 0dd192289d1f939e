"""Small conversions between domain values and messages."""

from __future__ import annotations

import dataclasses

from ramify.v1.state_service_pb2 import Limits as LimitsMessage
from state_svc.errors import InvalidRequest
from state_svc.model.limits import Limits

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000


def limits_message(limits: Limits) -> LimitsMessage:
    """Return the limits as the contract shows them."""
    names = LimitsMessage.DESCRIPTOR.fields_by_name
    return LimitsMessage(**{n: v for n, v in dataclasses.asdict(limits).items() if n in names})


def page_size(requested: int) -> int:
    """Return the number of items of a page. Raises `InvalidRequest`."""
    if requested > MAX_PAGE_SIZE:
        raise InvalidRequest(field="page_size", problem=f"at most {MAX_PAGE_SIZE} are allowed")
    return requested or DEFAULT_PAGE_SIZE
