"""`ramify import`: a run from a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import DEFAULT_STATE, Json, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An exported run.", exists=True, dir_okay=False)
    ],
    project: Annotated[
        str, typer.Option("--project", metavar="ID", help="Id of the new run; default: its own.")
    ] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Make a new run from an exported one, with its history.

    A run that had not ended comes in PAUSED. A file that is damaged is refused, and nothing is
    stored.

    \b
    Examples:
      ramify import run.ramify
      ramify import run.ramify --project copy
    """
    from ramify.cli.session import run_session
    from ramify.cli.transfer import progress, read_pieces

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json
        from ramify.v1.project_pb2 import ProjectState
        from ramify.v1.state_service_pb2 import ImportProjectResponse

        with progress("import") as advance:
            made = await client.import_project(read_pieces(file, advance), project_id=project)
        if json:
            print_json(ImportProjectResponse(project=made))
        else:
            typer.echo(made.project_id)
            state = ProjectState.Name(made.state).removeprefix("PROJECT_STATE_")
            note(f"imported at revision {made.revision}; it is {state}")
            if made.state == ProjectState.PROJECT_STATE_PAUSED:
                note(f"let it go on with: ramify resume {made.project_id}")
        return ExitCode.OK

    return run_session(work, state_svc)
