"""Delays between attempts to reach state_svc."""

from __future__ import annotations

import random

from orchestrator_svc.graph.recovery import full_jitter

BASE_DELAY = 0.05  #: seconds
MAX_DELAY = 2.0


class Backoff:
    """Full-jitter delays that grow with each failure and start over after a success."""

    def __init__(self, base: float = BASE_DELAY, cap: float = MAX_DELAY) -> None:
        self._base = base
        self._cap = cap
        self.failures = 0

    def next_delay(self) -> float:
        """Return how long to wait before the next attempt."""
        delay = full_jitter(self._base, self.failures, self._cap, random.random)
        self.failures += 1
        return delay

    def reset(self) -> None:
        """Take note of a success."""
        self.failures = 0
