"""What is used of a budget is what its node and everything below it has used."""

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from ramify.budgets import BUDGET_KEY, budget_uses
from ramify.v1.node_pb2 import Node, Usage
from ramify.v1.project_pb2 import ExecutionSettings, Project


def node(node_id: str, parent: str = "", tokens: int = 0) -> Node:
    usage = Usage(input_tokens=tokens, output_tokens=1, cost_micro_usd=250_000)
    started = Timestamp(seconds=100)
    return Node(node_id=node_id, parent_node_id=parent, usage=usage, start_time=started)


def uses(settings: ExecutionSettings, *nodes: Node) -> dict[tuple[str, str], tuple[float, float]]:
    found = budget_uses(Project(settings=settings), nodes, 130.0)
    return {(use.node_id, use.resource): (use.used, use.limit) for use in found}


TREE = (
    node("root", tokens=9),
    node("a", "root", tokens=19),
    node("b", "root", tokens=29),
    node("a1", "a", tokens=39),
)


def test_a_run_without_budgets_has_none() -> None:
    assert uses(ExecutionSettings(budget_tokens=0), *TREE) == {}


def test_the_roots_budget_is_the_projects_and_covers_all() -> None:
    settings = ExecutionSettings(
        budget_tokens=1_000, budget_cost_usd=2.5, budget_wall_seconds=60, budget_nodes=5
    )
    assert uses(settings, *TREE) == {
        ("root", "tokens"): (100, 1_000),
        ("root", "cost_usd"): (1.0, 2.5),
        ("root", "wall_seconds"): (30.0, 60),
        ("root", "nodes"): (4, 5),
    }


def test_a_nodes_own_budget_covers_what_is_below_it_and_nothing_else() -> None:
    limited = node("a", "root", tokens=19)
    limits = {"tokens": 80, "cost_usd": 0, "nodes": 3, "depth": 1}
    limited.aux_data[BUDGET_KEY].CopyFrom(ParseDict(limits, Value()))
    tree = (TREE[0], limited, *TREE[2:])
    assert uses(ExecutionSettings(budget_tokens=1_000), *tree) == {
        ("root", "tokens"): (100, 1_000),
        ("a", "tokens"): (60, 80),
        ("a", "nodes"): (2, 3),
    }


def test_the_time_of_what_has_ended_stands_still_and_that_of_what_waits_has_not_begun() -> None:
    settings = ExecutionSettings(budget_wall_seconds=60)
    ended = node("root")
    ended.end_time.FromSeconds(107)
    assert uses(settings, ended) == {("root", "wall_seconds"): (7.0, 60)}
    ended.ClearField("start_time")
    assert uses(settings, ended) == {("root", "wall_seconds"): (0.0, 60)}
