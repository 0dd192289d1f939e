"""What agent calls have cost, as they report it themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

MAX_SPENT = 10**12  #: of each kind by one call


class NotCountable(ValueError):
    """What a call says it has cost is no amount; the text names the field."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of models, and their price."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_micro_usd: int = 0  #: millionths of a US dollar

    def __add__(self, other: Usage) -> Usage:
        """Return both together."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_micro_usd + other.cost_micro_usd,
        )

    def __sub__(self, other: Usage) -> Usage:
        """Return what is more than `other`, of which this one is the continuation."""
        return Usage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cost_micro_usd - other.cost_micro_usd,
        )

    def __bool__(self) -> bool:
        return bool(self.input_tokens or self.output_tokens or self.cost_micro_usd)

    @property
    def tokens(self) -> int:
        """Tokens sent and received."""
        return self.input_tokens + self.output_tokens


NO_USAGE = Usage()


def counted(so_far: Usage, more: Usage) -> Usage:
    """Return both together, a fraction counted as a whole. Raises `NotCountable`."""
    amounts = {field.name: _amount(field.name, getattr(more, field.name)) for field in fields(more)}
    total = so_far + Usage(**amounts)
    for field in fields(total):
        if getattr(total, field.name) > MAX_SPENT:
            raise NotCountable(f"{field.name} of one call is more than {MAX_SPENT}")
    return total


def _amount(name: str, value: object) -> int:
    if isinstance(value, int | float) and 0 <= value <= MAX_SPENT:  # NaN is neither
        return math.ceil(value)
    short = isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**18)
    shown = repr(value) if short else f"a {type(value).__name__}"
    raise NotCountable(f"{name} is {shown}, a number from 0 to {MAX_SPENT} is needed")
