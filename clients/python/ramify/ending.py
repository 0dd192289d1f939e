"""How a call that was written to has ended: what the server said, not that a write failed.

When a server ends a call that its client is still writing to, gRPC for asyncio overwrites the
server's status, as soon as the failed write is noticed, with INTERNAL and a text of its own
(grpc/grpc issue 36066). The status that the call had first is the server's.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc.aio

WRITE_FAILED = (
    "Internal error from Core"  #: details of the status that gRPC makes of a failed write
)
_PATIENCE = 1.0  #: seconds that the server's status may come after the failed write
_T = TypeVar("_T")


class Ending:
    """Keeps the first status of a call. Made before the call is awaited or written to."""

    def __init__(self, call: grpc.aio.Call) -> None:
        self._call = call
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    async def cause(self, failure: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return what the server ended the call with, given what awaiting or writing raised."""
        if failure.details() != WRITE_FAILED:
            return failure
        if self._first is not None and self._first.details() != WRITE_FAILED:
            return self._first
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while await self._call.details() == WRITE_FAILED:
            if loop.time() >= until:
                return failure
            await asyncio.sleep(0.01)
        return grpc.aio.AioRpcError(
            await self._call.code(),
            failure.initial_metadata(),
            await self._call.trailing_metadata(),
            details=await self._call.details(),
        )

    def _ended(self, call: Any) -> None:
        # In a later turn of the loop the status may be another one.
        if self._first is None:
            self._first = grpc.aio.AioRpcError(
                _ready(call.code()),
                grpc.aio.Metadata(),
                _ready(call.trailing_metadata()),
                details=_ready(call.details()),
            )


def _ready(status: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        status.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        status.close()
    raise RuntimeError("a call that has ended has no status")
