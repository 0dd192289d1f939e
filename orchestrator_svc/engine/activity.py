"""Signs of life of one open agent call, for its time-outs and for watchers (SEM 22)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from orchestrator_svc.agents.base import AgentError
from orchestrator_svc.engine.trace import TraceNotes
from orchestrator_svc.graph.rate import RateWindow
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.trace import ToolCall
from orchestrator_svc.graph.types import ErrorClass
from orchestrator_svc.graph.usage import NO_USAGE, NotCountable, Usage, counted

NOTE_INTERVAL = 0.02  #: seconds between two notes that are published, at least
USAGE_INTERVAL = 1.0  #: seconds after which what a call has spent is published while it goes on
MAX_NOTE_CHARS = 255


class Activity:
    """The `CallMonitor` of one call. Made on the loop; `report` may come from any thread."""

    def __init__(self, publish: Callable[[str], None], rate: RateWindow | None = None) -> None:
        self.stop_wish = asyncio.Event()
        self.started_at = time.monotonic()
        self.last_sign = self.started_at  #: monotonic time of the latest sign of life
        self.note = ""
        self.usage = NO_USAGE  #: what the call has cost so far
        self.notes = TraceNotes()
        self._lock = threading.Lock()  #: of `usage`, which any thread adds to
        self._publish = publish  #: called on the loop with the latest note
        self._loop = asyncio.get_running_loop()
        self._rate = rate  #: of the project; None: no limit
        self._places: list[float] = []  #: of `rate`, that are waited for; times of the loop
        self._published = ""
        self._published_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._usage_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def silent_for(self) -> float:
        """Return the seconds since the latest sign of life; waiting by order is no silence."""
        return 0.0 if self._places else time.monotonic() - self.last_sign

    def place_in(self) -> float | None:
        """Return the seconds until its provider place; None if none is waited for."""
        return max(0.0, min(self._places) - self._loop.time()) if self._places else None

    def report(self, note: str) -> None:
        """See `CallMonitor`."""
        self.last_sign = time.monotonic()
        self.remark(note)

    def remark(self, note: str) -> None:
        """Publish a note that is no sign of life."""
        note = storable(str(note), MAX_NOTE_CHARS) if note else ""
        if note and note != self.note and not self._closed:
            self.note = note
            self._loop.call_soon_threadsafe(self._noted)

    def spend(self, usage: Usage) -> None:
        """See `CallMonitor`."""
        try:
            with self._lock:
                self.usage = counted(self.usage, usage)
        except NotCountable as error:
            raise AgentError(ErrorClass.INVALID_OUTPUT, f"spend: {error}") from error
        self.last_sign = time.monotonic()
        if not self._closed:
            self._loop.call_soon_threadsafe(self._spent)

    def note_model(self, model: str, prompt: str, response: str) -> None:
        """See `CallMonitor`."""
        self.notes.model_call(model, prompt, response)

    def note_tool(self, call: ToolCall) -> None:
        """See `CallMonitor`."""
        self.notes.tool_call(call)

    async def provider_call(self) -> None:
        """See `CallMonitor`."""
        if self._rate is None:
            return
        wait = self._rate.claim(self._loop.time())
        if wait > 0.0:
            place = self._loop.time() + wait
            self._places.append(place)
            try:
                await asyncio.sleep(wait)
            finally:
                self._places.remove(place)
        self.last_sign = time.monotonic()

    def close(self) -> None:
        """Publish nothing more: the call is over."""
        self._closed = True
        self._publish = _nowhere  # lest what an agent leaves behind holds the whole run
        for timer in (self._timer, self._usage_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._usage_timer = None

    def _noted(self) -> None:
        if self._closed or self._timer is not None:
            return
        wait = self._published_at + NOTE_INTERVAL - self._loop.time()
        self._timer = self._loop.call_later(max(0.0, wait), self._publish_now)

    def _spent(self) -> None:
        if not self._closed and self._usage_timer is None:
            self._usage_timer = self._loop.call_later(USAGE_INTERVAL, self._publish_usage)

    def _publish_usage(self) -> None:
        self._usage_timer = None
        self._publish(self.note)

    def _publish_now(self) -> None:
        self._timer = None
        if self.note != self._published:
            self._published, self._published_at = self.note, self._loop.time()
            self._publish(self.note)


def _nowhere(note: str) -> None:
    """Where the notes of a closed call go."""
