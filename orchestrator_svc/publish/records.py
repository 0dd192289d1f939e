"""What a project is when it is read from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator_svc.graph.event import CommandGiven, ReviewClosed
from orchestrator_svc.graph.node import Json, Node
from orchestrator_svc.graph.review import Review
from orchestrator_svc.graph.settings import Scalar
from orchestrator_svc.graph.types import ProjectState

#: An order was begun that takes no agent to complete.
HALF_DONE = frozenset({ProjectState.PAUSING, ProjectState.CANCELLING})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProject:
    """A project at one revision, ready to be taken up."""

    project_id: str
    project_uid: str
    revision: int
    goal: str
    state: ProjectState
    profile: str
    root_id: str
    pause_time: float | None = None  #: Unix seconds; None unless PAUSING or PAUSED
    settings: Mapping[str, Scalar]  #: keys that the project sets
    agent_options: Mapping[str, Json] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    open_commands: tuple[CommandGiven, ...] = ()
    reviews: tuple[Review, ...] = ()  #: those whose answer some node still needs

    @property
    def is_addressed(self) -> bool:
        """Whether an order or an answer of a human is still to be acted on, or half done."""
        answered = any(review.answer is not None for review in self.reviews)
        return bool(self.open_commands) or answered or self.state in HALF_DONE


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the watch of a project has shown: orders, answers, and how far it has come."""

    revision: int  #: everything through it has been seen; 0 if the message promises nothing
    commands: tuple[CommandGiven, ...] = ()
    reviews: tuple[ReviewClosed, ...] = ()


@dataclass(frozen=True, slots=True)
class UnfinishedProject:
    """A project that has not ended, with who executes it."""

    project_id: str
    holder: str = ""  #: of its lease; empty: nobody
    lease_epoch: int = 0  #: of the latest grant; 0: nobody has ever held it
    profile: str = ""  #: empty: the orchestrator's default
    state: ProjectState = ProjectState.RUNNING
    revision: int = 0  #: of its latest change of any kind
