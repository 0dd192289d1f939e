"""ExplainProject and ExplainNode: the stored project, with what its executor knows of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import InvalidRequest
from orchestrator_svc.graph.blocker import Blocker
from orchestrator_svc.graph.explain import explain
from orchestrator_svc.graph.scene import Scene
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.convert import set_time
from ramify.v1 import explain_pb2 as pb


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

    async def explain_project(self, request: pb.ExplainProjectRequest) -> pb.ExplainProjectResponse:
        """Say why a project is where it is."""
        explanation = await self._explain(request.project_id, "")
        return pb.ExplainProjectResponse(explanation=explanation)

    async def explain_node(self, request: pb.ExplainNodeRequest) -> pb.ExplainNodeResponse:
        """Say why a node is where it is. Raises `NodeNotFound`."""
        if not request.node_id:
            raise InvalidRequest("is needed; ExplainProject asks about all", field="node_id")
        explanation = await self._explain(request.project_id, request.node_id)
        moves = await self._client.load_moves(request.project_id, request.node_id)
        explanation.moves.extend(moves)
        return pb.ExplainNodeResponse(explanation=explanation)

    async def _explain(self, project_id: str, node_id: str) -> pb.Explanation:
        if not project_id:
            raise InvalidRequest("is needed", field="project_id")
        scene = await self._scene(project_id)
        asked = time.time()
        now = asked if scene.end is None else min(asked, scene.end)  # of the run: it ended there
        # In a thread: a hundred thousand nodes take seconds, and runners go on meanwhile.
        found = await asyncio.to_thread(explain, scene, now, node_id)
        message = pb.Explanation(
            project_id=project_id,
            node_id=node_id,
            state=found.state,
            revision=scene.revision,
            outlook=pb.Outlook.Value(f"OUTLOOK_{found.outlook}"),
            summary=found.summary,
            blockers=[_blocker(blocker, now) for blocker in found.blockers],
            omitted_root_causes=found.omitted,
            budgets=[
                pb.BudgetUse(
                    node_id=use.node_id, resource=use.resource, limit=use.limit, used=use.used
                )
                for use in found.budgets
            ],
            live=scene.live is not None,
            holder=scene.holder,
        )
        set_time(message.explain_time, asked)
        return message

    async def _scene(self, project_id: str) -> Scene:
        """Return the project at its head, with what this orchestrator knows of it."""
        stored = await self._client.load_scene(project_id)
        scene = stored.scene
        live = self._supervisor.live(project_id)
        if live is None and scene.holder and scene.state not in TERMINAL_PROJECT_STATES:
            # A lease that ran out is not in the project's record, only in the list.
            free = await self._client.unfinished(leased=False)
            if any(project.project_id == project_id for project in free):
                scene = replace(scene, holder="")
        return replace(
            scene,
            settings=self._supervisor.settings_of(stored.settings),
            profile_problem=self._supervisor.problem_with(stored.profile),
            live=live,
        )


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
