"""What the corpus agents hand to each other: plan details, candidates, selections. No I/O."""

from __future__ import annotations

import enum
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator_svc.agents.base import AgentInput, RelatedNode
from orchestrator_svc.agents.corpus.errors import InvalidOptionError, invalid_output
from orchestrator_svc.agents.corpus.facet import Facet
from orchestrator_svc.agents.corpus.section import Kind

JSON = "application/json"
MARKDOWN = "text/markdown"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Role(enum.StrEnum):
    """What a planned node does in the research of a question."""

    CLAUSE = "clause"
    FACET = "facet"
    SEARCH = "search"
    THINK = "think"
    WRITE = "write"


class Assignment(_Message):
    """Everything the planner decided for one node; travels in `PlannedTask.details`."""

    role: Role
    clause: str
    earlier: tuple[str, ...] = ()  #: the clauses before this one, for what it leaves unsaid
    facet: Facet | None = None  #: None for a clause as a whole
    index: str  #: key of the index that the run was planned on

    @classmethod
    def of(cls, task: AgentInput) -> Self | None:
        """Return the assignment of `task`; None for a node that no corpus planner made."""
        if "role" not in task.details:
            return None
        try:
            return cls.model_validate(task.details)
        except ValidationError as error:
            raise invalid_output(f"details of the node: {_first_problem(error)}") from None


class Options(BaseModel):
    """The agent options that the corpus agents read; others belong to other agents."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    corpus: str = Field(min_length=1)  #: "stdlib" or a folder
    corpus_cache_dir: str | None = None  #: folder of the indexes

    @classmethod
    def of(cls, task: AgentInput) -> Self:
        """Return the options of `task`; raise `InvalidOptionError` when they cannot be used."""
        try:
            return cls.model_validate(task.options)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidOptionError(str(first["loc"][0]), first["msg"]) from None


class Quote(_Message):
    """Consecutive sentences of the corpus with their place."""

    text: str = Field(min_length=1)  #: as in the file, whitespace and comment markers apart
    path: str = Field(min_length=1)  #: relative to the corpus root
    start_line: int = Field(ge=1)
    end_line: int = Field(ge=1)  #: inclusive
    name: str  #: dotted name or headings of the section
    kind: Kind
    score: float = 0.0
    terms: tuple[str, ...] = ()  #: terms of the clause that the quote or its section's name holds


class CandidateSection(_Message):
    """A section that SEARCH found, with the quotes it offers."""

    path: str
    name: str
    kind: Kind
    start_line: int
    end_line: int
    quotes: tuple[Quote, ...]


class Candidates(_Message):
    """The result of SEARCH: sections, the one with the best quote first."""

    clause: str
    facet: Facet | None
    terms: tuple[str, ...]  #: what was searched for
    sections_matched: int
    sections: tuple[CandidateSection, ...] = Field(min_length=1)


class Selection(_Message):
    """The result of THINK: the quotes to write down, in order, and why these."""

    clause: str
    facet: Facet | None
    terms: tuple[str, ...]
    basis: str
    quotes: tuple[Quote, ...] = Field(min_length=1)


_M = TypeVar("_M", bound=_Message)


def read_message(kind: type[_M], node: RelatedNode) -> _M:
    """Return the message in the output of `node`; raise INVALID_OUTPUT when there is none."""
    if node.output is None or node.output.content_type != JSON:
        raise invalid_output(f"node {node.node_id} has no JSON output")
    try:
        return kind.model_validate_json(node.output.text)
    except ValidationError as error:
        raise invalid_output(f"output of node {node.node_id}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
