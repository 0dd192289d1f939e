"""The stages of a run or a node for a terminal: what went in, what came out, what it cost."""

from collections.abc import Iterable, Sequence

from rich.text import Text

from ramify.cli.format import duration, one_line, plural, size
from ramify.client import AsyncClient
from ramify.usage import add_usage
from ramify.v1.node_pb2 import ErrorClass, Usage
from ramify.v1.payload_pb2 import Payload
from ramify.v1.stage_pb2 import Stage, StageRecord

_SHOWN_CHARS = 600  #: of one body; `--json` has all of it
_NAME_WIDTH = 10
_BODIES = ("input", "output", "prompt", "response")


async def trace_lines(client: AsyncClient, project_id: str, record: StageRecord) -> list[Text]:
    """Return one stage as lines; large bodies are fetched for their beginning."""
    lines = [_head(record)]
    if record.HasField("error"):
        kind = ErrorClass.Name(record.error.error_class).removeprefix("ERROR_CLASS_")
        lines.append(_row("error", f"{kind}: {record.error.message}", "red"))
    if record.late:
        lines.append(_row("late", "it came too late to count", "yellow"))
    if record.model:
        lines.append(_row("model", record.model))
    spent = usage_text(record.usage)
    if spent:
        lines.append(_row("usage", spent))
    bodies = [(field.name, body) for field, body in record.ListFields() if field.name in _BODIES]
    lines += [_row(name, await _shown(client, project_id, body)) for name, body in bodies]
    for call in record.tool_calls:
        took = f"  {duration(_seconds(call))}" if call.HasField("duration") else ""
        lines.append(_row("tool", f"{call.tool_name}{took}  {call.error}".rstrip()))
        for name, payload in (("given", call.arguments), ("returned", call.result)):
            if payload.WhichOneof("body"):
                lines.append(_row(f"  {name}", await _shown(client, project_id, payload)))
    return lines


def total_line(records: Sequence[StageRecord], below: Iterable[Usage]) -> str:
    """Return what the stages took and cost, and what all below them has cost too.

    The time that humans took is none of it.
    """
    own = add_usage(record.usage for record in records)
    took = sum(_seconds(record) for record in records if record.stage != Stage.STAGE_REVIEW)
    text = f"{plural(len(records), 'stage')}, {duration(took)}"
    spent, whole = usage_text(own), usage_text(add_usage(below))
    text += f", {spent}" if spent else ""
    return text + (f"; with all below: {whole}" if whole and whole != spent else "")


def usage_text(usage: Usage) -> str:
    """Return tokens and money; empty if nothing was reported."""
    parts = []
    if usage.input_tokens or usage.output_tokens:
        parts.append(f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out")
    if usage.cost_micro_usd:
        parts.append(f"${usage.cost_micro_usd / 1e6:.6f}".rstrip("0").rstrip("."))
    return ", ".join(parts)


def _head(record: StageRecord) -> Text:
    stage = Stage.Name(record.stage).removeprefix("STAGE_").lower()
    text = Text(f"{record.node_id}  {stage}", style="bold")
    text.append(f"  attempt {record.attempt}  {record.agent_name}  ", style="not bold")
    text.append(duration(_seconds(record)), style="not bold bright_black")
    return text


def _row(name: str, value: str, style: str = "") -> Text:
    below = "\n" + " " * (2 + _NAME_WIDTH)
    text = below.join(value.rstrip().splitlines())
    return Text.assemble((f"  {name:<{_NAME_WIDTH}}", "bright_black"), (text, style))


def _seconds(item: StageRecord | object) -> float:
    value = getattr(item, "duration")  # noqa: B009 - of records and of tool calls
    return float(value.seconds + value.nanos / 1e9)


async def _shown(client: AsyncClient, project_id: str, payload: Payload) -> str:
    if payload.HasField("ref"):
        length = payload.ref.original_bytes
        where = f", stored as {size(payload.ref.stored_bytes)}"
        payload = await client.whole(project_id, payload)
    else:
        length = len(payload.data) or len(payload.text.encode())
        where = ""
    if payload.HasField("data"):
        return f"{size(length)} of {payload.content_type or 'bytes'}{where}"
    text = one_line(payload.text, _SHOWN_CHARS)
    return f"{text}  ({size(length)}{where})" if len(payload.text) > _SHOWN_CHARS else text
