"""Reads the final state of a project back from the store (S1.7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection

from state_svc.errors import CorruptRecord
from state_svc.history.rebuild import rebuild
from state_svc.model.checksum import view_checksum
from state_svc.model.node import LiveNode
from state_svc.model.project import LiveProject
from state_svc.store.base import StateStore

_Summary = tuple[int, Counter[int], int]


async def verify_final_state(store: StateStore, project: LiveProject) -> None:
    """Compare what the store holds of an ended project with what is in memory.

    The project's state, its nodes by state and the checksum of its view (SEM 31), all at its head.
    Raises `CorruptRecord` if they differ or cannot be read, or `StoreUnavailable`.
    """
    view = project.view
    revision, state, nodes = view.revision, view.entity.state, list(view.nodes.values())
    stored = (await rebuild(store, project.uid, revision)).view
    expected = await asyncio.to_thread(_summary, state, nodes)
    found = await asyncio.to_thread(_summary, stored.entity.state, stored.nodes.values())
    if found != expected:
        raise CorruptRecord(
            project_uid=project.uid,
            revision=revision,
            problem="the stored final state is not the one in memory",
        )


def _summary(state: int, nodes: Collection[LiveNode]) -> _Summary:
    return state, Counter(node.state for node in nodes), view_checksum(nodes)
