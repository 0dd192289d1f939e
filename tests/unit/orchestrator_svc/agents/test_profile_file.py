"""Profiles from YAML: task type and role decide which agent works, and bad files are refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator_svc.agents import profile as profile_module
from orchestrator_svc.agents.base import AgentError, AgentInput, NodeType, Output, Plan, TaskType
from orchestrator_svc.agents.profile import ProfileEntry, ProfileRegistry, built_in_profiles
from orchestrator_svc.agents.profile_file import InvalidProfile, with_files
from orchestrator_svc.app import run
from orchestrator_svc.config import load_config
from orchestrator_svc.errors import StartupError
from orchestrator_svc.graph.types import Stage

MODULE = """
class Mine:
    made = 0

    def __init__(self):
        Mine.made += 1
        self.closed = False

    async def execute(self, task):
        from orchestrator_svc.agents.base import Output
        return Output(text="mine: " + ",".join(sorted(task.options)))

    async def aclose(self):
        self.closed = True


class Changer(Mine):
    async def plan(self, task):
        raise AssertionError

    async def modify(self, task):
        return task.proposal


class Blocking:
    def execute(self, task):
        return None


def broken():
    raise RuntimeError


class NeedsMore:
    def __init__(self, key):
        pass


class Leaves:
    def __init__(self):
        raise SystemExit(3)


shared = Mine()
"""
SCRIPTED = {"atomizer": "scripted", "planner": "scripted", "aggregator": "scripted"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for profiles from which the module `own_agents` can be imported."""
    (tmp_path / "own_agents.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_agents", None)


def known() -> ProfileRegistry:
    return built_in_profiles(Path("unused"))


def written(folder: Path, file: str = "mine.yaml", **keys: object) -> Path:
    path = folder / file
    path.write_text("\n".join(f"{key}: {value}" for key, value in {**SCRIPTED, **keys}.items()))
    return path


def read(path: Path, name: str = "mine") -> ProfileEntry:
    entry = with_files(path, known()).get(name)
    assert entry is not None
    return entry


def call(task_type: TaskType, **options: str | int) -> AgentInput:
    return AgentInput(
        project_id="p",
        node_id="root.1.0",
        attempt=1,
        goal="a goal",
        task_type=task_type,
        layer=1,
        max_depth=5,
        overall_objective="a goal",
        options=dict(options),
    )


async def test_the_type_of_a_task_decides_which_agent_executes_it(folder: Path) -> None:
    executors = "{WRITE: 'own_agents:Mine', THINK: 'own_agents:shared'}"
    entry = read(written(folder, executor="scripted", executors=executors))
    for task_type, mine in (
        (TaskType.WRITE, True),
        (TaskType.THINK, True),
        (TaskType.SEARCH, False),
    ):
        output = await entry.agents.execute(call(task_type))
        assert output.text.startswith("mine") is mine
    names = {t: entry.profile.agent_name(Stage.EXECUTE, t) for t in TaskType}
    assert names[TaskType.WRITE] == "own_agents:Mine", "as nodes show it"
    assert names[TaskType.SEARCH] == "scripted"


async def test_the_role_decides_too_and_a_class_is_made_once(folder: Path) -> None:
    path = written(folder, planner="'own_agents:Changer'", executor="'own_agents:Changer'")
    entry = read(path)
    assert sys.modules["own_agents"].Mine.made == 2, "one for the profile, one by the module"
    verdict = await entry.agents.atomize(call(TaskType.WRITE))
    assert verdict.node_type in NodeType
    assert isinstance(await entry.agents.aggregate(call(TaskType.WRITE)), Output)
    await entry.aclose()


async def test_built_in_agents_get_their_own_options_and_others_all(folder: Path) -> None:
    executors = "{WRITE: 'own_agents:Mine'}"
    entry = read(written(folder, executor="scripted", executors=executors))
    entry.check_options({"depth": 1, "color": "red"})
    with pytest.raises(ValueError, match="depth"):
        entry.check_options({"depth": "deep", "color": "red"})
    output = await entry.agents.execute(call(TaskType.WRITE, depth=1, color="red"))
    assert output.text == "mine: color,depth"
    assert (await entry.agents.execute(call(TaskType.SEARCH, depth=1, color="red"))).text


def test_options_that_no_agent_reads_are_refused(folder: Path) -> None:
    entry = read(written(folder, executor="corpus"))
    with pytest.raises(ValueError, match="'color' is not known"):
        entry.check_options({"corpus": "stdlib", "color": "red"})
    with pytest.raises(ValueError, match="'corpus' is needed"):
        entry.check_options({"depth": 1})
    entry.check_options({"corpus": "stdlib", "depth": 1})
    assert entry.service_options == {"corpus_cache_dir": "unused"}


