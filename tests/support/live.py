"""Projects in memory for tests of the pure core: built, changed and asked without a service."""

from __future__ import annotations

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project
from state_svc.errors import BatchRejected
from state_svc.model.apply import apply_batch
from state_svc.model.entity import create_project
from state_svc.model.project import NO_ORIGIN, Applied, LiveProject, Origin, View

INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION
ILLEGAL = ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
CONFLICT = ErrorReason.ERROR_REASON_VERSION_CONFLICT

NOW = 1_700_000_000_000_000  #: microseconds since 1970

Refusal = tuple[int, ErrorReason.ValueType, str]


def live_project(*mutations: Mutation, project_id: str = "p") -> LiveProject:
    """Return a project at revision 1, or 2 with a first batch in it."""
    entity = Project(project_id=project_id, project_uid=f"uid-{project_id}", goal="a test")
    project = LiveProject(View(entity=entity))
    settle(project, create_project(entity, micros=NOW, actor="me"))
    if mutations:
        write(project, *mutations)
    return project


def settle(project: LiveProject, *applied: Applied) -> None:
    """Make effects durable."""
    for item in applied:
        project.accept(item)
    for item in applied:
        project.promote(item)


def write(
    project: LiveProject, *mutations: Mutation, micros: int = NOW, origin: Origin = NO_ORIGIN
) -> Applied:
    """Apply a batch and make it durable; return its effects."""
    applied = apply_batch(project, mutations, micros=micros, origin=origin)
    settle(project, applied)
    return applied


def refusals(project: LiveProject, *mutations: Mutation) -> list[Refusal]:
    """Return index, reason and field of every bad mutation of a batch; empty if it is good."""
    try:
        apply_batch(project, mutations, micros=NOW)
    except BatchRejected as rejected:
        return [(v.index, v.reason, v.field) for v in rejected.violations]
    return []


def node(project: LiveProject, node_id: str) -> Node:
    """Return a node as the contract shows it, counting what is pending."""
    live = project.node(node_id)
    assert live is not None, f"there is no {node_id}"
    return live.to_node()
