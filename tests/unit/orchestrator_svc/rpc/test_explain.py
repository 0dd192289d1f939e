"""What is explained is what is stored and leased now, and only so much at one time."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import Overloaded, StoreUnavailable
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.plan import MAX_LISTED_CHILDREN
from orchestrator_svc.graph.scene import Live
from orchestrator_svc.graph.settings import Scalar, Settings, effective
from orchestrator_svc.publish import convert, scene
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.records import UnfinishedProject
from orchestrator_svc.publish.scene import StoredScene
from orchestrator_svc.rpc.explain import MAX_ASKED, MAX_AT_ONCE, Explainer
from ramify.v1 import node_pb2, project_pb2
from ramify.v1.explain_pb2 import BlockerKind, ExplainProjectRequest, Explanation, Outlook

NodeState = node_pb2.NodeState


def record(profile: str = "", root_id: str = "") -> project_pb2.Project:
    """Return a running project that `a` has held last."""
    project = project_pb2.Project(
        project_id="p",
        state=project_pb2.ProjectState.PROJECT_STATE_RUNNING,
        profile=profile,
        root_node_id=root_id,
    )
    project.lease.holder = "a"
    return project


class Client:
    """A project that `a` has held last."""

    def __init__(self, *, ran_out: bool, profile: str) -> None:
        self.ran_out = ran_out
        self.profile = profile

    async def load_scene(self, project_id: str) -> StoredScene:
        return StoredScene(record(self.profile), 1)

    async def unfinished(self, *, leased: bool) -> list[UnfinishedProject]:
        assert not leased
        return [UnfinishedProject("p", "a", 3)] if self.ran_out else []


class Runners:
    """Executes nothing, or the project."""

    no_room = ""

    def __init__(self, live: Live | None) -> None:
        self._live = live

    def live(self, project_id: str) -> Live | None:
        return self._live

    def setback(self, project_id: str) -> str:
        return ""

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
    assert agent.message == "no orchestrator executes it: there is no gone"


async def test_a_profile_that_is_not_here_is_no_matter_while_another_one_executes_it() -> None:
    found = await explained(profile="gone")
    assert BlockerKind.BLOCKER_KIND_AGENT not in {blocker.kind for blocker in found.blockers}


class LargePlan(Client):
    """A project whose plan has more children than a node lists."""

    def __init__(self) -> None:
        super().__init__(ran_out=False, profile="")

    async def load_scene(self, project_id: str) -> StoredScene:
        root = node_pb2.Node(
            node_id="root", state=NodeState.NODE_STATE_PLAN_DONE, sub_graph_id="root.1"
        )
        children = [
            node_pb2.Node(
                node_id=f"root.1.{place}",
                parent_node_id="root",
                layer=1,
                state=NodeState.NODE_STATE_DONE if place else NodeState.NODE_STATE_RUNNING,
            )
            for place in range(MAX_LISTED_CHILDREN + 1)
        ]
        return StoredScene(record(root_id="root"), 1, [root, *children])


async def test_a_plan_with_more_children_than_are_listed_is_explained_by_those_that_are_open() -> (
    None
):
    explainer = Explainer(
        client=cast(StateClient, LargePlan()), supervisor=cast(Supervisor, Runners(None))
    )
    found = (await explainer.explain_project(ExplainProjectRequest(project_id="p"))).explanation
    assert found.outlook == Outlook.OUTLOOK_RUNNING
    (cause,) = (blocker for blocker in found.blockers if blocker.root_cause)
    assert (cause.blocked_node_id, cause.kind) == ("root.1.0", BlockerKind.BLOCKER_KIND_CALL)


async def test_no_node_is_looked_at_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()

    def noted(message: node_pb2.Node) -> Node:
        threads.add(threading.get_ident())
        return convert.read_node(message)

    monkeypatch.setattr(scene, "read_node", noted)
    explainer = Explainer(
        client=cast(StateClient, LargePlan()), supervisor=cast(Supervisor, Runners(None))
    )
    await explainer.explain_project(ExplainProjectRequest(project_id="p"))
    assert threads
    assert threading.get_ident() not in threads


class Gate(Client):
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(ran_out=False, profile="")
        self.reading = 0
        self.open = asyncio.Event()

    async def load_scene(self, project_id: str) -> StoredScene:
        self.reading += 1
        try:
            await self.open.wait()
        finally:
            self.reading -= 1
        if project_id == "broken":
            raise StoreUnavailable("away")
        return await super().load_scene(project_id)


async def test_explanations_beyond_their_number_are_refused_and_a_few_are_read_at_one_time() -> (
    None
):
    gate = Gate()
    explainer = Explainer(
        client=cast(StateClient, gate), supervisor=cast(Supervisor, Runners(None))
    )
    names = ["p"] * (MAX_ASKED - 2) + ["broken", "left"]
    asked = [
        asyncio.create_task(explainer.explain_project(ExplainProjectRequest(project_id=name)))
        for name in names
    ]
    while gate.reading < MAX_AT_ONCE:  # noqa: ASYNC110 - a turn of the loop, no time
        await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await explainer.explain_project(ExplainProjectRequest(project_id="p"))
    assert gate.reading == MAX_AT_ONCE
    asked[-1].cancel()
    await asyncio.wait([asked[-1]])
    one_more = asyncio.create_task(explainer.explain_project(ExplainProjectRequest(project_id="p")))
    gate.open.set()
    answers = await asyncio.gather(*asked[:-1], one_more, return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [
        StoreUnavailable
    ]
    await explainer.explain_project(ExplainProjectRequest(project_id="p"))
