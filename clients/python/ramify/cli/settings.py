"""`ramify settings`: the execution keys, or those that a run has."""

from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.options import DEFAULT_STATE, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.v1.project_pb2 import Project


def settings(
    project_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="A run; default: every key with its default.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document per key.")] = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """List the execution keys, or what a run has chosen.

    A run keeps the keys it was started with: its own (`ramify run --set key=value`), else those of
    the orchestrator (`execution:` in its file, environment, flags), else the defaults. The last
    keys, from `preset` on, say how it is stored; state_svc's own configuration has their defaults.

    \b
    Examples:
      ramify settings              # names, defaults, ranges; needs no service
      ramify settings ID           # what a run has, * where it is not the default
      ramify run "..." --set max_concurrent_nodes=4
    """
    from ramify.cli.session import run_session
    from ramify.v1 import project_pb2

    if not project_id:
        _print(project_pb2.Project(), json)
        return 0

    async def work(client: "AsyncClient") -> int:
        project = await client.get_project(project_id)
        _print(project, json, of_run=True)
        return 0

    return run_session(work, state_svc, "")


def _print(project: "Project", json: bool, *, of_run: bool = False) -> None:
    from rich.table import Table

    from ramify.cli.terminal import print_raw, print_table
    from ramify.setting_keys import EXECUTION, FIELDS, allowed, rule_of, shown

    table = Table(box=None, pad_edge=False)
    for title in ("key", "value" if of_run else "default", "takes", "meaning"):
        table.add_column(title, overflow="fold")
    for name, field in FIELDS.items():
        chosen = project.settings if name in EXECUTION else project.state_settings
        value, default = shown(chosen, field), rule_of(field).default_value
        if json:
            row = {"key": name, "value": value, "default": default, "takes": allowed(field)}
            print_raw(dumps({**row, "meaning": rule_of(field).meaning}) + "\n")
        else:
            mark = " *" if of_run and value != default else ""
            table.add_row(name, value + mark, allowed(field), rule_of(field).meaning)
    if not json:
        print_table(table)
