"""Runs one sub-command's work against the services, and turns its failures into `CliError`s."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ramify.cli.failure import explain
from ramify.client import AsyncClient
from ramify.errors import RamifyError

_T = TypeVar("_T")


def run_session(
    work: Callable[[AsyncClient], Awaitable[_T]], state: str, orchestrator: str = ""
) -> _T:
    """Run `work` with a connected client on an event loop of its own; return its result."""

    async def main() -> _T:
        async with AsyncClient(state, orchestrator, actor=f"cli:{_user()}") as client:
            return await work(client)

    try:
        return asyncio.run(main())
    except RamifyError as error:
        raise explain(error) from error
    except BaseExceptionGroup as group:
        cause = first_leaf(group)
        if isinstance(cause, RamifyError):
            raise explain(cause) from cause
        raise cause from None


def first_leaf(error: BaseException) -> BaseException:
    """Return the first exception inside nested groups; a task group wraps what its tasks raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user, as in some containers
        return "unknown"
