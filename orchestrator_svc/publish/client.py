"""Unary calls to state_svc with deadlines; every failure is a `RamifyError`."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from orchestrator_svc.errors import RevisionCompacted, StoreUnavailable
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES, ProjectState
from orchestrator_svc.publish.enums import PROJECT_STATES, read_project_state
from orchestrator_svc.publish.errors_in import from_rpc
from orchestrator_svc.publish.records import UnfinishedProject
from orchestrator_svc.publish.scene import StoredScene, load_moves, load_scene
from ramify.v1 import command_pb2, explain_pb2, mutation_pb2, node_pb2, project_pb2, review_pb2
from ramify.v1 import state_service_pb2 as pb

if TYPE_CHECKING:  # exists in the stub file only
    from ramify.v1.state_service_pb2_grpc import StateServiceAsyncStub

T = TypeVar("T")

CALL_TIMEOUT = 10.0  #: seconds of one unary call
PAGE_SIZE = 1_000

_UNFINISHED = [PROJECT_STATES[s] for s in ProjectState if s not in TERMINAL_PROJECT_STATES]


async def translated(call: Awaitable[T]) -> T:
    """Await a call; raise its failure as a `RamifyError`."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
    except grpc.aio.UsageError as error:
        raise StoreUnavailable("the connection to the state service is closed") from error


def _reopening(state: ProjectState) -> mutation_pb2.Mutation:
    mutation = mutation_pb2.Mutation()
    mutation.project.expected_state = PROJECT_STATES[state]
    mutation.project.patch.state = PROJECT_STATES[ProjectState.RUNNING]
    mutation.project.patch.clear_fields.append("error")
    return mutation


