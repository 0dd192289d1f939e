"""What there is to explain: a project at one revision, and what only its executor knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator_svc.graph.budget import Accounts, Use, project_budget
from orchestrator_svc.graph.node import Failure, Node
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import NodeState, ProjectState, Stage

#: An agent may be at work on a node in one of these.
ACTIVE_STATES = frozenset({NodeState.RUNNING, NodeState.AGGREGATING})


@dataclass(frozen=True, slots=True)
class OpenCall:
    """An agent call in flight."""

    stage: Stage
    agent_name: str
    started: float  #: Unix seconds
    timeout: float  #: seconds from then
    silent: float = 0.0  #: seconds without a sign of life
    provider_place: float | None = None  #: Unix seconds at which `rate_limit_rpm` lets it go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Facts from the memory of the orchestrator that executes the project."""

    states: Mapping[str, NodeState] = field(default_factory=dict)  #: decided, durable or not
    calls: Mapping[str, OpenCall] = field(default_factory=dict)  #: by node
    queue: Mapping[str, int] = field(default_factory=dict)  #: nodes that wait for a slot: place
    busy: int = 0  #: slots in use
    steps: int = 0
    draining: bool = False
    lease_valid: bool = True
    budgets: Sequence[Use] = ()
    unsent_seconds: float = 0.0  #: age of the oldest decision that is not durable; 0: none


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A project as it is stored, with what this orchestrator knows of it."""

    project_id: str
    state: ProjectState
    revision: int = 0
    since: float = 0.0  #: Unix seconds; latest change of the project itself
    holder: str = ""  #: who has the lease; empty: nobody
    root_id: str = ""
    error: Failure | None = None
    settings: Settings = field(default_factory=Settings)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    since_of: Mapping[str, float] = field(default_factory=dict)  #: latest change, by node
    end: float | None = None  #: Unix seconds; None: the project has not ended
    end_of: Mapping[str, float] = field(default_factory=dict)  #: of nodes that have ended
    profile_problem: str = ""  #: why this orchestrator leaves it to others; empty: it does not
    no_room: str = ""  #: why this orchestrator takes no other project up; empty: it does
    setback: str = ""  #: how its last execution here ended, if it is tried again; empty: it did not
    live: Live | None = None

    @cached_property
    def steps(self) -> int:
        """Agent-stage dispatches so far (SEM 23)."""
        if self.live is not None:
            return self.live.steps
        return sum(node.agent_calls for node in self.nodes.values())

    @cached_property
    def busy(self) -> int:
        """Slots in use; of a project that is executed elsewhere, as the stored states tell."""
        if self.live is not None:
            return self.live.busy
        return sum(node.state in ACTIVE_STATES for node in self.nodes.values())

    @cached_property
    def accounts(self) -> Accounts:
        """The budgets as they are stored."""
        return Accounts(project_budget(self.settings), self.nodes)

    def budgets(self, now: float) -> list[Use]:
        """Return how much of every budget is used, as exactly as it is known.

        The time of a budget ends with its node, or with the project.
        """
        live = self.live if self.end is None else None  # what has ended is stored whole
        uses = self.accounts.report(now) if live is None else live.budgets
        return [self._stopped(use, now) for use in uses]

    def _stopped(self, use: Use, now: float) -> Use:
        end = self.end_of.get(use.node_id, self.end)
        if end is None or use.resource != "wall_seconds":
            return use
        return replace(use, used=max(0.0, use.used - max(0.0, now - end)))
