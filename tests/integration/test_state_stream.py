"""StreamMutations on the real service: exactly once, rejected whole, fenced, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.project_pb2 import StatePreset, StateSettings
from ramify.v1.state_service_pb2 import (
    AttachProject,
    MutationFrame,
    OpenStream,
    StreamMutationsRequest,
)
from tests.support.hold import Hold
from tests.support.mutations import DONE, READY, RUNNING, batch, create, patch
from tests.support.producer import RawProducer
from tests.support.state_process import StateProcess
from tests.support.wire import SMALL_WINDOW, Wire, connect, eventually, read_refusal, refusal

Start = Callable[..., StateProcess]


def life(project_id: str, producer_id: str, count: int) -> list[MutationBatch]:
    """Return `count` batches; each creates a node and moves one that came before."""
    return [
        batch(project_id, 1, create(f"{producer_id}-1", state=READY)),
        *[
            batch(
                project_id,
                sequence,
                create(f"{producer_id}-{sequence}", state=READY),
                patch(f"{producer_id}-{sequence - 1}", state=RUNNING),
                patch(f"{producer_id}-{sequence - 1}", state=DONE, output_summary="done"),
            )
            for sequence in range(2, count + 1)
        ],
    ]


async def write_all(producer: RawProducer, batches: Sequence[MutationBatch]) -> list[int]:
    """Send batches in frames of seven; return the revision of each."""
    for at in range(0, len(batches), 7):
        await producer.send(*batches[at : at + 7])
    return [await producer.acked(b.project_id, b.sequence) for b in batches]


async def contents(wire: Wire, project_id: str) -> tuple[int, list[bytes]]:
    """Return the head and all nodes, to compare."""
    nodes = await wire.nodes(project_id)
    head = (await wire.project(project_id)).revision
    return head, [node.SerializeToString(deterministic=True) for node in nodes]


@pytest.mark.parametrize("restart", ["no", "drain", "kill"])
async def test_every_batch_repeated_after_a_reconnect_gets_its_original_revision(
    start_state: Start, restart: str
) -> None:
    """All of them are resent, alone, joined and in another framing: nothing changes."""
    state = start_state()
    async with connect(state.address) as wire:
        projects = [(await wire.create_project()).project_id for _ in range(2)]
        batches = [b for p in projects for b in life(p, "prod", 60)]
        async with wire.producer("prod", 1) as producer:
            revisions = await write_all(producer, batches)
        before = [await contents(wire, project_id) for project_id in projects]
    if restart == "kill":
        await asyncio.to_thread(state.restart)
    elif restart == "drain":
        await asyncio.to_thread(state.stop)
        await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        async with wire.producer("prod", 1) as producer:
            for project_id in projects:
                assert (await producer.attach(project_id)).last_sequence == 60
            assert await write_all(producer, batches) == revisions
            await producer.send(*batches)
            await producer.until(lambda: producer.ack_count == 2 * len(batches))
        for project_id, known in zip(projects, before, strict=True):
            assert await contents(wire, project_id) == known
            assert (await wire.stats(project_id)).repeated_batches == 2 * 60
        async with wire.producer("prod", 1) as producer:
            after = batch(projects[0], 61, create("after"))
            assert await producer.write_batch(after) == before[0][0] + 1


async def test_a_batch_repeated_while_it_is_pending_is_acknowledged_once_it_is_durable(
    start_state: Start, hold: Hold
) -> None:
    """The connection broke before the ack: the second stream gets it, with the one revision."""
    state = start_state(failpoints=f"before_commit=hold:{hold}@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        sent = [batch(project_id, n, create(f"n{n}")) for n in (1, 2)]
        async with wire.producer("prod", 1) as first:
            await first.send(sent[0])
            await wire.accepted(project_id, "n1")
        async with wire.producer("prod", 1) as second:
            await second.send(*sent)
            await wire.accepted(project_id, "n2")
            assert not second.acks
            hold.release()
            assert await second.acked(project_id, 1) == 2
            assert await second.acked(project_id, 2) == 3
        assert len(await wire.nodes(project_id)) == 2


async def test_a_repeat_older_than_what_is_remembered_is_acknowledged_without_revision(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    batches = [batch(project_id, 1, create("n"))]
    batches += [batch(project_id, n, patch("n", output_summary=str(n))) for n in range(2, 1_101)]
    async with wire.producer("old-repeats", 1) as producer:
        await write_all(producer, batches)
    async with wire.producer("old-repeats", 1) as producer:
        assert await producer.write_batch(batches[0]) == 0
        assert await producer.write_batch(batches[75]) == 0
        assert await producer.write_batch(batches[76]) == 78
        assert await producer.write_batch(batches[-1]) == 1_101
    assert (await wire.project(project_id)).revision == 1_101


async def test_a_rejected_batch_changes_nothing_and_consumes_no_sequence(
    shared_wire: Wire,
) -> None:
    """Later sequences of that project are refused until it comes again; others go on."""
    wire = shared_wire
    bad, good = [(await wire.create_project()).project_id for _ in range(2)]
    async with wire.producer("rejects", 1) as producer:
        await producer.send(
            batch(bad, 1, create("a", state=READY)),
            batch(bad, 2, create("b"), patch("a", state=DONE), patch("nobody", goal="what?")),
            batch(bad, 3, create("c")),
            batch(good, 1, create("a")),
            batch(bad, 4, create("d")),
            batch(good, 2, create("b")),
        )
        assert await producer.acked(bad, 1) == 2
        assert await producer.acked(good, 2) == 3
        error = (await producer.rejected(bad, 2)).error
        assert error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert error.reason == ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
        assert [(v.index, v.reason, v.field) for v in error.violations] == [
            (1, ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION, "node.patch.state"),
            (2, ErrorReason.ERROR_REASON_INVALID_MUTATION, "node.node_id"),
        ]
        for sequence in (3, 4):
            error = (await producer.rejected(bad, sequence)).error
            assert error.reason == ErrorReason.ERROR_REASON_SEQUENCE_GAP
            assert error.code == grpc.StatusCode.ABORTED.value[0]
            assert error.metadata == {"expected_sequence": "2"}
        assert [node.node_id for node in await wire.nodes(bad)] == ["a"]
        await producer.send(*[batch(bad, n, create(name)) for n, name in ((2, "b"), (3, "c"))])
        assert await producer.acked(bad, 3, corrected=True) == 4
    assert (await wire.stats(bad)).rejected_batches == 3


async def test_a_skipped_sequence_is_refused(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.producer("skips", 1) as producer:
        for sequence in (0, 2, 2**64 - 1):
            await producer.send(batch(project_id, sequence, create("a")))
            error = (await producer.rejected(project_id, sequence)).error
            assert error.reason == ErrorReason.ERROR_REASON_SEQUENCE_GAP
            assert error.metadata == {"expected_sequence": "1"}
        assert await producer.write_batch(batch(project_id, 1, create("a"))) == 2
    assert (await wire.project(project_id)).revision == 2


async def test_an_unknown_project_is_rejected_and_the_stream_lives_on(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.producer() as producer:
        for name in ("nobody", "", "not a valid id\n"):
            await producer.send(batch(name, 1, create("a")))
            error = (await producer.rejected(name, 1)).error
            assert error.reason == ErrorReason.ERROR_REASON_PROJECT_NOT_FOUND
        request = StreamMutationsRequest(attach=AttachProject(project_id="nobody"))
        await producer.write(request)
        error = (await producer.rejected("nobody", 0)).error
        assert error.reason == ErrorReason.ERROR_REASON_PROJECT_NOT_FOUND
        assert await producer.write_batch(batch(project_id, 1, create("a"))) == 2


@pytest.mark.parametrize("kind", ["stream", "unary"])
async def test_expected_values_are_compared_with_what_is_pending_too(
    shared_wire: Wire, kind: str
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.producer() as producer:
        # One frame: the second batch is checked against the first while that is pending.
        await producer.send(
            batch(project_id, 1, create("a", state=READY), expected_revision=1),
            batch(project_id, 2, patch("a", state=RUNNING, expected_version=1)),
        )
        assert await producer.acked(project_id, 2) == 3
        wrong = [
            batch(project_id, 3, create("b"), expected_revision=2),
            batch(project_id, 3, patch("a", goal="another", expected_version=1)),
            batch(project_id, 3, patch("a", goal="another", expected_state=READY)),
        ]
        for at, refused in enumerate(wrong):
            if kind == "stream":
                await producer.send(refused)
                await producer.until(lambda at=at: len(producer.rejects) > at)  # type: ignore[misc]
                error = producer.rejects[-1].error
                assert error.reason == ErrorReason.ERROR_REASON_VERSION_CONFLICT
                assert error.code == grpc.StatusCode.ABORTED.value[0]
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await wire.commit(
                        project_id,
                        *refused.mutations,
                        expected_revision=(
                            refused.expected_revision
                            if refused.HasField("expected_revision")
                            else None
                        ),
                    )
                shown = read_refusal(caught.value)
                assert shown.reason == "VERSION_CONFLICT"
                assert shown.code is grpc.StatusCode.ABORTED
    assert (await wire.project(project_id)).revision == 3


# Fencing


async def test_a_newer_epoch_ends_the_older_stream_and_fences_it_for_ever(
    start_state: Start,
) -> None:
    """Also in projects the newer one has not touched, and after kill -9."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        untouched = (await wire.create_project()).project_id
        async with wire.producer("prod", 1) as old:
            await old.write_batch(batch(project_id, 1, create("a")))
            async with wire.producer("prod", 3) as new:
                error = await old.end()
                assert old.fenced is not None
                assert old.fenced.current_epoch == 3
                assert error is not None
                assert read_refusal(error).reason == "PRODUCER_FENCED"
                assert (await new.attach(project_id)).last_sequence == 0
                # A new epoch starts at sequence 1 (SEM 17).
                assert await new.write_batch(batch(project_id, 1, create("b"))) == 3
        await assert_fenced(wire, "prod", 2, current=3)
        # Durable even if it has written nothing.
        async with wire.producer("prod", 4):
            pass
    await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        for epoch in (1, 2, 3):
            await assert_fenced(wire, "prod", epoch, current=4)
        async with wire.producer("prod", 4) as new:
            assert await new.write_batch(batch(untouched, 1, create("a"))) == 2
        assert (await wire.project(project_id)).revision == 3


