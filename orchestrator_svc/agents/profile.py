"""Profiles: which agent does which stage and task type.

A profile is a table of agent names plus the set of agents that the names stand for. The sets are
made when a profile is first used, so that a service which never runs a profile does not load it.
Those that ship with Ramify are here; `profile_file.py` reads others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from orchestrator_svc.agents.base import Aggregator, Atomizer, Executor, Planner
from orchestrator_svc.graph.types import Stage, TaskType
from orchestrator_svc.logs import get_logger

if TYPE_CHECKING:
    from orchestrator_svc.agents.processes.client import Processes

DEFAULT_MAX_PROCESSES = 64  #: child processes at one time
DEFAULT_PROFILE = "corpus"
PLAN_PROFILE = "plan"
CLOSE_SECONDS = 5.0  #: that agents get at the end to release what they hold

_CORPUS_OPTIONS = frozenset({"corpus"})

_log = get_logger(__name__)


class AgentSet(Atomizer, Planner, Executor, Aggregator, Protocol):
    """One object that plays these roles; one that is a `Modifier` too can change plans."""


class Profile(BaseModel):
    """Names of agents by stage, for executors by task type too; they appear as `agent_name`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=255)
    atomizer: str
    planner: str
    aggregator: str
    modifier: str = ""  #: who changes plans; empty: the planner
    executor: str  #: for task types that `executors` does not name
    executors: dict[TaskType, str] = Field(default_factory=dict)

    def agent_name(self, stage: Stage, task_type: TaskType) -> str:
        """Return who does a stage of a node."""
        if stage is Stage.EXECUTE:
            return self.executors.get(task_type, self.executor)
        if stage is Stage.PLAN:
            return self.planner
        if stage is Stage.MODIFY:
            return self.modifier or self.planner
        return self.atomizer if stage is Stage.ATOMIZE else self.aggregator


class ProfileEntry:
    """A profile with its agents and the check of its options."""

    def __init__(
        self,
        profile: Profile,
        make_agents: Callable[[], AgentSet],
        check_options: Callable[[Mapping[str, JsonValue]], None],
        service_options: Mapping[str, JsonValue] | None = None,
        refusal: str = "",
        option_names: Callable[[], frozenset[str]] | None = None,
    ) -> None:
        self.profile = profile
        self.refusal = refusal  #: why this orchestrator executes no project of the profile
        self.service_options = dict(service_options or {})  #: added to those of each project
        self.check_options = check_options  #: raises ValueError with a remedy
        self._make_agents = make_agents
        self._option_names = option_names
        self._agents: AgentSet | None = None

    @property
    def option_names(self) -> frozenset[str] | None:
        """The agent options that its agents read; None if other profiles cannot name them."""
        return self._option_names() if self._option_names is not None else None

    @property
    def agents(self) -> AgentSet:
        """The agents, made on first use and shared by all projects."""
        if self._agents is None:
            self._agents = self._make_agents()
        return self._agents

    async def aclose(self) -> None:
        """Release what the agents hold, if they were made and hold anything."""
        aclose = getattr(self._agents, "aclose", None)
        if aclose is not None:
            await aclose()


class ProfileRegistry:
    """The profiles of a service, by name. Immutable."""

    def __init__(self, entries: Mapping[str, ProfileEntry]) -> None:
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """Return all names in alphabetical order."""
        return sorted(self._entries)

    async def aclose(self) -> None:
        """Release what the agents hold; those of others get `CLOSE_SECONDS` and may fail."""
        for name, entry in self._entries.items():
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await entry.aclose()
            except Exception as error:
                _log.warning("agents were not closed", profile=name, cause=repr(error))

    def get(self, name: str) -> ProfileEntry | None:
        """Return a profile."""
        return self._entries.get(name)


def built_in_profiles(
    corpus_cache_dir: Path, *, processes: Processes | None = None, plans_refused: str = ""
) -> ProfileRegistry:
    """Return the profiles that ship with Ramify.

    `processes` runs what plans say; `plans_refused` is why no plan is run at all.
    """
    cache = {"corpus_cache_dir": str(corpus_cache_dir)}
    corpus = Profile(
        name="corpus",
        atomizer="corpus.atomizer",
        planner="corpus.planner",
        aggregator="corpus.aggregator",
        modifier="corpus.modifier",
        executor="corpus.writer",
        executors={
            TaskType.SEARCH: "corpus.searcher",
            TaskType.THINK: "corpus.thinker",
            TaskType.WRITE: "corpus.writer",
        },
    )
    scripted = Profile(
        name="scripted",
        atomizer="scripted",
        planner="scripted",
        aggregator="scripted",
        modifier="scripted",
        executor="scripted",
    )
    plan = Profile(
        name=PLAN_PROFILE,
        atomizer="plan.tree",
        planner="plan.tree",
        aggregator="plan.report",
        modifier="plan.modifier",
        executor="plan.command",
        executors={TaskType.CUSTOM: "plan.python", TaskType.SEARCH: "plan.http"},
    )
    return ProfileRegistry(
        {
            PLAN_PROFILE: ProfileEntry(
                plan,
                partial(_plan_agents, processes),
                _check_plan_options,
                refusal=plans_refused,
            ),
            "corpus": ProfileEntry(
                corpus,
                _corpus_agents,
                _check_corpus_options,
                cache,
                option_names=lambda: _CORPUS_OPTIONS,
            ),
            "scripted": ProfileEntry(
                scripted, _scripted_agents, _check_script, option_names=_script_keys
            ),
        }
    )


def _corpus_agents() -> AgentSet:
    from orchestrator_svc.agents.corpus import CorpusAgents

    return CorpusAgents()


def _check_corpus_options(options: Mapping[str, JsonValue]) -> None:
    from orchestrator_svc.agents.base import AgentError
    from orchestrator_svc.agents.corpus import validate_corpus

    unknown = sorted(set(options) - _CORPUS_OPTIONS)
    if unknown:
        raise ValueError(f"agent option {unknown[0]!r} is not known, only 'corpus' is")
    corpus = options.get("corpus")
    if not isinstance(corpus, str):
        raise ValueError("agent option 'corpus' is needed: 'stdlib' or a folder of documents")
    try:
        validate_corpus(corpus)
    except AgentError as error:
        raise ValueError(error.message) from error


def _plan_agents(processes: Processes | None) -> AgentSet:
    from orchestrator_svc.agents.plan import PlanAgents
    from orchestrator_svc.agents.processes.client import Processes

    return PlanAgents(processes or Processes(DEFAULT_MAX_PROCESSES))


def _check_plan_options(options: Mapping[str, JsonValue]) -> None:
    if options:
        raise ValueError(f"agent option {min(options)!r} is not known, plans take none")


def _scripted_agents() -> AgentSet:
    from orchestrator_svc.agents.scripted import ScriptedAgents

    return ScriptedAgents()


def _check_script(options: Mapping[str, JsonValue]) -> None:
    from orchestrator_svc.agents.scripted import read_script

    read_script(options)


def _script_keys() -> frozenset[str]:
    from orchestrator_svc.agents.scripted import Script

    return frozenset(Script.model_fields)
