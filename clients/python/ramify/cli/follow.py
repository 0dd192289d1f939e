"""Follows one run until it ends or the user has enough."""

import asyncio
from contextlib import aclosing

from ramify.cli.display import Display
from ramify.client import AsyncClient
from ramify.cursor import WatchOptions, WatchStart
from ramify.events import WatchDelta, WatchEvent, WatchSnapshot
from ramify.states import TERMINAL_PROJECT_STATES
from ramify.v1.project_pb2 import Project, ProjectState
from ramify.v1.state_service_pb2 import WatchFilter


class EndDetector:
    """Tells when a followed run is over. Pure.

    A run is over when its project is terminal at or after the head that was known when the watch
    began: replayed history may hold an end that was left again.
    """

    def __init__(self, project: Project, start: WatchStart) -> None:
        self._head = project.revision
        self._state = project.state
        self._position = start.revision

    @property
    def position(self) -> int:
        """Everything through this revision was shown; 0 if nothing was."""
        return self._position

    def observe(self, event: WatchEvent) -> bool:
        """Note one event; return whether the run is over."""
        self._position = event.resume_revision or self._position
        state = _state_in(event)
        if state is not None:
            self._state = state
        return self._position >= self._head and self._state in TERMINAL_PROJECT_STATES


async def follow(
    client: AsyncClient,
    display: Display,
    detector: EndDetector,
    project_id: str,
    start: WatchStart,
    watch_filter: WatchFilter | None = None,
    options: WatchOptions | None = None,
) -> None:
    """Show every event until the run is over. Survives restarts of both services."""
    async with asyncio.TaskGroup() as group:
        animation = group.create_task(display.animate(), name="display")
        watch = client.watch(project_id, start, filter=watch_filter, options=options)
        async with aclosing(watch) as events:
            async for event in events:
                display.show(event)
                if detector.observe(event):
                    break
        animation.cancel()


def _state_in(event: WatchEvent) -> ProjectState.ValueType | None:
    """Return the project's state after an event, if the event tells it."""
    if isinstance(event, WatchSnapshot) and event.snapshot.HasField("project"):
        return event.snapshot.project.state
    state: ProjectState.ValueType | None = None
    if isinstance(event, WatchDelta):
        for change in event.delta.changes:
            if change.project.HasField("project"):
                state = change.project.project.state
            elif change.project.patch.HasField("state"):
                state = change.project.patch.state
    return state
