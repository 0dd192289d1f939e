"""Long work on the event loop in pieces, with time for others in between."""

from __future__ import annotations

import asyncio
from time import thread_time

_OTHERS_SHARE = 1.0  #: time left to others for each second of work


class Pauses:
    """Shares the loop, and the interpreter with it, while something large is made.

    Giving up the loop alone would not do: the thread that writes commits waits for the interpreter,
    which a loop that always has something to run hands over every 5 ms only.
    """

    def __init__(self) -> None:
        self._begun = thread_time()

    async def rest(self) -> None:
        """Let others run for as long as this has worked since the last rest."""
        await asyncio.sleep(_OTHERS_SHARE * (thread_time() - self._begun))
        self._begun = thread_time()
