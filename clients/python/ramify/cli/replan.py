"""`ramify replan`: let a node be planned anew."""

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


def replan(
    project_id: ProjectArgument,
    node_id: Annotated[
        str, typer.Argument(metavar="NODE", help="Which node; `ramify show ID` lists them.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Let a node be planned anew; the planner is told the reason.

    What runs below it is cancelled. Finished tasks that the new plan has again are reused, the
    others stay in the history as superseded. The root of a run that has ended reopens it, unless
    the run was cancelled. An order that cannot work names what would (exit code 8).

    \b
    Examples:
      ramify replan ID root --reason "leave out the second source"
      ramify replan ID root.1.2
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.order import show_receipt

        receipt = await client.replan_node(project_id, node_id, reason=reason)
        return show_receipt(receipt, f"{node_id} is planned anew", json=json)

    return run_session(work, state_svc, orchestrator_svc)
