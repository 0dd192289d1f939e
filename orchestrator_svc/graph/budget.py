"""Budgets: what a node with everything below it may cost, checked before each dispatch.

A limit covers the whole subtree of the node that has it. A node without limits draws on those of
its ancestors; one with limits on its own and theirs. The root's are the project's execution keys
`budget_…`, those of other nodes come with the plan that made them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from orchestrator_svc.graph.usage import NO_USAGE, Usage

if TYPE_CHECKING:  # `node.py` imports this module
    from orchestrator_svc.graph.node import Node
    from orchestrator_svc.graph.settings import Settings

MAX_LIMIT = 1_000_000_000  #: of any resource that a planner may limit

_MICROS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on a subtree; 0 is unlimited. Raises ValueError for what is out of range."""

    tokens: int = 0  #: sent and received
    cost_usd: float = 0.0
    wall_seconds: float = 0.0  #: since the subtree's root was started
    nodes: int = 0  #: the subtree's root included
    depth: int = 0  #: layers below the subtree's root

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= MAX_LIMIT:  # not a number either
                raise ValueError(f"budget {field.name} has to be 0 to {MAX_LIMIT}, not {value!r}")

    def __bool__(self) -> bool:
        return self != UNLIMITED


UNLIMITED = Budget()


@dataclass(frozen=True, slots=True)
class Use:
    """How much of one limit is used."""

    node_id: str  #: the subtree's root
    resource: str  #: field of `Budget`
    limit: float
    used: float

    @property
    def used_up(self) -> bool:
        """Whether nothing more may be spent."""
        return self.used >= self.limit

    def __str__(self) -> str:
        name = self.resource.replace("_", " ")
        return f"budget of {self.limit:g} {name} for {self.node_id} is used up: {self.used:g}"


@dataclass(slots=True)
class _Account:
    """What the subtree of one node has used since it was last allowed to."""

    budget: Budget
    layer: int
    usage: Usage = NO_USAGE
    nodes: int = 0
    since: float | None = None  #: Unix seconds; None until the subtree's root is started


def project_budget(settings: Settings) -> Budget:
    """Return the budget of the root."""
    return Budget(
        tokens=settings.budget_tokens,
        cost_usd=settings.budget_cost_usd,
        wall_seconds=settings.budget_wall_seconds,
        nodes=settings.budget_nodes,
    )


class Accounts:
    """The budgets of one run with what is used of them. Costs nothing in a run without any."""

    def __init__(self, own: Budget, nodes: Mapping[str, Node]) -> None:
        self._own = own
        self._nodes = nodes
        self._accounts: dict[str, _Account] = {}
        for node in nodes.values():
            self._open(node)
        if self._accounts:
            for node in nodes.values():
                self._count(node)

    def enter(self, node: Node) -> None:
        """Take note of a node that was just created."""
        self._open(node)
        self._count(node)

    def _open(self, node: Node) -> None:
        budget = node.budget or (UNLIMITED if node.parent_id else self._own)
        if budget:
            account = _Account(budget, node.layer, since=node.start_time)
            self._accounts[node.node_id] = account

    def _count(self, node: Node) -> None:
        for _, account in self._covering(node):
            account.nodes += 1
            account.usage += node.usage

    def charge(self, node: Node, usage: Usage) -> None:
        """Take note of what a call of `node` has cost."""
        for _, account in self._covering(node):
            account.usage += usage

    def start(self, node: Node, now: float) -> None:
        """Take note that a node was dispatched."""
        account = self._accounts.get(node.node_id)
        if account is not None and account.since is None:
            account.since = now

    def _covering(self, node: Node) -> Iterator[tuple[str, _Account]]:
        """Yield the accounts of a node and its ancestors, the nearest first."""
        if not self._accounts:
            return
        at: Node | None = node
        while at is not None:
            account = self._accounts.get(at.node_id)
            if account is not None:
                yield at.node_id, account
            at = self._nodes.get(at.parent_id)

    def breach(self, node: Node, now: float) -> Use | None:
        """Return a limit that forbids another call of `node`; None if there is none."""
        for owner, account in self._covering(node):
            for use in _uses(owner, account, now):
                if use.used_up and use.resource != "nodes":
                    return use
        return None

    def report(self, now: float) -> list[Use]:
        """Return how much of every limit is used."""
        return [u for owner, a in self._accounts.items() for u in _uses(owner, a, now)]

    def grant(self, now: float) -> None:
        """Allow as much again of everything that a call needs; what was planned stays counted."""
        for account in self._accounts.values():
            account.usage = NO_USAGE
            if account.since is not None:
                account.since = now

    def max_layer(self, node: Node, most: int) -> int:
        """Return the deepest layer that may be below `node`: `most`, or less."""
        limits = (a.layer + a.budget.depth for _, a in self._covering(node) if a.budget.depth)
        return min((most, *limits))

    def plan_problems(self, node: Node, budgets: Sequence[Budget | None], now: float) -> list[str]:
        """Return why children with these budgets do not fit into what is left for `node`."""
        problems = []
        for owner, account in self._covering(node):
            for use in _uses(owner, account, now):
                left = max(0.0, use.limit - use.used)
                if use.resource == "nodes":
                    asked: float = len(budgets)
                elif use.resource == "wall_seconds":
                    asked = max(_asked(budgets, use.resource), default=0.0)
                else:
                    asked = math.fsum(_asked(budgets, use.resource))
                if asked > left:
                    name = use.resource.replace("_", " ")
                    problems.append(f"asks for {asked:g} {name}, {left:g} are left for {owner}")
        return problems


def _asked(budgets: Iterable[Budget | None], resource: str) -> list[float]:
    return [float(getattr(budget, resource)) for budget in budgets if budget]


def _uses(owner: str, account: _Account, now: float) -> Iterator[Use]:
    budget, usage = account.budget, account.usage
    seconds = 0.0 if account.since is None else max(0.0, now - account.since)
    used = {
        "tokens": usage.tokens,
        "cost_usd": usage.cost_micro_usd / _MICROS,
        "wall_seconds": seconds,
        "nodes": account.nodes,
    }
    for resource, amount in used.items():
        limit = getattr(budget, resource)
        if limit:
            yield Use(owner, resource, limit, amount)
