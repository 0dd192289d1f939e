"""`ramify cancel`: order the end of a run, or of one node with everything below it."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
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


def cancel(
    project_id: ProjectArgument,
    node_id: Annotated[
        str, typer.Argument(metavar="NODE", help="Which node; default: the whole run.")
    ] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return once the run is over.")] = False,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Cancel a run, or a node with all below it. The order is durable when the command returns.

    What is done stays done; what runs is asked to stop, and what it still answers is not taken.
    What needs the result of a cancelled node is settled as after a failure. A run or a node that
    has ended cannot be cancelled (exit code 8).

    \b
    Examples:
      ramify cancel ID
      ramify cancel ID root.1.2
      ramify cancel ID --reason "wrong corpus" --wait
    """
    from ramify.cli.session import run_session

    if node_id and wait:
        raise CliError("--wait waits for a run, not a node", "leave out --wait", ExitCode.USAGE)

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.outcome import ending
        from ramify.cli.terminal import note, print_json
        from ramify.v1.project_pb2 import ProjectState

        if node_id:
            from ramify.cli.order import show_receipt

            receipt = await client.cancel_node(project_id, node_id, reason=reason)
            return show_receipt(receipt, f"{node_id} is cancelled", json=json)
        response = await client.cancel_project(project_id, reason=reason)
        if json:
            print_json(response)
        elif not wait:
            note(f"{project_id} will be cancelled; order durable at revision {response.revision}")
        if not wait:
            return ExitCode.OK
        project = await client.wait(project_id)
        if json:
            print_json(project)
        else:
            note(ending(project))
        # The run may have ended in another way before the order reached it.
        cancelled = project.state == ProjectState.PROJECT_STATE_CANCELLED
        return ExitCode.OK if cancelled else ExitCode.REFUSED

    return run_session(work, state_svc, orchestrator_svc)
