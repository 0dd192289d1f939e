"""`ramify watch`: follow a run from now, from a revision or from its beginning."""

import enum
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.options import DEFAULT_STATE, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.cli.display import Display
    from ramify.client import AsyncClient
    from ramify.cursor import WatchOptions, WatchStart
    from ramify.v1.project_pb2 import Project
    from ramify.v1.state_service_pb2 import WatchFilter


_HANG = 10  #: columns; what continues the line of a change stands below its revision


class Mode(enum.Enum):
    """What a change carries."""

    DIFF = "diff"
    FULL = "full"
    TERMINAL = "terminal"


def watch(
    project_id: ProjectArgument,
    after: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="REV", help="Begin behind this revision, the last one you have seen."
        ),
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with revision 1.")
    ] = False,
    tree: Annotated[
        bool | None,
        typer.Option("--tree/--events", help="A live tree, or a line for each change."),
    ] = None,
    node: Annotated[
        str, typer.Option(metavar="NODE", help="Only this node and everything below it.")
    ] = "",
    states: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only nodes in this state; repeatable."),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="Changed fields, whole nodes, or only what has ended; else as the run says."
        ),
    ] = None,
    coalesce: Annotated[
        bool,
        typer.Option("--coalesce", help="Join successive changes of a node; only the last counts."),
    ] = False,
    every: Annotated[
        bool, typer.Option("--every", help="Every change, also those missed while behind.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option(min=0, max=60, metavar="SECONDS", help="Least time between messages."),
    ] = 0.0,
    compress: Annotated[
        bool, typer.Option("--compress", help="Ask for zstd; for slow networks.")
    ] = False,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Follow a run until it ends; the exit code tells how.

    The tree is for terminals, lines for everything else, unless you say which. A lost connection
    or a restarted service interrupts, but loses nothing. Ctrl-C stops watching, not the run.

    \b
    Examples:
      ramify watch ID
      ramify watch ID --events --from-beginning
      ramify watch ID --after 120            # go on where you were
      ramify watch ID --node n12 --state failed --state running
      ramify watch ID --json | jq -c .delta
      ramify watch ID --mode terminal        # results only
      ramify watch ID --coalesce --interval 1
    """
    from ramify.cli.session import run_session
    from ramify.cli.values import read_node_states
    from ramify.cursor import WatchOptions, WatchStart
    from ramify.v1.state_service_pb2 import WatchFilter

    if after is not None and (from_beginning or tree):
        raise CliError(
            "--after needs no --from-beginning and no --tree",
            "a tree begins with a snapshot; leave one of them out",
            ExitCode.USAGE,
        )
    if coalesce and every:
        raise CliError(
            "--coalesce joins changes and --every wants each", "leave one out", ExitCode.USAGE
        )
    options = WatchOptions(
        mode=None if mode is None else mode.value,
        coalescing="always" if coalesce else "never" if every else None,
        max_interval=interval,
        compressed=compress,
    )
    watch_filter = WatchFilter(subtree_root_node_id=node, states=read_node_states(states or ()))
    start = WatchStart.snapshot()
    if after is not None:
        start = WatchStart.after(after)
    elif from_beginning:
        start = WatchStart.from_beginning()

    async def work(client: "AsyncClient") -> int:
        if node:
            await client.get_node(project_id, node)  # a filter on an unknown node shows nothing
        project = await client.get_project(project_id)
        display = _display(project, start, tree, json)
        return await _watch(client, project, start, watch_filter, options, display)

    return run_session(work, state_svc)


def _display(project: "Project", start: "WatchStart", tree: bool | None, json: bool) -> "Display":
    from ramify.cli.display import JsonDisplay, LineDisplay, TreeDisplay
    from ramify.cli.terminal import out, print_lines

    if json:
        return JsonDisplay()
    if tree is None:
        tree = start.kind == "snapshot" and sys.stdout.isatty()
    if tree:
        return TreeDisplay(project, out())
    return LineDisplay(lambda line: print_lines([line], hang=_HANG))


async def _watch(
    client: "AsyncClient",
    project: "Project",
    start: "WatchStart",
    watch_filter: "WatchFilter",
    options: "WatchOptions",
    display: "Display",
) -> int:
    from ramify.cli.attend import Attendant, OnInterrupt
    from ramify.cli.follow import EndDetector, follow
    from ramify.cli.outcome import ending, exit_code, flags_for
    from ramify.cli.terminal import note

    project_id = project.project_id
    detector = EndDetector(project, start)
    with Attendant(client, project_id, display, OnInterrupt.DETACH, interactive=False) as attendant:
        try:
            ended = await attendant.attend(
                follow(client, display, detector, project_id, start, watch_filter, options)
            )
        finally:
            display.close()
    flags = flags_for(client.state_address, "")
    if not ended:
        note(f"go on with: ramify watch {project_id} --after {detector.position}{flags}")
        return ExitCode.INTERRUPTED
    project = await client.get_project(project_id)
    note(f"{ending(project)}; its report: ramify show {project_id} --result{flags}")
    return exit_code(project)
