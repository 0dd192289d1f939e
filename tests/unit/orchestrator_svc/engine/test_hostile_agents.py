"""Agents of one's own that keep to no type and no limit: their calls fail, their run does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    Output,
    note_model,
    note_tool,
    report,
    spend,
)
from orchestrator_svc.agents.profile import Profile, ProfileEntry, ProfileRegistry
from orchestrator_svc.agents.scripted import ScriptedAgents
from orchestrator_svc.graph.mutation import AddStage, Mutation
from orchestrator_svc.graph.trace import Body, ToolCall
from orchestrator_svc.graph.types import ErrorClass, ProjectState
from orchestrator_svc.graph.usage import MAX_SPENT
from orchestrator_svc.publish.encode import encode, to_any_message
from ramify.v1.stage_pb2 import StageRecord
from state_svc.model import stage, validate
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.engine.fake_store import FakeStore
from tests.unit.orchestrator_svc.engine.world import World

LONE = "\ud800 alone"
Act = Callable[[], Awaitable[object]]


class StrictStore(FakeStore):
    """Takes what can be encoded and what state_svc would take."""

    async def offer(
        self, project_id: str, lease_epoch: int, groups: Sequence[Sequence[Mutation]]
    ) -> list[asyncio.Future[int]]:
        """See `Store`."""
        for mutation in (mutation for group in groups for mutation in group):
            encode(mutation)
            message = to_any_message(mutation)
            if isinstance(mutation, AddStage):
                stage.add_stage(message.stage, 0, StageRecord())
            elif message.node.HasField("create"):
                assert not validate.check_values(message.node.create.aux_data)
        return await super().offer(project_id, lease_epoch, groups)


class Hostile(ScriptedAgents):
    """Does what it is told when it executes."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act

    async def execute(self, task: AgentInput) -> Output:
        """See `Executor`."""
        return await self.act()  # type: ignore[return-value]


async def run(agents: ScriptedAgents) -> tuple[World, Any]:
    """Return what a run of these agents comes to."""
    profile = Profile(
        name="scripted", atomizer="own", planner="own", aggregator="own", executor="own"
    )
    entry = ProfileEntry(profile, lambda: agents, lambda options: None)
    world = World(StrictStore(), profiles=ProfileRegistry({"scripted": entry}))
    world.store.add(breadth=1, settings={"max_retries": 0})
    async with asyncio.timeout(WAIT_SECONDS), world.running():
        return world, await world.store.until_ended()


class Unshown(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Opaque(BaseModel):
    """An answer that is none, with something that has no JSON."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    what: object = object()


class Half(AgentError):
    """An agent's error that was never made whole."""

    def __init__(self) -> None:
        pass


def raising(error: BaseException) -> Act:
    async def act() -> object:
        raise error

    return act


def answering(answer: object) -> Act:
    async def act() -> object:
        return answer

    return act


def reporting(say: Callable[[], object]) -> Act:
    async def act() -> object:
        say()
        return Output(text="done")

    return act


FAIL: dict[str, Act] = {
    "an error of no class": raising(AgentError("WEIRD", "why")),  # type: ignore[arg-type]
    "an error with a number for a message": raising(AgentError(ErrorClass.AUTH, 5)),  # type: ignore[arg-type]
    "half an error": raising(Half()),
    "an error that cannot be shown": raising(Unshown()),
    "a message that is no Unicode": raising(AgentError(ErrorClass.AUTH, LONE * 5_000)),
    "an answer that has no JSON": answering(Opaque()),
    "tokens given back": reporting(lambda: spend(input_tokens=-1)),
    "a cost that is no number": reporting(lambda: spend(cost_micro_usd=float("nan"))),  # type: ignore[arg-type]
    "more tokens than there are": reporting(lambda: spend(output_tokens=MAX_SPENT + 1)),
}
PASS: dict[str, Act] = {
    "a part of a token": reporting(lambda: spend(input_tokens=1.5)),  # type: ignore[arg-type]
    "a note that is a number": reporting(lambda: report(5)),  # type: ignore[arg-type]
    "a note that is no Unicode": reporting(lambda: report(LONE)),
    "a model that is no Unicode": reporting(lambda: note_model(LONE * 200, LONE, LONE)),
    "a tool that is no Unicode": reporting(
        lambda: note_tool(
            ToolCall(
                tool_name=LONE * 200,
                error=LONE * 2_000,
                arguments=Body(LONE, text=LONE),
                result=Body("x" * 300, data=b"\xff"),
                seconds=float("nan"),
            )
        )
    ),
    "a tool that ran backwards": reporting(lambda: note_tool(ToolCall(tool_name="t", seconds=-1))),
}


@pytest.mark.parametrize("name", FAIL)
async def test_what_no_agent_may_do_fails_its_call_and_not_the_run(name: str) -> None:
    world, ledger = await run(Hostile(FAIL[name]))
    assert ledger.nodes["root.1.0"].error is not None
    assert (ledger.state, world.store.loads) == (ProjectState.FAILED, 1)


@pytest.mark.parametrize("name", PASS)
async def test_what_cannot_be_stored_of_a_report_is_replaced(name: str) -> None:
    world, ledger = await run(Hostile(PASS[name]))
    assert (ledger.state, world.store.loads) == (ProjectState.COMPLETED, 1)
