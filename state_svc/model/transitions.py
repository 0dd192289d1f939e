"""The lifecycle tables, read once from the options of the enum values in the contract."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.descriptor import EnumDescriptor

from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.review_pb2 import ReviewState
from ramify.v1.transition_pb2 import state_rule


@dataclass(frozen=True, slots=True)
class Table:
    """Legal moves of one lifecycle; states are enum numbers."""

    to: dict[int, frozenset[int]]  #: states that may follow
    to_with_new_attempt: dict[int, frozenset[int]]  #: … only together with attempt + 1
    initial: frozenset[int]
    terminal: frozenset[int]
    names: dict[int, str]  #: names without the prefix of the enum


def read_table(enum: EnumDescriptor, prefix: str) -> Table:
    """Return the table that the descriptor carries.

    Raises KeyError if a rule names a state that does not exist.
    """
    numbers = {value.name.removeprefix(prefix): value.number for value in enum.values}
    rules = {v.number: v.GetOptions().Extensions[state_rule] for v in enum.values}
    return Table(
        to={n: frozenset(numbers[s] for s in rule.to) for n, rule in rules.items()},
        to_with_new_attempt={
            n: frozenset(numbers[s] for s in rule.to_with_new_attempt) for n, rule in rules.items()
        },
        initial=frozenset(n for n, rule in rules.items() if rule.initial),
        terminal=frozenset(n for n, rule in rules.items() if rule.terminal),
        names={number: name for name, number in numbers.items()},
    )


NODE = read_table(NodeState.DESCRIPTOR, "NODE_STATE_")
PROJECT = read_table(ProjectState.DESCRIPTOR, "PROJECT_STATE_")
REVIEW = read_table(ReviewState.DESCRIPTOR, "REVIEW_STATE_")
