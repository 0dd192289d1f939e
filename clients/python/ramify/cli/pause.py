"""`ramify pause`: let a run dispatch nothing more."""

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


def pause(
    project_id: ProjectArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Pause a run: no agent call begins any more.

    Those in flight finish and are kept. Says what still runs. The run is PAUSING until that is
    over, then PAUSED; backoffs stand still. `ramify resume ID` lets it go on.

    \b
    Examples:
      ramify pause ID
      ramify pause ID --reason "provider is down" --json
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.order import show_receipt

        receipt = await client.pause_project(project_id, reason=reason)
        return show_receipt(receipt, f"{project_id} dispatches nothing more", json=json)

    return run_session(work, state_svc, orchestrator_svc)
