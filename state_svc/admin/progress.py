"""Tells the operator on stderr how far long work has come; short work stays silent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str], None]
_QUIET_SECONDS = 2.0


def silent(_: str) -> None:
    """Say nothing."""


class StderrProgress:
    """Prints a line every two seconds, the first after two seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = time.monotonic() + _QUIET_SECONDS

    def __call__(self, text: str) -> None:
        """Say how far the work has come."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _QUIET_SECONDS
            sys.stderr.write(f"{self._name}: {text}\n")
            sys.stderr.flush()
