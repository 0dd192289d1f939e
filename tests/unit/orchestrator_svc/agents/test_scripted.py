"""The deterministic double and the profiles that agents are chosen by."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import JsonValue

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    RelatedNode,
    TaskType,
)
from orchestrator_svc.agents.profile import built_in_profiles
from orchestrator_svc.agents.scripted import ScriptedAgents, read_script
from orchestrator_svc.graph.types import Stage


def task(layer: int = 0, attempt: int = 1, **options: JsonValue) -> AgentInput:
    """Return the input of a call."""
    return AgentInput(
        project_id="p",
        node_id="root",
        attempt=attempt,
        goal="a goal",
        task_type=TaskType.WRITE,
        layer=layer,
        max_depth=5,
        overall_objective="a goal",
        options=options,
    )


async def test_the_tree_has_the_depth_and_breadth_of_the_script() -> None:
    agents = ScriptedAgents()
    assert (await agents.atomize(task(depth=1))).node_type is NodeType.PLAN
    assert (await agents.atomize(task(layer=1, depth=1))).node_type is NodeType.EXECUTE
    plan = await agents.plan(task(depth=2, breadth=4, chain=True))
    assert [t.depends_on for t in plan.tasks] == [(), (0,), (1,), (2,)]
    assert {t.node_type for t in plan.tasks} == {NodeType.PLAN}
    plan = await agents.plan(task(types=False))
    assert {t.node_type for t in plan.tasks} == {None}


async def test_the_same_input_gives_the_same_output() -> None:
    done = RelatedNode(node_id="n", goal="g g g", task_type=TaskType.SEARCH, state="DONE")
    given = task().model_copy(update={"children": (done,), "dependencies": (done,)})
    assert await ScriptedAgents().execute(given) == await ScriptedAgents().execute(given)
    assert (await ScriptedAgents().execute(given)).text == "root done after n DONE"
    assert (await ScriptedAgents().aggregate(given)).text == "n DONE"
    assert len((await ScriptedAgents().execute(task(output_chars=50))).text) == 50


async def test_the_first_rule_that_matches_decides() -> None:
    rules: list[JsonValue] = [
        {"node": "other"},
        {"stage": "plan", "attempts": [2]},
        {"stage": "plan", "error": "RATE_LIMIT", "message": "slow down"},
    ]
    agents = ScriptedAgents()
    with pytest.raises(AgentError) as caught:
        await agents.plan(task(rules=rules))
    assert (caught.value.error_class, caught.value.message) == (
        ErrorClass.RATE_LIMIT,
        "slow down",
    )
    assert len((await agents.plan(task(attempt=2, rules=rules))).tasks) == 3
    assert (await agents.execute(task(rules=rules))).text


async def test_an_invalid_plan_has_a_cycle() -> None:
    plan = await ScriptedAgents().plan(task(rules=[{"invalid": True}]))
    assert [t.depends_on for t in plan.tasks] == [(1,), (0,)]


@pytest.mark.parametrize(
    "options, key",
    [
        ({"depht": 1}, "depht"),
        ({"breadth": 0}, "breadth"),
        ({"rules": [{"hang": 3}]}, "rules.0.hang"),
    ],
)
def test_a_bad_script_is_refused_with_its_key(options: dict[str, JsonValue], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        read_script(options)


def test_profiles_name_an_agent_for_every_stage_and_task_type(tmp_path: Path) -> None:
    profiles = built_in_profiles(tmp_path)
    assert profiles.names() == ["corpus", "plan", "scripted"]
    for name in profiles.names():
        entry = profiles.get(name)
        assert entry is not None
        for stage in Stage:
            for task_type in TaskType:
                assert entry.profile.agent_name(stage, task_type)
        assert entry.agents is entry.agents


@pytest.mark.parametrize(
    "profile, options, problem",
    [
        ("corpus", {}, "'corpus' is needed"),
        ("corpus", {"corpus": "no-such-folder"}, "does not exist"),
        ("corpus", {"corpus": "stdlib", "colour": 1}, "'colour' is not known"),
        ("scripted", {"x": 1}, "x"),
        ("plan", {"x": 1}, "plans take none"),
    ],
)
def test_options_that_cannot_work_are_refused(
    tmp_path: Path, profile: str, options: dict[str, JsonValue], problem: str
) -> None:
    entry = built_in_profiles(tmp_path).get(profile)
    assert entry is not None
    with pytest.raises(ValueError, match=problem):
        entry.check_options(options)


def test_a_corpus_project_gets_the_index_folder_of_the_service(tmp_path: Path) -> None:
    entry = built_in_profiles(tmp_path).get("corpus")
    assert entry is not None
    entry.check_options({"corpus": "stdlib"})
    assert entry.service_options == {"corpus_cache_dir": str(tmp_path)}


async def test_a_plan_is_changed_as_instructed() -> None:
    agents = ScriptedAgents()
    plan = await agents.plan(task())
    asked = task().model_copy(update={"proposal": plan, "instructions": "drop 1; add One more"})
    changed = await agents.modify(asked)
    assert [child.goal for child in changed.tasks] == [
        "a goal / part 2",
        "a goal / part 3",
        "One more",
    ]
    asked = asked.model_copy(update={"instructions": "be bold"})
    with pytest.raises(AgentError, match="not understood"):
        await agents.modify(asked)
