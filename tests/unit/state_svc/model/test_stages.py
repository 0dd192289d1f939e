"""Stage records and references to payloads in a batch (SEM 12, 28)."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Delta, Mutation, StageMutation
from ramify.v1.node_pb2 import Usage
from ramify.v1.payload_pb2 import Payload, PayloadEncoding, PayloadRef
from ramify.v1.stage_pb2 import StageRecord, ToolCall
from state_svc.errors import BatchRejected
from state_svc.history.replay import Replay
from state_svc.model.apply import apply_batch
from state_svc.model.project import LiveProject
from tests.support.live import INVALID, NOW, live_project, node, refusals, write
from tests.support.mutations import DONE, RUNNING, create, patch, stage

UNKNOWN = ErrorReason.ERROR_REASON_PAYLOAD_NOT_FOUND
DIGEST = "sha256:" + "0a" * 32
OTHER = "sha256:" + "0b" * 32
KNOWN = {
    DIGEST: PayloadRef(
        digest=DIGEST,
        original_bytes=9_000,
        stored_bytes=4_000,
        encoding=PayloadEncoding.PAYLOAD_ENCODING_ZSTD,
    )
}


def _ref(digest: str = DIGEST) -> Payload:
    return Payload(content_type="text/plain", ref=PayloadRef(digest=digest))


def _named(outside: str, inside: str) -> Mutation:
    mutation = stage("leaf", outside)
    mutation.stage.create.stage_id = inside
    return mutation


@pytest.fixture
def project() -> LiveProject:
    return live_project(create("root"), create("leaf", "root"))


def test_a_record_is_a_change_of_its_batch_and_no_part_of_the_view(project: LiveProject) -> None:
    before = dict(project.view.nodes)
    record = stage(
        "leaf",
        model="m",
        input=Payload(text="in"),
        output=Payload(data=b"\0"),
        usage=Usage(input_tokens=7, cost_micro_usd=9),
        start_time=Timestamp(seconds=5),
        duration=Duration(nanos=7),
        tool_calls=[ToolCall(tool_name="t", arguments=Payload(text="{}"), error="no")],
    )
    applied = write(project, record)
    (change,) = applied.changes()
    shown = StageRecord()
    shown.CopyFrom(record.stage.create)
    shown.stage_id = "s1"
    shown.create_time.FromMicroseconds(NOW)
    assert change.stage.stage == shown
    assert (change.revision, change.index, applied.stages) == (3, 0, 1)
    assert project.view.nodes == before
    assert project.view.revision == 3


def test_a_record_shares_the_batch_with_its_outcome_and_a_node_of_the_same_batch(
    project: LiveProject,
) -> None:
    applied = write(
        project,
        create("new", "root"),
        patch("new", state=RUNNING, attempt=1),
        patch("new", state=DONE, result=Payload(text="x")),
        stage("new"),
    )
    kinds = [change.WhichOneof("entity") for change in applied.changes()]
    assert kinds == ["node", "node", "node", "stage"]
    assert len(applied.images) == 4


def test_replay_passes_over_records(project: LiveProject) -> None:
    applied = apply_batch(project, [stage("leaf"), patch("leaf", waiting_on="x")], micros=NOW)
    replay = Replay()
    replay.view = project.view
    replay.add_delta(Delta.FromString(applied.body), applied.revision)
    assert replay.view.revision == 3
    assert replay.view.nodes["leaf"].version == 2


@pytest.mark.parametrize(
    "mutation, field",
    [
        (stage("nobody"), "stage.create.node_id"),
        (stage(""), "stage.create.node_id"),
        (stage("leaf", "not an id"), "stage.stage_id"),
        (stage("leaf", stage=0), "stage.create.stage"),
        (stage("leaf", stage=99), "stage.create.stage"),
        (_named("s1", "s1"), ""),
        (_named("s1", "s2"), "stage.create.stage_id"),
        (stage("leaf", revision=4), "stage.create.revision"),
        (stage("leaf", create_time=Timestamp(seconds=1)), "stage.create.create_time"),
        (stage("leaf", model="m" * 256), "stage.create.model"),
        (stage("leaf", duration=Duration(seconds=-1)), "stage.create.duration"),
        (stage("leaf", duration=Duration(seconds=315_576_000_000)), ""),
        (stage("leaf", duration=Duration(seconds=315_576_000_001)), "stage.create.duration"),
        (stage("leaf", end_time=Timestamp(nanos=-1)), "stage.create.end_time"),
        (stage("leaf", prompt=Payload(text="x" * (1 << 20))), "stage.create.prompt"),
        (stage("leaf", tool_calls=[ToolCall()] * 1_001), "stage.create.tool_calls"),
        (stage("leaf", tool_calls=[ToolCall(error="e" * 5_000)]), "stage.create.tool_calls"),
        (Mutation(stage=StageMutation(stage_id="s1")), "stage.change"),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused(
    project: LiveProject, mutation: Mutation, field: str
) -> None:
    assert refusals(project, mutation) == ([(0, INVALID, field)] if field else [])


# References


def test_a_known_reference_is_filled_in_wherever_it_is(project: LiveProject) -> None:
    mutations = [
        create("new", "root", result=_ref()),
        patch("leaf", result=_ref()),
        stage("leaf", prompt=_ref(), tool_calls=[ToolCall(result=_ref())]),
    ]
    applied = apply_batch(project, mutations, micros=NOW, payloads=KNOWN)
    assert applied.references == {DIGEST}
    created, patched, recorded = applied.changes()
    record = recorded.stage.stage
    for payload in (
        created.node.node.result,
        patched.node.patch.result,
        record.prompt,
        record.tool_calls[0].result,
    ):
        assert payload.ref == KNOWN[DIGEST]


def test_a_batch_without_references_has_none(project: LiveProject) -> None:
    mutations = [patch("leaf", result=Payload(text="x")), stage("leaf", input=Payload(text="y"))]
    assert apply_batch(project, mutations, micros=NOW, payloads=KNOWN).references == frozenset()


def test_the_same_reference_again_is_no_change(project: LiveProject) -> None:
    def applied() -> Any:
        return apply_batch(project, [patch("leaf", result=_ref())], micros=NOW, payloads=KNOWN)

    first = applied()
    project.accept(first)
    project.promote(first)
    assert node(project, "leaf").result.ref == KNOWN[DIGEST]
    again = applied()
    assert again.changes() == []
    assert again.references == {DIGEST}


def test_unknown_references_are_refused_by_field_and_all_are_named(project: LiveProject) -> None:
    mutations = [
        patch("leaf", result=_ref()),
        patch("root", waiting_on="fine"),
        stage("leaf", input=_ref(OTHER), output=_ref()),
        create("new", "root", result=_ref("sha256:zz")),
    ]
    with pytest.raises(BatchRejected) as caught:
        apply_batch(project, mutations, micros=NOW)
    assert [(v.index, v.reason, v.field) for v in caught.value.violations] == [
        (0, UNKNOWN, "node.patch.result.ref.digest"),
        (2, UNKNOWN, "stage.create.input.ref.digest"),
        (3, INVALID, "node.create.result.ref.digest"),
    ]
    assert caught.value.missing == {DIGEST, OTHER}
    assert not project.has_pending
