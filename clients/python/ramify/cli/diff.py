"""`ramify diff`: how a run differs between two revisions."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import DEFAULT_STATE, Json, ProjectArgument, StateAddress

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.v1.state_service_pb2 import NodeDiff

FromArgument = Annotated[int, typer.Argument(metavar="FROM", min=1, help="Earlier revision.")]
ToArgument = Annotated[
    int, typer.Argument(metavar="TO", min=0, help="Later revision; default: the present.")
]


def diff(
    project_id: ProjectArgument,
    from_revision: FromArgument,
    to_revision: ToArgument = 0,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Show how a run differs between two revisions.

    `+` is a new node, `-` a deleted one; any other line names the fields that changed.

    \b
    Examples:
      ramify diff ID 5           # from revision 5 to the present
      ramify diff ID 5 9
      ramify diff ID 5 --json | jq .nodeId
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, print_json, print_lines

        count = 0
        async for node in client.diff_project(project_id, from_revision, to_revision):
            count += 1
            if json:
                print_json(node)
            else:
                print_lines([_line(node)], hang=4)
        if not json:
            note(f"{count} node{'' if count == 1 else 's'} differ{'s' if count == 1 else ''}")
        return ExitCode.OK

    return run_session(work, state_svc)


def _line(node: "NodeDiff") -> str:
    from ramify.states import node_state_name

    if not node.HasField("before"):
        return f"+ {node.node_id}  {node_state_name(node.after.state)}"
    if not node.HasField("after"):
        return f"- {node.node_id}  {node_state_name(node.before.state)}"
    before, after = node.before.state, node.after.state
    move = "" if before == after else f"{node_state_name(before)} → {node_state_name(after)}  "
    fields = ", ".join(name for name in node.changed_fields if name != "state")
    return f"  {node.node_id}  {move}{fields}".rstrip()
