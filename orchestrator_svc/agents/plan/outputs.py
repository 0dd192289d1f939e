"""Makes the result of a task out of the bytes that it has printed or that a server answered."""

from __future__ import annotations

import json

from orchestrator_svc.agents.base import AgentError, ErrorClass, Output
from orchestrator_svc.agents.plan.tree import Task
from ramify.v1.plan_pb2 import PlanOutput

MAX_OUTPUT_BYTES = 256 << 10  #: of what a task prints or a server answers
_TAIL_CHARS = 1_500  #: of what a failed task said last


def body_output(
    body: bytes,
    missing: str,
    kind: PlanOutput.ValueType,
    summary: str,
    content_type: str = "text/plain",
) -> Output:
    """Return a body as its kind of output; `missing` tells what of it is left out.

    Raises `AgentError` if it should be JSON and is none.
    """
    if missing:
        summary += f"; {missing}"
    if kind == PlanOutput.PLAN_OUTPUT_JSON:
        if missing:
            text = f"the output is longer than {MAX_OUTPUT_BYTES} bytes, so it is not whole JSON"
            raise AgentError(ErrorClass.INVALID_OUTPUT, text)
        return Output(content_type="application/json", text=_json_text(body), summary=summary)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        if not missing:
            if content_type.startswith("text/"):
                content_type = "application/octet-stream"
            return Output(content_type=content_type, data=body, summary=summary)
        text = body.decode(errors="replace")
    return Output(content_type=content_type, text=text, summary=summary)


def _json_text(body: bytes) -> str:
    """Return JSON as text. Raises `AgentError` if it is none, or more than JSON can say."""
    try:
        text = body.decode()
        json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        said = f"the output is not JSON: {error}"
        raise AgentError(ErrorClass.INVALID_OUTPUT, said) from error
    return text


def _no_json(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def over(task: Task) -> str:
    """Return that a task was ended because its time was over."""
    return f"did not end within {task.timeout:g} s and was ended"


def tail(data: bytes, chars: int = _TAIL_CHARS) -> str:
    """Return the end of a text."""
    text = data.decode(errors="replace").strip()
    return text if len(text) <= chars else "…" + text[1 - chars :]
