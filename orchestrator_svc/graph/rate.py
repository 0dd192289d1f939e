"""How many calls of model providers a run may make in a minute. Pure: no clock, no waiting."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60.0


class RateWindow:
    """Places for calls: at most `most` in any `WINDOW_SECONDS`, given out in order.

    Stricter than a token bucket, which lets twice as many through around a full bucket. A place
    whose caller has gone stays taken. Not kept over a restart.
    """

    def __init__(self, most: int) -> None:
        self._taken: deque[float] = deque(maxlen=most)  #: times of the latest places, ascending

    def claim(self, now: float) -> float:
        """Take the next free place; return the seconds to wait for it."""
        at = now
        if self._taken:
            at = max(at, self._taken[-1])
        if len(self._taken) == self._taken.maxlen:
            at = max(at, self._taken[0] + WINDOW_SECONDS)
        self._taken.append(at)
        return at - now
