"""Waits for long work with signs of life in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any


async def waiting_for(
    work: Coroutine[Any, Any, None], seconds: float, name: str
) -> AsyncGenerator[None, None]:
    """Yield every `seconds` until the work is done; raise what it raises.

    The work goes on meanwhile, and ends with the generator.
    """
    task = asyncio.create_task(work, name=name)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=seconds)
            if not task.done():
                yield
        await task
    finally:
        task.cancel()
