"""One unary call: its deadline, and its retries."""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message

from ramify.backoff import Backoff
from ramify.errors import RamifyError
from ramify.rpc_errors import error_from_rpc

PAGE_SIZE = 1_000  #: most items that a page may hold

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """Bounds on unary calls. A call ends within `timeout`, retries included."""

    timeout: float = 10.0  #: seconds
    max_attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.1, cap=1.0))


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
    request: _Request,
    *,
    address: str,
    policy: CallPolicy,
) -> _Response:
    """Call `method` until it answers, fails for good or runs out of attempts or time.

    The request must be safe to repeat: a read, or a change with a `request_id`. Raises the typed
    error of the last attempt.
    """
    deadline = asyncio.get_running_loop().time() + policy.timeout
    for attempt in range(policy.max_attempts):
        left = deadline - asyncio.get_running_loop().time()
        try:
            return await method(request, timeout=left)
        except grpc.aio.AioRpcError as failure:
            error = error_from_rpc(failure, address)
        left = deadline - asyncio.get_running_loop().time()
        delay = max(policy.backoff.delay(attempt), error.retry_after)
        if not error.retryable or attempt + 1 == policy.max_attempts or delay >= left:
            raise error
        await asyncio.sleep(delay)
    raise RamifyError("max_attempts must be at least 1")


def new_request_id() -> str:
    """Return an id that no other request has."""
    return uuid.uuid4().hex
