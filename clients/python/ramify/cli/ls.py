"""`ramify ls`: every run, the newest last."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.options import DEFAULT_STATE, Json, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.v1.project_pb2 import Project, ProjectState

_READS = 16  #: projects read at one time
_ROOM_FOR_LEASES = 100  #: columns of a terminal
_GOAL_WIDTH = 200  #: characters, where no terminal is narrower


def ls(
    states: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only runs in this state; repeatable."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K=V", help="Only runs with this label; repeatable."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10_000, help="Show at most this many, the newest."),
    ] = 50,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """List runs, the newest last.

    \b
    Examples:
      ramify ls
      ramify ls --state running --state waiting
      ramify ls --label team=docs --limit 5
      ramify ls --json | jq -r '.projectId + " " + .state'
    """
    from ramify.cli.session import run_session
    from ramify.cli.terminal import print_json
    from ramify.cli.values import read_labels, read_project_states

    chosen_states = read_project_states(states or ())
    chosen_labels = read_labels(labels or ())
    projects = run_session(
        lambda client: _read(client, chosen_states, chosen_labels, limit), state_svc
    )
    if json:
        for project in projects:
            print_json(project)
    else:
        _print_table(projects)
    return 0


async def _read(
    client: "AsyncClient",
    states: "list[ProjectState.ValueType]",
    labels: dict[str, str],
    limit: int,
) -> "list[Project]":
    """Return the newest projects with their node counts, which only GetProject tells."""
    import asyncio
    from collections import deque

    from ramify.errors import ProjectNotFoundError

    newest: deque[str] = deque(maxlen=limit)
    async for project in client.list_projects(states=states, labels=labels):
        newest.append(project.project_id)
    slots = asyncio.Semaphore(_READS)

    async def read(project_id: str) -> "Project | None":
        async with slots:
            try:
                return await client.get_project(project_id)
            except ProjectNotFoundError:  # deleted since it was listed
                return None

    found = await asyncio.gather(*(read(project_id) for project_id in newest))
    return [project for project in found if project is not None]


def _print_table(projects: "list[Project]") -> None:
    import time

    from rich.table import Table
    from rich.text import Text

    from ramify.cli.format import duration, one_line, seconds_of
    from ramify.cli.outline import done_and_total
    from ramify.cli.style import project_style
    from ramify.cli.terminal import note, out, print_table
    from ramify.states import project_state_name

    if not projects:
        note('no runs; start one with: ramify run "…" --corpus stdlib')
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("nodes", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    leases = out().width >= _ROOM_FOR_LEASES
    if leases:
        table.add_column("lease", no_wrap=True, max_width=24)
    table.add_column("goal")  # the only one that gives way; its cells do not wrap
    now = time.time()
    for project in projects:
        done, total = done_and_total(project.node_counts)
        took = ""
        if project.HasField("start_time"):
            end = seconds_of(project.end_time) if project.HasField("end_time") else now
            took = duration(end - seconds_of(project.start_time))
        state = project_state_name(project.state)
        table.add_row(
            Text(project.project_id),
            Text(state, style=project_style(project.state)),
            f"{done}/{total}",
            duration(now - seconds_of(project.create_time)),
            took,
            *([Text(project.lease.holder or "-", style="dim")] if leases else ()),
            Text(one_line(project.goal, _GOAL_WIDTH), no_wrap=True, overflow="ellipsis"),
        )
    print_table(table)
