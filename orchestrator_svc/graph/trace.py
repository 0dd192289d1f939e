"""What happened in one stage of a node, as it is recorded (S4.9, SEM 28).

Nothing here is made up: what an agent does not report is not there, and every duration is of one
monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_svc.graph.text import is_text, storable
from orchestrator_svc.graph.usage import NO_USAGE, Usage

MAX_TOOL_CALLS = 1_000  #: of one record; the contract takes no more
MAX_TOOL_BYTES = 500_000  #: of all of them in the batch that has the record, with some room
MAX_NAME_CHARS = 255
MAX_ERROR_CHARS = 4_096
MAX_SECONDS = 1e9  #: of one use of a tool
_PLAIN = "text/plain"
_MOST_BODY_BYTES = 1_024  #: of a body in a batch: a larger one is named by its digest
_FRAMING_BYTES = 64  #: of a tool call, and of each of its bodies


@dataclass(frozen=True, slots=True)
class Body:
    """What went in or came out, whole or by reference."""

    content_type: str = "text/plain"
    text: str = ""
    data: bytes = b""  #: the body when it is not text; then `text` is empty
    digest: str = ""  #: names the body in the payload store; then it is not here
    is_text: bool = True  #: whether the body that `digest` names is text


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


def storable_call(call: ToolCall) -> ToolCall:
    """Return the use of a tool as the store takes it, whatever an agent has put into it.

    Text is cut with a mark, a negative time is 0, and one that is no number is not measured.
    """
    measured: object = call.seconds
    seconds = None
    if isinstance(measured, int | float) and (measured <= 0 or measured > 0):  # a number
        seconds = float(min(max(0, measured), MAX_SECONDS))
    return ToolCall(
        tool_name=storable(str(call.tool_name), MAX_NAME_CHARS),
        arguments=_storable_body(call.arguments),
        result=_storable_body(call.result),
        seconds=seconds,
        error=storable(str(call.error), MAX_ERROR_CHARS),
    )


def call_bytes(call: ToolCall) -> int:
    """Return about how many bytes the use of a tool adds to a batch, rather more than fewer."""
    size = _FRAMING_BYTES + len(call.tool_name.encode()) + len(call.error.encode())
    for body in (call.arguments, call.result):
        if body is not None:
            content = min(len(body.data) or len(body.text.encode()), _MOST_BODY_BYTES)
            size += _FRAMING_BYTES + len(body.content_type.encode()) + content
    return size


def text_body(text: str) -> Body:
    """Return a text as a body, without what cannot be stored."""
    text = str(text)
    return Body(text=text if is_text(text) else text.encode(errors="replace").decode())


def _storable_body(body: object) -> Body | None:
    if body is None:
        return None
    if not isinstance(body, Body):
        return text_body(str(body))
    kind = str(body.content_type)
    if len(kind) > MAX_NAME_CHARS or not is_text(kind):
        kind = _PLAIN
    data: object = body.data
    if isinstance(data, bytes) and data:
        return Body(kind, data=data)
    return Body(kind, text_body(body.text).text)
