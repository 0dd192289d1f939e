"""`ramify explain`: why a run or a node is not running, and what helps."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import (
    DEFAULT_ORCHESTRATOR,
    DEFAULT_STATE,
    Json,
    OrchestratorAddress,
    ProjectArgument,
    StateAddress,
)

if TYPE_CHECKING:
    from ramify.client import AsyncClient


def explain(
    project_id: ProjectArgument,
    node_id: Annotated[
        str, typer.Argument(metavar="NODE", help="Which node; default: the run itself.")
    ] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Say why a run or a node is not running, and what helps.

    It says what it waits for and since when. Each line is one link of the chain, from what was
    asked about down to the root causes; those are followed by a command that helps. Lines marked
    `live` come from the memory of the orchestrator that executes the run, all others from what is
    stored. The last lines are the node's latest changes of state.

    \b
    Examples:
      ramify explain ID
      ramify explain ID NODE
      ramify explain ID --json | jq -r '.explanation.blockers[].remedy'
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.explanation import lines
        from ramify.cli.terminal import print_json, print_lines
        from ramify.v1.explain_pb2 import ExplainNodeResponse, ExplainProjectResponse

        if node_id:
            explanation = await client.explain_node(project_id, node_id)
        else:
            explanation = await client.explain_project(project_id)
        if json and node_id:
            print_json(ExplainNodeResponse(explanation=explanation))
        elif json:
            print_json(ExplainProjectResponse(explanation=explanation))
        else:
            print_lines(lines(explanation), hang=2)
        return ExitCode.OK

    return run_session(work, state_svc, orchestrator_svc)
