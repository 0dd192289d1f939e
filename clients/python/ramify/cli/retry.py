"""`ramify retry`: give a failed node another attempt."""

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


def retry(
    project_id: ProjectArgument,
    node_id: Annotated[
        str, typer.Argument(metavar="NODE", help="Which node; `ramify show ID` lists them.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Give a failed node another attempt, with fresh counts.

    The backoff of a node that waits for its next one ends. What failed because of it goes on once
    it is done. A node whose plan was carried out keeps it: only its aggregation is done again. The
    nodes above it must still wait for it; in a run that has ended only the root can be retried,
    which reopens a FAILED run. An order that cannot work names what would (exit code 8).

    \b
    Examples:
      ramify retry ID root.1.2
      ramify retry ID root --reason "the key is valid again"
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.order import show_receipt

        receipt = await client.retry_node(project_id, node_id, reason=reason)
        return show_receipt(receipt, f"{node_id} gets another attempt", json=json)

    return run_session(work, state_svc, orchestrator_svc)
