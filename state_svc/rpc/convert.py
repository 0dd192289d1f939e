"""Small conversions between domain values and messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ramify.v1.state_service_pb2 import Limits as LimitsMessage
from state_svc.errors import InvalidRequest
from state_svc.model.limits import Limits

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
MAX_PAGE_BYTES = 2 << 20  #: a page ends before it, so that any client takes it


@dataclass(frozen=True, slots=True)
class Unparsed:
    """In place of a request that is not taken, and why."""

    problem: str


NO_MESSAGE = Unparsed("the bytes are not a message of this method")


def check_parsed(request: Any) -> Any:
    """Return the request; raises `InvalidRequest` if it was not taken."""
    if isinstance(request, Unparsed):
        raise InvalidRequest(field="", problem=request.problem)
    return request


def limits_message(limits: Limits) -> LimitsMessage:
    """Return the limits as the contract shows them."""
    names = LimitsMessage.DESCRIPTOR.fields_by_name
    return LimitsMessage(**{n: v for n, v in dataclasses.asdict(limits).items() if n in names})


def check_enum(field: str, values: Iterable[int], known: Collection[int]) -> None:
    """Raise `InvalidRequest` for a value that the contract does not have, or that is not set."""
    for value in values:
        if not value or value not in known:
            raise InvalidRequest(field=field, problem=f"{value} is not an allowed value")


def page_size(requested: int) -> int:
    """Return the number of items of a page. Raises `InvalidRequest`."""
    if requested > MAX_PAGE_SIZE:
        raise InvalidRequest(field="page_size", problem=f"at most {MAX_PAGE_SIZE} are allowed")
    return requested or DEFAULT_PAGE_SIZE


def parse_place(token: str) -> tuple[int, int]:
    """Return the place in a history or a diff, `revision.index`, that a page token names.

    Raises `InvalidRequest`.
    """
    revision, _, index = token.partition(".")
    if not (is_place(revision) and is_place(index)):
        raise InvalidRequest(field="page_token", problem="is not from this service")
    return int(revision), int(index)


def is_place(text: str) -> bool:
    """Return whether a part of a page token is a number as this service gives them."""
    return text.isdecimal() and len(text) < 19  # fits 63 bits