async def assert_fenced(wire: Wire, producer_id: str, epoch: int, *, current: int) -> None:
    """Check that an epoch cannot open a stream any more."""
    shown = read_refusal(await producer_error(wire, producer_id, epoch))
    assert shown.reason == "PRODUCER_FENCED"
    assert shown.code is grpc.StatusCode.FAILED_PRECONDITION
    assert shown.metadata["current_epoch"] == str(current)


async def producer_error(wire: Wire, producer_id: str, epoch: int) -> grpc.aio.AioRpcError:
    """Open a stream that must be refused; return why."""
    call = wire.stub.StreamMutations()
    await call.write(StreamMutationsRequest(open=OpenStream(producer_id=producer_id, epoch=epoch)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value


async def test_of_two_epochs_that_open_at_once_only_the_newer_may_write(
    start_state: Start, hold: Hold
) -> None:
    """The older one is still waiting for its own epoch to be durable when the newer comes."""
    state = start_state(failpoints=f"before_commit=hold:{hold}@2")
    async with connect(state.address) as wire, connect(state.address) as other:
        project_id = (await wire.create_project()).project_id
        opening = asyncio.create_task(open_and_write(wire, project_id, 5))
        # The commit of epoch 5 is being written when nothing else could be: then comes 6.
        await eventually(hold.reached, "epoch 5 is being written")
        call = other.stub.StreamMutations()
        await call.write(StreamMutationsRequest(open=OpenStream(producer_id="prod", epoch=6)))

        async def taken_in() -> bool:
            refused = read_refusal(await producer_error(other, "prod", 4))
            return refused.metadata["current_epoch"] == "6"

        await eventually(taken_in, "epoch 6 is in force")
        assert not opening.done()
        hold.release()
        await call.read()
        call.cancel()
        async with other.producer("prod", 6) as newer:
            outcome = await opening
            assert outcome == "fenced"
            assert await newer.write_batch(batch(project_id, 1, create("by-6"))) == 2
        assert [node.node_id for node in await wire.nodes(project_id)] == ["by-6"]


async def open_and_write(wire: Wire, project_id: str, epoch: int) -> str:
    """Open and write one batch; return what came of it."""
    async with wire.producer("prod", epoch) as producer:
        if producer.welcome is None:
            return "fenced"
        try:
            await producer.send(batch(project_id, 1, create(f"by-{epoch}")))
            await producer.until(lambda: producer.acks or producer.rejects or producer.fenced)
        except (AssertionError, grpc.aio.AioRpcError):
            return "fenced"
        if producer.acks:
            return "acked"
    return "fenced"


async def test_an_epoch_zero_stream_gets_a_producer_of_its_own(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.producer() as first, wire.producer() as second:
        assert first.welcome is not None
        assert second.welcome is not None
        assert first.welcome.producer_id != second.welcome.producer_id
        assert first.welcome.epoch == second.welcome.epoch == 1
        assert await first.write_batch(batch(project_id, 1, create("a"))) == 2
        assert await second.write_batch(batch(project_id, 1, create("b"))) == 3
    producer_id = first.welcome.producer_id
    shown = read_refusal(await producer_error(wire, producer_id, 0))
    assert shown.reason == "INVALID_REQUEST"
    async with wire.producer(producer_id, 1) as again:
        assert (await again.attach(project_id)).last_sequence == 1


@pytest.mark.parametrize("epoch", [2**63 - 1, 2**63, 2**64 - 1])
async def test_the_largest_epochs_do_not_bring_the_service_down(
    state: StateProcess, epoch: int
) -> None:
    """An epoch either works, also after a restart, or is refused; the service stays up."""
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        async with wire.producer("prod", epoch) as producer:
            if producer.welcome is None:
                assert producer.error is not None
                shown = read_refusal(producer.error)
                assert (shown.reason, shown.fields) == ("INVALID_REQUEST", ["open.epoch"])
            else:
                await producer.write_batch(batch(project_id, 1, create("a")))
        assert await wire.commit(project_id, create("b"))
    await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        assert await wire.commit(project_id, create("c"))


# Bounds


async def test_a_producer_that_never_reads_its_acks_is_held_back(state: StateProcess) -> None:
    """Its writes stop; the service's memory stays; others are served as ever."""
    body = {"text": "x" * 20_000}
    async with connect(state.address) as wire, connect(state.address, SMALL_WINDOW) as greedy_wire:
        project_id = (await wire.create_project()).project_id
        greedy_id = (await wire.create_project()).project_id
        await wire.commit(greedy_id, *[create(f"n{i}") for i in range(10)])
        call = greedy_wire.stub.StreamMutations()
        await call.write(StreamMutationsRequest(open=OpenStream()))
        memory = state.memory()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            # Refused batches too: a reject is larger than what it answers.
            while True:
                frame = MutationFrame(
                    batches=[
                        batch(greedy_id, sent + n + 1_000_000, patch("n1", result=body))
                        for n in range(20)
                    ]
                )
                await call.write(StreamMutationsRequest(frame=frame))
                sent += 20

        flooding = asyncio.create_task(flood())
        held = -1
        while held != sent:
            held = sent
            async with wire.producer() as producer:
                for n in range(1, 101):
                    await producer.write_batch(batch(project_id, n, create(f"{held}-{n}")))
        assert not flooding.done()
        assert state.memory() - memory < 120 << 20
        flooding.cancel()
        call.cancel()


async def test_a_client_that_attaches_without_reading_is_held_back(state: StateProcess) -> None:
    """Positions are answers too: unread ones must not pile up."""
    async with connect(state.address) as wire, connect(state.address, SMALL_WINDOW) as greedy_wire:
        project_id = (await wire.create_project("p" * 120)).project_id
        call = greedy_wire.stub.StreamMutations()
        await call.write(StreamMutationsRequest(open=OpenStream()))
        memory = state.memory()
        request = StreamMutationsRequest(attach=AttachProject(project_id=project_id))
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while sent < 150_000:
                await call.write(request)
                sent += 1

        flooding = asyncio.create_task(flood())
        held = -1
        while held != sent and not flooding.done():
            held = sent
            for n in range(20):
                await wire.commit(project_id, create(f"{held}-{n}"))
        assert not flooding.done(), "it was never held back"
        assert state.memory() - memory < 60 << 20
        flooding.cancel()
        call.cancel()


async def test_credits_are_given_back_by_acks_and_by_rejects(shared_wire: Wire) -> None:
    """Many times the credits go through one stream, accepted and refused."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("n"))
    async with wire.producer() as producer:
        assert producer.welcome is not None
        count = 4 * producer.welcome.credits.batches
        for n in range(1, count + 1):
            await producer.send(
                batch(project_id, n, patch("n", output_summary=str(n))),
                batch(project_id, n + 2, patch("n", output_summary="refused")),
            )
        assert await producer.acked(project_id, count, corrected=True) == count + 2
        await producer.until(lambda: len(producer.rejects) == count)


async def test_half_close_is_answered_with_all_acks_and_ok(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.producer() as producer:
        await producer.send(*[batch(project_id, n, create(f"n{n}")) for n in range(1, 101)])
        await producer.half_close()
        assert await producer.end() is None
        assert [producer.acks[project_id, n] for n in range(1, 101)] == list(range(2, 102))


@pytest.mark.parametrize(
    "message",
    [
        StreamMutationsRequest(),
        StreamMutationsRequest(open=OpenStream()),
        StreamMutationsRequest(frame=MutationFrame(batches=[MutationBatch()] * 1_001)),
    ],
    ids=["empty", "a second open", "too many batches"],
)
async def test_what_was_accepted_is_acknowledged_before_a_misused_stream_ends(
    shared_wire: Wire, message: StreamMutationsRequest
) -> None:
    patient = StateSettings(eager_commit=False, state_batch_timeout_ms=300)
    project_id = (await shared_wire.create_project(state_settings=patient)).project_id
    async with shared_wire.producer() as producer:
        await producer.send(batch(project_id, 1, create("a")))
        await producer.write(message)
        error = await producer.end()
    assert producer.acks == {(project_id, 1): 2}
    assert error is not None
    assert read_refusal(error).reason == "INVALID_REQUEST"


async def test_accepted_batches_are_acknowledged_during_a_drain(start_state: Start) -> None:
    """SIGTERM while a commit waits for its watermark: it is committed and acknowledged."""
    state = start_state("--eager-commit", "false", "--state-batch-timeout-ms", "60000")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        async with wire.producer("prod", 1) as producer:
            await producer.send(batch(project_id, 1, create("a")))
            await wire.accepted(project_id, "a")
            stopping = asyncio.create_task(asyncio.to_thread(state.stop))
            assert await producer.acked(project_id, 1) == 2
            assert producer.drain is not None or await drained(producer)
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it may be over
                await producer.send(batch(project_id, 2, create("b")))
            assert await stopping == 0
            await producer.end()
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire, wire.producer("prod", 1) as producer:
        assert (await producer.attach(project_id)).last_sequence == 1
        again = batch(project_id, 2, create("b"), immediate=True)
        assert await producer.write_batch(again) == 3


async def drained(producer: RawProducer) -> bool:
    """Wait for the drain message."""
    await producer.until(lambda: producer.drain is not None)
    return True


# Watermarks


async def test_without_eager_commits_a_batch_waits_for_its_age_or_fifty_mutations(
    start_state: Start,
) -> None:
    """The pure 50 / 100 ms watermark; `immediate` and a flush do not wait."""
    state = start_state("--eager-commit", "false", "--state-batch-timeout-ms", "60000")
    loop = asyncio.get_running_loop()
    async with connect(state.address) as wire, wire.producer() as producer:
        project_id = (await wire.create_project()).project_id
        await producer.send(*[batch(project_id, n, create(f"n{n}")) for n in range(1, 50)])
        await wire.accepted(project_id, "n49")
        assert not await wire.nodes(project_id)
        assert not producer.acks
        assert len(await wire.nodes(project_id, include_pending=True)) == 49
        await producer.send(batch(project_id, 50, create("n50")))
        assert await producer.acked(project_id, 50) == 51
        stats = await wire.stats(project_id)
        assert (stats.batched_updates, stats.commits) == (50, 2)
        # Immediate takes along what waits.
        await producer.send(batch(project_id, 51, create("n51")))
        await wire.accepted(project_id, "n51")
        await producer.send(batch(project_id, 52, create("n52"), immediate=True))
        assert await producer.acked(project_id, 51) == 52
        assert await producer.acked(project_id, 52) == 53
        await producer.send(batch(project_id, 53, create("n53")))
        await wire.accepted(project_id, "n53")
        assert await wire.flush(project_id) == 54
        assert await producer.acked(project_id, 53) == 54
    state.kill()
    state = start_state("--eager-commit", "false", name="aged")
    async with connect(state.address) as wire, wire.producer() as producer:
        project_id = (await wire.create_project()).project_id
        began = loop.time()
        await producer.write_batch(batch(project_id, 1, create("a")))
        assert loop.time() - began >= 0.09, "it waits for its age, and then goes"


async def test_a_project_chooses_its_preset_and_unknown_ones_are_refused(shared_wire: Wire) -> None:
    debug = StateSettings(preset=StatePreset.STATE_PRESET_DEBUG)
    project = await shared_wire.create_project(state_settings=debug)
    assert project.state_settings == debug
    async with shared_wire.producer() as producer:
        await producer.send(*[batch(project.project_id, n, create(f"n{n}")) for n in range(1, 21)])
        assert await producer.acked(project.project_id, 20) == 21
    stats = await shared_wire.stats(project.project_id)
    assert (stats.commits, stats.batches, stats.mean_batch_fill) == (21, 21, 1.0)
    unknown: Any = 99
    for settings in (StateSettings(preset=unknown), StateSettings(state_batch_size=0)):
        refused = await refusal(shared_wire.create_project(state_settings=settings))
        assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["state_settings"])


@pytest.mark.parametrize("kind", ["open", "attach"])
async def test_what_opens_a_stream_or_attaches_to_a_project_is_small(
    shared_wire: Wire, kind: str
) -> None:
    long = "x" * 4_096
    opening = shared_wire.producer(long, 1) if kind == "open" else shared_wire.producer()
    async with opening as producer:
        if kind == "attach":
            await producer.write(StreamMutationsRequest(attach=AttachProject(project_id=long)))
        error = await producer.end()
    assert error is not None
    shown = read_refusal(error)
    assert (shown.reason, shown.metadata["field"]) == ("INVALID_REQUEST", kind)
    assert "at most 4096 are allowed" in shown.message
