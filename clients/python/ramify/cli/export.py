"""`ramify export`: one run with its history as a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import DEFAULT_STATE, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def export(
    project_id: ProjectArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")],
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Write a run with its retained history, as it is now. The run goes on meanwhile.

    The file appears once it is whole.

    \b
    Examples:
      ramify export ID run.ramify
      ramify import run.ramify --project copy
    """
    from ramify.cli.session import run_session
    from ramify.cli.transfer import new_file, progress

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.format import size
        from ramify.cli.terminal import note

        revision = 0
        with new_file(file) as target, progress("export") as advance:
            async for part in client.export_project(project_id):
                target.write(part.data)
                revision = part.last_revision
                advance(part.done_revision, revision)
            written = target.tell()
        note(f"{file}: {project_id} at revision {revision}, {size(written)}")
        return ExitCode.OK

    return run_session(work, state_svc)
