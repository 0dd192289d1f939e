"""Built-in planners make large plans beside the loop: leases are kept, other projects go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from orchestrator_svc.agents import scripted
from orchestrator_svc.agents.base import AgentInput, Planner, TaskType
from orchestrator_svc.agents.plan import PlanAgents
from orchestrator_svc.agents.plan import agents as plan_agents
from orchestrator_svc.agents.processes.client import Processes
from orchestrator_svc.agents.scripted import ScriptedAgents
from ramify.v1.plan_pb2 import Plan, PlanTask
from tests.support.bound import WAIT_SECONDS

WIDTH = 1_000


def root(**options: Any) -> AgentInput:
    """Return the call of a root's planner."""
    return AgentInput(
        project_id="p",
        node_id="root",
        attempt=1,
        goal="a goal",
        task_type=TaskType.WRITE,
        layer=0,
        max_depth=5,
        overall_objective="a goal",
        options=options,
    )


class Slow:
    """Stands for a function; waits until the loop has turned, which it cannot from the loop."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.turned = threading.Event()
        self.began = threading.Event()
        self.free: list[bool] = []
        self._function = function

    def __call__(self, *args: Any) -> Any:
        if not self.began.is_set():
            self.began.set()
            self.free.append(self.turned.wait(WAIT_SECONDS))
        return self._function(*args)

    async def check(self, agents: Planner, task: AgentInput) -> None:
        """Let an agent plan while this function waits for the loop."""
        planning = asyncio.ensure_future(agents.plan(task))
        while not (self.began.is_set() or planning.done()):  # noqa: ASYNC110 - a thread begins
            await asyncio.sleep(0)
        self.turned.set()
        assert len((await planning).tasks) == WIDTH
        assert self.free == [True]


async def test_a_scripted_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(scripted._child)
    monkeypatch.setattr(scripted, "_child", slow)
    await slow.check(ScriptedAgents(), root(breadth=WIDTH))


@pytest.mark.parametrize("name", ["tree_of", "planned"])
async def test_a_given_plan(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plan = Plan(goal="a goal", tasks=[PlanTask(id=f"t{number}") for number in range(WIDTH)])
    for task in plan.tasks:
        task.command.shell = "true"
    slow = Slow(getattr(plan_agents, name))
    monkeypatch.setattr(plan_agents, name, slow)
    options = root(plan=MessageToDict(plan, preserving_proto_field_name=True))
    await slow.check(PlanAgents(Processes(1)), options)


async def test_a_given_plan_is_read_once_for_all_who_ask_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan(goal="a goal", tasks=[PlanTask(id="a")])
    plan.tasks[0].command.shell = "true"
    read: list[object] = []

    def counted(options: Any) -> Any:
        read.append(options)
        return tree_of(options)

    tree_of = plan_agents.tree_of
    monkeypatch.setattr(plan_agents, "tree_of", counted)
    agents = PlanAgents(Processes(1))
    task = root(plan=MessageToDict(plan, preserving_proto_field_name=True))
    await asyncio.gather(*(agents.plan(task) for _ in range(5)))
    assert len(read) == 1
