"""`ramify fork`: a new run from a revision of another."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import DEFAULT_STATE, AtRevision, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def fork(
    project_id: ProjectArgument,
    at: AtRevision = 0,
    new: Annotated[
        str, typer.Option("--as", metavar="ID", help="Id of the new run; default: assigned.")
    ] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Make a new run from a revision of another.

    The other run is not touched. The new one is PAUSED at its revision 1. Leases and producers
    are not taken over.

    \b
    Examples:
      ramify fork ID                       # from the present
      ramify fork ID --at 12 --as second-try
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json
        from ramify.v1.state_service_pb2 import ForkProjectResponse

        project = await client.fork_project(project_id, at_revision=at, new_project_id=new)
        if json:
            print_json(ForkProjectResponse(project=project))
        else:
            typer.echo(project.project_id)
            origin = project.forked_from
            note(f"forked from {origin.project_id} at revision {origin.revision}; it is PAUSED")
            note(f"let it go on with: ramify resume {project.project_id}")
        return ExitCode.OK

    return run_session(work, state_svc)
