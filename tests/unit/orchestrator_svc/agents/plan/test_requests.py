"""Requests of different tasks: what they share and what they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from orchestrator_svc.agents.plan.actions import Actions
from orchestrator_svc.agents.plan.tree import Task, read_plan
from orchestrator_svc.agents.processes.client import Processes
from ramify.v1.plan_pb2 import Plan
from tests.support.bound import WAIT_SECONDS

MANY = 150  #: above the 100 connections that aiohttp allows by itself


class Server:
    """Gives cookies away, echoes them, and holds requests."""

    def __init__(self) -> None:
        self.base = ""
        self.holding = 0
        self.full = asyncio.Event()

    async def log_in(self, _: web.Request) -> web.Response:
        """Answer with a cookie."""
        response = web.Response(text="in")
        response.set_cookie("session", "secret")
        return response

    async def cookies(self, request: web.Request) -> web.Response:
        """Answer with the cookies that came."""
        return web.json_response(dict(request.cookies))

    async def hold(self, _: web.Request) -> web.Response:
        """Never answer."""
        self.holding += 1
        if self.holding == MANY:
            self.full.set()
        await asyncio.Event().wait()
        return web.Response()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """Run a server under a name: for bare addresses aiohttp keeps no cookies."""
    server, app = Server(), web.Application()
    app.router.add_get("/log-in", server.log_in)
    app.router.add_get("/cookies", server.cookies)
    app.router.add_get("/hold", server.hold)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0).start()
    server.base = f"http://localhost:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def request(url: str) -> Task:
    """Return a task that gets an address."""
    plan = Plan(goal="a goal")
    plan.tasks.add(id="get").http.url = url
    (task,) = read_plan(plan).tasks
    return task


async def test_a_request_sends_no_cookie_that_another_task_was_given() -> None:
    actions = Actions(Processes(1))
    async with serving() as server:
        assert (await actions.run(request(f"{server.base}/log-in"), {}, {})).text == "in"
        sent = await actions.run(request(f"{server.base}/cookies"), {}, {})
        assert sent.text == "{}"
        await actions.aclose()


async def test_requests_that_a_server_holds_up_hold_up_no_other() -> None:
    actions = Actions(Processes(1))
    async with serving() as server:
        task = request(f"{server.base}/hold")
        held = [asyncio.create_task(actions.run(task, {}, {})) for _ in range(MANY)]
        async with asyncio.timeout(WAIT_SECONDS):
            await server.full.wait()
            other = await actions.run(request(f"{server.base}/cookies"), {}, {})
        assert other.text == "{}"
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await actions.aclose()
