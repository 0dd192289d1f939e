"""One node with all that is worth knowing about it, for a terminal."""

from google.protobuf.json_format import MessageToJson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ramify.cli.format import plural, seconds_of, size
from ramify.cli.screen import elapsed, task_name
from ramify.cli.style import node_style
from ramify.states import node_state_name
from ramify.v1.node_pb2 import ErrorClass, Node, NodeType


def node_card(node: Node) -> RenderableType:
    """Return a node's fields, those that are empty left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    state = Text(node_state_name(node.state), style=node_style(node.state))
    if node.superseded:
        state.append("  superseded", style="bright_black")
    rows: list[tuple[str, str | Text]] = [
        ("state", state),
        ("task", f"{task_name(node)}  {_node_type(node)}".strip()),
        ("layer", str(node.layer)),
        ("parent", node.parent_node_id),
        ("needs", ", ".join(node.depends_on)),
        ("children", ", ".join(node.planned_sub_task_ids)),
        ("waits on", node.waiting_on),
        ("agent", node.agent_name),
        ("attempt", _attempts(node)),
        ("next try", _next_try(node)),
        ("planned", _planned(node)),
        ("took", elapsed(node, seconds_of(node.update_time))),
        ("version", f"{node.version}, changed at revision {node.update_revision}"),
        ("error", _error(node)),
        ("summary", node.output_summary),
        ("result", _result(node)),
        *((key, _value(node, key)) for key in sorted(node.aux_data)),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(value))
    return Group(Text(f"{node.node_id}  {node.goal}", style="bold"), table)


def _node_type(node: Node) -> str:
    return NodeType.Name(node.node_type).removeprefix("NODE_TYPE_") if node.node_type else ""


def _attempts(node: Node) -> str:
    text = str(node.attempt)
    if node.retry_count:  # the failure that is not tried again is not counted
        text += f", tried again {plural(node.retry_count, 'time')}"
    return f"{text}, {plural(node.timeout_count, 'time-out')}" if node.timeout_count else text


def _next_try(node: Node) -> str:
    if not node.HasField("next_attempt_time"):
        return ""
    return node.next_attempt_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")


def _planned(node: Node) -> str:
    parts = []
    if node.plan_count > 1:
        parts.append(f"{node.plan_count} times")
    if node.replan_count:
        parts.append(plural(node.replan_count, "replan"))
    if node.replan_reason:
        parts.append(f"again, because {node.replan_reason}")
    return ", ".join(parts)


def _error(node: Node) -> Text:
    if not node.HasField("error"):
        return Text()
    kind = ErrorClass.Name(node.error.error_class).removeprefix("ERROR_CLASS_")
    where = f" (began in {node.error.node_id})" if node.error.node_id else ""
    return Text(f"{kind}: {node.error.message}{where}", style="red")


def _result(node: Node) -> str:
    if not node.HasField("result"):
        return ""
    result = node.result
    if result.HasField("ref"):
        stored = f", stored as {size(result.ref.stored_bytes)}"
        kind = result.content_type or "bytes"
        return f"{size(result.ref.original_bytes)} of {kind}{stored}; print it with --result"
    length = len(result.data) if result.HasField("data") else len(result.text.encode())
    kind = result.content_type or ("text/plain" if result.HasField("text") else "bytes")
    return f"{size(length)} of {kind}; print it with --result"


def _value(node: Node, key: str) -> str:
    return MessageToJson(node.aux_data[key], indent=None, ensure_ascii=False)
