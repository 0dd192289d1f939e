"""ExplainProject and ExplainNode: the stored project, with what its executor knows of it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import InvalidRequest, Overloaded
from orchestrator_svc.graph.blocker import Blocker
from orchestrator_svc.graph.explain import explain
from orchestrator_svc.graph.scene import Live
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.convert import set_time
from orchestrator_svc.publish.enums import read_project_state
from orchestrator_svc.publish.scene import StoredScene
from orchestrator_svc.settings import read_stored
from ramify.v1 import explain_pb2 as pb
from ramify.v1 import project_pb2

MAX_AT_ONCE = 2  #: explanations being read and computed; each may hold a large project
MAX_ASKED = 32  #: explanations under way, those that wait for their turn included


class Explainer:
    """Answers both calls; reads only."""

    def __init__(
        self,
        *,
        client: StateClient,
        supervisor: Supervisor,
    ) -> None:
        self._client = client
        self._supervisor = supervisor
        self._asked = 0
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        # Of its own: those of `asyncio.to_thread` may all be busy with the work of agents.
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="explain")

    async def explain_project(self, request: pb.ExplainProjectRequest) -> pb.ExplainProjectResponse:
        """Say why a project is where it is. Raises `Overloaded`."""
        explanation = await self._explain(request.project_id, "")
        return pb.ExplainProjectResponse(explanation=explanation)

    async def explain_node(self, request: pb.ExplainNodeRequest) -> pb.ExplainNodeResponse:
        """Say why a node is where it is. Raises `NodeNotFound` or `Overloaded`."""
        if not request.node_id:
            raise InvalidRequest("is needed; ExplainProject asks about all", field="node_id")
        explanation = await self._explain(request.project_id, request.node_id)
        moves = await self._client.load_moves(request.project_id, request.node_id)
        explanation.moves.extend(moves)
        return pb.ExplainNodeResponse(explanation=explanation)

    async def _explain(self, project_id: str, node_id: str) -> pb.Explanation:
        if not project_id:
            raise InvalidRequest("is needed", field="project_id")
        if self._asked >= MAX_ASKED:
            raise Overloaded(f"{MAX_ASKED} explanations are under way", limit=MAX_ASKED)
        self._asked += 1
        try:
            async with self._turns:
                return await self._answer(project_id, node_id)
        finally:
            self._asked -= 1

    async def _answer(self, project_id: str, node_id: str) -> pb.Explanation:
        stored = await self._client.load_scene(project_id)
        live = self._supervisor.live(project_id)
        if live is None:
            await self._correct_holder(stored.project)
        compute = partial(
            _explanation,
            stored,
            node_id,
            settings=self._supervisor.settings_of(read_stored(stored.project.settings)),
            problem=self._supervisor.problem_with(stored.project.profile),
            live=live,
            no_room=self._supervisor.no_room,
            setback=self._supervisor.setback(project_id),
        )
        # A hundred thousand nodes take seconds, and runners go on meanwhile.
        return await asyncio.get_running_loop().run_in_executor(self._threads, compute)

    async def _correct_holder(self, project: project_pb2.Project) -> None:
        """Take the holder out whose lease ran out: that is not in the record, only in the list."""
        ended = read_project_state(project.state) in TERMINAL_PROJECT_STATES
        if ended or not project.lease.holder:
            return
        free = await self._client.unfinished(leased=False)
        if any(other.project_id == project.project_id for other in free):
            project.lease.ClearField("holder")


def _explanation(
    stored: StoredScene,
    node_id: str,
    *,
    settings: Settings,
    problem: str,
    live: Live | None,
    no_room: str,
    setback: str,
) -> pb.Explanation:
    scene = stored.scene(settings, problem=problem, live=live, no_room=no_room, setback=setback)
    asked = time.time()
    now = asked if scene.end is None else min(asked, scene.end)  # of the run: it ended there
    found = explain(scene, now, node_id)
    message = pb.Explanation(
        project_id=scene.project_id,
        node_id=node_id,
        state=found.state,
        revision=scene.revision,
        outlook=pb.Outlook.Value(f"OUTLOOK_{found.outlook}"),
        summary=found.summary,
        blockers=[_blocker(blocker, now) for blocker in found.blockers],
        omitted_root_causes=found.omitted,
        budgets=[
            pb.BudgetUse(node_id=use.node_id, resource=use.resource, limit=use.limit, used=use.used)
            for use in found.budgets
        ],
        live=live is not None,
        holder=scene.holder,
    )
    set_time(message.explain_time, asked)
    return message


def _blocker(blocker: Blocker, now: float) -> pb.Blocker:
    message = pb.Blocker(
        kind=pb.BlockerKind.Value(f"BLOCKER_KIND_{blocker.kind}"),
        blocked_node_id=blocker.blocked,
        node_id=blocker.by,
        message=blocker.message,
        remedy=blocker.remedy,
        root_cause=not blocker.leads_on,
        live=blocker.live,
        depth=blocker.depth,
    )
    if blocker.since is not None:
        set_time(message.since_time, blocker.since)
        message.elapsed.FromMicroseconds(max(0, round((now - blocker.since) * 1e6)))
    if blocker.until is not None:
        set_time(message.until_time, blocker.until)
    return message
