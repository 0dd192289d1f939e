"""Large bodies leave a batch for the payload store and come back whole (SEM 12, 28)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from orchestrator_svc.engine.context import agent_input, missing_results
from orchestrator_svc.errors import CorruptRecord, leaves
from orchestrator_svc.graph.event import Call, CallEnded, Produced
from orchestrator_svc.graph.mutation import AddStage, Mutation, NodeChanges, PatchNode
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.trace import Body, ToolCall, Trace
from orchestrator_svc.graph.types import NodeState, Stage
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish import spill
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.bodies import (
    MAX_BODY_BYTES,
    MAX_EXCERPT_CHARS,
    MAX_LARGE_PUTS,
    MAX_RESULT_INLINE,
    MAX_SMALL_PUTS,
    MAX_STAGE_INLINE,
    Bodies,
)
from orchestrator_svc.publish.convert import read_payload, to_message
from orchestrator_svc.publish.spill import SpillBuffer
from orchestrator_svc.publish.spool import Slip, Spool
from orchestrator_svc.publish.stages import stage_message
from orchestrator_svc.publish.state_store import StateServiceStore
from ramify.v1 import mutation_pb2, payload_pb2
from ramify.v1 import state_service_pb2 as pb
from tests.unit.orchestrator_svc.driven import done, draft, planned

BIG = "é" * 5_000


class FakeStub:
    """A payload store in a dictionary; the first puts fail if told so."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.puts = 0
        self.failures: list[tuple[grpc.StatusCode, str]] = []

    def PutPayload(
        self, requests: AsyncIterator[pb.PutPayloadRequest], timeout: float
    ) -> Awaitable[pb.PutPayloadResponse]:
        return self._put(requests)

    async def _put(self, requests: AsyncIterator[pb.PutPayloadRequest]) -> pb.PutPayloadResponse:
        messages = [message async for message in requests]
        self.puts += 1
        if self.failures:
            code, details = self.failures.pop()
            raise grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details
            )
        data = b"".join(message.data for message in messages)
        digest = f"sha256:{sha256(data).hexdigest()}"
        assert messages[0].digest == digest
        self.stored[digest] = data
        return pb.PutPayloadResponse(payload=payload_pb2.PayloadRef(digest=digest))

    async def GetPayload(
        self, request: pb.GetPayloadRequest, timeout: float
    ) -> AsyncIterator[pb.GetPayloadResponse]:
        data = self.stored[request.digest]
        yield pb.GetPayloadResponse(data=data[:10])
        yield pb.GetPayloadResponse(data=data[10:])


@pytest.fixture
def stub() -> FakeStub:
    return FakeStub()


@pytest.fixture
def store(stub: FakeStub) -> Bodies:
    return Bodies(stub, SpillBuffer(None, Metrics()))  # type: ignore[arg-type]


async def move_out(bodies: Bodies, *messages: mutation_pb2.Mutation) -> None:
    """Put what is large in some mutations into the payload store, as an `offer` does."""
    await bodies.put("p", bodies.move_out("p", messages))


class FakeStream:
    """A mutation stream whose connection the test counts."""

    limits = pb.Limits(max_batch_mutations=100, max_batch_bytes=1 << 20)
    connections = 1
    has_room = True

    def __init__(self) -> None:
        self.offered: list[mutation_pb2.Mutation] = []
        self.buffer = SpillBuffer(None, Metrics())

    async def offer(
        self, project_id: str, batch: list[bytes], *, lease_epoch: int
    ) -> asyncio.Future[int]:
        self.offered += map(mutation_pb2.Mutation.FromString, batch)
        return asyncio.get_running_loop().create_future()


def _patch(**result: Any) -> mutation_pb2.Mutation:
    return to_message(PatchNode("n", NodeChanges(result=Result(**result))))


def _trace(**fields: Any) -> Trace:
    return Trace(
        attempt=1, agent_name="a", started=1.5, seconds=0.25, **{"input": Body(text="i"), **fields}
    )


def _stage(**fields: Any) -> mutation_pb2.Mutation:
    return stage_message(AddStage("s", "n", Stage.EXECUTE, _trace(**fields)))


