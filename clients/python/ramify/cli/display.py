"""How a followed run is shown: a live tree, a line per change, or JSON."""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from ramify.cli.clock import ServerClock
from ramify.cli.format import seconds_of
from ramify.cli.keys import QuietKeys
from ramify.cli.lines import LineWriter
from ramify.cli.screen import Frame, render
from ramify.cli.terminal import print_json
from ramify.events import (
    WatchConnected,
    WatchDelta,
    WatchDisconnected,
    WatchEvent,
    WatchResync,
    WatchSnapshot,
    to_message,
)
from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import WATCH_MODE_TERMINAL
from ramify.view import View

FRAME_SECONDS = 0.25  #: four frames a second at most
_IDLE_SHARE = 5  #: times the cost of a frame to rest; 60 ms for 10 000 nodes, 11 ms for 200
_FINAL_ROWS = 60  #: the last frame stays in the scrollback, so it may be taller than the screen


class Display(Protocol):
    """Shows events in the order in which they come. Methods are called on one loop only."""

    def show(self, event: WatchEvent) -> None:
        """Show one event."""

    async def animate(self) -> None:
        """Keep what is shown moving until cancelled."""

    def pause(self) -> None:
        """Leave the terminal to a question."""

    def resume(self) -> None:
        """Take the terminal back."""

    def close(self) -> None:
        """Show the last state and release the terminal. Idempotent."""


class TreeDisplay:
    """The live tree. Owns the view that it draws, and the terminal's lower part while it runs."""

    def __init__(self, project: Project, console: Console) -> None:
        self.view = View()
        self._console = console
        self._clock = ServerClock()
        self._frame = Frame(self.view, project, 0.0)
        self._live: Live | None = None
        self._keys = QuietKeys()  # what is typed would shift the tree
        self._closed = False
        self._observe(project)

    def show(self, event: WatchEvent) -> None:
        """Apply one event; the next frame shows it."""
        self.view.apply(event)
        if self.view.project is not None:
            self._frame.project = self.view.project
        if isinstance(event, WatchDisconnected):
            self._frame.trouble = _trouble(event)
        elif isinstance(event, WatchConnected):
            self._frame.trouble = ""
            created = event.created
            shows_part = created.filter.ByteSize() or created.mode == WATCH_MODE_TERMINAL
            self._frame.whole = not shows_part
        elif isinstance(event, WatchResync):
            self._frame.notice = _resync(event)
        elif isinstance(event, WatchDelta):
            for info in event.delta.revisions:
                self._clock.observe(seconds_of(info.commit_time), time.monotonic())
        elif isinstance(event, WatchSnapshot):
            for node in event.snapshot.nodes:
                self._clock.observe(seconds_of(node.update_time), time.monotonic())
        if self.view.project is not None:
            self._observe(self.view.project)

    async def animate(self) -> None:
        """Draw a frame a few times a second until cancelled."""
        self.resume()
        while True:
            began = time.monotonic()
            if self._live is not None:
                self._live.update(self.draw(self._console.height - 1), refresh=True)
            cost = time.monotonic() - began
            await asyncio.sleep(max(FRAME_SECONDS, _IDLE_SHARE * cost))

    def pause(self) -> None:
        """Take the tree away, so that a question can be asked."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._keys.restore()

    def resume(self) -> None:
        """Show the tree again."""
        if self._live is None and not self._closed:
            self._keys.hush()
            # Transient: `close` leaves a last frame that may be taller than the screen.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def close(self) -> None:
        """Replace the live tree by its last frame."""
        if self._closed:
            return
        self.pause()
        self._closed = True
        self._frame.trouble = ""
        self._console.print(self.draw(max(_FINAL_ROWS, self._console.height - 1)))

    def draw(self, rows: int) -> RenderableType:
        """Return the present frame, at most `rows` lines."""
        self._frame.now = self._clock.now(time.monotonic())
        return render(self._frame, self._console, rows)

    def _observe(self, project: Project) -> None:
        for stamp in (project.update_time, project.create_time):
            self._clock.observe(seconds_of(stamp), time.monotonic())


class LineDisplay:
    """One line for each change, for logs and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._writer = LineWriter()
        self._lost = False

    def show(self, event: WatchEvent) -> None:
        """Write the event's lines; a lost connection is reported once."""
        if isinstance(event, WatchDisconnected):
            if not self._lost:
                self._write(_trouble(event))
            self._lost = True
        elif isinstance(event, WatchConnected):
            if self._lost:
                self._write("connected again")
            self._lost = False
        elif isinstance(event, WatchResync):
            self._write(_resync(event))
        else:
            for line in self._writer.lines(event):
                self._write(line)

    async def animate(self) -> None:
        """Do nothing."""

    def pause(self) -> None:
        """Do nothing: lines do not get in the way of a question."""

    def resume(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class JsonDisplay:
    """One `WatchProjectResponse` per line; a lost connection is reported on stderr."""

    def show(self, event: WatchEvent) -> None:
        """Print the event as a message of the contract."""
        message = to_message(event)
        if message is not None:
            print_json(message)
        elif isinstance(event, WatchDisconnected) and event.attempt == 1:
            sys.stderr.write(_trouble(event) + "\n")

    async def animate(self) -> None:
        """Do nothing."""

    def pause(self) -> None:
        """Do nothing."""

    def resume(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _trouble(event: WatchDisconnected) -> str:
    return f"reconnecting… (attempt {event.attempt}; nothing is lost) {event.error.message}"


def _resync(event: WatchResync) -> str:
    if event.cause is not None:
        return f"the view was rebuilt from a snapshot: {event.cause.message}"
    return "the history asked for is gone; going on from a snapshot"
