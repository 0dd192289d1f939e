"""How long to wait before trying again. Pure; the caller sleeps."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Bounds of exponential backoff with full jitter.

    Full jitter spreads clients that lost the same server at the same moment over the whole
    interval, where a fixed schedule would bring them back as one herd.
    """

    base: float = 0.1  #: seconds; the first wait is at most this
    cap: float = 3.0  #: seconds; no wait is longer

    def delay(self, attempt: int, rand: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after failure number `attempt`, counted from 0."""
        # 2**63 bounds the power, not the result; the cap is reached long before.
        return rand() * min(self.cap, self.base * float(2 ** min(attempt, 63)))