async def test_what_was_put_counts_for_one_connection_since_the_next_may_be_to_a_restored_store(
    stub: FakeStub,
) -> None:
    stream = FakeStream()
    store = StateServiceStore(stub, stream, Metrics())  # type: ignore[arg-type]
    large = [[PatchNode("n", NodeChanges(result=Result(text=BIG)))]]
    for _ in range(2):
        await store.offer("p", 1, large)
    assert stub.puts == 1
    stream.connections += 1
    await store.offer("p", 1, large)
    assert stub.puts == 2


async def test_a_batch_keeps_its_order_when_something_large_leaves_it(stub: FakeStub) -> None:
    stream = FakeStream()
    store = StateServiceStore(stub, stream, Metrics())  # type: ignore[arg-type]
    whole = Result(text="x" * MAX_RESULT_INLINE)
    wide = Result(text="é" * (MAX_RESULT_INLINE // 2 + 1))
    stages = [Body(text="y" * size) for size in (MAX_STAGE_INLINE, MAX_STAGE_INLINE + 1)]
    mutations: list[Mutation] = [
        PatchNode("small", NodeChanges(result=whole)),
        PatchNode("large", NodeChanges(result=wide)),
        PatchNode("ready", NodeChanges(state=NodeState.READY)),
        *(AddStage(f"s{i}", "n", Stage.EXECUTE, _trace(input=b)) for i, b in enumerate(stages)),
        AddStage("tool", "n", Stage.EXECUTE, _trace(tool_calls=(ToolCall(tool_name="t"),))),
    ]
    await store.offer("p", 1, [mutations[:3], mutations[3:]])
    small, large, ready, inline, moved, tool = stream.offered
    assert [m.node.node_id for m in (small, large, ready)] == ["small", "large", "ready"]
    assert small.node.patch.result.text == whole.text
    assert large.node.patch.result.ref.digest in stub.stored
    assert inline.stage.create.input.text == stages[0].text
    assert moved.stage.create.input.ref.digest in stub.stored
    assert [m.stage.stage_id for m in (inline, moved, tool)] == ["s0", "s1", "tool"]
    assert stub.puts == 2


async def test_only_what_is_large_leaves_the_batch(store: Bodies, stub: FakeStub) -> None:
    small, large = _patch(text="x" * MAX_RESULT_INLINE), _patch(text=BIG)
    stage = _stage(
        output=Body(text=BIG),
        prompt=Body(text="y" * (MAX_STAGE_INLINE + 1)),
        response=Body(text="z" * (MAX_STAGE_INLINE - 100)),
        tool_calls=(ToolCall(tool_name="t", result=Body(data=b"\0" * 2_000)),),
    )
    await move_out(store, small, large, stage)
    assert len(small.node.patch.result.text) == MAX_RESULT_INLINE
    record = stage.stage.create
    assert large.node.patch.result.ref == record.output.ref
    assert record.prompt.HasField("ref")
    assert record.response.HasField("text")
    assert (record.prompt.ref.is_text, record.tool_calls[0].result.ref.is_text) == (True, False)
    assert stub.puts == len(stub.stored) == 3, "the result and the output are one body"


async def test_a_body_that_the_store_never_takes_is_named_by_its_size(
    store: Bodies, stub: FakeStub
) -> None:
    stage = _stage(prompt=Body(text="x" * (MAX_BODY_BYTES + 1)))
    await move_out(store, stage)
    assert stage.stage.create.prompt.text == "(16777217 bytes, which no payload may have)"
    assert not stub.puts


async def test_what_was_put_lately_is_not_put_again(store: Bodies, stub: FakeStub) -> None:
    for _ in range(3):
        await move_out(store, _patch(text=BIG))
    assert stub.puts == 1


@pytest.mark.parametrize(
    "failure",
    [
        (grpc.StatusCode.UNAVAILABLE, "nobody listens"),
        # What gRPC makes of a call that the server ends while it is written to.
        (grpc.StatusCode.INTERNAL, "Internal error from Core"),
    ],
)
async def test_a_store_that_is_away_is_waited_for(
    store: Bodies,
    stub: FakeStub,
    failure: tuple[grpc.StatusCode, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "next_delay", lambda _: 0.0)
    stub.failures = [failure] * 3
    message = _patch(data=b"\0" * 9_000)
    await move_out(store, message)
    assert message.node.patch.result.HasField("ref")
    assert stub.puts == 4


@pytest.mark.parametrize(
    "result", [Result(text=BIG, summary="s"), Result("image/png", data=b"\x89" * 9_000)]
)
async def test_a_result_comes_back_as_it_was(store: Bodies, result: Result) -> None:
    message = to_message(PatchNode("n", NodeChanges(result=result)))
    await move_out(store, message)
    stored = read_payload(message.node.patch.result, result.summary)
    assert (stored.text, stored.data) == ("", b"")
    assert await store.fetch("p", stored) == result
    again = to_message(PatchNode("n", NodeChanges(result=stored))).node.patch.result
    assert again == message.node.patch.result, "it can be written again without its body"


def test_an_agent_gets_the_fetched_body_of_a_result_that_is_not_held() -> None:
    driven = planned(draft(), draft("after", 0))
    driven.answer("root.1.0", done("short"))
    call = Call("root.1.1", 1, 1, Stage.EXECUTE, "a", 1.0)
    run = driven.run
    assert missing_results(run, call) == []
    run.nodes["root.1.0"].result = Result(digest="sha256:1", summary="s")
    assert run.nodes["root.1.0"].state is NodeState.DONE
    assert missing_results(run, call) == ["root.1.0"]
    fetched = {"root.1.0": Result(text=BIG, summary="s")}
    task = agent_input(run, call, project_id="p", options={}, fetched=fetched)
    assert task.dependencies[0].output is not None
    assert task.dependencies[0].output.text == BIG


def test_a_record_has_one_clock_and_the_numbers_of_the_agent() -> None:
    record = _stage(tool_calls=(ToolCall(tool_name="t", seconds=0.5, error="no"),)).stage.create
    assert record.end_time.ToNanoseconds() - record.start_time.ToNanoseconds() == 250_000_000
    assert record.duration.ToNanoseconds() == 250_000_000
    assert (record.tool_calls[0].error, record.tool_calls[0].duration.nanos) == ("no", 500_000_000)
    assert not record.HasField("output")
    assert record.usage.agent_calls == 1


def _ended(number: int, text: str, **trace: Any) -> CallEnded:
    produced = Produced(Result(text=text))
    return CallEnded(f"n{number}", 1, produced, trace=_trace(output=Body(text=text), **trace))


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    """A spool that is used when 20 000 bytes are in memory."""
    monkeypatch.setattr(spill, "SPOOL_ABOVE_BYTES", 20_000)
    made = Spool(tmp_path, 7, 1 << 20)
    yield made
    made.close()


async def test_results_of_calls_that_end_while_the_store_is_away_wait_in_the_spool(
    stub: FakeStub, spool: Spool
) -> None:
    stream = FakeStream()
    stream.buffer = SpillBuffer(spool, Metrics())
    store = StateServiceStore(stub, stream, Metrics())  # type: ignore[arg-type]
    texts = [f"{number} ".ljust(9_000, ".") for number in range(50)]
    ends = [store.without_large("p", _ended(number, text)) for number, text in enumerate(texts)]
    assert stream.buffer.memory_bytes <= 20_000
    assert spool.held_bytes == 48 * 9_000, "each once, though a result and an output"
    for end, text in zip(ends, texts, strict=True):
        assert isinstance(end.outcome, Produced)
        result = end.outcome.result
        assert (result.text, result.excerpt) == ("", text[:MAX_EXCERPT_CHARS])
        assert end.trace is not None
        assert end.trace.output == Body(digest=result.digest)
        group: list[Mutation] = [
            AddStage(f"{end.node_id}.s1", end.node_id, Stage.EXECUTE, end.trace),
            PatchNode(end.node_id, NodeChanges(result=result)),
        ]
        assert not store.is_ready([group])
        await store.offer("p", 1, [group])
        stage, patch = stream.offered[-2:]
        assert stage.stage.create.output.ref == patch.node.patch.result.ref
        assert stub.stored[patch.node.patch.result.ref.digest] == text.encode()
    assert stub.puts == 50
    assert (stream.buffer.memory_bytes, spool.held_bytes) == (0, 0)


async def test_what_waits_of_a_project_is_let_go_when_nobody_writes_to_it_any_more(
    stub: FakeStub, spool: Spool
) -> None:
    buffer = SpillBuffer(spool, Metrics())
    bodies = Bodies(stub, buffer)  # type: ignore[arg-type]
    for number in range(5):
        bodies.without_large("p", _ended(number, f"{number}".ljust(9_000)))
    kept = bodies.without_large("q", _ended(9, "of another".ljust(9_000)))
    bodies.drop("p")
    assert buffer.memory_bytes + spool.held_bytes >= 9_000, "that of the other project"
    assert isinstance(kept.outcome, Produced)
    await bodies.put("q", {kept.outcome.result.digest})
    bodies.drop("q")
    assert (buffer.memory_bytes, spool.held_bytes) == (0, 0)


async def test_a_damaged_body_in_the_spool_is_never_put(stub: FakeStub, spool: Spool) -> None:
    bodies = Bodies(stub, SpillBuffer(spool, Metrics()))  # type: ignore[arg-type]
    digests = [bodies.keep("p", bytes([number]) * 9_000) for number in range(3)]
    await bodies.put("p", set(digests[:2]))
    spool.read = spool_is_damaged  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        await bodies.put("p", {digests[2]})
    assert [type(error) for error in leaves(caught.value)] == [CorruptRecord]
    assert len(stub.stored) == 2


def spool_is_damaged(slip: Slip) -> bytes:
    """Read a record as `Spool.read` does when a bit has flipped."""
    raise CorruptRecord(file="spool", offset=slip.offset)


@pytest.mark.parametrize("size, limit", [(70_000, MAX_LARGE_PUTS), (5_000, MAX_SMALL_PUTS)])
async def test_a_few_large_bodies_are_in_memory_at_one_time_while_they_are_put(
    stub: FakeStub, spool: Spool, size: int, limit: int
) -> None:
    bodies = Bodies(stub, SpillBuffer(spool, Metrics()))  # type: ignore[arg-type]
    open_puts, most = 0, 0
    put = stub._put

    async def counted(requests: AsyncIterator[pb.PutPayloadRequest]) -> pb.PutPayloadResponse:
        nonlocal open_puts, most
        open_puts += 1
        most = max(most, open_puts)
        try:
            await asyncio.sleep(0)
            return await put(requests)
        finally:
            open_puts -= 1

    stub._put = counted  # type: ignore[method-assign]
    digests = {bodies.keep("p", bytes([number]) * size) for number in range(3 * limit)}
    await bodies.put("p", digests)
    assert most == limit
    assert set(stub.stored) == digests


def test_what_is_small_is_left_as_it_is(store: Bodies) -> None:
    ended = _ended(1, "x" * MAX_RESULT_INLINE, prompt=Body(text="y" * MAX_STAGE_INLINE))
    assert store.without_large("p", ended) == ended


def test_every_large_body_of_a_call_is_kept_and_named(store: Bodies) -> None:
    big = "z" * (MAX_STAGE_INLINE + 1)
    call = ToolCall(tool_name="t", arguments=Body(text=big), result=Body(data=b"0" * 2_000))
    text = Body(text=big)
    ended = _ended(1, "short", input=text, prompt=text, response=text, tool_calls=(call,))
    trace = store.without_large("p", ended).trace
    assert trace is not None
    short = trace.tool_calls[0]
    assert trace.input == trace.prompt == trace.response == short.arguments
    assert trace.input.digest
    assert short.result is not None
    assert short.result.digest
    assert (trace.input.is_text, short.result.is_text) == (True, False)
    record = stage_message(AddStage("s", "n", Stage.EXECUTE, trace))
    assert store.move_out("p", [record]) == {trace.input.digest, short.result.digest}


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_sibling_looks_the_same_whether_its_result_is_held_or_not(
    store: Bodies, letter: str
) -> None:
    driven = planned(draft(), draft())
    driven.answer("root.1.0", done(letter * 9_000))
    run, call = driven.run, Call("root.1.1", 1, 1, Stage.EXECUTE, "a", 1.0)
    node = run.nodes["root.1.0"]
    assert node.result is not None
    ended = CallEnded(node.node_id, 1, Produced(replace(node.result, summary="")))
    outcome = store.without_large("p", ended).outcome
    assert isinstance(outcome, Produced)
    run.nodes["root.1.0"].result = replace(node.result, summary="")
    held = agent_input(run, call, project_id="p", options={}).siblings
    run.nodes["root.1.0"].result = outcome.result
    assert agent_input(run, call, project_id="p", options={}).siblings == held
    assert held[0].output is not None
    assert held[0].output.summary
