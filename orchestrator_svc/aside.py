"""Runs long computations beside the loop: leases are renewed and other projects go on meanwhile.

A plan of 100 000 tasks takes seconds to be adopted, and so does loading, cancelling or giving back
a run of that size. In a thread such a turn shares the interpreter with the loop instead of holding
it. Its caller waits, so what it owns stays its own: nobody else may look at it before it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

#: Its own: those of `asyncio.to_thread` may all be busy with the blocking work of agents.
_thread = ThreadPoolExecutor(1, thread_name_prefix="aside")

LARGE = 2_000  #: nodes or tasks; fewer take less time than a thread is worth


async def aside(size: int, compute: Callable[[], T]) -> T:
    """Return what `compute` returns, which has to do with `size` nodes or tasks."""
    if size < LARGE:
        return compute()
    return await asyncio.get_running_loop().run_in_executor(_thread, compute)
