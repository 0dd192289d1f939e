"""Who executes a project is what the leases say now, not what the project's record says."""

from __future__ import annotations

from typing import cast

import pytest

from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.graph.scene import Live, Scene
from orchestrator_svc.graph.settings import Scalar, Settings, effective
from orchestrator_svc.graph.types import ProjectState
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.records import UnfinishedProject
from orchestrator_svc.publish.scene import StoredScene
from orchestrator_svc.rpc.explain import Explainer
from ramify.v1.explain_pb2 import BlockerKind, ExplainProjectRequest, Explanation


class Client:
    """A project that `a` has held last."""

    def __init__(self, *, ran_out: bool, profile: str) -> None:
        self.ran_out = ran_out
        self.profile = profile

    async def load_scene(self, project_id: str) -> StoredScene:
        scene = Scene(project_id=project_id, state=ProjectState.RUNNING, holder="a")
        return StoredScene(scene, self.profile, {})

    async def unfinished(self, *, leased: bool) -> list[UnfinishedProject]:
        assert not leased
        return [UnfinishedProject("p", "a", 3)] if self.ran_out else []


class Runners:
    """Executes nothing, or the project."""

    def __init__(self, live: Live | None) -> None:
        self._live = live

    def live(self, project_id: str) -> Live | None:
        return self._live

    def problem_with(self, profile: str) -> str:
        return f"there is no {profile}" if profile else ""

    def settings_of(self, own: dict[str, Scalar]) -> Settings:
        return effective(own)


async def explained(
    *, ran_out: bool = False, live: Live | None = None, profile: str = ""
) -> Explanation:
    explainer = Explainer(
        client=cast(StateClient, Client(ran_out=ran_out, profile=profile)),
        supervisor=cast(Supervisor, Runners(live)),
    )
    return (await explainer.explain_project(ExplainProjectRequest(project_id="p"))).explanation


@pytest.mark.parametrize("ran_out, holder", [(True, ""), (False, "a")])
async def test_a_lease_that_ran_out_is_nobodys(ran_out: bool, holder: str) -> None:
    found = await explained(ran_out=ran_out)
    kinds = {blocker.kind for blocker in found.blockers}
    assert (BlockerKind.BLOCKER_KIND_LEASE in kinds) is ran_out
    assert (found.holder, found.live) == (holder, False)


async def test_the_executor_itself_does_not_ask_whether_it_is() -> None:
    found = await explained(ran_out=True, live=Live())
    assert (found.holder, found.live) == ("a", True)


async def test_seed_004_5_a_profile_that_does_not_exist_here_is_named() -> None:
    found = await explained(profile="gone", ran_out=True)
    (agent,) = (b for b in found.blockers if b.root_cause)
    assert agent.kind == BlockerKind.BLOCKER_KIND_AGENT
    assert agent.message == "it waits for another orchestrator: there is no gone"


async def test_a_profile_that_is_not_here_is_no_matter_while_another_one_executes_it() -> None:
    found = await explained(profile="gone")
    assert BlockerKind.BLOCKER_KIND_AGENT not in {blocker.kind for blocker in found.blockers}
