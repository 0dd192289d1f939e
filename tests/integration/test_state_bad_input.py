"""Every kind of bad input: a typed refusal, nothing half-applied, the service stays up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from google.protobuf.struct_pb2 import Value

from ramify.v1 import state_service_pb2
from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Mutation, NodeMutation
from ramify.v1.node_pb2 import Node, NodeError, NodePatch, TaskType
from ramify.v1.plan_pb2 import Plan
from ramify.v1.project_pb2 import ExecutionSettings
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    AttachProject,
    CommitBatchRequest,
    CreateProjectRequest,
    FlushProjectRequest,
    GetNodeRequest,
    GetProjectRequest,
    GetStatsRequest,
    HeldLease,
    ListNodeHistoryRequest,
    ListNodesRequest,
    ListProjectsRequest,
    MutationFrame,
    OpenStream,
    ReleaseLeaseRequest,
    RenewLeasesRequest,
    StreamMutationsRequest,
)
from tests.support.mutations import (
    DONE,
    READY,
    RUNNING,
    batch,
    change_project,
    create,
    delete,
    order_cancel,
    patch,
)
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import Wire, connect, read_refusal, refusal

Start = Callable[..., StateProcess]

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MUTATION")
ILLEGAL = (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")
CONFLICT = (grpc.StatusCode.ABORTED, "VERSION_CONFLICT")


def unknown(number: int) -> Any:
    """Return an enum number that the contract does not have; the wire carries it all the same."""
    return number


BAD_MUTATIONS: dict[str, tuple[Mutation, tuple[grpc.StatusCode, str], str]] = {
    "illegal transition": (patch("ready", state=DONE), ILLEGAL, "node.patch.state"),
    "created in a later state": (create("x", state=RUNNING), ILLEGAL, "node.create.state"),
    "again without attempt + 1": (patch("running", state=READY), ILLEGAL, "node.patch.state"),
    "attempt skipped": (patch("ready", attempt=2), INVALID, "node.patch.attempt"),
    "unknown state": (patch("ready", state=unknown(99)), INVALID, "node.patch.state"),
    "unknown task type": (
        create("x", task_type=unknown(99)),
        INVALID,
        "node.create.task_type",
    ),
    "no task type": (
        create("x", task_type=TaskType.TASK_TYPE_UNSPECIFIED),
        INVALID,
        "node.create.task_type",
    ),
    "unknown node type": (patch("ready", node_type=unknown(7)), INVALID, "node.patch.node_type"),
    "unknown error class": (
        patch("ready", error=NodeError(error_class=unknown(77))),
        INVALID,
        "node.patch.error",
    ),
    "unknown project state": (change_project(state=unknown(50)), INVALID, "project.patch.state"),
    "illegal project state": (change_project(state=7), ILLEGAL, "project.patch.state"),
    "missing parent": (create("x", "nobody"), INVALID, "node.create.parent_node_id"),
    "its own parent": (create("x", "x"), INVALID, "node.create.parent_node_id"),
    "wrong layer": (create("x", "ready", 5), INVALID, "node.create.layer"),
    "missing dependency": (create("x", depends_on=["nobody"]), INVALID, "node.create.depends_on"),
    "depends on itself": (create("x", depends_on=["x"]), INVALID, "node.create.depends_on"),
    "dependency twice": (
        create("x", depends_on=["ready", "ready"]),
        INVALID,
        "node.create.depends_on",
    ),
    "exists": (create("ready"), INVALID, "node.node_id"),
    "bad id": (create("not an id"), INVALID, "node.node_id"),
    "id too long": (create("x" * 129), INVALID, "node.node_id"),
    "no id": (create(""), INVALID, "node.node_id"),
    "goal too short": (create("x", goal="hm"), INVALID, "node.create.goal"),
    "goal too long": (create("x", goal="g" * 10_001), INVALID, "node.create.goal"),
    "patched goal too long": (patch("ready", goal="g" * 10_001), INVALID, "node.patch.goal"),
    "summary too long": (
        patch("ready", output_summary="s" * 4_097),
        INVALID,
        "node.patch.output_summary",
    ),
    "payload too large": (
        patch("ready", result={"text": "x" * (1 << 20)}),
        INVALID,
        "node.patch.result",
    ),
    "too many attributes": (
        create("x", aux_data={str(n): Value(bool_value=True) for n in range(65)}),
        INVALID,
        "node.create.aux_data",
    ),
    "attribute without value": (
        create("x", aux_data={"empty": Value()}),
        INVALID,
        "node.create.aux_data",
    ),
    "output-only field": (create("x", version=3), INVALID, "node.create.version"),
    "unknown node": (patch("nobody", goal="a goal"), INVALID, "node.node_id"),
    "no change": (
        Mutation(node=NodeMutation(node_id="ready")),
        INVALID,
        "node.change",
    ),
    "no target": (Mutation(), INVALID, "target"),
    "cleared state": (
        patch("ready", clear_fields=["state"]),
        INVALID,
        "node.patch.clear_fields",
    ),
    "cleared nonsense": (
        patch("ready", clear_fields=["nonsense"]),
        INVALID,
        "node.patch.clear_fields",
    ),
    "delete of a parent": (delete("ready"), INVALID, "node.delete"),
    "version moved": (
        patch("ready", goal="a goal", expected_version=9),
        CONFLICT,
        "node.expected_version",
    ),
    "state moved": (
        patch("ready", goal="a goal", expected_state=DONE),
        CONFLICT,
        "node.expected_state",
    ),
    "command twice": (order_cancel("known"), INVALID, "command.command_id"),
    "two ids": (
        Mutation(node=NodeMutation(node_id="x", create=Node(node_id="y", goal="a goal"))),
        INVALID,
        "node.create.node_id",
    ),
    "stamp from a producer": (
        Mutation(node=NodeMutation(node_id="ready", patch=NodePatch(start_time={"seconds": 1}))),  # type: ignore[arg-type]
        INVALID,
        "node.patch.start_time",
    ),
}


@pytest.fixture
async def project_id(shared_wire: Wire) -> AsyncIterator[str]:
    """A project with some nodes; whatever the test does, nothing may be half-applied to it."""
    wire = shared_wire
    name = (await wire.create_project()).project_id
    await wire.commit(
        name,
        create("ready", state=READY),
        create("running", state=READY),
        patch("running", state=RUNNING, attempt=1),
        create("child", "ready"),
        order_cancel("known"),
    )
    before = await wire.nodes(name)
    yield name
    assert (await wire.project(name)).revision == 2
    assert await wire.nodes(name) == before


@pytest.mark.parametrize("kind", BAD_MUTATIONS)
async def test_a_bad_mutation_is_refused_with_its_field_and_index(
    shared_wire: Wire, project_id: str, kind: str
) -> None:
    """By the unary call and on a stream; the good mutation before it is not applied either."""
    mutation, (code, reason), field = BAD_MUTATIONS[kind]
    mutations = [patch("child", output_summary="half"), mutation]
    request = CommitBatchRequest(project_id=project_id, mutations=mutations)
    shown = await refusal(shared_wire.stub.CommitBatch(request))
    assert (shown.code, shown.reason) == (code, reason)
    assert f"mutations[1].{field}" in shown.fields
    assert not shown.retry
    async with shared_wire.producer() as producer:
        await producer.send(batch(project_id, 1, *mutations))
        error = (await producer.rejected(project_id, 1)).error
        assert error.code == code.value[0]
        assert error.reason == ErrorReason.Value(f"ERROR_REASON_{reason}")
        assert (1, field) in [(v.index, v.field) for v in error.violations]
        assert error.message


async def test_a_cycle_inside_a_batch_is_refused(shared_wire: Wire, project_id: str) -> None:
    mutations = [
        create("outside", depends_on=["ready"]),
        *[create(name, depends_on=[other]) for name, other in ("ab", "bc", "ca")],
    ]
    request = CommitBatchRequest(project_id=project_id, mutations=mutations)
    shown = await refusal(shared_wire.stub.CommitBatch(request))
    assert (shown.code, shown.reason) == INVALID
    assert shown.fields == [f"mutations[{n}].node.create.depends_on" for n in (1, 2, 3)]


async def test_a_status_names_the_first_violations_and_a_reject_a_hundred(
    shared_wire: Wire, project_id: str
) -> None:
    """A status has to fit into gRPC's 8 KiB of trailers; a reject has not."""
    bad = [create("x", goal="") for _ in range(500)]
    request = CommitBatchRequest(project_id=project_id, mutations=bad)
    shown = await refusal(shared_wire.stub.CommitBatch(request))
    named = len(shown.fields)
    assert 20 < named <= 100
    assert shown.fields == [f"mutations[{n}].node.create.goal" for n in range(named)]
    async with shared_wire.producer() as producer:
        await producer.send(batch(project_id, 1, *bad))
        error = (await producer.rejected(project_id, 1)).error
        assert [violation.index for violation in error.violations] == list(range(100))


