"""`ramify show ID NODE`: what recovery has done is there to be seen (S2.2)."""

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from ramify.cli.node_card import node_card
from ramify.v1.node_pb2 import Node, NodeState


def shown(node: Node) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(node_card(node))
    return " ".join(capture.get().split())


def test_attempts_backoff_and_replans_of_a_node_are_shown() -> None:
    text = shown(
        Node(
            node_id="root.1",
            goal="find it",
            state=NodeState.NODE_STATE_NEEDS_REPLAN,
            attempt=4,
            retry_count=3,
            timeout_count=1,
            replan_count=1,
            plan_count=2,
            replan_reason="the plan has no tasks",
            next_attempt_time=Timestamp(seconds=1_700_000_000),
        )
    )
    assert "attempt 4, tried again 3 times, 1 time-out" in text
    assert "next try 2023-11-14 22:13:20 UTC" in text
    assert "planned 2 times, 1 replan, again, because the plan has no tasks" in text


def test_a_node_without_failures_shows_none_of_it() -> None:
    text = shown(Node(node_id="root", goal="find it", attempt=1, plan_count=1))
    assert "next try" not in text
    assert "planned" not in text
