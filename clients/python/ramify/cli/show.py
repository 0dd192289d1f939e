"""`ramify show`: a run with its tree, a node, or a result."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.options import DEFAULT_STATE, AtRevision, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.v1.node_pb2 import Node
    from ramify.v1.project_pb2 import Project
    from ramify.v1.review_pb2 import Review

_ALL_ROWS = 1_000_000  #: a printed tree scrolls, so it shows every node


def show(
    project_id: ProjectArgument,
    node_id: Annotated[
        str, typer.Argument(metavar="NODE", help="Which node; default: the run itself.")
    ] = "",
    result: Annotated[
        bool, typer.Option("--result", help="Print what the run or the node has produced.")
    ] = False,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Print the stages: what went in, came out, and what it cost."),
    ] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Print every node; the default without NODE.")
    ] = False,
    at: AtRevision = 0,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Show a run with its tree, one node, a result, or the stages.

    A result goes to stdout exactly as it was produced, unless stdout is a terminal; there a
    report is rendered.

    \b
    Examples:
      ramify show ID
      ramify show ID NODE
      ramify show ID --at 12              # as it was at revision 12
      ramify show ID --result > report.md
      ramify show ID NODE --result
      ramify show ID NODE --trace         # stages: input, output, model, cost
      ramify show ID --json               # .project, .explanation.budgets, .node
    """
    from ramify.cli.session import run_session

    if node_id and tree:
        raise CliError("--tree shows a run, not a node", "leave out NODE", ExitCode.USAGE)
    if result and tree:
        raise CliError("--result and --tree are two requests", "choose one", ExitCode.USAGE)

    if trace and (result or tree):
        raise CliError(
            "--trace is a request of its own", "leave out --result and --tree", ExitCode.USAGE
        )
    if at and (node_id or result or trace):
        raise CliError(
            "--at shows a run with its tree",
            "leave out NODE, --result and --trace",
            ExitCode.USAGE,
        )

    async def work(client: "AsyncClient") -> int:
        if result:
            await _show_result(client, project_id, node_id, json)
        elif trace:
            await _show_trace(client, project_id, node_id, json)
        elif node_id:
            await _show_node(client, project_id, node_id, json)
        else:
            await _show_run(client, project_id, at, json)
        return ExitCode.OK

    return run_session(work, state_svc)


async def _show_result(client: "AsyncClient", project_id: str, node_id: str, json: bool) -> None:
    from ramify.cli.outcome import body_of
    from ramify.cli.terminal import print_bytes, print_json, print_markdown
    from ramify.states import node_state_name

    if not node_id:
        project = await client.get_project(project_id)
        node_id = project.root_node_id
        if not node_id:
            raise CliError(
                f"{project_id} has no nodes yet", f"ramify watch {project_id}", ExitCode.NOT_FOUND
            )
    node = await client.get_node(project_id, node_id)
    if not node.HasField("result"):
        why = f": {node.error.message}" if node.HasField("error") else ""
        raise CliError(
            f"{node_id} has no result, it is {node_state_name(node.state)}{why}",
            code=ExitCode.NOT_FOUND,
        )
    if json:
        print_json(node.result)
    elif node.result.HasField("data"):
        print_bytes(body_of(node))
    else:
        print_markdown(node.result.text)


async def _show_node(client: "AsyncClient", project_id: str, node_id: str, json: bool) -> None:
    from ramify.cli.node_card import node_card
    from ramify.cli.terminal import print_json, print_table

    node = await client.get_node(project_id, node_id, whole=False)
    if json:
        print_json(node)
    else:
        print_table(node_card(node))


async def _show_trace(client: "AsyncClient", project_id: str, node_id: str, json: bool) -> None:
    from ramify.cli.terminal import note, out, print_json
    from ramify.cli.trace import total_line, trace_lines
    from ramify.usage import below

    records = []
    async for record in client.list_stages(project_id, node_id=node_id):
        records.append(record)
        if json:
            print_json(record)
        else:
            for line in await trace_lines(client, project_id, record):
                out().print(line, soft_wrap=True)
    if not json:
        nodes = [node async for node in client.list_nodes(project_id)]
        note(total_line(records, (node.usage for node in below(nodes, node_id))))


async def _show_run(client: "AsyncClient", project_id: str, at: int, json: bool) -> None:
    from ramify.budgets import budget_uses
    from ramify.cli.format import seconds_of
    from ramify.cli.terminal import print_json
    from ramify.v1.explain_pb2 import ExplainProjectResponse, Explanation
    from ramify.v1.review_pb2 import ReviewState
    from ramify.v1.state_service_pb2 import GetNodeResponse, GetProjectResponse

    project = await client.get_project(project_id, at_revision=at)
    nodes = [node async for node in client.list_nodes(project_id, at_revision=at)]
    # Without a watch the last commit is all that is known of the server's clock.
    latest = max(
        seconds_of(stamp) for stamp in (project.update_time, *(n.update_time for n in nodes))
    )
    if json:
        print_json(GetProjectResponse(project=project))
        if uses := budget_uses(project, nodes, latest):
            explanation = Explanation(
                project_id=project_id, revision=project.revision, budgets=uses
            )
            print_json(ExplainProjectResponse(explanation=explanation))
        for node in nodes:
            print_json(GetNodeResponse(node=node))
        return
    reviews = []
    if project.open_review_count and not at:
        states = [ReviewState.REVIEW_STATE_OPEN]
        listed = client.list_reviews(project_id, states=states)
        reviews = [item.review async for item in listed]
    _print_tree(project, nodes, reviews, latest)


def _print_tree(
    project: "Project", nodes: "list[Node]", reviews: "list[Review]", latest: float
) -> None:
    from ramify.checksum import checksum_of
    from ramify.cli.outcome import ending
    from ramify.cli.screen import Frame, render
    from ramify.cli.terminal import out, print_table
    from ramify.v1.state_service_pb2 import SnapshotChunk
    from ramify.view import View

    view = View()
    view.apply_snapshot(
        SnapshotChunk(
            revision=project.revision,
            project=project,
            nodes=nodes,
            reviews=reviews,
            checksum=checksum_of(nodes),
        )
    )
    print_table(render(Frame(view, project, latest, live=False), out(), _ALL_ROWS))
    if project.HasField("error"):
        out().print(ending(project), style="red", markup=False)
