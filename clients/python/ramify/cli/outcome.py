"""How a run ended: its report, its exit code, and how to go on."""

from collections.abc import Mapping
from pathlib import Path

from ramify.addresses import (
    DEFAULT_ORCHESTRATOR,
    DEFAULT_STATE,
    ORCHESTRATOR_ENV,
    STATE_ENV,
    orchestrator_address,
    state_address,
)
from ramify.cli.exits import CliError, ExitCode
from ramify.cli.format import one_line
from ramify.client import AsyncClient
from ramify.states import project_state_name
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project, ProjectState

_CODES: Mapping[int, ExitCode] = {
    ProjectState.PROJECT_STATE_COMPLETED: ExitCode.OK,
    ProjectState.PROJECT_STATE_PARTIAL: ExitCode.RUN_PARTIAL,
    ProjectState.PROJECT_STATE_FAILED: ExitCode.RUN_FAILED,
    ProjectState.PROJECT_STATE_CANCELLED: ExitCode.RUN_CANCELLED,
}


def exit_code(project: Project) -> ExitCode:
    """Return the exit code that tells how a run ended."""
    return _CODES.get(project.state, ExitCode.OK)


def ending(project: Project) -> str:
    """Return one line on how a run ended, with what went wrong."""
    text = f"{project.project_id} {project_state_name(project.state)}"
    if project.HasField("error"):
        text += f": {one_line(project.error.message)}"
    elif (
        project.state != ProjectState.PROJECT_STATE_COMPLETED  # then they are superseded
        and project.node_counts.get("FAILED")
    ):
        text += f": {project.node_counts['FAILED']} of {sum(project.node_counts.values())} failed"
    return text


def again(project: Project) -> str:
    """Return what takes up again a run of a given plan of which not all is done; else nothing."""
    if not project.HasField("plan") or project.state != ProjectState.PROJECT_STATE_PARTIAL:
        return ""
    order = f"ramify replan {project.project_id} {project.root_node_id}"
    return f", `{order}` does again what is not done"


async def read_result(client: AsyncClient, project: Project) -> Node | None:
    """Return the root with its result; None if the run has none."""
    if not project.root_node_id:
        return None
    node = await client.get_node(project.project_id, project.root_node_id)
    return node if node.HasField("result") else None


def body_of(node: Node) -> bytes:
    """Return the exact bytes of a node's result."""
    result = node.result
    return result.data if result.HasField("data") else result.text.encode()


def write_file(path: Path, body: bytes) -> None:
    """Write a result so that the file is either whole or as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(body)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CliError(
            f"cannot write {path}: {error.strerror}", "choose another --output"
        ) from None


def flags_for(state: str, orchestrator: str) -> str:
    """Return the address options that a further command needs, with a leading space.

    An empty `orchestrator` means that the command does not use it.
    """
    text = ""
    if state != state_address():
        text += f" --state-svc {state}"
    if orchestrator and orchestrator != orchestrator_address():
        text += f" --orchestrator-svc {orchestrator}"
    return text


def exports_for(state: str, orchestrator: str) -> str:
    """Return a shell prefix that leads commands to these addresses; empty for the defaults."""
    text = ""
    if state != DEFAULT_STATE:
        text += f"{STATE_ENV}={state} "
    if orchestrator != DEFAULT_ORCHESTRATOR:
        text += f"{ORCHESTRATOR_ENV}={orchestrator} "
    return text
