"""Sends the requests of tasks. Only who has requests to send loads this: aiohttp takes its time."""

from __future__ import annotations

import asyncio
import re

import aiohttp

from orchestrator_svc.agents.base import AgentError, ErrorClass, Output, report
from orchestrator_svc.agents.plan.outputs import MAX_OUTPUT_BYTES, body_output, over, tail
from orchestrator_svc.agents.plan.tree import Task, shown_url
from orchestrator_svc.agents.processes.client import inherited_environment

MAX_REDIRECTS = 10
_VARIABLE = re.compile(r"\$\{(\w+)\}")

_BY_STATUS = {
    401: ErrorClass.AUTH,
    403: ErrorClass.AUTH,
    408: ErrorClass.TIMEOUT,
    429: ErrorClass.RATE_LIMIT,
}


class Requests:
    """Sends requests over connections that it keeps. Owned by the loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def send(self, task: Task) -> Output:
        """Return the answer to the request of a task. Raises `AgentError`."""
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
                raise AgentError(ErrorClass.TIMEOUT, f"{what}: {over(task)}") from error
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
            raise AgentError(error_class, f"{said}: {tail(body)}")
        missing = "the rest of its answer is left out" if cut else ""
        return body_output(body, missing, action.output, said, response.content_type)


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
