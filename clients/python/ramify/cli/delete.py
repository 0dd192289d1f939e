"""`ramify delete`: remove a run with its history."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.options import DEFAULT_STATE, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def delete(
    project_id: ProjectArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a run that has not ended or is being executed.")
    ] = False,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Delete a run with its whole history. Its id is never used again.

    \b
    Examples:
      ramify delete ID
      ramify delete ID --yes
    """
    import sys

    from ramify.cli.session import run_session

    if not yes:
        if not sys.stdin.isatty():
            raise CliError("nobody is there to confirm", "pass --yes", ExitCode.USAGE)
        typer.confirm(f"delete {project_id} with its history?", abort=True, err=True)

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json
        from ramify.v1.state_service_pb2 import DeleteProjectResponse

        await client.delete_project(project_id, force=force)
        if json:
            print_json(DeleteProjectResponse())
        else:
            note(f"{project_id} is deleted")
        return ExitCode.OK

    return run_session(work, state_svc)