BAD_BATCHES: dict[str, dict[str, Any]] = {
    "nothing in it": {"mutations": []},
    "too many mutations": {"mutations": [patch("ready", attempt=0)] * 5_001},
    "too many bytes": {"mutations": [patch("ready", result={"text": "x" * 700_000})] * 5},
    "actor too long": {"mutations": [create("x")], "actor": "a" * 256},
    "traceparent too long": {"mutations": [create("x")], "traceparent": "a" * 65},
}


@pytest.mark.parametrize("kind", BAD_BATCHES)
async def test_a_bad_batch_is_refused(shared_wire: Wire, project_id: str, kind: str) -> None:
    request = CommitBatchRequest(project_id=project_id, **BAD_BATCHES[kind])
    shown = await refusal(shared_wire.stub.CommitBatch(request))
    assert (shown.code, shown.reason) == INVALID
    async with shared_wire.producer() as producer:
        await producer.send(
            batch(
                project_id,
                1,
                *request.mutations,
                actor=request.actor,
                traceparent=request.traceparent,
            )
        )
        error = (await producer.rejected(project_id, 1)).error
        assert error.reason == ErrorReason.ERROR_REASON_INVALID_MUTATION


async def test_the_largest_batch_is_accepted(shared_wire: Wire) -> None:
    wire = shared_wire
    name = (await wire.create_project()).project_id
    assert await wire.commit(name, *[create(f"n{n}") for n in range(5_000)]) == 2
    assert (await wire.project(name)).node_counts["PENDING"] == 5_000


