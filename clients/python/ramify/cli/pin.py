"""`ramify pin` and `ramify unpin`: keep the history of a run from a revision on."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.options import DEFAULT_STATE, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pin.")]


def pin(
    project_id: ProjectArgument,
    name: _Name,
    at: Annotated[
        int, typer.Option(min=0, metavar="REV", help="Revision to keep; default: the head.")
    ] = 0,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Keep the history of a run from a revision on.

    Until it is unpinned, neither `ramify compact` nor retention drops what comes after the lowest
    pin. A pin that exists is moved. `ramify show ID --json` lists them.

    \b
    Examples:
      ramify pin ID before-replan
      ramify pin ID audit --at 120
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json
        from ramify.v1.state_service_pb2 import PinRevisionResponse

        revision = await client.pin_revision(project_id, name, revision=at)
        if json:
            print_json(PinRevisionResponse(revision=revision))
        else:
            typer.echo(revision)
            note(f"{project_id} keeps its history from revision {revision} on")
        return ExitCode.OK

    return run_session(work, state_svc)


def unpin(
    project_id: ProjectArgument,
    name: _Name,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Remove a pin, so that history may go again.

    \b
    Examples:
      ramify unpin ID before-replan
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json
        from ramify.v1.state_service_pb2 import UnpinRevisionResponse

        if not await client.unpin_revision(project_id, name):
            raise CliError(
                f"{project_id} has no pin {name}",
                f"see `ramify show {project_id} --json`",
                ExitCode.NOT_FOUND,
            )
        if json:
            print_json(UnpinRevisionResponse(unpinned=True))
        else:
            note(f"{project_id} is not pinned by {name} any more")
        return ExitCode.OK

    return run_session(work, state_svc)
