"""Ends a call with the status of an error."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from grpc_status import rpc_status

from state_svc.errors import RamifyError
from state_svc.rpc.error_map import to_status, unwrap

_log = logging.getLogger(__name__)

#: Names of what writing to a client that went away raises; grpc exports only one of them.
_GONE = ("UsageError", "ExecuteBatchError")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """End the call with the status of an error; only unexpected ones are logged."""
    cause = unwrap(error)
    if isinstance(cause, grpc.aio.AbortError):
        raise cause
    if context.cancelled() or type(cause).__name__ in _GONE:
        _log.debug("the client went away")
        return
    if not isinstance(cause, RamifyError):
        _log.error("unexpected error in a call", exc_info=cause)
    await context.abort_with_status(rpc_status.to_status(to_status(cause)))
