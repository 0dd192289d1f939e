"""Bounds how many calls of a kind are open at one time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from state_svc.errors import Overloaded


class Gate:
    """Lets in so many at a time; refuses the others instead of letting them wait."""

    def __init__(self, limit: str, most: int, others: Callable[[], int] = lambda: 0) -> None:
        """Name the key that bounds it, and the bound; `others` count as if they were inside."""
        self._limit = limit
        self._most = most
        self._others = others
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count one for as long as the context is open. Raises `Overloaded`."""
        if self.inside + self._others() >= self._most:
            raise Overloaded(limit=self._limit, most=self._most)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