class StateClient:
    """The unary part of StateService."""

    def __init__(self, stub: StateServiceAsyncStub) -> None:
        self._stub = stub

    async def create_project(self, request: pb.CreateProjectRequest) -> project_pb2.Project:
        """Create a project, or return the one that the same `request_id` created."""
        response = await translated(self._stub.CreateProject(request, timeout=CALL_TIMEOUT))
        return response.project

    async def get_project(self, project_id: str) -> project_pb2.Project:
        """Return a project."""
        request = pb.GetProjectRequest(project_id=project_id)
        response = await translated(self._stub.GetProject(request, timeout=CALL_TIMEOUT))
        return response.project

    async def load_scene(self, project_id: str) -> StoredScene:
        """Return a project as it is stored, to be explained."""
        return await load_scene(self._stub, project_id)

    async def load_moves(self, project_id: str, node_id: str) -> list[explain_pb2.NodeMove]:
        """Return the latest changes of a node's state, oldest first."""
        return await load_moves(self._stub, project_id, node_id)

    async def unfinished(self, *, leased: bool) -> list[UnfinishedProject]:
        """Return the unfinished projects that somebody holds, or those that nobody does."""
        found: list[UnfinishedProject] = []
        token = ""
        while True:
            request = pb.ListProjectsRequest(
                page_size=PAGE_SIZE,
                page_token=token,
                states=_UNFINISHED,
                leased=leased,
            )
            response = await translated(self._stub.ListProjects(request, timeout=CALL_TIMEOUT))
            found += (
                UnfinishedProject(
                    p.project_id,
                    p.lease.holder,
                    p.lease.lease_epoch,
                    p.profile,
                    read_project_state(p.state),
                    p.revision,
                )
                for p in response.projects
            )
            token = response.next_page_token
            if not token:
                return found

    async def has_orders(self, project_id: str) -> bool:
        """Return whether an order to a project is open; reads nothing else of it."""
        request = pb.WatchProjectRequest(
            project_id=project_id,
            snapshot=True,
            filter=pb.WatchFilter(kinds=[pb.EntityKind.ENTITY_KIND_COMMAND]),
        )
        call = self._stub.WatchProject(request, timeout=CALL_TIMEOUT)
        try:
            async for message in call:
                if message.snapshot.commands:
                    return True
                if message.snapshot.last or message.HasField("ended"):
                    break
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        finally:
            call.cancel()
        return False

    async def give_command(
        self,
        project_id: str,
        command: command_pb2.Command,
        *,
        request_id: str,
        reopens: ProjectState | None = None,
    ) -> int:
        """Make an order durable; return its revision (SEM 19).

        `reopens` is the terminal state of a project that runs again with the same revision.

        Raises `ProjectEnded` for a new order to a project that has ended; a request that was
        answered before still gets its first answer.
        """
        mutation = mutation_pb2.Mutation()
        mutation.command.command_id = command.command_id
        mutation.command.create.CopyFrom(command)
        request = pb.CommitBatchRequest(
            project_id=project_id,
            mutations=[mutation] if reopens is None else [_reopening(reopens), mutation],
            request_id=request_id,
            actor=command.actor,
        )
        response = await translated(self._stub.CommitBatch(request, timeout=CALL_TIMEOUT))
        return response.revision

    async def get_node(self, project_id: str, node_id: str) -> node_pb2.Node:
        """Return a node."""
        request = pb.GetNodeRequest(project_id=project_id, node_id=node_id)
        response = await translated(self._stub.GetNode(request, timeout=CALL_TIMEOUT))
        return response.node

    async def get_review(self, project_id: str, review_id: str) -> tuple[review_pb2.Review, int]:
        """Return a review and the revision at which it was read."""
        request = pb.GetReviewRequest(project_id=project_id, review_id=review_id)
        response = await translated(self._stub.GetReview(request, timeout=CALL_TIMEOUT))
        return response.review, response.revision

    async def resolve_review(
        self, project_id: str, mutation: mutation_pb2.ReviewMutation, *, request_id: str, actor: str
    ) -> int:
        """Make a decision durable, whoever holds the lease; return its revision (SEM 2, 19).

        Raises `ReviewClosed` or `VersionConflict`.
        """
        request = pb.CommitBatchRequest(
            project_id=project_id,
            mutations=[mutation_pb2.Mutation(review=mutation)],
            request_id=request_id,
            actor=actor,
        )
        response = await translated(self._stub.CommitBatch(request, timeout=CALL_TIMEOUT))
        return response.revision

    async def command_answer(
        self, project_id: str, command_id: str, revision: int, seconds: float
    ) -> command_pb2.Command | None:
        """Return an order with its answer, from its revision on; None if there is none in time.

        An order whose revision is compacted comes back without a state: it was answered long ago.
        """
        request = pb.WatchProjectRequest(
            project_id=project_id,
            after_revision=revision - 1,
            filter=pb.WatchFilter(kinds=[pb.EntityKind.ENTITY_KIND_COMMAND]),
            fail_if_compacted=True,
            # Whatever the project sends by default: the answer is read from the change.
            mode=pb.WatchMode.WATCH_MODE_DIFF,
            coalescing=pb.Coalescing.COALESCING_NEVER,
        )
        call = self._stub.WatchProject(request, timeout=seconds)
        command = command_pb2.Command(command_id=command_id)
        try:
            async for message in call:
                for change in message.delta.changes:
                    if change.command.command_id != command_id:
                        continue
                    patch = change.command.patch
                    if patch.state:
                        command.state = patch.state
                        command.answer = patch.answer
                        return command
                if message.HasField("resync") or message.HasField("ended"):
                    return None
        except grpc.aio.AioRpcError as error:
            cause = from_rpc(error)
            if isinstance(cause, RevisionCompacted):
                return command
            if not isinstance(cause, StoreUnavailable):
                raise cause from error
        finally:
            call.cancel()
        return None

    async def acquire_lease(self, project_id: str, holder: str, ttl: float) -> int:
        """Claim a project; return the lease epoch. Everything accepted before is durable then."""
        request = pb.AcquireLeaseRequest(project_id=project_id, holder=holder)
        request.ttl.FromNanoseconds(int(ttl * 1e9))
        response = await translated(self._stub.AcquireLease(request, timeout=CALL_TIMEOUT))
        return response.lease_epoch

    async def renew_leases(
        self, holder: str, leases: Sequence[tuple[str, int]], timeout: float
    ) -> Iterable[tuple[str, int]]:
        """Renew leases given as (project, lease epoch); return those that are lost."""
        request = pb.RenewLeasesRequest(
            holder=holder,
            leases=[pb.HeldLease(project_id=p, lease_epoch=e) for p, e in leases],
        )
        response = await translated(self._stub.RenewLeases(request, timeout=timeout))
        return [(lost.project_id, lost.lease_epoch) for lost in response.lost]

    async def release_lease(self, project_id: str, holder: str, lease_epoch: int) -> bool:
        """Give a project back; False if it was lost already."""
        request = pb.ReleaseLeaseRequest(
            project_id=project_id, holder=holder, lease_epoch=lease_epoch
        )
        response = await translated(self._stub.ReleaseLease(request, timeout=CALL_TIMEOUT))
        return response.released
