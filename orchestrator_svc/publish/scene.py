"""Reads a project to explain it: all nodes at one revision, without what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from orchestrator_svc.errors import StoreUnavailable
from orchestrator_svc.graph.scene import Live, Scene
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.staging import restore_children
from orchestrator_svc.graph.types import NodeState
from orchestrator_svc.publish.convert import read_error, read_node, read_time
from orchestrator_svc.publish.enums import NODE_STATES, read_project_state
from orchestrator_svc.publish.errors_in import from_rpc
from ramify.v1 import explain_pb2, mutation_pb2, node_pb2, project_pb2
from ramify.v1 import state_service_pb2 as pb

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

LOAD_TIMEOUT = 60.0  #: seconds for the whole snapshot
MAX_MOVES = 20  #: of a node that are shown
MAX_HISTORY_PAGES = 10
HISTORY_PAGE_SIZE = 1_000

#: Nothing is explained by these, and most of a large run's bytes are theirs.
_UNREAD = {"goal", "overall_objective", "result", "output_summary", "replan_reason"}
_FIELDS = [name for name in node_pb2.Node.DESCRIPTOR.fields_by_name if name not in _UNREAD]
_RUNNING = NODE_STATES[NodeState.RUNNING]
_KINDS = [pb.EntityKind.ENTITY_KIND_NODE, pb.EntityKind.ENTITY_KIND_PROJECT]


@dataclass(frozen=True, slots=True)
class StoredScene:
    """A project with all its nodes at one revision, as messages."""

    project: project_pb2.Project
    revision: int
    nodes: Sequence[node_pb2.Node] = ()

    def scene(
        self,
        settings: Settings,
        *,
        problem: str,
        live: Live | None,
        no_room: str = "",
        setback: str = "",
    ) -> Scene:
        """Return what there is to explain; of a large project this takes long.

        `settings` are in force for it, `problem` is why it is not executed here, if it is not,
        `no_room` why nothing else is taken up here, if that is so, and `setback` how its last
        execution here ended, if it is tried again.
        """
        project = self.project
        nodes = [read_node(message) for message in self.nodes]
        restore_children(nodes)
        return Scene(
            project_id=project.project_id,
            state=read_project_state(project.state),
            revision=self.revision,
            since=read_time(project.update_time),
            holder=project.lease.holder,
            root_id=project.root_node_id,
            error=read_error(project.error) if project.HasField("error") else None,
            settings=settings,
            nodes={node.node_id: node for node in nodes},
            since_of={message.node_id: _since(message) for message in self.nodes},
            end=read_time(project.end_time) if project.HasField("end_time") else None,
            end_of={
                message.node_id: read_time(message.end_time)
                for message in self.nodes
                if message.HasField("end_time")
            },
            profile_problem=problem,
            no_room=no_room,
            setback=setback,
            live=live,
        )


async def load_scene(stub: StateServiceAsyncStub, project_id: str) -> StoredScene:
    """Return a project with all its nodes at one revision."""
    request = pb.WatchProjectRequest(
        project_id=project_id,
        snapshot=True,
        filter=pb.WatchFilter(kinds=_KINDS, node_fields=_FIELDS),
    )
    call = stub.WatchProject(request, timeout=LOAD_TIMEOUT)
    project = project_pb2.Project()
    nodes: list[node_pb2.Node] = []
    try:
        async for message in call:
            if message.HasField("snapshot"):
                chunk = message.snapshot
                if chunk.HasField("project"):
                    project.CopyFrom(chunk.project)
                nodes += chunk.nodes
                if chunk.last:
                    return StoredScene(project, chunk.revision, nodes)
            elif message.HasField("ended") or message.HasField("resync"):
                break
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
    finally:
        call.cancel()
    raise StoreUnavailable("the watch ended before the snapshot was complete")


def _since(node: node_pb2.Node) -> float:
    """Return since when a node is in its state, at the latest."""
    if node.state == _RUNNING and node.HasField("start_time"):
        return read_time(node.start_time)
    return read_time(node.update_time)


async def load_moves(
    stub: StateServiceAsyncStub, project_id: str, node_id: str
) -> list[explain_pb2.NodeMove]:
    """Return the latest changes of a node's state, oldest first, as far as they are retained."""
    moves: list[explain_pb2.NodeMove] = []
    token = ""
    for _ in range(MAX_HISTORY_PAGES):
        request = pb.ListNodeHistoryRequest(
            project_id=project_id,
            node_id=node_id,
            page_size=HISTORY_PAGE_SIZE,
            page_token=token,
        )
        try:
            response = await stub.ListNodeHistory(request, timeout=LOAD_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        moves += (_move(entry) for entry in response.entries if _is_move(entry.change))
        token = response.next_page_token
        if not token:
            break
    return moves[-MAX_MOVES:]


def _is_move(change: mutation_pb2.NodeChange) -> bool:
    return change.HasField("node") or (change.HasField("patch") and change.patch.HasField("state"))


def _move(entry: pb.NodeHistoryEntry) -> explain_pb2.NodeMove:
    change = entry.change
    created = change.HasField("node")
    return explain_pb2.NodeMove(
        revision=entry.revision.revision,
        commit_time=entry.revision.commit_time,
        from_state=change.previous_state,
        to_state=change.node.state if created else change.patch.state,
        actor=entry.revision.actor,
    )
