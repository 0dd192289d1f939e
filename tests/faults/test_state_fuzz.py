"""Hostile input on every method of state_svc: typed errors only, and a service that is well.

A failure names its seed: `-k METHOD` and `Fuzzer(seed, …)` make the same message again.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from ramify.v1 import state_service_pb2
from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Delta, Mutation, NodeMutation
from ramify.v1.node_pb2 import Node, TaskType
from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import (
    CompactProjectRequest,
    ExportProjectRequest,
    GetProjectRequest,
    ImportProjectRequest,
    ListNodeHistoryRequest,
    ListNodesRequest,
    ListReviewsRequest,
    ListStagesRequest,
    OpenStream,
    StreamMutationsRequest,
    StreamMutationsResponse,
    WatchFilter,
)
from state_svc.storage.v1.file_pb2 import FileRecord
from state_svc.storage.v1.segment_pb2 import Segment
from tests.support.bound import WAIT_SECONDS
from tests.support.files import forge
from tests.support.fuzz import Fuzzer, MessageT
from tests.support.hostile import message_class, request_class
from tests.support.mutations import (
    READY,
    RUNNING,
    batch,
    create,
    delete,
    open_review,
    order_cancel,
    order_outcome,
    patch,
    patch_review,
    stage,
)
from tests.support.producer import RawProducer
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, read_refusal

SERVICE = state_service_pb2.DESCRIPTOR.services_by_name["StateService"]
METHODS = [method.name for method in SERVICE.methods]
QUICK, LONG = 8, 300  #: messages for each method
_ANSWERS = 5  #: read of a stream
_WATCH_SECONDS = 0.3  #: a watch that is served does not end by itself
_DEFECTS = {"INTERNAL", "CORRUPT_RECORD"}


def _names(project_id: str) -> dict[str, tuple[str, ...]]:
    """Return values that get a message beyond the first check."""
    nodes = ("root", "leaf", "new-1", "new-2", "new-3")
    return {
        "project_id": (project_id,),
        "node_id": nodes,
        "parent_node_id": ("root", "leaf", ""),
        "depends_on": nodes,
        "goal": ("a goal",),
        "holder": ("me", "other"),
        "pin": ("a", "b"),
        "producer_id": ("",),
    }


async def _populate(wire: Wire, project_id: str) -> None:
    await wire.create_project(project_id)
    await wire.commit(project_id, create("root", state=READY), create("leaf", "root"))
    for n in range(10):
        await wire.commit(project_id, patch("leaf", output_summary=str(n)))


async def _call(wire: Wire, method: MethodDescriptor, data: list[bytes]) -> None:
    """Send bytes to a method; whatever comes back must be an answer or a typed refusal."""
    path = f"/{SERVICE.full_name}/{method.name}"
    parse = message_class(method.output_type.full_name).FromString
    channel = wire.channel
    call: Any
    try:
        if method.client_streaming and method.server_streaming:
            # From an iterator: a write by hand fails in its own way once the service has answered.
            call = channel.stream_stream(path, bytes, parse)(iter(data), timeout=WAIT_SECONDS)
        elif method.client_streaming:
            call = channel.stream_unary(path, bytes, parse)(iter(data), timeout=WAIT_SECONDS)
        elif method.server_streaming:
            seconds = _WATCH_SECONDS if method.name == "WatchProject" else WAIT_SECONDS
            call = channel.unary_stream(path, bytes, parse)(data[0], timeout=seconds)
        else:
            await channel.unary_unary(path, bytes, parse)(data[0], timeout=WAIT_SECONDS)
            return
        if not method.server_streaming:
            await call
            return
        answers = 0
        async for answer in call:
            _check_answer(answer)
            answers += 1
            if answers == _ANSWERS:
                call.cancel()
                return
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and method.name == "WatchProject":
            return  # it was served: nothing more to tell
        shown = read_refusal(error)
        assert shown.reason not in _DEFECTS, shown


def _check_answer(answer: Message) -> None:
    if isinstance(answer, StreamMutationsResponse) and answer.HasField("reject"):
        reason = ErrorReason.Name(answer.reject.error.reason).removeprefix("ERROR_REASON_")
        assert reason not in _DEFECTS, answer


def _spoil(fuzzer: Fuzzer, records: list[FileRecord]) -> None:
    """Put something random into the content of a file, below its checksums."""
    record = fuzzer.random.choice(records)
    kind = record.WhichOneof("record")
    if kind == "segments":
        _spoil_delta(fuzzer, fuzzer.random.choice(record.segments.segments))
    elif kind == "archive":
        _spoil_delta(fuzzer, record.archive)
    elif kind == "snapshot" and fuzzer.random.random() < 0.5:
        item = fuzzer.random.choice(record.snapshot.nodes)
        item.data = _spoiled(fuzzer, Node.FromString(item.data)).SerializeToString()
    elif kind == "snapshot" and fuzzer.random.random() < 0.5:
        entity = _spoiled(fuzzer, Project.FromString(record.snapshot.project))
        record.snapshot.project = entity.SerializeToString()
    else:
        _spoiled(fuzzer, record)


def _spoil_delta(fuzzer: Fuzzer, segment: Segment) -> None:
    delta = Delta.FromString(segment.delta)
    _spoiled(fuzzer, fuzzer.random.choice(delta.changes) if delta.changes else delta)
    segment.delta = delta.SerializeToString()


def _spoiled(fuzzer: Fuzzer, message: MessageT) -> MessageT:
    """Set one field of a message, or of a message in it, to something random."""
    set_fields = [value for field, value in message.ListFields() if isinstance(value, Message)]
    if set_fields and fuzzer.random.random() < 0.7:
        _spoiled(fuzzer, fuzzer.random.choice(set_fields))
        return message
    other = fuzzer.message(type(message))
    names = [field.name for field, _ in other.ListFields()]
    if names:
        name = fuzzer.random.choice(names)
        message.ClearField(name)
        for field in message.DESCRIPTOR.fields:
            if field.name != name:
                other.ClearField(field.name)
        message.MergeFrom(other)
    return message


async def _use(wire: Wire, project_id: str) -> None:
    """Ask of a project that has come in what is asked of projects."""
    stub = wire.stub
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: stub.GetProject(GetProjectRequest(project_id=project_id)),
        lambda: stub.ListNodes(ListNodesRequest(project_id=project_id)),
        lambda: stub.ListStages(ListStagesRequest(project_id=project_id)),
        lambda: stub.ListReviews(ListReviewsRequest(project_id=project_id)),
        lambda: stub.ListNodeHistory(ListNodeHistoryRequest(project_id=project_id, node_id="root")),
        lambda: wire.commit(project_id, create("one-more")),
        lambda: wire.commit(project_id, patch("leaf", waiting_on="it")),
        lambda: stub.CompactProject(CompactProjectRequest(project_id=project_id)),
        lambda: _export(wire, project_id),
        lambda: _watch_subtree(wire, project_id),
    ]
    for call in calls:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            shown = read_refusal(error)
            assert shown.reason not in _DEFECTS, shown


async def _watch_subtree(wire: Wire, project_id: str) -> None:
    subtree = WatchFilter(subtree_root_node_id="root")
    async with wire.watch(project_id, filter=subtree) as watch:
        await watch.until(lambda log: log.resume)


def _requests(fuzzer: Fuzzer, method: MethodDescriptor, exported: bytes) -> list[bytes]:
    """Return what to send: a message, or the messages of a stream."""
    kind = request_class(method)
    if method.name == "StreamMutations":
        messages: list[Message] = [StreamMutationsRequest(open=OpenStream())]
        for _ in range(3):
            message = fuzzer.message(StreamMutationsRequest)
            message.ClearField("open")
            if not message.HasField("attach"):
                message.frame.SetInParent()
            messages.append(message)
    elif method.name == "ImportProject":
        data = exported
        if (chance := fuzzer.random.random()) < 0.7:
            data = forge(exported, functools.partial(_spoil, fuzzer))
        elif chance < 0.9:
            data = fuzzer.damage(exported)
        first = fuzzer.message(ImportProjectRequest)
        assert isinstance(first, ImportProjectRequest)
        first.data = data[:100]
        if fuzzer.random.random() < 0.7:
            first.project_id, first.request_id = f"arrived-{fuzzer.random.randrange(1 << 40)}", ""
        messages = [first, ImportProjectRequest(data=data[100:])]
    else:
        messages = [fuzzer.message(kind) for _ in range(2 if method.client_streaming else 1)]
    encoded = [message.SerializeToString() for message in messages]
    if fuzzer.random.random() < 0.3:
        encoded[-1] = fuzzer.damage(encoded[-1])
    if fuzzer.random.random() < 0.1:
        encoded[-1] = fuzzer.random.randbytes(fuzzer.random.randrange(200))
    return encoded


async def _export(wire: Wire, project_id: str) -> bytes:
    call = wire.stub.ExportProject(ExportProjectRequest(project_id=project_id))
    return b"".join([part.data async for part in call])


async def _exported(wire: Wire, project_id: str) -> bytes:
    """Return a file with some of everything."""
    await wire.commit(project_id, stage("leaf"), open_review("r", "leaf"), order_cancel("o"))
    await wire.stub.CompactProject(CompactProjectRequest(project_id=project_id))
    await wire.commit(project_id, create("gone"), create("new-1", "leaf", 2))
    await wire.commit(project_id, delete("gone"), patch("root", state=RUNNING, attempt=1))
    await wire.commit(project_id, stage("leaf", "s2"), open_review("r2", "leaf"))
    await wire.commit(project_id, order_outcome("o"), patch_review("r", escalation_count=1))
    return await _export(wire, project_id)


async def _fuzz(wire: Wire, name: str, first_seed: int, count: int) -> None:
    method = SERVICE.methods_by_name[name]
    project_id = f"fuzz-{name}-{first_seed}"
    await _populate(wire, project_id)
    exported = await _exported(wire, project_id) if name == "ImportProject" else b""
    used = {project.project_id for project in await wire.projects()}
    for seed in range(first_seed, first_seed + count):
        data = _requests(Fuzzer(seed, _names(project_id)), method, exported)
        try:
            await _call(wire, method, data)
            for arrived in await wire.projects() if exported else ():
                if arrived.project_id != project_id and arrived.project_id not in used:
                    used.add(arrived.project_id)
                    await _use(wire, arrived.project_id)
        except AssertionError as error:
            raise AssertionError(f"{name}, seed {seed}: {error}") from error


@pytest.fixture(scope="module")
def fuzzed(shared_state: StateProcess) -> Iterator[StateProcess]:
    """A service that must be up, small and without a complaint after all of it."""
    before = shared_state.memory()
    yield shared_state
    assert shared_state.running
    assert shared_state.memory() - before < 200 << 20
    assert "unexpected error" not in shared_state.read_log()


@pytest.fixture
async def target(fuzzed: StateProcess) -> AsyncIterator[Wire]:
    """A connection to it."""
    async with connect(fuzzed.address) as wire:
        yield wire


@pytest.mark.parametrize("method", METHODS)
async def test_any_message_gets_an_answer_or_a_typed_error(target: Wire, method: str) -> None:
    await _fuzz(target, method, 0, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", METHODS)
async def test_very_many_messages_get_an_answer_or_a_typed_error(target: Wire, method: str) -> None:
    await _fuzz(target, method, 1_000, LONG)


def _is_answered(producer: RawProducer, rejects: int, key: tuple[str, int]) -> bool:
    return len(producer.rejects) > rejects or key in producer.acks


def _tame(mutation: NodeMutation, node_id: str) -> None:
    """Mend what no random change would get right, so that more than its first check is tried."""
    mutation.ClearField("expected_version")
    mutation.ClearField("expected_state")
    if not mutation.HasField("create"):
        return
    create = mutation.create
    mutation.node_id, create.node_id, create.layer = node_id, "", 1
    create.parent_node_id = "root"
    create.task_type = create.task_type or TaskType.TASK_TYPE_THINK
    output = "version create_time update_time start_time end_time update_revision".split()
    for name in ("state", "depends_on", *output):
        create.ClearField(name)  # type: ignore[arg-type]


async def test_random_changes_leave_a_project_that_replays_to_what_is_shown(
    target: Wire,
) -> None:
    """What was accepted can be watched from the beginning, with the same checksum at the end."""
    project_id = "fuzz-changes"
    await _populate(target, project_id)
    async with target.producer() as producer:
        sequence = 1
        for seed in range(400):
            mutation = Fuzzer(seed, _names(project_id)).message(Mutation)
            assert isinstance(mutation, Mutation)
            if mutation.HasField("node"):
                _tame(mutation.node, f"new-{seed}")
            answered, key = len(producer.rejects), (project_id, sequence)
            await producer.send(batch(project_id, sequence, mutation))
            await producer.until(functools.partial(_is_answered, producer, answered, key))
            sequence += key in producer.acks
    for reject in producer.rejects:
        assert ErrorReason.Name(reject.error.reason)[13:] not in _DEFECTS
    assert sequence > 20, "some of it is right"
    head = await target.flush(project_id)
    async with target.watch(project_id, from_beginning=True, bookmark_interval_ms=100) as watch:
        seen = (await watch.through(head)).bookmarks
        await watch.until(lambda log: log.bookmarks > seen)  # it compares the checksums
