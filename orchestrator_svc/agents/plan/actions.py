"""Runs the action of one task and makes its result, or the reason why there is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from pydantic import JsonValue

from orchestrator_svc.agents.base import AgentError, ErrorClass, Output, report, stop_wish
from orchestrator_svc.agents.plan.outputs import MAX_OUTPUT_BYTES, body_output, over, tail
from orchestrator_svc.agents.plan.tree import Task
from orchestrator_svc.agents.processes.client import (
    Command,
    Ended,
    Function,
    Processes,
    Refused,
)
from ramify.v1.plan_pb2 import PlanOutput

if TYPE_CHECKING:
    from orchestrator_svc.agents.plan.requests import Requests

_SUMMARY_CHARS = 300


class Actions:
    """Runs actions. Owned by the loop; `aclose` ends what still runs."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._requests: Requests | None = None

    async def run(
        self, task: Task, env: Mapping[str, str], dependencies: Mapping[str, JsonValue]
    ) -> Output:
        """Return the result of a task. Raises `AgentError`."""
        if task.message.HasField("http"):
            return await self._request(task)
        return await self._run_process(task, env, dependencies)

    async def aclose(self) -> None:
        """Close connections."""
        if self._requests is not None:
            await self._requests.aclose()

    # Commands and functions

    async def _run_process(
        self, task: Task, env: Mapping[str, str], dependencies: Mapping[str, JsonValue]
    ) -> Output:
        message = task.message
        stdin = ""
        what: Command | Function
        if message.HasField("python"):
            what = _function(task, dependencies)
        else:
            argv = list(message.command.argv) or ["/bin/sh", "-c", message.command.shell]
            what = Command(argv=argv)
            if message.pass_dependencies:
                stdin = json.dumps(dependencies)
        try:
            ended = await self._processes.run(
                what,
                owner=env.get("RAMIFY_PROJECT_ID", ""),
                env={**task.env, **env},
                cwd=task.working_directory,
                stdin=stdin,
                max_output=MAX_OUTPUT_BYTES,
                timeout=task.timeout,
                on_line=report,
            )
        except Refused as error:
            raise AgentError(ErrorClass.EXECUTION, f"cannot be started: {error}") from error
        if ended.timed_out:
            raise AgentError(ErrorClass.TIMEOUT, over(task) + _said(ended, ":"))
        if ended.status:
            if stop_wish().is_set():
                raise AgentError(ErrorClass.TIMEOUT, f"was asked to stop: {_failure(ended)}")
            raise AgentError(ErrorClass.EXECUTION, _failure(ended))
        if isinstance(what, Function):
            return _value_output(ended)
        return body_output(ended.out, _left_out(ended), message.command.output, _success(ended))

    async def _request(self, task: Task) -> Output:
        if self._requests is None:
            made = await asyncio.to_thread(_load_requests)  # the loop goes on meanwhile
            if self._requests is None:  # another task may have been first
                self._requests = made()
        return await self._requests.send(task)


def _load_requests() -> type[Requests]:
    from orchestrator_svc.agents.plan.requests import Requests

    return Requests


def _function(task: Task, dependencies: Mapping[str, JsonValue]) -> Function:
    action = task.message.python
    kwargs: dict[str, object] = {
        name: MessageToDict(value) for name, value in action.kwargs.items()
    }
    if task.message.pass_dependencies:
        kwargs["dependencies"] = dict(dependencies)
    args = [_whole(MessageToDict(value)) for value in action.args]
    return Function(
        name=action.function,
        args=args,
        kwargs={name: _whole(value) for name, value in kwargs.items()},
    )


def _whole(value: object) -> object:
    """Return JSON with whole numbers as ints: the contract has one kind of number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


# Results


def _value_output(ended: Ended) -> Output:
    try:
        value: object = json.loads(ended.value)["value"]
    except (ValueError, KeyError, TypeError) as error:
        text = "the function ended without a value: its process was left or its files were closed"
        raise AgentError(ErrorClass.EXECUTION, text) from error
    if value is None:
        return body_output(
            ended.out, _left_out(ended), PlanOutput.PLAN_OUTPUT_TEXT, _success(ended)
        )
    summary = _success(ended)
    if isinstance(value, str):
        return Output(text=value, summary=summary)
    text = json.dumps(value, ensure_ascii=False)
    return Output(content_type="application/json", text=text, summary=summary)


def _left_out(ended: Ended) -> str:
    return f"{ended.out_dropped} bytes of its output are left out" if ended.out_dropped else ""


def _success(ended: Ended) -> str:
    summary = f"exit code 0 after {ended.seconds:.3g} s"
    said = tail(ended.err, _SUMMARY_CHARS)
    return f"{summary}; on standard error: {said}" if said else summary


def _failure(ended: Ended) -> str:
    how = f"exit code {ended.status}"
    if ended.status < 0:
        how = f"killed by signal {-ended.status}"
    reason = ""
    with suppress(ValueError, KeyError, TypeError):
        reason = str(json.loads(ended.value)["error"])
    text = f"{how} after {ended.seconds:.3g} s"
    return f"{text}: {reason}{_said(ended)}" if reason else text + _said(ended, ":")


def _said(ended: Ended, before: str = "") -> str:
    """Return what a child said last, on lines of its own."""
    said = tail(ended.err) or tail(ended.out)
    return f"{before}\n{said}" if said else ""
