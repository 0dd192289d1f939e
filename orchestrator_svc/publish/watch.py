"""Reads projects through WatchProject: whole at one revision, then their orders as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
from google.protobuf.json_format import MessageToDict

from orchestrator_svc.aside import aside
from orchestrator_svc.errors import (
    ProjectNotFound,
    ProjectReplaced,
    RamifyError,
    ReviewNotFound,
    RevisionAhead,
    RevisionCompacted,
    StoreUnavailable,
)
from orchestrator_svc.graph.event import CommandGiven, ReviewClosed
from orchestrator_svc.graph.node import Json, Node
from orchestrator_svc.graph.review import Review
from orchestrator_svc.graph.types import TERMINAL_NODE_STATES
from orchestrator_svc.logs import get_logger
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.convert import read_node, read_time
from orchestrator_svc.publish.enums import read_command_type, read_project_state
from orchestrator_svc.publish.errors_in import TRANSIENT, from_rpc
from orchestrator_svc.publish.records import LoadedProject, Sighting
from orchestrator_svc.publish.review import read_answer, read_review
from orchestrator_svc.publish.value import read_fields
from orchestrator_svc.settings import read_stored
from ramify.v1 import command_pb2, mutation_pb2, project_pb2, review_pb2
from ramify.v1 import state_service_pb2 as pb

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

PLAN_OPTION = "plan"  #: where `agents/plan` finds the plan
LOAD_TIMEOUT = 60.0  #: seconds for the whole snapshot
_NODES_AT_ONCE = 500  #: read before others have their turn
_PLAN_BYTES_OF_A_NODE = 50  #: take as long to read as one of the nodes that `aside` counts

_KINDS_LOADED = [
    pb.EntityKind.ENTITY_KIND_NODE,
    pb.EntityKind.ENTITY_KIND_PROJECT,
    pb.EntityKind.ENTITY_KIND_COMMAND,
    pb.EntityKind.ENTITY_KIND_REVIEW,
]
_KINDS_FOLLOWED = [
    pb.EntityKind.ENTITY_KIND_PROJECT,
    pb.EntityKind.ENTITY_KIND_COMMAND,
    pb.EntityKind.ENTITY_KIND_REVIEW,
]

#: The watch cannot go on where it was; the project has to be loaded again.
_FATAL = (ProjectNotFound, ProjectReplaced, RevisionAhead, RevisionCompacted)

_log = get_logger(__name__)


async def load_project(stub: StateServiceAsyncStub, project_id: str) -> LoadedProject:
    """Return a project with all its nodes, open orders and needed reviews at one revision."""
    request = pb.WatchProjectRequest(
        project_id=project_id,
        snapshot=True,
        filter=pb.WatchFilter(kinds=_KINDS_LOADED),
        mode=pb.WatchMode.WATCH_MODE_DIFF,
    )
    call = stub.WatchProject(request, timeout=LOAD_TIMEOUT)
    project = project_pb2.Project()
    project_uid = ""
    nodes: list[Node] = []
    commands: list[CommandGiven] = []
    reviews: list[Review] = []
    try:
        async for message in call:
            if message.HasField("created"):
                project_uid = message.created.project_uid
            elif message.HasField("snapshot"):
                chunk = message.snapshot
                if chunk.HasField("project"):
                    project.CopyFrom(chunk.project)
                for place, node in enumerate(chunk.nodes, 1):
                    nodes.append(read_node(node))
                    if place % _NODES_AT_ONCE == 0:
                        await asyncio.sleep(0)  # others are not kept waiting by a large project
                commands += (
                    _command(command)
                    for command in chunk.commands
                    if command.state == command_pb2.CommandState.COMMAND_STATE_OPEN
                )
                reviews += (read_review(review) for review in chunk.reviews)
                if chunk.last:
                    call.cancel()
                    reviews += await _closed_reviews(stub, project_id, nodes, reviews)
                    options = await _options(project)
                    return _loaded(
                        project, project_uid, chunk.revision, nodes, commands, reviews, options
                    )
            elif message.HasField("ended") or message.HasField("resync"):
                break
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
    finally:
        call.cancel()
    raise StoreUnavailable("the watch ended before the snapshot was complete")


def _loaded(
    project: project_pb2.Project,
    project_uid: str,
    revision: int,
    nodes: list[Node],
    commands: list[CommandGiven],
    reviews: list[Review],
    options: dict[str, Json],
) -> LoadedProject:
    return LoadedProject(
        project_id=project.project_id,
        project_uid=project_uid,
        revision=revision,
        goal=project.goal,
        state=read_project_state(project.state),
        profile=project.profile,
        root_id=project.root_node_id,
        pause_time=read_time(project.pause_time) if project.HasField("pause_time") else None,
        settings=read_stored(project.settings),
        agent_options=options,
        nodes=tuple(nodes),
        open_commands=tuple(commands),
        reviews=tuple(reviews),
    )


async def _options(project: project_pb2.Project) -> dict[str, Json]:
    """Return what the agents of a project get: its options, and its plan if it has one."""
    options = read_fields(project.agent_options)
    if project.HasField("plan"):
        plan = project.plan
        options[PLAN_OPTION] = await aside(
            plan.ByteSize() // _PLAN_BYTES_OF_A_NODE,
            lambda: MessageToDict(plan, preserving_proto_field_name=True),
        )
    return options


async def _closed_reviews(
    stub: StateServiceAsyncStub, project_id: str, nodes: list[Node], known: list[Review]
) -> list[Review]:
    """Return the closed reviews that nodes still need; the snapshot holds open ones only.

    What is closed never changes, so it does not matter that they are read a moment later.
    """
    present = {review.review_id for review in known}
    found = []
    going_on = (node for node in nodes if node.state not in TERMINAL_NODE_STATES)
    needed = (id_ for node in going_on for id_ in (node.review_id, node.allowance.review_id))
    for review_id in needed:
        if not review_id or review_id in present:
            continue
        request = pb.GetReviewRequest(project_id=project_id, review_id=review_id)
        try:
            answer = await stub.GetReview(request, timeout=LOAD_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if isinstance(from_rpc(error), ReviewNotFound):
                continue
            raise
        found.append(read_review(answer.review))
    return found


async def follow_project(
    stub: StateServiceAsyncStub, project_id: str, project_uid: str, after_revision: int
) -> AsyncIterator[Sighting]:
    """Yield what happens to a project after a revision; resumes by itself and never ends.

    Raises `ProjectReplaced` and the like if it cannot be continued there.
    """
    backoff = Backoff()
    position = after_revision
    while True:
        request = pb.WatchProjectRequest(
            project_id=project_id,
            project_uid=project_uid,
            after_revision=position,
            fail_if_compacted=True,
            filter=pb.WatchFilter(kinds=_KINDS_FOLLOWED),
            # Every order once, as it was given, whatever the project's broadcast mode.
            mode=pb.WatchMode.WATCH_MODE_DIFF,
            coalescing=pb.Coalescing.COALESCING_NEVER,
        )
        call = stub.WatchProject(request)
        try:
            async for message in call:
                if message.HasField("resync") or (
                    message.HasField("created") and message.created.project_uid != project_uid
                ):
                    raise ProjectReplaced(project_id=project_id)
                backoff.reset()
                position = message.resume_revision or position
                commands = _given(message.delta) if message.HasField("delta") else ()
                reviews = _closed(message.delta) if message.HasField("delta") else ()
                yield Sighting(message.resume_revision, commands, reviews)
            cause: RamifyError = StoreUnavailable("the watch ended")
        except grpc.aio.AioRpcError as error:
            cause = from_rpc(error)
            if isinstance(cause, _FATAL):
                raise cause from error
        finally:
            call.cancel()
        delay = backoff.next_delay()
        # The state service restarts now and then; that a run gets no orders is worth a warning.
        level = _log.debug if isinstance(cause, TRANSIENT) else _log.warning
        level("watch ended", project_id=project_id, cause=str(cause), retry_in=round(delay, 3))
        await asyncio.sleep(delay)


def _given(delta: mutation_pb2.Delta) -> tuple[CommandGiven, ...]:
    return tuple(
        _command(change.command.command)
        for change in delta.changes
        if change.command.HasField("command")
    )


def _closed(delta: mutation_pb2.Delta) -> tuple[ReviewClosed, ...]:
    is_open = review_pb2.ReviewState.REVIEW_STATE_OPEN
    return tuple(
        ReviewClosed(change.review.review_id, read_answer(change.review.patch))
        for change in delta.changes
        if change.review.patch.state not in (0, is_open)
    )


def _command(command: command_pb2.Command) -> CommandGiven:
    kind = read_command_type(command.type)
    return CommandGiven(command.command_id, kind, command.node_id, command.message)
