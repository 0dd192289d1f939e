"""Follows one project for as long as the caller likes, across reconnects and server restarts."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

import grpc.aio

from ramify.backoff import Backoff
from ramify.cursor import WatchCursor
from ramify.errors import (
    RamifyError,
    RevisionAheadError,
    UnavailableError,
    ViewDivergedError,
    WatchGapError,
)
from ramify.events import WatchBookmark, WatchConnected, WatchDisconnected, WatchEvent
from ramify.rpc_errors import error_from_rpc
from ramify.v1.state_service_pb2 import WatchProjectRequest, WatchProjectResponse

MAX_RESYNCS = 3  #: resyncs that a watch asks for without a good bookmark in between


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPolicy:
    """How a watch reacts to trouble."""

    #: What a gap or a wrong checksum leads to: `WatchResync` and a snapshot, or the error.
    on_gap: Literal["resync", "raise"] = "resync"
    #: Seconds without a connection after which the error is raised; None: never.
    give_up_after: float | None = None
    #: Seconds without any message after which the connection counts as dead. Bookmarks come at
    #: least every 10 s (SEM 33), so three are missing by then.
    max_silence: float = 30.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.1, cap=3.0))


async def watch(
    method: grpc.aio.UnaryStreamMultiCallable[WatchProjectRequest, WatchProjectResponse],
    cursor: WatchCursor,
    *,
    address: str,
    policy: WatchPolicy,
) -> AsyncGenerator[WatchEvent, None]:
    """Yield events in revision order, each revision exactly once, until the caller stops.

    A lost connection yields `WatchDisconnected` and is taken up again behind the last revision
    delivered. Raises what cannot be mended by reconnecting: an unknown project, a compacted start
    with `fail_if_compacted`, or a gap under `on_gap="raise"`.
    """
    loop = asyncio.get_running_loop()
    failures = resyncs = 0
    accepted = False
    connected_at = loop.time()
    while True:
        try:
            async with aclosing(
                _connection(method, cursor, address, policy.max_silence)
            ) as connection:
                async for event in connection:
                    connected_at = loop.time()
                    if not isinstance(event, WatchConnected):
                        accepted = True
                        failures = 0
                    if isinstance(event, WatchBookmark):
                        resyncs = 0
                    yield event
            raise UnavailableError(f"{address} closed the watch")
        except (WatchGapError, ViewDivergedError, RevisionAheadError) as error:
            # A revision that this watch was given itself is ahead because the store changed; one
            # that the caller began with is the caller's to decide about.
            if policy.on_gap == "raise" or not accepted or resyncs >= MAX_RESYNCS:
                raise
            resyncs += 1
            yield cursor.restart(error)
        except RamifyError as error:
            if not error.retryable and (error.reason or error.code != "CANCELLED"):
                raise
            silent = loop.time() - connected_at
            if policy.give_up_after is not None and silent >= policy.give_up_after:
                raise
            delay = max(policy.backoff.delay(failures), error.retry_after)
            failures += 1
            yield WatchDisconnected(error, failures, delay)
            await asyncio.sleep(delay)


async def _connection(
    method: grpc.aio.UnaryStreamMultiCallable[WatchProjectRequest, WatchProjectResponse],
    cursor: WatchCursor,
    address: str,
    max_silence: float,
) -> AsyncGenerator[WatchEvent, None]:
    """Yield the events of one connection; return when the server closes it without an error."""
    call = method(cursor.request())
    try:
        while True:
            async with asyncio.timeout(max_silence):
                response = await call.read()
            if not isinstance(response, WatchProjectResponse):
                return  # EOF
            event = cursor.receive(response)
            if event is not None:
                yield event
    except grpc.aio.AioRpcError as failure:
        raise error_from_rpc(failure, address) from None
    except TimeoutError:
        raise UnavailableError(f"{address} was silent for {max_silence:g} s") from None
    finally:
        call.cancel()
