"""`ramify cancel`: order the end of a run."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
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
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return once the run is over.")] = False,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Cancel a run. The order is durable when the command returns.

    What is done stays done; what runs is asked to stop. A run that has ended cannot be cancelled
    (exit code 8).

    \b
    Examples:
      ramify cancel ID
      ramify cancel ID --reason "wrong corpus" --wait
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.outcome import ending
        from ramify.cli.terminal import note, print_json
        from ramify.v1.project_pb2 import ProjectState

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
