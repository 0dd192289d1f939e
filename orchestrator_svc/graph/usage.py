"""What agent calls have cost, as they report it themselves."""

from __future__ import annotations

from dataclasses import dataclass


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
