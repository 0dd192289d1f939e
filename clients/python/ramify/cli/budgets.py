"""How much of its budgets a run has used, as text. Pure."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from ramify.cli.format import duration
from ramify.v1.explain_pb2 import BudgetUse

TIGHT = 0.8  #: share of a limit from which it is worth a look


def amount(use: BudgetUse) -> str:
    """Return what is used of one limit: `1,200 of 10,000 tokens`, `$0.12 of $1.00`."""
    if use.resource == "wall_seconds":
        return f"{duration(use.used)} of {duration(use.limit)}"
    if use.resource == "cost_usd":
        return f"{_dollars(use.used)} of {_dollars(use.limit)}"
    return f"{use.used:,.0f} of {use.limit:,.0f} {use.resource}"


def share(use: BudgetUse) -> float:
    """Return the used part of a limit; 1 or more: it is used up."""
    return use.used / use.limit


def by_node(uses: Iterable[BudgetUse]) -> list[list[BudgetUse]]:
    """Return the uses of each budget, in their order."""
    return [list(group) for _, group in groupby(uses, lambda use: use.node_id)]


def line(uses: Sequence[BudgetUse], separator: str) -> str:
    """Return one line about one budget."""
    return f"budget of {uses[0].node_id}: {separator.join(amount(use) for use in uses)}"


def _dollars(value: float) -> str:
    whole, _, part = f"{value:,.4f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"
