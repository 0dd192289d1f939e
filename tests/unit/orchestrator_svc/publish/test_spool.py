"""The spool: batches on disk while state_svc is away, in order, checked, for one epoch (SEM 17)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from orchestrator_svc.errors import CorruptRecord, ProjectReplaced
from orchestrator_svc.publish import spill
from orchestrator_svc.publish import stream as stream_module
from orchestrator_svc.publish.spool import Spool
from orchestrator_svc.publish.stream import MutationStream
from tests.unit.orchestrator_svc.publish.fake_server import FakeServer, serving
from tests.unit.orchestrator_svc.publish.test_stream import stored, write


def test_records_come_back_as_they_were_and_the_file_is_emptied(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 7, 1_000)
    slips = [spool.put(text) for text in (b"one", b"", b"three")]
    first, empty, third = (slip for slip in slips if slip is not None)
    assert (spool.read(third), spool.read(first), spool.read(empty)) == (b"three", b"one", b"")
    assert (tmp_path / "spool-7").stat().st_size == spool.held_bytes == 8
    for slip in (first, third, empty):
        spool.release(slip)
    assert (tmp_path / "spool-7").stat().st_size == spool.held_bytes == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_reported_and_never_returned(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 7, 1_000)
    slip = spool.put(b"precious")
    assert slip is not None
    file = os.open(tmp_path / "spool-7", os.O_RDWR)
    os.pwrite(file, b"P", 0)
    os.close(file)
    with pytest.raises(CorruptRecord):
        spool.read(slip)
    spool.close()


def test_a_spool_is_bounded_and_0_is_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 7, 5)
    assert spool.put(b"1234") is not None
    assert spool.put(b"12") is None
    assert Spool(tmp_path, 8, 0).put(b"1") is None
    spool.close()


def test_a_disk_that_takes_nothing_is_no_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "gone", 7, 100)
    assert spool.put(b"1") is None
    assert spool.held_bytes == 0
    spool.close()


def test_a_spool_dies_with_its_epoch(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 7, 100)
    assert spool.put(b"1") is not None
    later = Spool(tmp_path, 8, 100)
    assert list(tmp_path.iterdir()) == []
    spool.close()
    later.close()


async def reconnect(fake: FakeServer, stream: MutationStream) -> asyncio.Future[int]:
    """End the connection with a batch of another project; acks come from then on."""
    fake.silent = False
    fake.hang_up_after = 1
    await stream.open_lane("q", "uid")
    return await write(stream, "ends the connection", "q")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let next to nothing be held in memory."""
    monkeypatch.setattr(spill, "SPOOL_ABOVE_BYTES", 100)
    monkeypatch.setattr(stream_module, "MAX_HELD_BYTES", 120)


@pytest.mark.usefixtures("small")
async def test_what_waits_on_disk_is_sent_in_order_and_counts_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 5, 1_000_000)
    fake = FakeServer()
    fake.silent = True
    async with serving(fake, spool=spool) as stream:
        await stream.open_lane("p", "uid")
        futures = [await write(stream, f"n{i}") for i in range(50)]
        assert spool.held_bytes
        futures.append(await reconnect(fake, stream))
        await asyncio.gather(*futures)
        assert stored(fake) == [f"n{i}" for i in range(50)]
        assert spool.held_bytes == 0
    spool.close()


@pytest.mark.usefixtures("small")
async def test_without_room_in_the_spool_a_runner_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 5, 0)
    fake = FakeServer()
    fake.silent = True
    async with serving(fake, spool=spool) as stream:
        await stream.open_lane("p", "uid")
        while stream.held_bytes < 120:
            _ = await write(stream, "n")
        late = asyncio.create_task(write(stream, "late"))
        await asyncio.sleep(0)
        assert not late.done()
        stream.close_lane("p")  # makes room
        with pytest.raises(ProjectReplaced):
            _ = await late
    spool.close()


@pytest.mark.usefixtures("small")
async def test_a_damaged_spool_ends_the_lane_and_sends_nothing_of_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 5, 1_000_000)
    fake = FakeServer()
    fake.silent = True
    async with serving(fake, spool=spool) as stream:
        await stream.open_lane("p", "uid")
        futures = [await write(stream, f"n{i}") for i in range(20)]
        file = os.open(tmp_path / "spool-5", os.O_RDWR)
        size = os.fstat(file).st_size
        os.pwrite(file, b"\xff" * 8, size - 8)
        os.close(file)
        other = await reconnect(fake, stream)
        with pytest.raises(CorruptRecord):
            await futures[-1]
        assert await other == 11
        assert "n19" not in stored(fake)
        assert stored(fake) == [f"n{i}" for i in range(len(stored(fake)))]
        await asyncio.gather(*futures, return_exceptions=True)
    spool.close()
