"""Large bodies leave a batch for the payload store and come back whole (SEM 12, 28)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from hashlib import sha256
from typing import Any

import grpc
import grpc.aio
import pytest

from orchestrator_svc.engine.context import agent_input, missing_results
from orchestrator_svc.graph.event import Call
from orchestrator_svc.graph.mutation import AddStage, Mutation, NodeChanges, PatchNode
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.trace import Body, ToolCall, Trace
from orchestrator_svc.graph.types import NodeState, Stage
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.bodies import (
    MAX_BODY_BYTES,
    MAX_RESULT_INLINE,
    MAX_STAGE_INLINE,
    Bodies,
)
from orchestrator_svc.publish.convert import read_payload, to_message
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
    return Bodies(stub)  # type: ignore[arg-type]


class FakeStream:
    """A mutation stream whose connection the test counts."""

    limits = pb.Limits(max_batch_mutations=100, max_batch_bytes=1 << 20)
    connections = 1

    def __init__(self) -> None:
        self.offered: list[mutation_pb2.Mutation] = []

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
    await store.move_out([small, large, stage])
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
    await store.move_out([stage])
    assert stage.stage.create.prompt.text == "(16777217 bytes, which no payload may have)"
    assert not stub.puts


async def test_what_was_put_lately_is_not_put_again(store: Bodies, stub: FakeStub) -> None:
    for _ in range(3):
        await store.move_out([_patch(text=BIG)])
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
    await store.move_out([message])
    assert message.node.patch.result.HasField("ref")
    assert stub.puts == 4


@pytest.mark.parametrize(
    "result", [Result(text=BIG, summary="s"), Result("image/png", data=b"\x89" * 9_000)]
)
async def test_a_result_comes_back_as_it_was(store: Bodies, result: Result) -> None:
    message = to_message(PatchNode("n", NodeChanges(result=result)))
    await store.move_out([message])
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
