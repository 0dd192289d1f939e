"""What happened in one stage of a node, as it is recorded (S4.9, SEM 28).

Nothing here is made up: what an agent does not report is not there, and every duration is of one
monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_svc.graph.usage import NO_USAGE, Usage


@dataclass(frozen=True, slots=True)
class Body:
    """What went in or came out, whole."""

    content_type: str = "text/plain"
    text: str = ""
    data: bytes = b""  #: the body when it is not text; then `text` is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One use of a tool."""

    tool_name: str
    arguments: Body | None = None
    result: Body | None = None
    seconds: float | None = None  #: None: not measured
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One agent call, from when the agent was asked to when it had answered or failed."""

    attempt: int
    agent_name: str
    started: float  #: Unix seconds
    seconds: float
    input: Body
    output: Body | None = None  #: None: there was no answer
    model: str = ""
    prompt: Body | None = None
    response: Body | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = NO_USAGE
