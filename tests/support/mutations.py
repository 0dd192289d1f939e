"""Short ways to say mutations and batches."""

from __future__ import annotations

from typing import Any

from ramify.v1.command_pb2 import Command, CommandPatch, CommandState, CommandType
from ramify.v1.mutation_pb2 import (
    CommandMutation,
    Mutation,
    MutationBatch,
    NodeDelete,
    NodeMutation,
    ProjectMutation,
    ReviewMutation,
    StageMutation,
)
from ramify.v1.node_pb2 import Node, NodePatch, NodeState, TaskType
from ramify.v1.project_pb2 import ProjectPatch
from ramify.v1.review_pb2 import Review, ReviewCheckpoint, ReviewPatch, ReviewResolution
from ramify.v1.stage_pb2 import Stage, StageRecord

PENDING = NodeState.NODE_STATE_PENDING
READY = NodeState.NODE_STATE_READY
RUNNING = NodeState.NODE_STATE_RUNNING
DONE = NodeState.NODE_STATE_DONE
FAILED = NodeState.NODE_STATE_FAILED
CANCELLED = NodeState.NODE_STATE_CANCELLED
NEEDS_REPLAN = NodeState.NODE_STATE_NEEDS_REPLAN


def create(node_id: str, parent: str = "", layer: int | None = None, **fields: Any) -> Mutation:
    """Return the creation of a node; the layer is 1 below a parent unless it is given."""
    node = Node(
        goal=fields.pop("goal", f"goal of {node_id}"),
        task_type=fields.pop("task_type", TaskType.TASK_TYPE_SEARCH),
        parent_node_id=parent,
        layer=(1 if parent else 0) if layer is None else layer,
        **fields,
    )
    return Mutation(node=NodeMutation(node_id=node_id, create=node))


def patch(
    node_id: str,
    *,
    expected_version: int | None = None,
    expected_state: NodeState.ValueType = NodeState.NODE_STATE_UNSPECIFIED,
    **fields: Any,
) -> Mutation:
    """Return a change of some fields of a node."""
    return Mutation(
        node=NodeMutation(
            node_id=node_id,
            patch=NodePatch(**fields),
            expected_version=expected_version,
            expected_state=expected_state,
        )
    )


def delete(node_id: str) -> Mutation:
    """Return the removal of a leaf."""
    return Mutation(node=NodeMutation(node_id=node_id, delete=NodeDelete()))


def change_project(**fields: Any) -> Mutation:
    """Return a change of the project itself."""
    return Mutation(project=ProjectMutation(patch=ProjectPatch(**fields)))


def order_outcome(command_id: str) -> Mutation:
    """Return the note that a command was carried out."""
    done = CommandPatch(state=CommandState.COMMAND_STATE_APPLIED)
    return Mutation(command=CommandMutation(command_id=command_id, patch=done))


def order_cancel(command_id: str) -> Mutation:
    """Return the command to end the run."""
    return Mutation(
        command=CommandMutation(
            command_id=command_id,
            create=Command(type=CommandType.COMMAND_TYPE_CANCEL_PROJECT),
        )
    )


def stage(node_id: str, stage_id: str = "s1", **fields: Any) -> Mutation:
    """Return the record of a stage."""
    fields.setdefault("stage", Stage.STAGE_EXECUTE)
    fields.setdefault("attempt", 1)
    record = StageRecord(node_id=node_id, **fields)
    return Mutation(stage=StageMutation(stage_id=stage_id, create=record))


def batch(project_id: str, sequence: int, *mutations: Mutation, **fields: Any) -> MutationBatch:
    """Return a batch of a producer."""
    return MutationBatch(project_id=project_id, sequence=sequence, mutations=mutations, **fields)


def open_review(review_id: str, node_id: str, **fields: Any) -> Mutation:
    """Return the opening of a review; it is about a plan unless a checkpoint is given."""
    fields.setdefault("checkpoint", ReviewCheckpoint.REVIEW_CHECKPOINT_PLAN_GENERATION)
    return Mutation(
        review=ReviewMutation(review_id=review_id, create=Review(node_id=node_id, **fields))
    )


def patch_review(review_id: str, **fields: Any) -> Mutation:
    """Return a change of some fields of a review."""
    return Mutation(review=ReviewMutation(review_id=review_id, patch=ReviewPatch(**fields)))


def resolve(
    review_id: str, decision: int, *, expected_version: int | None = None, **fields: Any
) -> Mutation:
    """Return a decision."""
    resolution = ReviewResolution(decision=decision, **fields)  # type: ignore[arg-type]
    return Mutation(
        review=ReviewMutation(
            review_id=review_id, resolve=resolution, expected_version=expected_version
        )
    )
