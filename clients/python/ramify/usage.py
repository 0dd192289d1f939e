"""What runs and their parts have cost, summed up the tree."""

from collections.abc import Iterable, Iterator

from ramify.v1.node_pb2 import Node, Usage


def add_usage(parts: Iterable[Usage]) -> Usage:
    """Return the sum of some costs."""
    total = Usage()
    for part in parts:
        total.input_tokens += part.input_tokens
        total.output_tokens += part.output_tokens
        total.cost_micro_usd += part.cost_micro_usd
        total.agent_calls += part.agent_calls
    return total


def below(nodes: Iterable[Node], node_id: str) -> Iterator[Node]:
    """Yield a node and all below it; `nodes` come in the order of their creation.

    Superseded nodes count: what they cost is spent. An empty id yields all nodes.
    """
    inside = {node_id}
    for node in nodes:
        if not node_id or node.node_id == node_id or node.parent_node_id in inside:
            inside.add(node.node_id)
            yield node
