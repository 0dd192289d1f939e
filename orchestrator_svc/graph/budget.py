"""Budgets: what a node with everything below it may cost, checked before each dispatch.

A limit covers the whole subtree of the node that has it. A node without limits draws on those of
its ancestors; one with limits on its own and theirs. The root's are the project's execution keys
`budget_…`, those of other nodes come with the plan that made them. What was allowed beyond a limit
is stored with its node, so another process knows it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from orchestrator_svc.graph.types import TERMINAL_NODE_STATES
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What became of a node's budget: when its time began, and what was decided about it since."""

    since: float | None = None  #: Unix seconds, moved on by every pause; None: not started
    stopped: float | None = None  #: Unix seconds since which the run waits for humans only
    tokens: int = 0  #: beyond the limit, as the three that follow
    cost_usd: float = 0.0
    wall_seconds: float = 0.0
    nodes: int = 0
    short: int = 0  #: nodes of a plan that waits because so many are not left; 0: none does
    final: bool = False  #: whether a human has refused to allow more
    review_id: str = ""  #: of the human who is being asked, if one is

    def running(self, now: float) -> float:
        """Return for how many seconds the budget's time has run by `now`."""
        until = now if self.stopped is None else self.stopped
        return 0.0 if self.since is None else max(0.0, until - self.since)

    def moved_on(self, seconds: float) -> Allowance:
        """Return it without the seconds of a pause; its time may stand still since before that."""
        if self.since is None or self.stopped is not None:
            return self
        return replace(self, since=self.since + seconds)

    def stop(self, now: float) -> Allowance:
        """Return it with its time standing still since `now`, if it was running."""
        if self.since is None or self.stopped is not None:
            return self
        return replace(self, stopped=now)

    def go_on(self, now: float) -> Allowance:
        """Return it with its time running again, without that in which it stood still."""
        if self.since is None or self.stopped is None:
            return self
        return replace(self, since=self.since + max(0.0, now - self.stopped), stopped=None)


NO_ALLOWANCE = Allowance()


@dataclass(frozen=True, slots=True)
class Use:
    """How much of one limit is used."""

    node_id: str  #: the subtree's root
    resource: str  #: field of `Budget`
    limit: float
    used: float
    short: int = 0  #: how much of it a plan needs that waits because so much is not left

    @property
    def used_up(self) -> bool:
        """Whether nothing more may be spent, or what is left is not enough."""
        return bool(self.short) or self.used >= self.limit

    def forbids(self, *, plans: bool) -> bool:
        """Return whether another call may not begin; nodes are counted when they are planned."""
        return bool(self.short and plans) if self.resource == "nodes" else self.used_up

    def __str__(self) -> str:
        name = self.resource.replace("_", " ")
        if self.short:
            of = f"budget of {self.limit:g} {name} for {self.node_id}"
            return f"a plan needs {self.short} more, which the {of} has not: {self.used:g} used"
        return f"budget of {self.limit:g} {name} for {self.node_id} is used up: {self.used:g}"


