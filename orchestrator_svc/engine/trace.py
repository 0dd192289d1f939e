"""Collects what is recorded of one agent call, and writes inputs and answers as JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, JsonValue
from pydantic_core import PydanticSerializationError, to_json

from orchestrator_svc.agents.base import AgentInput, Output, RelatedNode
from orchestrator_svc.graph.event import Call
from orchestrator_svc.graph.text import is_text, storable
from orchestrator_svc.graph.trace import (
    MAX_NAME_CHARS,
    MAX_TOOL_BYTES,
    MAX_TOOL_CALLS,
    Body,
    ToolCall,
    Trace,
    call_bytes,
    storable_call,
    text_body,
)
from orchestrator_svc.graph.usage import Usage
from orchestrator_svc.publish.watch import PLAN_OPTION

_JSON = "application/json"
#: Fields of an input that the record itself does not have.
_INPUT_FIELDS = [
    name for name in AgentInput.model_fields if name not in ("project_id", "node_id", "attempt")
]


class TraceNotes:
    """What an agent says of its model and its tools while a call is open; from any thread."""

    def __init__(self) -> None:
        self.output: Body | None = None  #: what the agent answered
        self._lock = threading.Lock()
        self._model = ""
        self._prompt: Body | None = None
        self._response: Body | None = None
        self._tool_calls: list[ToolCall] = []
        self._tool_bytes = 0  #: more than the bound once a call was left out

    def model_call(self, model: str, prompt: str, response: str) -> None:
        """Note what a model was asked and what it answered; of several calls the last counts."""
        with self._lock:
            self._model = storable(str(model), MAX_NAME_CHARS)
            self._prompt = text_body(prompt)
            self._response = text_body(response)

    def tool_call(self, call: ToolCall) -> None:
        """Note the use of a tool; of more than the record can hold the first count."""
        with self._lock:
            if len(self._tool_calls) >= MAX_TOOL_CALLS or self._tool_bytes > MAX_TOOL_BYTES:
                return
            call = storable_call(call)
            self._tool_bytes += call_bytes(call)
            if self._tool_bytes <= MAX_TOOL_BYTES:
                self._tool_calls.append(call)

    def finish(
        self, call: Call, task: AgentInput, started: float, seconds: float, usage: Usage
    ) -> Trace:
        """Return the record of the call."""
        with self._lock:
            return Trace(
                attempt=call.attempt,
                agent_name=call.agent_name,
                started=started,
                seconds=seconds,
                input=input_body(task),
                output=self.output,
                model=self._model,
                prompt=self._prompt,
                response=self._response,
                tool_calls=tuple(self._tool_calls),
                usage=usage,
            )


def input_body(task: AgentInput) -> Body:
    """Return what an agent was given.

    Results of other nodes are named by their nodes, whose results the same log holds, and not
    repeated; nor is a project's plan, of which each task has its part in `details`.
    """
    given: dict[str, JsonValue] = {}
    for name in _INPUT_FIELDS:
        value = getattr(task, name)
        if value and name in _SHOWN:
            value = _SHOWN[name](value)
        if value or value == 0:
            given[name] = value
    return _json(given)


def _related(nodes: Iterable[RelatedNode]) -> JsonValue:
    shown: list[JsonValue] = []
    for node in nodes:
        item: dict[str, JsonValue] = {"node_id": node.node_id, "state": node.state}
        if node.error:
            item["error"] = node.error
        if node.shortened:
            item["shortened"] = True
        shown.append(item)
    return shown


def _dumped(model: BaseModel) -> dict[str, JsonValue]:
    return model.model_dump(mode="json", exclude_defaults=True)


#: How the fields of an input are shown that are not shown as they are.
_SHOWN: Mapping[str, Callable[[Any], JsonValue]] = {
    "ancestors": _related,
    "dependencies": _related,
    "children": _related,
    "previous": _related,
    "siblings": lambda nodes: [node.node_id for node in nodes],  # all of them are DONE, and many
    "options": lambda given: {key: given[key] for key in given if key != PLAN_OPTION},
    "proposal": _dumped,
}


def output_body(answer: object) -> Body | None:
    """Return what an agent answered; None if there is no answer, or none that can be stored."""
    if isinstance(answer, Output):
        content_type = answer.content_type
        if len(content_type) > MAX_NAME_CHARS or not is_text(content_type):
            content_type = "text/plain"
        if answer.data:
            return Body(content_type, data=answer.data)
        return Body(content_type, text_body(answer.text).text)
    if isinstance(answer, BaseModel):
        return _json(_dumped(answer))
    return None


def _json(value: JsonValue) -> Body:
    try:
        return Body(_JSON, to_json(value, fallback=str).decode())
    except PydanticSerializationError:  # some text is not valid Unicode
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        return Body(_JSON, text_body(text).text)
