"""The asynchronous client of both services."""

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from ramify.calls import CallPolicy
from ramify.cursor import WatchCursor, WatchOptions, WatchStart
from ramify.events import WatchEvent
from ramify.past import Past
from ramify.projects import Projects
from ramify.reviews import Reviews
from ramify.runs import Runs
from ramify.states import TERMINAL_PROJECT_STATES
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.project_pb2 import Project
from ramify.view import View
from ramify.watch import WatchPolicy, watch


class AsyncClient(Runs, Reviews, Projects, Past):
    """Starts, reads, follows and cancels runs.

    Addresses come from the arguments, else from `RAMIFY_STATE` and `RAMIFY_ORCHESTRATOR`, else
    they are those of `ramify up`. Connections open on first use. Every unary call ends within the
    deadline of `policy` and is repeated on retryable failures; changes carry a `request_id`,
    generated unless given, so that a repeat has no second effect. Failures are `RamifyError`s.

    Belongs to one event loop. Use `async with`, or call `aclose`.
    """

    def __init__(
        self,
        state: str | None = None,
        orchestrator: str | None = None,
        *,
        actor: str = "",
        policy: CallPolicy | None = None,
    ) -> None:
        super().__init__(state, orchestrator, actor, policy)

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    def watch(
        self,
        project_id: str,
        start: WatchStart | None = None,
        *,
        filter: state_pb2.WatchFilter | None = None,  # noqa: A002 - the contract's word
        fail_if_compacted: bool = False,
        bookmark_interval_ms: int = 0,
        policy: WatchPolicy | None = None,
        options: WatchOptions | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield every change of a project from `start` (default: a snapshot) on, for ever.

        What a change carries is the project's choice unless `options` says. While this watch is
        behind, successive changes of a node may come joined, in deltas marked `coalesced`; ask for
        `WatchOptions(coalescing="never")` to see each.

        Resumes by itself where it was, across reconnects and restarts of state_svc; see
        `ramify.watch.watch`. Feed the events to a `View` to have the project at hand.
        """
        cursor = WatchCursor(
            project_id,
            start or WatchStart.snapshot(),
            filter,
            fail_if_compacted,
            bookmark_interval_ms,
            options,
        )
        return watch(
            self._state.WatchProject,
            cursor,
            address=self.state_address,
            policy=policy or WatchPolicy(),
        )

    async def wait(self, project_id: str) -> Project:
        """Return the project once it has ended, however long that takes."""
        view = View()
        async for event in self.watch(project_id):
            view.apply(event)
            if view.project is not None and view.project.state in TERMINAL_PROJECT_STATES:
                break
        return await self.get_project(project_id)
