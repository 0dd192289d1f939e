"""Runs the action of one task and makes its result, or the reason why there is none."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
from google.protobuf.json_format import MessageToDict
from pydantic import JsonValue

from orchestrator_svc.agents.base import AgentError, ErrorClass, Output, report, stop_wish
from orchestrator_svc.agents.plan.tree import Task, shown_url
from orchestrator_svc.agents.processes.client import (
    Command,
    Ended,
    Function,
    Processes,
    Refused,
    inherited_environment,
)
from ramify.v1.plan_pb2 import PlanOutput

MAX_OUTPUT_BYTES = 256 << 10  #: of what a task prints or a server answers
MAX_REDIRECTS = 10
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_TAIL_CHARS = 1_500  #: of what a failed task said last
_SUMMARY_CHARS = 300

_BY_STATUS = {
    401: ErrorClass.AUTH,
    403: ErrorClass.AUTH,
    408: ErrorClass.TIMEOUT,
    429: ErrorClass.RATE_LIMIT,
}


class Actions:
    """Runs actions. Owned by the loop; `aclose` ends what still runs."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._session: aiohttp.ClientSession | None = None

    async def run(
        self, task: Task, env: Mapping[str, str], dependencies: Mapping[str, JsonValue]
    ) -> Output:
        """Return the result of a task. Raises `AgentError`."""
        if task.message.HasField("http"):
            return await self._request(task)
        return await self._run_process(task, env, dependencies)

    async def aclose(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

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
            raise AgentError(ErrorClass.TIMEOUT, _over(task) + _said(ended, ":"))
        if ended.status:
            if stop_wish().is_set():
                raise AgentError(ErrorClass.TIMEOUT, f"was asked to stop: {_failure(ended)}")
            raise AgentError(ErrorClass.EXECUTION, _failure(ended))
        if isinstance(what, Function):
            return _value_output(ended)
        return _body_output(ended.out, _left_out(ended), message.command.output, _success(ended))

    # HTTP

    async def _request(self, task: Task) -> Output:
        action = task.message.http
        method = action.method or "GET"
        what = f"{method} {shown_url(action.url)}"
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # How many calls are open is the settings' to bound: a task that waits here for
                # those of other projects would lose its time.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),  # no task sends what another one was given
                timeout=aiohttp.ClientTimeout(total=None),
            )
        loop = asyncio.get_running_loop()
        started = loop.time()
        report(what)
        deadline = asyncio.timeout(task.timeout)
        try:
            async with (
                deadline,
                self._session.request(
                    method,
                    action.url,
                    headers=_headers(task),
                    data=action.body.encode() or None,
                    max_redirects=MAX_REDIRECTS,
                ) as response,
            ):
                body, cut = await _read_body(response)
                body = _in_utf8(body, response.charset)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            text = f"{shown_url(action.url)} is no address, or leads to none"
            raise AgentError(ErrorClass.EXECUTION, text) from error
        except aiohttp.TooManyRedirects as error:
            text = f"{what} was sent on more than {MAX_REDIRECTS} times"
            raise AgentError(ErrorClass.EXECUTION, text) from error
        except TimeoutError as error:
            if deadline.expired():
                raise AgentError(ErrorClass.TIMEOUT, f"{what}: {_over(task)}") from error
            raise AgentError(ErrorClass.CONNECTION, f"{what}: no answer") from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"{what}: {_cause(error)}"
            raise AgentError(ErrorClass.CONNECTION, text) from error
        except ValueError as error:
            raise AgentError(ErrorClass.EXECUTION, f"{what} cannot be sent: {error}") from error
        seconds = loop.time() - started
        said = f"{what} answered {response.status} in {seconds:.3g} s"
        status = response.status
        good = status in action.expected_status if action.expected_status else status // 100 == 2
        if not good:
            error_class = _BY_STATUS.get(status, ErrorClass.EXECUTION)
            if status in (502, 503, 504):
                error_class = ErrorClass.CONNECTION
            raise AgentError(error_class, f"{said}: {_tail(body)}")
        missing = "the rest of its answer is left out" if cut else ""
        return _body_output(body, missing, action.output, said, response.content_type)


def _headers(task: Task) -> dict[str, str]:
    """Return the headers with their variables: so no secret has to be a part of the plan."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        found = task.env.get(name, inherited_environment().get(name))
        if found is None:
            raise AgentError(ErrorClass.EXECUTION, f"{match[0]} of a header is not set")
        return found

    return {name: _VARIABLE.sub(value, text) for name, text in task.message.http.headers.items()}


async def _read_body(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """Return a body up to the limit, and whether there is more of it, which is not read."""
    body = bytearray()
    async for part in response.content.iter_chunked(64 << 10):
        report()
        body += part
        if len(body) > MAX_OUTPUT_BYTES:
            response.close()
            return bytes(body[:MAX_OUTPUT_BYTES]), True
    return bytes(body), False


def _in_utf8(body: bytes, charset: str | None) -> bytes:
    """Return a text in UTF-8 that was sent in another known charset."""
    if charset is None or charset.lower() in ("utf-8", "utf8"):
        return body
    try:
        return body.decode(charset, errors="replace").encode()
    except (LookupError, ValueError):
        return body


def _cause(error: Exception) -> str:
    """Return why there is no answer; the messages of some errors hold the whole address."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message or type(error).__name__
    return str(error) or type(error).__name__


def _over(task: Task) -> str:
    return f"did not end within {task.timeout:g} s and was ended"


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
        return _body_output(
            ended.out, _left_out(ended), PlanOutput.PLAN_OUTPUT_TEXT, _success(ended)
        )
    summary = _success(ended)
    if isinstance(value, str):
        return Output(text=value, summary=summary)
    text = json.dumps(value, ensure_ascii=False)
    return Output(content_type="application/json", text=text, summary=summary)


def _body_output(
    body: bytes,
    missing: str,
    kind: PlanOutput.ValueType,
    summary: str,
    content_type: str = "text/plain",
) -> Output:
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


def _left_out(ended: Ended) -> str:
    return f"{ended.out_dropped} bytes of its output are left out" if ended.out_dropped else ""


def _success(ended: Ended) -> str:
    summary = f"exit code 0 after {ended.seconds:.3g} s"
    said = _tail(ended.err, _SUMMARY_CHARS)
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
    said = _tail(ended.err) or _tail(ended.out)
    return f"{before}\n{said}" if said else ""


def _tail(data: bytes, chars: int = _TAIL_CHARS) -> str:
    text = data.decode(errors="replace").strip()
    return text if len(text) <= chars else "…" + text[1 - chars :]
