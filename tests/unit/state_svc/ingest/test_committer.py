"""The commit loop: commit, then ack, then publish; a failed commit leaves no trace (SEM 7)."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import StatePreset, StateSettings
from state_svc.codec.compression import PLAIN, ZSTD
from state_svc.codec.project import encode_project
from state_svc.codec.segment import decode_segment
from state_svc.errors import Overloaded, StoreUnavailable
from state_svc.ingest.committer import PendingBatch
from state_svc.model.apply import apply_batch
from state_svc.model.producer import Verdict, judge
from state_svc.model.project import LiveProject
from state_svc.store.base import ProducerRecord, RequestRecord
from tests.support.bound import WAIT_SECONDS
from tests.support.commit_loop import Bench
from tests.support.held_store import HeldStore
from tests.support.live import NOW
from tests.support.mutations import READY, change_project, create, patch

_MANY = 1 << 30


@pytest.fixture
def store() -> HeldStore:
    return HeldStore()


@pytest.fixture
def bench(store: HeldStore) -> Bench:
    return Bench(store)


# The good way


async def test_a_batch_is_committed_then_acked_then_published(bench: Bench) -> None:
    project = await bench.project("p")
    async with bench.running():
        bench.submit(project, create("a"))
        bench.submit(project, patch("a", state=READY))
        assert bench.log == []
        await bench.committer.settled(project)
        assert bench.log == [("ack", "p", (2, 3)), ("publish", "p", (2, 3))]
    assert await bench.store.read_head("uid-p") == 3
    assert not project.has_pending
    assert bench.grown == [("p", 2)]


async def test_nothing_is_acked_or_shown_while_the_commit_is_being_written(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    store.gate.clear()
    async with bench.running():
        bench.submit(project, create("a"))
        await store.entered.wait()
        assert bench.log == []
        assert project.view.revision == 1
        assert project.revision == 2
        store.gate.set()
        await bench.committer.settled(project)
    assert bench.log == [("ack", "p", (2,)), ("publish", "p", (2,))]


async def test_what_comes_in_during_a_commit_shares_the_next_one(
    bench: Bench, store: HeldStore
) -> None:
    first, second = await bench.project("p"), await bench.project("q")
    store.gate.clear()
    before = store.commits
    async with bench.running():
        bench.submit(first, create("a"))
        await store.entered.wait()
        bench.submit(first, create("b"))
        bench.submit(second, create("c"))
        bench.submit(first, create("d"))
        store.gate.set()
        await bench.committer.drain()
    assert store.commits == before + 2
    assert bench.log == [
        ("ack", "p", (2,)),
        ("publish", "p", (2,)),
        ("ack", "p", (3, 4)),
        ("ack", "q", (2,)),
        ("publish", "p", (3, 4)),
        ("publish", "q", (2,)),
    ]


async def test_all_of_a_commit_is_in_the_same_transaction(bench: Bench) -> None:
    project = await bench.project("p")
    request = RequestRecord("CommitBatch", "r", "p", 2, NOW)
    applied = apply_batch(project, [change_project(root_node_id="a")], micros=NOW)
    before = bench.store.commits
    async with bench.running():
        epoch = asyncio.create_task(bench.committer.put_producer("producer", 4))
        await asyncio.sleep(0)
        bench.committer.submit(
            PendingBatch(project=project, applied=applied, owner=bench, size=1, request=request)
        )
        await epoch
        await bench.committer.drain()
    assert bench.store.commits == before + 1
    assert await bench.store.list_producers() == [ProducerRecord("producer", 4)]
    assert await bench.store.list_requests(0) == [request]
    (head,) = await bench.store.list_projects()
    assert head.record == encode_project(project.entity)


async def test_a_lazy_loop_waits_until_a_batch_is_immediate(store: HeldStore) -> None:
    bench = Bench(store, eager=False)
    project = await bench.project("p")
    async with bench.running():
        bench.submit(project, create("a"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not store.entered.is_set()
        bench.submit(project, create("b"), immediate=True)
        await store.entered.wait()
        await bench.committer.drain()
    assert bench.log[0] == ("ack", "p", (2, 3))


@pytest.mark.execution_key("state_batch_timeout_ms")
async def test_a_lazy_loop_commits_what_has_aged(store: HeldStore) -> None:
    bench = Bench(store, eager=False, delay=0.01)
    project = await bench.project("p")
    async with bench.running():
        bench.submit(project, create("a"))
        await store.entered.wait()
        await bench.committer.settled(project)
    assert bench.log[0] == ("ack", "p", (2,))


async def test_settled_and_drain_do_not_wait_for_the_age_of_a_batch(store: HeldStore) -> None:
    bench = Bench(store, eager=False)
    project = await bench.project("p")
    async with bench.running():
        await bench.committer.settled(project)
        await bench.committer.drain()
        bench.submit(project, create("a"))
        await bench.committer.settled(project)
        bench.submit(project, create("b"))
        await bench.committer.drain()
    assert await store.read_head("uid-p") == 3


async def test_settled_waits_for_what_is_accepted_now_and_nothing_later(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    called: list[int] = []
    store.gate.clear()
    store.one_by_one = True
    async with bench.running():
        bench.submit(project, create("a"))
        outcome = bench.committer.outcome(project)
        outcome.add_done_callback(lambda _: called.append(project.view.revision))
        await store.entered.wait()
        settled = asyncio.create_task(bench.committer.settled(project))
        await asyncio.sleep(0)
        bench.submit(project, create("b"))
        store.gate.set()
        await settled
        assert project.view.revision == 2
        store.gate.set()
        await bench.committer.drain()
    assert called == [2]


async def test_one_large_commit_is_several_segments_without_a_hole(bench: Bench) -> None:
    project = await bench.project("p")
    bench.submit(project, create("a"))
    for number in range(3):
        large = Payload(data=bytes([number]) * 700_000)
        bench.submit(project, patch("a", result=large))
    before = bench.store.commits
    async with bench.running():
        await bench.committer.drain()
    assert bench.store.commits == before + 1
    records = await bench.store.read_segments("uid-p", 0, _MANY)
    spans = [(record.first_revision, record.last_revision) for record in records]
    assert spans == [(2, 3), (4, 4), (5, 5)]
    for record in records:
        decode_segment(record)
    assert bench.log == [("ack", "p", (2, 3, 4, 5)), ("publish", "p", (2, 3, 4, 5))]


async def test_readers_wait_while_too_many_bytes_are_pending(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    await bench.committer.room()
    for number in range(10):
        bench.submit(project, create(f"n{number}"))
    waiting = asyncio.create_task(bench.committer.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    async with bench.running():
        await waiting
        await bench.committer.drain()


async def test_what_is_being_written_counts_as_long_as_it_is_not_durable(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    store.gate.clear()
    async with bench.running():
        for number in range(9):
            bench.submit(project, create(f"n{number}"))
        await store.entered.wait()
        bench.committer.check_room()
        bench.submit(project, create("last"))
        with pytest.raises(Overloaded):
            bench.committer.check_room()
        store.gate.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await bench.committer.room()
        await bench.committer.drain()


@pytest.mark.execution_key("state_batch_timeout_ms")
async def test_a_commit_is_due_when_there_is_no_room_for_more(store: HeldStore) -> None:
    """Else all producers would wait until what is pending has aged."""
    bench = Bench(store, eager=False)
    project = await bench.project("p")
    async with bench.running():
        for number in range(10):
            bench.submit(project, create(f"n{number}"))
        async with asyncio.timeout(WAIT_SECONDS):
            await bench.committer.room()
    assert bench.log[0][0] == "ack"


async def test_who_no_longer_waits_for_an_outcome_is_forgotten_while_the_store_is_away(
    bench: Bench, store: HeldStore
) -> None:
    """Callers come and go, and no commit wakes them."""
    project = await bench.project("p")
    store.fail_next = "before"
    store.readable.clear()
    async with bench.running():
        bench.submit(project, create("a"))
        await store.asked.wait()
        waiting = [asyncio.create_task(bench.committer.settled(project)) for _ in range(3)]
        bench.committer.outcome(project).cancel()
        await asyncio.sleep(0)
        assert len(bench.committer._waiters) == 3
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await asyncio.sleep(0)
        assert not bench.committer._waiters
        store.readable.set()
        await bench.committer.settled(project)


async def test_what_is_pending_counts_with_the_entities_that_it_holds(bench: Bench) -> None:
    project = await bench.project("p")
    body = Payload(text="x" * 2_000)
    async with bench.running():
        bench.submit(project, create("n", result=body))
        await bench.committer.drain()
    bench.submit(project, patch("n", retry_count=1))
    waiting = asyncio.create_task(bench.committer.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    async with bench.running():
        await waiting
        await bench.committer.drain()


async def test_there_is_no_room_while_what_a_commit_leaves_fills_it(
    bench: Bench, store: HeldStore
) -> None:
    project = await _with_settings(bench, "d", preset=StatePreset.STATE_PRESET_DEBUG)
    store.gate.clear()
    store.one_by_one = True
    for number in range(12):
        bench.submit(project, create(f"n{number}"))
    async with bench.running():
        for left in (11, 10, 9, 8):  # and one that is being written
            await store.entered.wait()
            store.entered.clear()
            if left > 8:
                with pytest.raises(Overloaded):
                    bench.committer.check_room()
            else:
                bench.committer.check_room()
            store.gate.set()
        store.one_by_one = False
        store.gate.set()
        await bench.committer.drain()


async def test_those_who_wait_for_room_get_it_one_after_another(
    bench: Bench, store: HeldStore
) -> None:
    """Else all of them hand in at once, and the bound holds nothing."""
    project = await bench.project("p")
    most = 0

    def fill(name: str) -> None:
        nonlocal most
        for number in range(10):
            bench.submit(project, create(f"{name}{number}"))
        most = max(most, bench.committer._buffer.size)

    async def hand_in(name: str) -> None:
        await bench.committer.room()
        fill(name)

    fill("first")
    async with bench.running():
        await asyncio.gather(*map(hand_in, "abc"))
        await bench.committer.drain()
    assert (most, project.revision) == (1_000, 41)


# The bad way


async def test_room_comes_back_after_a_failed_commit(bench: Bench, store: HeldStore) -> None:
    project = await bench.project("p")
    store.gate.clear()
    async with bench.running():
        bench.submit(project, create("a"))
        await store.entered.wait()
        for number in range(10):
            bench.submit(project, create(f"n{number}"))
        store.fail_next = "before"
        store.gate.set()
        await bench.committer.settled(project)
        bench.committer.check_room()
        async with asyncio.timeout(WAIT_SECONDS):
            await bench.committer.room()


async def test_a_failed_commit_drops_what_is_pending_and_consumes_no_sequence(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    store.gate.clear()
    async with bench.running():
        bench.submit(project, create("a"), sequence=1)
        await store.entered.wait()
        bench.submit(project, patch("a", state=READY), sequence=2)
        store.fail_next = "before"
        store.gate.set()
        await bench.committer.settled(project)
        assert bench.log == [("failed", "p", (2, 3))], "also what was accepted on top of it"
        assert isinstance(bench.failures[0], StoreUnavailable)
        assert (project.revision, project.node("a")) == (1, None)
        assert judge(project.producers["producer"], 1, 1) is Verdict.ACCEPT
        again = bench.submit(project, create("a"), sequence=1)
        assert again.revision == 2
        await bench.committer.settled(project)
    assert bench.log[1:] == [("ack", "p", (2,)), ("publish", "p", (2,))]
    assert await store.read_head("uid-p") == 2


async def test_a_commit_that_took_effect_but_lost_its_answer_is_acked(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    store.fail_next = "after"
    async with bench.running():
        bench.submit(project, create("a"), sequence=1)
        await bench.committer.settled(project)
    assert bench.log == [("ack", "p", (2,)), ("publish", "p", (2,))]
    assert judge(project.producers["producer"], 1, 1) is Verdict.REPEAT
    assert len(await store.read_segments("uid-p", 0, _MANY)) == 1


@pytest.mark.parametrize(
    "fail, expected",
    [
        ("before", [("failed", "p", (2,))]),
        ("after", [("ack", "p", (2,)), ("publish", "p", (2,))]),
    ],
)
async def test_while_the_outcome_is_unknown_nobody_is_told_and_nothing_is_taken(
    bench: Bench,
    store: HeldStore,
    fail: str,
    expected: list[tuple[str, str, tuple[int, ...]]],
) -> None:
    project, other = await bench.project("p"), await bench.project("q")
    store.fail_next = fail
    store.readable.clear()
    async with bench.running():
        bench.submit(project, create("a"))
        await store.asked.wait()
        assert bench.log == []
        assert bench.unavailable()
        with pytest.raises(StoreUnavailable):
            bench.submit(other, create("b"))
        assert not other.has_pending
        with pytest.raises(StoreUnavailable):
            await bench.committer.put_producer("p", 1)
        store.readable.set()
        await bench.committer.settled(project)
        assert not bench.unavailable()
        assert bench.log == expected
        bench.submit(other, create("b"))
        await bench.committer.drain()
    assert bench.log[len(expected) :] == [("ack", "q", (2,)), ("publish", "q", (2,))]


async def test_batches_of_other_projects_that_wait_survive_a_failed_commit(
    bench: Bench, store: HeldStore
) -> None:
    first, second = await bench.project("p"), await bench.project("q")
    store.gate.clear()
    async with bench.running():
        bench.submit(first, create("a"))
        await store.entered.wait()
        bench.submit(second, create("b"))
        bench.submit(first, create("c"))
        bench.submit(second, create("d"))
        store.fail_next = "before"
        store.gate.set()
        await bench.committer.drain()
    assert bench.log == [
        ("failed", "p", (2, 3)),
        ("ack", "q", (2, 3)),
        ("publish", "q", (2, 3)),
    ]
    assert await store.read_head("uid-p") == 0
    assert await store.read_head("uid-q") == 3


async def test_a_flush_does_not_wait_for_age_when_the_commit_before_it_fails(
    store: HeldStore,
) -> None:
    bench = Bench(store, eager=False)
    first, second = await bench.project("p"), await bench.project("q")
    store.gate.clear()
    async with bench.running():
        bench.submit(first, create("a"), immediate=True)
        await store.entered.wait()
        bench.submit(second, create("b"))
        flush = asyncio.create_task(bench.committer.settled(second))
        await asyncio.sleep(0)
        store.fail_next = "before"
        store.gate.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await flush
    assert bench.log == [("failed", "p", (2,)), ("ack", "q", (2,)), ("publish", "q", (2,))]


async def test_refusals_while_the_store_is_away_do_not_pile_up(
    bench: Bench, store: HeldStore
) -> None:
    """An exception raised again and again keeps the frames of every time alive."""
    project = await bench.project("p")
    store.fail_next = "before"
    store.readable.clear()
    async with bench.running():
        bench.submit(project, create("a"))
        await store.asked.wait()
        refused = []
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as caught:
                bench.submit(project, create("b"))
            refused.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert len(set(refused)) == 1, "each refusal holds the frames of those before it"
        store.readable.set()
        await bench.committer.settled(project)


@pytest.mark.parametrize("fail", ["before", "after"])
async def test_the_epoch_of_a_producer_is_learned_too(
    bench: Bench, store: HeldStore, fail: str
) -> None:
    store.fail_next = fail
    async with bench.running():
        putting = asyncio.create_task(bench.committer.put_producer("producer", 4))
        await asyncio.wait([putting])
        stored = await store.list_producers()
    if fail == "before":
        assert isinstance(putting.exception(), StoreUnavailable)
        assert stored == []
    else:
        assert putting.exception() is None
        assert stored == [ProducerRecord("producer", 4)]


async def test_a_failed_commit_is_counted_and_a_durable_one_too(
    bench: Bench, store: HeldStore
) -> None:
    project = await bench.project("p")
    async with bench.running():
        store.fail_next = "before"
        bench.submit(project, create("a"))
        await bench.committer.drain()
        bench.submit(project, create("a"), patch("a", state=READY), immediate=True)
        await bench.committer.drain()
    stats = bench.metrics.service.to_stats()
    assert (stats.commits, stats.batches, stats.total_updates) == (1, 1, 2)
    assert stats.immediate_updates == 2
    failed = bench.metrics.registry.get_sample_value("ramify_state_failed_commits_total")
    assert failed == 1


# Projects with keys of their own


async def _with_settings(bench: Bench, project_id: str, **keys: Any) -> LiveProject:
    project = await bench.project(project_id)
    project.view.entity.state_settings.CopyFrom(StateSettings(**keys))
    return project


@pytest.mark.execution_key("state_batch_size")
async def test_a_project_in_debug_has_a_commit_for_each_batch(
    bench: Bench, store: HeldStore
) -> None:
    debug = await _with_settings(bench, "d", preset=StatePreset.STATE_PRESET_DEBUG)
    other = await bench.project("o")
    before = store.commits
    async with bench.running():
        for number in range(3):
            bench.submit(debug, create(f"d{number}"))
            bench.submit(other, create(f"o{number}"))
        await bench.committer.drain()
    assert store.commits == before + 3
    acks = [(project, revisions) for what, project, revisions in bench.log if what == "ack"]
    assert acks == [("d", (2,)), ("o", (2, 3, 4)), ("d", (3,)), ("d", (4,))]


async def test_an_epoch_is_durable_after_all_that_was_accepted_before_it(
    bench: Bench, store: HeldStore
) -> None:
    """Fenced: or an older epoch of the same producer would go on writing behind it."""
    project = await _with_settings(bench, "p", preset=StatePreset.STATE_PRESET_DEBUG)
    store.gate.clear()
    store.one_by_one = True
    for name in "abcd":
        bench.submit(project, create(name))
    accepted = project.revision
    async with bench.running():
        await store.entered.wait()
        store.entered.clear()
        epoch = asyncio.create_task(bench.committer.put_producer("producer", 2))
        await asyncio.sleep(0)
        store.gate.set()
        await store.entered.wait()  # by the commit with the epoch; a third one is not let in
        store.gate.set()
        await epoch
        assert project.view.revision == accepted


async def test_a_patient_project_waits_unless_another_commits(store: HeldStore) -> None:
    bench = Bench(store, eager=False, delay=3_600.0)
    patient = await bench.project("p")
    eager = await _with_settings(bench, "e", eager_commit=True)
    async with bench.running():
        bench.submit(patient, create("a"))
        await asyncio.sleep(0)
        assert not store.entered.is_set(), "it waits for its watermark"
        bench.submit(eager, create("a"))
        await bench.committer.drain()
    assert [entry[1] for entry in bench.log if entry[0] == "ack"] == ["p", "e"]
    assert bench.metrics.service.to_stats().commits == 1


@pytest.mark.execution_key("enable_state_compression")
async def test_a_projects_threshold_of_compression_is_its_own(
    bench: Bench, store: HeldStore
) -> None:
    off = await _with_settings(bench, "off", enable_state_compression=False)
    low = await _with_settings(bench, "low", preset=StatePreset.STATE_PRESET_CONSTRAINED)
    usual = await bench.project("usual")
    async with bench.running():
        for project in (off, low, usual):
            bench.submit(project, create("a", goal="a" * 700))
        await bench.committer.drain()
    codecs = {p: (await store.read_segments(f"uid-{p}", 1, 1))[0].codec for p in ("off", "low")}
    assert codecs == {"off": PLAIN, "low": ZSTD}
    assert (await store.read_segments("uid-usual", 1, 1))[0].codec == PLAIN
