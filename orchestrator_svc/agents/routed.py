"""Agents of a profile that somebody wrote: each call goes to the agent that the profile names."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator_svc.agents.base import (
    NO_MODIFIER,
    AgentError,
    AgentInput,
    Aggregator,
    Atomizer,
    ErrorClass,
    Executor,
    Modifier,
    Output,
    Plan,
    Planner,
    Verdict,
)
from orchestrator_svc.agents.profile import Profile, ProfileEntry
from orchestrator_svc.graph.types import Stage

#: What an agent has to be to do a stage.
ROLES: Mapping[Stage, type] = {
    Stage.ATOMIZE: Atomizer,
    Stage.PLAN: Planner,
    Stage.EXECUTE: Executor,
    Stage.AGGREGATE: Aggregator,
    Stage.MODIFY: Modifier,
}


class RoutedAgents:
    """All roles, by built-in sets and by agents of one's own, which `profile_file.py` has checked.

    A set gets the agent options that are its own; other agents get all.
    """

    def __init__(
        self, profile: Profile, sets: Mapping[str, ProfileEntry], own: Mapping[str, object]
    ) -> None:
        self._profile = profile
        self._sets = dict(sets)
        self._own = dict(own)

    async def atomize(self, task: AgentInput) -> Verdict:
        """Ask the profile's atomizer."""
        agent, task = self._route(Stage.ATOMIZE, task)
        assert isinstance(agent, Atomizer)
        return await agent.atomize(task)

    async def plan(self, task: AgentInput) -> Plan:
        """Ask the profile's planner."""
        agent, task = self._route(Stage.PLAN, task)
        assert isinstance(agent, Planner)
        return await agent.plan(task)

    async def execute(self, task: AgentInput) -> Output:
        """Ask the profile's executor for the type of the task."""
        agent, task = self._route(Stage.EXECUTE, task)
        assert isinstance(agent, Executor)
        return await agent.execute(task)

    async def aggregate(self, task: AgentInput) -> Output:
        """Ask the profile's aggregator."""
        agent, task = self._route(Stage.AGGREGATE, task)
        assert isinstance(agent, Aggregator)
        return await agent.aggregate(task)

    async def modify(self, task: AgentInput) -> Plan:
        """Ask the profile's modifier; without one, the planner if it changes plans."""
        agent, task = self._route(Stage.MODIFY, task)
        if not isinstance(agent, Modifier):
            raise AgentError(ErrorClass.EXECUTION, NO_MODIFIER)
        return await agent.modify(task)

    async def aclose(self) -> None:
        """Release what agents of one's own hold; the sets belong to their own profiles."""
        for agent in self._own.values():
            aclose = getattr(agent, "aclose", None)
            if aclose is not None:
                await aclose()

    def _route(self, stage: Stage, task: AgentInput) -> tuple[object, AgentInput]:
        name = self._profile.agent_name(stage, task.task_type)
        entry = self._sets.get(name)
        if entry is None:
            return self._own[name], task
        names = {*(entry.option_names or ()), *entry.service_options}
        options = {key: value for key, value in task.options.items() if key in names}
        return entry.agents, task.model_copy(update={"options": options})
