"""Stages as lines: each body and each error stands beside its name."""

from ramify.cli.trace import trace_lines
from ramify.client import AsyncClient
from ramify.v1.node_pb2 import ErrorClass, NodeError
from ramify.v1.stage_pb2 import Stage, StageRecord, ToolCall


async def test_the_later_lines_of_a_text_stand_below_its_first() -> None:
    record = StageRecord(
        node_id="n",
        stage=Stage.STAGE_EXECUTE,
        attempt=1,
        error=NodeError(
            error_class=ErrorClass.ERROR_CLASS_EXECUTION, message="exit code 1\nno such file\n"
        ),
        tool_calls=[ToolCall(tool_name="sh", error="line one\nline two")],
    )
    lines = await trace_lines(AsyncClient(), "p", record)
    assert "\n".join(line.plain for line in lines[1:]).splitlines() == [
        "  error     EXECUTION: exit code 1",
        "            no such file",
        "  tool      sh  line one",
        "            line two",
    ]
