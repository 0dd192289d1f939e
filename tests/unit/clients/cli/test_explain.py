"""How an explanation is printed, and that its remedies are commands that exist."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from orchestrator_svc.graph import blocker, explain
from ramify.cli.main import app
from ramify.v1.explain_pb2 import Blocker, BlockerKind, Explanation, NodeMove, Outlook
from ramify.v1.node_pb2 import NodeState
from tests.unit.clients.cli.conftest import Ramify
from tests.unit.clients.fake_state import FakeServices

STUCK = Explanation(
    project_id="p",
    node_id="d",
    state="PENDING",
    revision=12,
    outlook=Outlook.OUTLOOK_WAITING,
    summary="it is PENDING; c: attempt 2 begins in 4.0 s",
    blockers=[
        Blocker(
            kind=BlockerKind.BLOCKER_KIND_DEPENDENCY,
            blocked_node_id="d",
            node_id="c",
            message="it needs the result of c, which is READY",
            elapsed=Duration(seconds=65),
        ),
        Blocker(
            kind=BlockerKind.BLOCKER_KIND_BACKOFF,
            blocked_node_id="c",
            message="attempt 2 begins in 4.0 s",
            remedy="ramify watch p",
            root_cause=True,
            live=True,
            depth=1,
        ),
    ],
    omitted_root_causes=2,
    live=True,
    holder="o",
    moves=[NodeMove(revision=3, to_state=NodeState.NODE_STATE_PENDING, actor="cli:me")],
)


def test_the_chain_is_printed_link_by_link_with_what_helps(
    services: FakeServices, ramify: Ramify
) -> None:
    services.orchestrator.explanation = STUCK
    result = ramify("explain", "p", "d")
    assert result.code == 0
    out = re.sub(r"\d\d:\d\d:\d\d", "HH:MM:SS", result.out)
    assert out.splitlines() == [
        "d: it is PENDING; c: attempt 2 begins in 4.0 s.",
        "It goes on by itself.",
        "",
        "  d  DEPENDENCY  it needs the result of c, which is READY (for 1m 05s)",
        "    c  BACKOFF  attempt 2 begins in 4.0 s (live)",
        "      → ramify watch p",
        "  and 2 more root causes",
        "",
        "  HH:MM:SS  r3     (created) → PENDING  by cli:me",
        "",
        "revision 12, executed by o, answered from its own memory and the store",
    ]


def test_what_has_failed_is_told_with_its_time_and_with_its_day_unless_that_is_today(
    services: FakeServices, ramify: Ramify
) -> None:
    noon = datetime(2026, 3, 4, 12, 0, 5).timestamp()
    answer = Explanation(project_id="p", summary="it is FAILED", outlook=Outlook.OUTLOOK_ENDED)
    failed = answer.blockers.add(kind=BlockerKind.BLOCKER_KIND_FAILURE, message="it failed")
    failed.since_time.FromMilliseconds(round(noon * 1e3))
    failed.elapsed.FromSeconds(3)
    for later, shown in ((60.0, "12:00:05"), (86_400.0, "2026-03-04 12:00:05")):
        answer.explain_time.FromMilliseconds(round((noon + later) * 1e3))
        services.orchestrator.explanation = answer
        line = ramify("explain", "p").out.splitlines()[3]
        assert line == f"  project  FAILURE  it failed (at {shown})"


@pytest.mark.parametrize("arguments", [["p"], ["p", "d"]])
def test_json_is_the_answer_of_the_service(
    services: FakeServices, ramify: Ramify, arguments: list[str]
) -> None:
    services.orchestrator.explanation = STUCK
    result = ramify("explain", *arguments, "--json")
    document = json.loads(result.out)["explanation"]
    assert document["blockers"][1]["kind"] == "BLOCKER_KIND_BACKOFF"
    assert document["blockers"][1]["rootCause"] is True


def test_every_remedy_is_a_command_that_exists() -> None:
    commands = {command.name for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    sources = [Path(module.__file__ or "").read_text("utf-8") for module in (blocker, explain)]
    named = {name for text in sources for name in re.findall(r"\"ramify (\w+)", text)}
    assert named
    assert named <= commands
