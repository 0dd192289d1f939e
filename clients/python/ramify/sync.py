"""The client for code without an event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import wraps
from inspect import signature
from types import GenericAlias, TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, get_args

from ramify.calls import CallPolicy
from ramify.client import AsyncClient
from ramify.errors import ClientClosedError

_CANCEL_SECONDS = 1.0  #: how long a cancelled call may take to end before it is cancelled again

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate["RamifyClient", _P], _T]:
    """Return a method that waits for the one of `AsyncClient`."""

    @wraps(method)
    def call(self: "RamifyClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, _P], AsyncGenerator[_T, None]],
) -> Callable[Concatenate["RamifyClient", _P], Iterator[_T]]:
    """Return a method that yields what the one of `AsyncClient` does.

    Close the iterator, or leave it to the garbage collector, to end the call before its end.
    """

    @wraps(method)
    def call(self: "RamifyClient", /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        return self._iterate(lambda: method(self._client, *args, **kwargs))

    asynchronous = signature(method)
    (item, _) = get_args(asynchronous.return_annotation)
    told = asynchronous.replace(return_annotation=GenericAlias(Iterator, item))
    call.__signature__ = told  # type: ignore[attr-defined]
    return call


class RamifyClient:
    """`AsyncClient` with blocking methods, for scripts and notebooks.

    One thread of its own runs the event loop; the methods may be called from any thread, but not
    from that loop. Use `with`, or call `close`.
    """

    def __init__(
        self,
        state: str | None = None,
        orchestrator: str | None = None,
        *,
        actor: str = "",
        policy: CallPolicy | None = None,
    ) -> None:
        self._closing = False
        # Held to hand work to the loop and to set `_closing`: what was handed over before is ended
        # by `close`, and nothing comes after. Reentrant, as the collector may close an iterator
        # while it is held.
        self._handover = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="ramify-client", daemon=True
        )
        self._thread.start()
        self._client = self._run(_open(state, orchestrator, actor, policy))
        self.state_address = self._client.state_address
        self.orchestrator_address = self._client.orchestrator_address

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections and end the thread."""
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. A second call does nothing.

        Calls that have no answer yet fail with `ClientClosedError`, as do later ones; an iterator
        does when it is asked for its next item.
        """
        with self._handover:
            if self._closing:
                return
            self._closing = True
            ended = asyncio.run_coroutine_threadsafe(_end(self._client), self._loop)
        # Not in this thread: Ctrl-C while waiting does not leave the loop running.
        ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        ended.result()
        self._thread.join()
        self._loop.close()

    # What each does, and with which arguments, is written once, at `AsyncClient`.

    start_project = _blocking(AsyncClient.start_project)
    cancel_project = _blocking(AsyncClient.cancel_project)
    pause_project = _blocking(AsyncClient.pause_project)
    resume_project = _blocking(AsyncClient.resume_project)
    cancel_node = _blocking(AsyncClient.cancel_node)
    retry_node = _blocking(AsyncClient.retry_node)
    replan_node = _blocking(AsyncClient.replan_node)
    get_runner = _blocking(AsyncClient.get_runner)
    explain_project = _blocking(AsyncClient.explain_project)
    explain_node = _blocking(AsyncClient.explain_node)

    watch = _iterating(AsyncClient.watch)
    wait = _blocking(AsyncClient.wait)

    get_review = _blocking(AsyncClient.get_review)
    list_reviews = _iterating(AsyncClient.list_reviews)
    resolve_review = _blocking(AsyncClient.resolve_review)

    get_project = _blocking(AsyncClient.get_project)
    list_projects = _iterating(AsyncClient.list_projects)
    get_node = _blocking(AsyncClient.get_node)
    list_nodes = _iterating(AsyncClient.list_nodes)
    list_stages = _iterating(AsyncClient.list_stages)
    get_stats = _blocking(AsyncClient.get_stats)
    get_server_info = _blocking(AsyncClient.get_server_info)

    create_project = _blocking(AsyncClient.create_project)
    commit_batch = _blocking(AsyncClient.commit_batch)
    flush_project = _blocking(AsyncClient.flush_project)

    diff_project = _iterating(AsyncClient.diff_project)
    fork_project = _blocking(AsyncClient.fork_project)
    compact_project = _blocking(AsyncClient.compact_project)
    pin_revision = _blocking(AsyncClient.pin_revision)
    unpin_revision = _blocking(AsyncClient.unpin_revision)
    delete_project = _blocking(AsyncClient.delete_project)

    put_payload = _blocking(AsyncClient.put_payload)
    get_payload = _blocking(AsyncClient.get_payload)
    whole = _blocking(AsyncClient.whole)
    backup = _iterating(AsyncClient.backup)
    export_project = _iterating(AsyncClient.export_project)
    import_project = _blocking(AsyncClient.import_project)

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        with self._handover:
            if self._closing:
                work.close()
                raise ClientClosedError("the client is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            if not self._closing:
                raise
            raise ClientClosedError("the client was closed during the call") from None
        except BaseException:  # Ctrl-C while waiting: do not leave the call running
            future.cancel()
            raise

    def _iterate(self, make: Callable[[], AsyncGenerator[_T, None]]) -> Iterator[_T]:
        items = self._run(_make(make))
        try:
            while True:
                try:
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if threading.current_thread() is self._thread:
                # The collector runs in any thread; the loop's own cannot wait for the loop.
                asyncio.run_coroutine_threadsafe(_close(items), self._loop)
            else:
                with suppress(ClientClosedError):  # closing the client ends the iteration
                    self._run(_close(items))


async def _open(
    state: str | None, orchestrator: str | None, actor: str, policy: CallPolicy | None
) -> AsyncClient:
    """Create the client on the loop that its channels will belong to."""
    return AsyncClient(state, orchestrator, actor=actor, policy=policy)


async def _make(make: Callable[[], AsyncGenerator[_T, None]]) -> AsyncGenerator[_T, None]:
    """Begin a stream on the loop that its call belongs to."""
    return make()


async def _next(items: AsyncGenerator[_T, None]) -> _T:
    return await anext(items)


async def _close(items: AsyncGenerator[object, None]) -> None:
    await items.aclose()


async def _end(client: AsyncClient) -> None:
    """End all that runs on the loop, then close the connections."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        # A task whose answer arrives together with the cancellation may go on: cancel it again.
        await asyncio.wait(others, timeout=_CANCEL_SECONDS)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await client.aclose()
