"""Options and arguments that several sub-commands share."""

from typing import Annotated

import typer

from ramify.addresses import DEFAULT_ORCHESTRATOR, DEFAULT_STATE, ORCHESTRATOR_ENV, STATE_ENV

ProjectArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Which run; `ramify ls` lists them.")
]
StateAddress = Annotated[
    str,
    typer.Option("--state-svc", envvar=STATE_ENV, metavar="ADDR", help="Address of state_svc."),
]
OrchestratorAddress = Annotated[
    str,
    typer.Option(
        "--orchestrator-svc",
        envvar=ORCHESTRATOR_ENV,
        metavar="ADDR",
        help="Address of orchestrator_svc.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print protobuf JSON, one document per line; 64-bit numbers are strings."
    ),
]

AtRevision = Annotated[
    int,
    typer.Option(
        "--at", metavar="REV", min=0, help="As it was at this revision; default: the present."
    ),
]

__all__ = [
    "DEFAULT_ORCHESTRATOR",
    "DEFAULT_STATE",
    "AtRevision",
    "Json",
    "OrchestratorAddress",
    "ProjectArgument",
    "StateAddress",
]
