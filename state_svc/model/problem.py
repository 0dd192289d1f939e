"""Why one mutation is bad; raised and caught inside the pure core only."""

from __future__ import annotations

from ramify.v1.error_pb2 import ErrorReason


class Problem(Exception):
    """One bad mutation: its reason, the path of the field and what is wrong with it."""

    def __init__(self, reason: ErrorReason.ValueType, field: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason
        self.field = field
        self.description = description
