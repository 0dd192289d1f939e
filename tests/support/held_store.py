"""A store that waits in the middle of a commit until a test has looked."""

from __future__ import annotations

import asyncio

from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore


class HeldStore(MemoryStore):
    """Lets a test look while a commit is being written, or its outcome is being learned."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.one_by_one = False
        self.asked = asyncio.Event()
        self.readable = asyncio.Event()
        self.readable.set()

    async def commit(self, commit: Commit) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.one_by_one:
            self.gate.clear()
        await super().commit(commit)

    async def recover(self) -> None:
        self.asked.set()
        await self.readable.wait()