@dataclass(slots=True)
class _Account:
    """What the subtree of one node has used."""

    node: Node
    budget: Budget
    usage: Usage = NO_USAGE
    nodes: int = 0

    def uses(self, now: float) -> Iterator[Use]:
        """Yield how much of each limit is used."""
        allowance, usage = self.node.allowance, self.usage
        used = {
            "tokens": usage.tokens,
            "cost_usd": usage.cost_micro_usd / _MICROS,
            "wall_seconds": allowance.running(now),
            "nodes": self.nodes,
        }
        for resource, amount in used.items():
            limit = getattr(self.budget, resource)
            if limit:
                limit += getattr(allowance, resource, 0)
                short = allowance.short if resource == "nodes" else 0
                yield Use(self.node.node_id, resource, limit, amount, short)

    def used_up(self, now: float, *, plans: bool) -> Use | None:
        """Return a limit that forbids another call, of a planner if it `plans`."""
        return next((use for use in self.uses(now) if use.forbids(plans=plans)), None)

    def raised(self, now: float) -> Allowance:
        """Return what allows as much again of everything that is used up.

        Of nodes that is the budget's own amount with each time, as none are used while a plan
        waits: a plan of any size gets its room in the end.
        """
        allowance = self.node.allowance
        used = {use.resource: use.used for use in self.uses(now) if use.used_up}
        return replace(
            allowance,
            tokens=int(used.get("tokens", allowance.tokens)),
            cost_usd=used.get("cost_usd", allowance.cost_usd),
            wall_seconds=used.get("wall_seconds", allowance.wall_seconds),
            nodes=allowance.nodes + (self.budget.nodes if allowance.short else 0),
            short=0,
        )


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
        budget = node.budget if node.parent_id else node.budget or self._own
        if budget:
            self._accounts[node.node_id] = _Account(node, budget)

    def _count(self, node: Node) -> None:
        for _, account in self._covering(node):
            account.nodes += 1
            account.usage += node.usage

    def charge(self, node: Node, usage: Usage) -> None:
        """Take note of what a call of `node` has cost."""
        for _, account in self._covering(node):
            account.usage += usage

    def begun(self, node: Node, now: float) -> Allowance | None:
        """Return what is to be stored with a node whose own time begins with its next call."""
        account = self._accounts.get(node.node_id)
        if account is None or not account.budget.wall_seconds or node.allowance.since is not None:
            return None
        return replace(node.allowance, since=now)

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

    def breach(self, node: Node, now: float, *, plans: bool) -> Use | None:
        """Return a limit that forbids another call of `node`, of its planner if it `plans`."""
        if not self._accounts:
            return None
        found = (account.used_up(now, plans=plans) for _, account in self._covering(node))
        return next((use for use in found if use is not None), None)

    def report(self, now: float) -> list[Use]:
        """Return how much of every limit is used."""
        return [use for account in self._accounts.values() for use in account.uses(now)]

    def raised(self, node: Node, now: float) -> Allowance:
        """Return what allows a node as much again of what is used up of its own budget."""
        account = self._accounts.get(node.node_id)
        return node.allowance if account is None else account.raised(now)

    def resumed(self, paused: float, now: float, *, more: bool) -> list[tuple[Node, Allowance]]:
        """Return what the end of a pause changes: its seconds do not count as time of a budget.

        With `more` it also allows as much again of all that is used up.
        """
        changed = []
        for account in self._accounts.values():
            node = account.node
            if node.state in TERMINAL_NODE_STATES:
                continue
            allowance = account.raised(now - paused) if more else node.allowance
            allowance = allowance.moved_on(paused)
            if allowance != node.allowance:
                changed.append((node, allowance))
        return changed

    def waiting(self, now: float, *, humans_only: bool) -> list[tuple[Node, Allowance]]:
        """Return what changes as the run begins, or ends, to wait for nothing but humans.

        That is no time of a budget (SEM 27), as that of a pause is none.
        """
        changed = []
        for account in self._accounts.values():
            before = account.node.allowance
            if account.node.state in TERMINAL_NODE_STATES:
                continue
            after = before.stop(now) if humans_only else before.go_on(now)
            if after != before:
                changed.append((account.node, after))
        return changed

    def max_layer(self, node: Node, most: int) -> int:
        """Return the deepest layer that may be below `node`: `most`, or less."""
        if not self._accounts:
            return most
        limits = (a.node.layer + a.budget.depth for _, a in self._covering(node) if a.budget.depth)
        return min((most, *limits))

    def no_room(self, node: Node, count: int, now: float) -> Use | None:
        """Return a limit of nodes that leaves less than `count` to a plan of `node`."""
        uses = (use for _, account in self._covering(node) for use in account.uses(now))
        return next((u for u in uses if u.resource == "nodes" and u.used + count > u.limit), None)

    def plan_problems(
        self, node: Node, budgets: Sequence[Budget | None], now: float, *, room: bool = True
    ) -> list[str]:
        """Return why children with these budgets do not fit into what is left for `node`.

        Whether there is `room` for so many nodes may be left out.
        """
        problems = []
        for owner, account in self._covering(node):
            for use in account.uses(now):
                left = max(0.0, use.limit - use.used)
                if use.resource == "nodes":
                    asked: float = len(budgets) if room else 0
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
