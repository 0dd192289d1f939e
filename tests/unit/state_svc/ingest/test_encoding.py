"""What a commit holds is encoded beside all else that the service does."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from state_svc.codec import segment
from state_svc.ingest import committer
from state_svc.store.memory import MemoryStore
from tests.support.bound import WAIT_SECONDS
from tests.support.commit_loop import Bench
from tests.support.mutations import create


async def test_others_go_on_while_a_large_commit_is_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is pending may be 64 MiB, and to compress it takes more than a second."""
    bench = Bench(MemoryStore())
    project, other = await bench.project("p"), await bench.project("q")
    loop, entered, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    encode, threads = segment.encode_segment, list[int]()

    def held(*args: Any) -> segment.EncodedSegment:
        threads.append(threading.get_ident())
        if len(threads) == 1:
            loop.call_soon_threadsafe(entered.set)
            assert go_on.wait(WAIT_SECONDS)
        return encode(*args)

    async with bench.running():
        monkeypatch.setattr(committer, "encode_segment", held)
        monkeypatch.setattr(committer, "_THREAD_BYTES", 250)
        for name in "abc":
            bench.submit(project, create(name))  # 100 bytes each
        async with asyncio.timeout(WAIT_SECONDS):
            await entered.wait()
        bench.submit(project, create("late"))
        bench.submit(other, create("d"))
        assert bench.log == []
        assert project.view.revision == 1
        go_on.set()
        await bench.committer.drain()
    assert [threading.get_ident() == each for each in threads] == [False, True, True]
    assert bench.log == [
        ("ack", "p", (2, 3, 4)),
        ("publish", "p", (2, 3, 4)),
        ("ack", "p", (5,)),
        ("ack", "q", (2,)),
        ("publish", "p", (5,)),
        ("publish", "q", (2,)),
    ]
