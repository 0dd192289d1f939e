"""What is done about an agent call that gives no sign of life: `timeout_strategy` (SEM 22)."""

from __future__ import annotations

import enum

from orchestrator_svc.graph.settings import Settings


class Step(enum.IntEnum):
    """How far the patience with a silent call has gone."""

    CALM = 0
    WARNED = 1  #: reported to watchers and in the log
    ASKED = 2  #: asked to come to an end
    CANCELLED = 3


class Patience:
    """The thresholds of a run, in seconds of silence; a threshold of 0 is left out."""

    def __init__(self, settings: Settings) -> None:
        self._thresholds = [
            (seconds, step)
            for seconds, step in (
                (settings.timeout_warning_seconds, Step.WARNED),
                (settings.timeout_soft_seconds, Step.ASKED),
                (settings.timeout_hard_seconds, Step.CANCELLED),
            )
            if seconds
        ]
        self.first_look = self.next_look(0.0)  #: seconds after a sign of life; None: never

    def step(self, silent: float) -> Step:
        """Return the step that a silence has reached."""
        return max((s for seconds, s in self._thresholds if silent >= seconds), default=Step.CALM)

    def next_look(self, silent: float) -> float | None:
        """Return in how many seconds the next step comes if the silence goes on; None: never."""
        later = [seconds - silent for seconds, _ in self._thresholds if seconds > silent]
        return min(later, default=None)
