"""What a call has cost is stored with its outcome, whatever the outcome is."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.base import AgentInput
from orchestrator_svc.agents.scripted import ScriptedAgents
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.calls import call_agent
from orchestrator_svc.graph.event import CallEnded, CallProgressed, Draining, Outcome
from orchestrator_svc.graph.mutation import PatchNode
from orchestrator_svc.graph.types import ErrorClass, NodeState, Stage
from orchestrator_svc.graph.usage import MAX_SPENT, NO_USAGE, NotCountable, Usage, counted
from orchestrator_svc.publish.convert import read_node, to_message
from ramify.v1.node_pb2 import Node as NodeMessage
from ramify.v1.node_pb2 import NodeState as NodeStateEnum
from tests.support.bound import WAIT_SECONDS
from tests.unit.orchestrator_svc.driven import Driven, done, draft, failed, planned

COST = Usage(100, 20, 7)


def answer(driven: Driven, node_id: str, outcome: Outcome, usage: Usage = COST) -> None:
    call = driven.calls.pop(node_id)
    driven.event(CallEnded(node_id, call.number, outcome, usage=usage))


@pytest.mark.parametrize("outcome", [done(), failed()], ids=["done", "failed"])
def test_every_outcome_counts(outcome: Outcome) -> None:
    driven = planned(draft(), draft())
    answer(driven, "root.1.0", outcome)
    assert driven.node("root.1.0").usage == COST


def test_attempts_add_up_and_survive_a_crash() -> None:
    driven = planned(draft(), draft())
    answer(driven, "root.1.0", failed())
    driven.crash()
    driven.wait()
    answer(driven, "root.1.0", done())
    assert driven.node("root.1.0").usage == Usage(200, 40, 14)


def test_a_cancelled_call_has_cost_its_money_too() -> None:
    driven = planned(draft(), draft())
    driven.cancel()
    answer(driven, "root.1.0", failed())
    assert driven.state("root.1.0") is NodeState.CANCELLED
    assert driven.node("root.1.0").usage == COST


def test_a_call_that_is_given_back_counts() -> None:
    driven = planned(draft(), draft())
    number = driven.calls["root.1.0"].number
    cut_off = CallEnded("root.1.0", number, failed(ErrorClass.CANCELLED), usage=COST)
    driven.event(Draining({"root.1.0": cut_off}))
    assert driven.node("root.1.0").usage == COST
    assert not driven.node("root.1.1").usage


def test_what_an_open_call_has_spent_survives_a_crash_and_is_counted_once() -> None:
    driven = planned(draft(), draft())
    number = driven.calls["root.1.0"].number
    for sofar in (COST, COST, COST + COST):
        driven.event(CallProgressed("root.1.0", number, "thinking", sofar))
    assert driven.node("root.1.0").usage == COST + COST
    answer(driven, "root.1.0", failed(), usage=COST + COST + COST)
    assert driven.node("root.1.0").usage == Usage(300, 60, 21)
    driven.wait()
    number = driven.calls["root.1.0"].number
    driven.event(CallProgressed("root.1.0", number, "thinking", COST))
    driven.crash()
    assert driven.node("root.1.0").usage == Usage(400, 80, 28), "the cut off call's too"
    answer(driven, "root.1.0", done())
    assert driven.node("root.1.0").usage == Usage(500, 100, 35)


def test_a_call_that_is_given_back_after_it_told_its_cost_counts_once() -> None:
    driven = planned(draft(), draft())
    number = driven.calls["root.1.0"].number
    driven.event(CallProgressed("root.1.0", number, "", COST))
    cut_off = CallEnded("root.1.0", number, failed(ErrorClass.CANCELLED), usage=COST)
    driven.event(Draining({"root.1.0": cut_off}))
    assert driven.node("root.1.0").usage == COST


def test_tokens_and_the_number_of_calls_are_one_field_of_the_contract() -> None:
    driven = planned(draft(), draft())
    answer(driven, "root.1.0", failed())
    driven.wait()  # the next call is announced
    mutations = (m for group in driven.last.groups for m in group)
    messages = [to_message(m).node for m in mutations if isinstance(m, PatchNode)]
    patches = [m.patch for m in messages if m.node_id == "root.1.0" and m.patch.HasField("usage")]
    stored = NodeMessage(
        node_id="root.1.0", state=NodeStateEnum.NODE_STATE_RUNNING, usage=patches[-1].usage
    )
    assert (stored.usage.agent_calls, stored.usage.input_tokens) == (2, 100)
    assert read_node(stored).usage == COST


async def test_an_agent_reports_what_it_spends() -> None:
    task = AgentInput.model_construct(
        project_id="p", node_id="n", attempt=1, options={"input_tokens": 5, "cost_micro_usd": 2}
    )
    activity = Activity(lambda note: None)
    async with asyncio.timeout(WAIT_SECONDS):
        await call_agent(ScriptedAgents(), Stage.EXECUTE, task, 20, activity)
    assert activity.usage == Usage(5, 0, 2)


_AMOUNTS = st.integers() | st.floats() | st.none() | st.text(max_size=2)


@given(st.lists(st.builds(Usage, _AMOUNTS, _AMOUNTS, _AMOUNTS), max_size=4))
def test_what_is_counted_is_whole_never_less_and_within_what_is_stored(spent: list[Usage]) -> None:
    total = NO_USAGE
    for more in spent:
        before = total
        try:
            total = counted(before, more)
        except NotCountable:
            continue
        for field in fields(total):
            now, was = getattr(total, field.name), getattr(before, field.name)
            assert isinstance(now, int)
            assert was + getattr(more, field.name) <= now <= MAX_SPENT


def test_an_amount_that_is_none_names_its_field() -> None:
    assert counted(NO_USAGE, Usage(1, 2, 0.5)) == Usage(1, 2, 1)  # type: ignore[arg-type]
    with pytest.raises(NotCountable, match="output_tokens is -5, a number from 0"):
        counted(NO_USAGE, Usage(0, -5, 0))
    with pytest.raises(NotCountable, match="input_tokens of one call is more than"):
        counted(Usage(MAX_SPENT), Usage(1))
