"""`ramify resume`: let a paused run go on."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.options import (
    DEFAULT_ORCHESTRATOR,
    DEFAULT_STATE,
    Json,
    OrchestratorAddress,
    ProjectArgument,
    StateAddress,
)

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def resume(
    project_id: ProjectArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Let a paused run go on. Backoffs wait for what was left of them when it was paused.

    A run that is not paused is left as it is (exit code 8).

    \b
    Examples:
      ramify resume ID
      ramify resume ID --reason "provider is back"
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.order import show_receipt

        receipt = await client.resume_project(project_id, reason=reason)
        return show_receipt(receipt, f"{project_id} goes on", json=json)

    return run_session(work, state_svc, orchestrator_svc)
