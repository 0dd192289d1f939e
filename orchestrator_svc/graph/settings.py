"""The execution keys of one run (S2). The list with ranges and meanings is `ExecutionSettings`.

A value comes from the first of these that has one: the project, the orchestrator's file,
environment and flags, the contract's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

#: Value of a key. A choice is the text of the config file, such as `standard`.
Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The keys in force. Defaults equal those of the contract; a test compares them."""

    max_concurrent_nodes: int = 10
    max_execution_steps: int = 500  #: 0: unlimited
    max_recursion_depth: int = 5
    max_retries: int = 3
    retry_delay_seconds: float = 5.0
    node_execution_timeout_seconds: float = 2400.0
    force_root_node_planning: bool = True
    skip_atomization: bool = False


KEYS = frozenset(field.name for field in fields(Settings))


def effective(*layers: Mapping[str, Scalar]) -> Settings:
    """Return the keys in force; a later layer wins. Keys that no `Settings` has are passed over.

    Values are within their ranges: `settings.py` has read them.
    """
    chosen: dict[str, Scalar] = {}
    for layer in layers:
        chosen.update((key, value) for key, value in layer.items() if key in KEYS)
    return Settings(**chosen)  # type: ignore[arg-type]


def problems(settings: Settings) -> list[tuple[str, str]]:
    """Return (key, why) for each key that cannot be combined with the others."""
    return []
