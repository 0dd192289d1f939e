"""Damage of what a store keeps, as a flipped bit does it."""

from __future__ import annotations

from dataclasses import replace

from state_svc.store.memory import MemoryStore


def damage(store: MemoryStore, project_uid: str) -> None:
    """Flip a bit in the last segment of a project."""
    segments = store._segments[project_uid]
    data = segments[-1].data
    segments[-1] = replace(segments[-1], data=data[:-1] + bytes([data[-1] ^ 1]))