async def test_a_planner_that_changes_plans_is_the_modifier(folder: Path) -> None:
    planner = {"planner": "'own_agents:Changer'", "executor": "scripted"}
    entry = read(written(folder, **planner))
    proposal = Plan.model_validate({"tasks": [{"goal": "a part", "task_type": "WRITE"}]})
    task = call(TaskType.WRITE).model_copy(update={"proposal": proposal})
    assert await entry.agents.modify(task) is proposal  # type: ignore[attr-defined]
    (folder / "other_agents.py").write_text("class P:\n    async def plan(self, task): ...\n")
    none = read(written(folder, executor="scripted", planner="'other_agents:P'"))
    with pytest.raises(AgentError, match="change no plans"):
        await none.agents.modify(task)  # type: ignore[attr-defined]


def test_a_folder_holds_a_profile_per_file_and_each_has_its_files_name(folder: Path) -> None:
    written(folder, "a.yaml", executor="scripted")
    written(folder, "b.yml", executor="scripted", name="other")
    (folder / "notes.txt").write_text("not a profile")
    assert with_files(folder, known()).names() == ["a", "corpus", "other", "plan", "scripted"]


@pytest.mark.parametrize(
    "keys, said",
    [
        ({}, "executor: Field required"),
        ({"executor": "scripted", "color": "red"}, "color: Extra inputs"),
        ({"executor": "scripted", "executors": "{PAINT: scripted}"}, "executors.PAINT"),
        ({"executor": "nobody"}, "executor: 'nobody' is neither one of corpus, scripted nor"),
        ({"executor": "plan"}, "executor: 'plan' is neither"),
        ({"executor": "'absent_module:X'"}, "executor: absent_module:X: ModuleNotFoundError"),
        ({"executor": "'own_agents:Absent'"}, "executor: own_agents:Absent: AttributeError"),
        ({"executor": "'own_agents:NeedsMore'"}, "own_agents:NeedsMore: TypeError"),
        ({"executor": "'own_agents:Leaves'"}, "executor: own_agents:Leaves: SystemExit: 3"),
        ({"executor": "'own_agents:Blocking'"}, "has no `async def execute(self, task)`"),
        ({"executor": "'own_agents:broken'"}, "has no `async def execute(self, task)`"),
        ({"executor": "scripted", "planner": "'own_agents:Mine'"}, "planner: own_agents.Mine has"),
        ({"executor": "scripted", "executors": "{WRITE: nobody}"}, "executors.WRITE: 'nobody'"),
        ({"executor": "scripted", "name": "corpus"}, "name: there is a profile 'corpus' already"),
    ],
)
def test_what_could_not_be_executed_is_refused_with_file_and_key(
    folder: Path, keys: dict[str, str], said: str
) -> None:
    path = written(folder, **keys)
    with pytest.raises(InvalidProfile) as refused:
        with_files(path, known())
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "- a list",
        "{",
        "",
        "\udcff",
        "name: 2024-99-99",
        "name: " + "[" * 5_000,
        "name: a\nplanner: scripted\natomizer: scripted\naggregator: scripted\n"
        "executor: scripted\nexecutor: scripted\n",
    ],
)
def test_what_is_no_profile_is_refused(folder: Path, text: str) -> None:
    path = folder / "bad.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidProfile, match=r"bad\.yaml"):
        with_files(path, known())


def test_a_folder_without_profiles_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidProfile, match="holds no"):
        with_files(tmp_path, known())
    with pytest.raises(InvalidProfile, match="cannot be read"):
        with_files(tmp_path / "absent.yaml", known())


async def test_a_service_does_not_start_with_a_bad_profile(folder: Path) -> None:
    path = written(folder, executor="nobody")
    flags = {"--state": "127.0.0.1:1", "--data": str(folder), "--profiles": str(path)}
    config = load_config([word for flag in flags.items() for word in flag], {})
    with pytest.raises(StartupError, match=r"config: profiles: .*executor: 'nobody'"):
        await run(config)


async def test_agents_of_others_that_cannot_be_closed_stop_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Agents:
        def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
            self.aclose = close

    closed: list[str] = []

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def raises() -> None:
        raise RuntimeError("no")

    async def closes() -> None:
        closed.append("third")

    monkeypatch.setattr(profile_module, "CLOSE_SECONDS", 0.01)
    known = built_in_profiles(Path("unused")).get("scripted")
    assert known is not None
    entries = {
        name: ProfileEntry(
            known.profile,
            partial(Agents, close),  # type: ignore[arg-type]
            known.check_options,
        )
        for name, close in {"first": hangs, "second": raises, "third": closes}.items()
    }
    assert all(entry.agents for entry in entries.values())
    await ProfileRegistry(entries).aclose()
    assert closed == ["third"]
