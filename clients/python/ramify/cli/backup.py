"""`ramify backup`: the whole store as a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import DEFAULT_STATE, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")],
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Write a backup of everything that state_svc holds.

    It is of one moment. The service goes on meanwhile. The file appears once it is whole.

    \b
    Examples:
      ramify backup monday.ramify
      python -m state_svc restore monday.ramify data/restored
    """
    from ramify.cli.session import run_session
    from ramify.cli.transfer import new_file, progress

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.format import size
        from ramify.cli.terminal import note

        with new_file(file) as target, progress("backup") as advance:
            async for part in client.backup():
                target.write(part.data)
                advance(part.done_bytes, part.total_bytes)
            written = target.tell()
        note(f"{file}: {size(written)}")
        return ExitCode.OK

    return run_session(work, state_svc)
