"""The corpus modifier drops parts and adds questions, or says why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Plan,
    TaskType,
)
from orchestrator_svc.agents.corpus import CorpusAgents

AGENTS = CorpusAgents()


def root(apiary: Path, cache_dir: Path, **fields: Any) -> AgentInput:
    return AgentInput(
        project_id="p",
        node_id="root",
        attempt=1,
        goal="How do I use a smoker?",
        task_type=TaskType.WRITE,
        layer=0,
        max_depth=5,
        overall_objective="How do I use a smoker?",
        options={"corpus": str(apiary), "corpus_cache_dir": str(cache_dir)},
        **fields,
    )


@pytest.fixture
async def proposal(apiary: Path, cache_dir: Path) -> Plan:
    plan = await AGENTS.plan(root(apiary, cache_dir))
    assert len(plan.tasks) > 1
    return plan


async def modified(apiary: Path, cache_dir: Path, proposal: Plan, instructions: str) -> Plan:
    task = root(apiary, cache_dir, proposal=proposal, instructions=instructions)
    return await AGENTS.modify(task)


async def test_a_question_can_be_added_and_is_answered_like_any_other(
    apiary: Path, cache_dir: Path, proposal: Plan
) -> None:
    changed = await modified(apiary, cache_dir, proposal, "drop 1; add When is honey ripe?")
    assert changed.tasks[:-1] == proposal.tasks[1:]
    added = changed.tasks[-1]
    assert added.node_type is NodeType.PLAN
    task = root(apiary, cache_dir, details=added.details).model_copy(
        update={"goal": added.goal, "layer": 1}
    )
    assert (await AGENTS.plan(task)).tasks


@pytest.mark.parametrize(
    "instructions, error_class, problem",
    [
        ("write it for children", ErrorClass.EXECUTION, "not understood"),
        ("add How are submarines built?", ErrorClass.NO_EVIDENCE, "no evidence"),
        ("drop 99", ErrorClass.EXECUTION, "no task 99"),
    ],
)
async def test_what_it_cannot_do_it_says(
    apiary: Path,
    cache_dir: Path,
    proposal: Plan,
    instructions: str,
    error_class: ErrorClass,
    problem: str,
) -> None:
    with pytest.raises(AgentError, match=problem) as refused:
        await modified(apiary, cache_dir, proposal, instructions)
    assert refused.value.error_class is error_class


async def test_other_roles_refuse_instructions_instead_of_ignoring_them(
    apiary: Path, cache_dir: Path
) -> None:
    task = root(apiary, cache_dir, instructions="shorter, please")
    for role in (AGENTS.atomize, AGENTS.execute, AGENTS.aggregate):
        with pytest.raises(AgentError, match="instructions about plans only"):
            await role(task)