BAD_REQUESTS: dict[str, tuple[str, Any, str]] = {
    "no goal": ("CreateProject", CreateProjectRequest(), "goal"),
    "goal too short": ("CreateProject", CreateProjectRequest(goal="hm"), "goal"),
    "goal too long": ("CreateProject", CreateProjectRequest(goal="g" * 10_001), "goal"),
    "bad project id": (
        "CreateProject",
        CreateProjectRequest(project_id="a b", goal="a goal"),
        "project_id",
    ),
    "two slashes": (
        "CreateProject",
        CreateProjectRequest(project_id="a/b/c", goal="a goal"),
        "project_id",
    ),
    "plan too large": (
        "CreateProject",
        CreateProjectRequest(goal="a goal", plan=Plan(goal="g" * (1 << 20))),
        "plan",
    ),
    "settings out of range": (
        "CreateProject",
        CreateProjectRequest(goal="a goal", settings=ExecutionSettings(max_recursion_depth=21)),
        "settings",
    ),
    "not a number": (
        "CreateProject",
        CreateProjectRequest(
            goal="a goal", settings=ExecutionSettings(retry_delay_seconds=float("nan"))
        ),
        "settings",
    ),
    "too many labels": (
        "CreateProject",
        CreateProjectRequest(goal="a goal", labels={str(n): "" for n in range(65)}),
        "labels",
    ),
    "request id too long": (
        "CreateProject",
        CreateProjectRequest(goal="a goal", request_id="r" * 129),
        "request_id",
    ),
    "page too large": ("ListProjects", ListProjectsRequest(page_size=1_001), "page_size"),
    "foreign page token": ("ListProjects", ListProjectsRequest(page_token="?"), "page_token"),
    "unknown project state": ("ListProjects", ListProjectsRequest(states=[unknown(99)]), "states"),
    "nodes page too large": (
        "ListNodes",
        ListNodesRequest(project_id="{}", page_size=2_000),
        "page_size",
    ),
    "nodes foreign token": (
        "ListNodes",
        ListNodesRequest(project_id="{}", page_token="1.2.3"),
        "page_token",
    ),
    "unknown node state": (
        "ListNodes",
        ListNodesRequest(project_id="{}", states=[unknown(99)]),
        "states",
    ),
    "history foreign token": (
        "ListNodeHistory",
        ListNodeHistoryRequest(project_id="{}", node_id="ready", page_token="x"),
        "page_token",
    ),
    "too many renewals": (
        "RenewLeases",
        RenewLeasesRequest(holder="h", leases=[HeldLease(project_id="p")] * 10_001),
        "leases",
    ),
    "no holder": ("AcquireLease", AcquireLeaseRequest(project_id="{}"), "holder"),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
async def test_a_bad_request_is_refused_with_its_field(
    shared_wire: Wire, project_id: str, kind: str
) -> None:
    method, template, field = BAD_REQUESTS[kind]
    request = type(template)()
    request.CopyFrom(template)
    if getattr(request, "project_id", "") == "{}":
        request.project_id = project_id
    shown = await refusal(getattr(shared_wire.stub, method)(request))
    assert (shown.code, shown.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert shown.fields == [field]


UNKNOWN_PROJECT: dict[str, Any] = {
    "GetProject": GetProjectRequest(project_id="nobody"),
    "FlushProject": FlushProjectRequest(project_id="nobody"),
    "GetNode": GetNodeRequest(project_id="nobody", node_id="n"),
    "ListNodes": ListNodesRequest(project_id="nobody"),
    "ListNodeHistory": ListNodeHistoryRequest(project_id="nobody", node_id="n"),
    "CommitBatch": CommitBatchRequest(project_id="nobody", mutations=[create("a")]),
    "AcquireLease": AcquireLeaseRequest(project_id="nobody", holder="h"),
    "ReleaseLease": ReleaseLeaseRequest(project_id="nobody", holder="h"),
    "GetStats": GetStatsRequest(project_id="nobody"),
}


@pytest.mark.parametrize("method", UNKNOWN_PROJECT)
async def test_an_unknown_project_is_not_found(shared_wire: Wire, method: str) -> None:
    shown = await refusal(getattr(shared_wire.stub, method)(UNKNOWN_PROJECT[method]))
    assert (shown.code, shown.reason) == (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")
    assert shown.metadata == {"project_id": "nobody"}


async def test_an_unknown_node_is_not_found(shared_wire: Wire, project_id: str) -> None:
    calls: list[Awaitable[Any]] = [
        shared_wire.stub.GetNode(GetNodeRequest(project_id=project_id, node_id="nobody")),
        shared_wire.stub.ListNodeHistory(
            ListNodeHistoryRequest(project_id=project_id, node_id="nobody")
        ),
    ]
    for call in calls:
        shown = await refusal(call)
        assert (shown.code, shown.reason) == (grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND")


BAD_STREAMS: dict[str, tuple[list[StreamMutationsRequest], str]] = {
    "no open": ([StreamMutationsRequest(attach=AttachProject(project_id="p"))], "message"),
    "empty": ([StreamMutationsRequest()], "message"),
    "open twice": ([StreamMutationsRequest(open=OpenStream())] * 2, "message"),
    "bad producer id": (
        [StreamMutationsRequest(open=OpenStream(producer_id="a b", epoch=1))],
        "open.producer_id",
    ),
    "too many batches": (
        [
            StreamMutationsRequest(open=OpenStream()),
            StreamMutationsRequest(frame=MutationFrame(batches=[batch("p", 1)] * 1_001)),
        ],
        "frame",
    ),
    "no producer id": ([StreamMutationsRequest(open=OpenStream(epoch=1))], "open.producer_id"),
}


@pytest.mark.parametrize("kind", BAD_STREAMS)
async def test_a_bad_stream_is_ended_with_its_field(shared_wire: Wire, kind: str) -> None:
    requests, field = BAD_STREAMS[kind]
    call = shared_wire.stub.StreamMutations()
    for request in requests:
        await call.write(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - answers before it are read
        while await call.read() is not grpc.aio.EOF:
            pass
    shown = read_refusal(caught.value)
    assert (shown.code, shown.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert shown.fields == [field]


async def test_an_oversize_frame_is_refused_and_the_stream_lives_on(
    shared_wire: Wire, project_id: str
) -> None:
    large = [
        batch(project_id, n + 1, patch("ready", result={"text": "x" * 900_000})) for n in range(5)
    ]
    async with shared_wire.producer() as producer:
        await producer.send(*large)
        await producer.until(lambda: len(producer.rejects) == len(large))
        reasons = {reject.error.reason for reject in producer.rejects}
        assert reasons == {ErrorReason.ERROR_REASON_INVALID_REQUEST}
        await producer.attach(project_id)


async def test_a_message_beyond_all_bounds_ends_its_call_and_nothing_else(
    shared_wire: Wire, project_id: str
) -> None:
    """gRPC itself refuses what it must not even read; the service lives."""
    text = {"text": "x" * (5 << 20)}
    request = CommitBatchRequest(project_id=project_id, mutations=[patch("ready", result=text)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared_wire.stub.CommitBatch(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_other_than_a_frame_has_a_greatest_size(shared_wire: Wire) -> None:
    filler = GetProjectRequest(project_id="x" * (4 << 20)).SerializeToString()
    for method in state_service_pb2.DESCRIPTOR.services_by_name["StateService"].methods:
        path = f"/ramify.v1.StateService/{method.name}"
        channel = shared_wire.channel
        if method.name == "StreamMutations":
            continue
        if method.client_streaming:
            call: Any = channel.stream_unary(path, bytes, bytes)(iter([filler]))
        elif method.server_streaming:
            call = channel.unary_stream(path, bytes, bytes)(filler).read()
        else:
            call = channel.unary_unary(path, bytes, bytes)(filler)
        shown = await refusal(call)
        assert (method.name, shown.reason) == (method.name, "INVALID_REQUEST")
        assert "at most 4194304 are allowed" in shown.message


async def test_bytes_that_are_no_message_are_refused(shared_wire: Wire, project_id: str) -> None:
    def unary(name: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        return shared_wire.channel.unary_unary(f"/ramify.v1.StateService/{name}", bytes, bytes)

    for name in ("GetProject", "CommitBatch", "WatchProject", "StreamMutations"):
        shown = await refusal(unary(name)(b"\xff\xff\xff\xff"))
        assert (shown.code, shown.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary("Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Before it serves


def assert_one_line(process: Any, *words: str) -> None:
    """Check that a service ended with one line for its operator."""
    assert process.returncode not in (0, -9)
    assert process.stdout == ""
    lines = [line for line in process.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("state_svc: ")
    assert "Traceback" not in process.stderr
    for word in words:
        assert word in lines[0], lines[0]


async def test_a_port_in_use_is_one_line_and_an_exit_code(
    shared_state: StateProcess, tmp_path: Path
) -> None:
    process = await asyncio.to_thread(
        run_to_end, "--data", str(tmp_path / "d"), "--listen", shared_state.address
    )
    assert_one_line(process, shared_state.address, "--listen")
    metrics = await asyncio.to_thread(
        run_to_end,
        *("--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0"),
        *("--metrics-listen", shared_state.address),
    )
    assert_one_line(metrics, shared_state.address)


async def test_a_locked_data_directory_is_one_line_and_an_exit_code(
    shared_state: StateProcess, shared_wire: Wire
) -> None:
    process = await asyncio.to_thread(
        run_to_end, "--data", str(shared_state.data), "--listen", "127.0.0.1:0"
    )
    assert_one_line(process, str(shared_state.data), "--data")
    assert (await shared_wire.create_project()).revision == 1


async def test_data_of_a_newer_version_is_one_line_and_is_not_touched(
    start_state: Start,
) -> None:
    state = start_state()
    assert state.stop() == 0
    file = state.data / "state.sqlite3"
    with apsw.Connection(str(file)) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = file.read_bytes()
    process = await asyncio.to_thread(
        run_to_end, "--data", str(state.data), "--listen", "127.0.0.1:0"
    )
    assert_one_line(process, "99", "upgrade")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is not a database, it is a text", bytes(100_000)])
async def test_a_file_that_is_no_database_is_one_line_and_is_not_touched(
    tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "state.sqlite3").write_bytes(content * 40)
    process = await asyncio.to_thread(run_to_end, "--data", str(folder), "--listen", "127.0.0.1:0")
    assert_one_line(process, "state.sqlite3")
    assert (folder / "state.sqlite3").read_bytes() == content * 40


async def test_a_data_path_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    process = await asyncio.to_thread(
        run_to_end, "--data", str(tmp_path / "file"), "--listen", "127.0.0.1:0"
    )
    assert_one_line(process, "file")


@pytest.mark.parametrize(
    "flags, env, file, key",
    [
        ((), {"STATE_SVC_NO_SUCH_KEY": "1"}, "", "no_such_key"),
        ((), {"STATE_SVC_STATE_BATCH_SIZE": "many"}, "", "state_batch_size"),
        (("--state-batch-size", "0"), {}, "", "state_batch_size"),
        ((), {}, "state_svc:\n  state_batch_sice: 3\n", "state_batch_sice"),
        ((), {}, "state_svc: 3\n", "state_svc"),
        ((), {}, "state_svc: [\n", "settings.yaml"),
        (("--config", "no/such/file.yaml"), {}, "", "no/such/file.yaml"),
        (("--log-level", "LOUD"), {}, "", "log_level"),
        (("--metrics-listen", "nowhere"), {}, "", "metrics_listen"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:20].strip(),
)
async def test_a_bad_setting_is_one_line_and_an_exit_code(
    tmp_path: Path, flags: tuple[str, ...], env: dict[str, str], file: str, key: str
) -> None:
    if file:
        (tmp_path / "settings.yaml").write_text(file)
        flags = ("--config", str(tmp_path / "settings.yaml"))
    process = await asyncio.to_thread(
        run_to_end,
        *("--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0", *flags),
        env={**os.environ, **env},
    )
    assert_one_line(process, key)


async def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    process = await asyncio.to_thread(run_to_end, "--data", str(tmp_path), "--no-such-flag", "1")
    assert process.returncode == 2
    assert "--no-such-flag" in process.stderr
    assert "Traceback" not in process.stderr


async def test_after_all_of_it_the_service_is_up(shared_state: StateProcess) -> None:
    async with connect(shared_state.address) as wire:
        assert (await wire.create_project()).revision == 1
    assert "Traceback" not in shared_state.read_log()
