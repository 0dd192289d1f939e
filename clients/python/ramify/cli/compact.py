"""`ramify compact`: drop history that is not needed any more."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import DEFAULT_STATE, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def compact(
    project_id: ProjectArgument,
    through: Annotated[
        int,
        typer.Option(min=0, metavar="REV", help="Highest revision to drop; default: all."),
    ] = 0,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Drop the history of a run; its present state stays.

    History goes in whole steps, so less may go than was asked for. Watches resume, and time
    travel reaches back, to the revision that is printed.

    \b
    Examples:
      ramify compact ID
      ramify compact ID --through 5000
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json
        from ramify.v1.state_service_pb2 import CompactProjectResponse

        compacted = await client.compact_project(project_id, revision=through)
        if json:
            print_json(CompactProjectResponse(compacted_revision=compacted))
        else:
            typer.echo(compacted)
            note(f"{project_id} has its history from revision {compacted} on")
        return ExitCode.OK

    return run_session(work, state_svc)
