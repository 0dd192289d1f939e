"""How much of a run's budgets is used, counted from its nodes. Pure.

The root's budget is the project's (`budget_…` keys); other nodes have theirs in the attribute
`budget`. Counted since the beginning: an orchestrator that has resumed a paused run allows as much
again, which `ExplainProject` tells.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from ramify.v1.explain_pb2 import BudgetUse
from ramify.v1.node_pb2 import Node
from ramify.v1.project_pb2 import Project

BUDGET_KEY = "budget"  #: attribute of a node
RESOURCES = ("tokens", "cost_usd", "wall_seconds", "nodes")

_MICROS = 1_000_000


@dataclass(slots=True)
class _Account:
    """What a node with everything below it has used."""

    node: Node
    limits: Mapping[str, float]
    tokens: int = 0
    cost_micro_usd: int = 0
    nodes: int = 0

    def add(self, node: Node) -> None:
        self.tokens += node.usage.input_tokens + node.usage.output_tokens
        self.cost_micro_usd += node.usage.cost_micro_usd
        self.nodes += 1

    def used(self, resource: str, now: float) -> float:
        if resource == "wall_seconds":
            return _wall_seconds(self.node, now)
        if resource == "cost_usd":
            return self.cost_micro_usd / _MICROS
        return self.tokens if resource == "tokens" else self.nodes


def budget_uses(project: Project, nodes: Iterable[Node], now: float) -> list[BudgetUse]:
    """Return the use of each limit: the root's first, then in the order of the nodes' creation.

    `nodes` are all nodes of the project in the order of their creation, `now` is the server's time
    in seconds since 1970.
    """
    own = _chosen({name: getattr(project.settings, f"budget_{name}") for name in RESOURCES})
    covering: dict[str, tuple[_Account, ...]] = {}  #: by node; shared by all below an account
    accounts: list[_Account] = []
    for node in nodes:
        above = covering.get(node.parent_node_id, ())
        limits = _limits_of(node) if node.parent_node_id else _limits_of(node) or own
        if limits:
            accounts.append(_Account(node, limits))
            above = (*above, accounts[-1])
        if above:
            covering[node.node_id] = above
            for account in above:
                account.add(node)
    return [
        BudgetUse(
            node_id=account.node.node_id,
            resource=resource,
            limit=limit,
            used=account.used(resource, now),
        )
        for account in accounts
        for resource, limit in account.limits.items()
    ]


def _limits_of(node: Node) -> Mapping[str, float]:
    if BUDGET_KEY not in node.aux_data:
        return {}
    given = node.aux_data[BUDGET_KEY].struct_value.fields
    return _chosen({name: given[name].number_value for name in RESOURCES if name in given})


def _chosen(limits: Mapping[str, float]) -> Mapping[str, float]:
    return {name: limit for name, limit in limits.items() if limit}


def _wall_seconds(node: Node, now: float) -> float:
    if not node.HasField("start_time"):
        return 0.0
    end = _seconds(node.end_time) if node.HasField("end_time") else now
    return max(0.0, end - _seconds(node.start_time))


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9
