"""Batches and frames that are joined of encoded parts are those that protobuf would make."""

from __future__ import annotations

import pytest

from orchestrator_svc.graph.mutation import (
    AddStage,
    CreateNode,
    Mutation,
    NodeChanges,
    PatchCommand,
    PatchNode,
    PatchProject,
    PatchReview,
)
from orchestrator_svc.graph.node import Failure, Result
from orchestrator_svc.graph.trace import Body, Trace
from orchestrator_svc.graph.types import (
    CommandState,
    ErrorClass,
    NodeState,
    NodeType,
    ProjectState,
    Stage,
    TaskType,
)
from orchestrator_svc.publish.encode import (
    SEQUENCE_BYTES,
    encode,
    encode_batch,
    frame_request,
    to_any_message,
    with_sequence,
)
from ramify.v1.mutation_pb2 import Mutation as Message
from ramify.v1.mutation_pb2 import MutationBatch
from ramify.v1.state_service_pb2 import MutationFrame, StreamMutationsRequest

RUNNING = NodeChanges(
    state=NodeState.RUNNING,
    attempt=2,
    node_type=NodeType.EXECUTE,
    agent_calls=300,
    agent_name="agent " * 40,
)
TRACE = Trace(attempt=1, agent_name="a", started=1.5, seconds=0.25, input=Body(text="x" * 300))

MUTATIONS: list[Mutation] = [
    PatchNode("n", NodeChanges(state=NodeState.READY)),
    PatchNode("n", NodeChanges(state=NodeState.READY)),
    PatchNode("m" * 128, RUNNING),
    PatchNode("n", NodeChanges()),
    PatchNode("n", NodeChanges(state=NodeState.DONE, result=Result(text="é" * 20_000))),
    PatchNode("n", NodeChanges(state=NodeState.FAILED, error=Failure(ErrorClass.LIMIT, "no"))),
    PatchProject(ProjectState.RUNNING),
    PatchCommand("c", CommandState.APPLIED),
    PatchReview("r", None, True, 1, 2.0),
    AddStage("s", "n", Stage.EXECUTE, TRACE),
    CreateNode(
        "n", "goal", "goal", TaskType.THINK, None, 1, "root", ("m",), NodeState.PENDING, {"k": 1}
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_an_encoded_mutation_is_its_message(mutation: Mutation) -> None:
    assert Message.FromString(encode(mutation)) == to_any_message(mutation)


def test_a_batch_and_its_sequence_are_joined_without_decoding_anything() -> None:
    body = encode_batch("p", 7, map(encode, MUTATIONS))
    for sequence in (1, 2**63):
        whole = MutationBatch(
            project_id="p",
            sequence=sequence,
            lease_epoch=7,
            mutations=map(to_any_message, MUTATIONS),
        )
        batch = with_sequence(body, sequence)
        assert MutationBatch.FromString(batch) == whole
        assert len(batch) <= len(body) + SEQUENCE_BYTES
    assert MutationBatch.FromString(encode_batch("p", 0, [])) == MutationBatch(project_id="p")


def test_a_frame_carries_batches_in_order() -> None:
    bodies = [with_sequence(encode_batch("p", 1, []), number) for number in (1, 2)]
    bodies.append(with_sequence(encode_batch("q", 1, map(encode, MUTATIONS)), 3))
    batches = [MutationBatch.FromString(body) for body in bodies]
    assert frame_request(bodies) == StreamMutationsRequest(frame=MutationFrame(batches=batches))
