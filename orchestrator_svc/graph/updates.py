"""Holds back changes of a node that move no state, as the run's strategy says (S2.6, SEM 24).

A change that moves a state, announces a call or an attempt, or creates something is never held
and never waits; what was held about its node goes with it, in the same batch and before it. So
the store sees each node's changes in order, and the last word about each field.

While as many batches of the run are under way as may be, quiet changes are held whatever the
strategy says: what waits is then one change for each open call, however long the store is away.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator_svc.graph.mutation import Mutation, NodeChanges, PatchNode
from orchestrator_svc.graph.settings import ExecutionStrategy, Settings

#: Fields that say how a node's call is doing and on which nothing depends. Usage has the number of
#: calls with it, which by itself announces one; `progress` is in every such change and in no other.
QUIET_FIELDS = frozenset({"progress", "usage", "agent_calls"})


class UpdateBuffer:
    """What is held back of one run. Owned by its runner."""

    def __init__(self, settings: Settings) -> None:
        strategy = settings.execution_strategy
        self._deferred = strategy is ExecutionStrategy.DEFERRED
        self._joins = strategy is ExecutionStrategy.REALTIME and settings.enable_update_coalescing
        self._window = settings.update_coalescing_window_ms / 1_000
        self._held: dict[str, NodeChanges] = {}  #: by node, oldest first
        self._due: dict[str, float] = {}

    def take(
        self, groups: Iterable[list[Mutation]], now: float, *, full: bool = False
    ) -> list[list[Mutation]]:
        """Return what is to be sent now, in order; hold the rest.

        With `full` nothing can be sent now: what is quiet is due as soon as something can.
        """
        holds = self._deferred or self._joins or full
        if not holds and not self._held:
            return list(groups)
        sent: list[list[Mutation]] = []
        for group in groups:
            if holds and is_quiet(group):
                for mutation in group:
                    self._hold(mutation, now)
            else:
                sent.append([*self._held_before(group), *group])
        return sent

    def _hold(self, mutation: Mutation, now: float) -> None:
        assert isinstance(mutation, PatchNode)
        self._held.setdefault(mutation.node_id, NodeChanges()).update(mutation.changes)
        if not self._deferred:
            self._due.setdefault(mutation.node_id, now + self._window if self._joins else now)

    def _held_before(self, group: list[Mutation]) -> list[Mutation]:
        if not self._held:
            return []
        nodes = [mutation.node_id for mutation in group if isinstance(mutation, PatchNode)]
        return [patch for node_id in nodes if (patch := self._release(node_id)) is not None]

    def _release(self, node_id: str) -> Mutation | None:
        self._due.pop(node_id, None)
        changes = self._held.pop(node_id, None)
        return None if changes is None else PatchNode(node_id, changes)

    def next_due(self) -> float | None:
        """Return when `pop_due` has something; None if nothing waits for a time."""
        return next(iter(self._due.values()), None)

    def pop_due(self, now: float) -> list[list[Mutation]]:
        """Return what has been held for its window."""
        return self._groups([node_id for node_id, due in self._due.items() if due <= now])

    def flush(self) -> list[list[Mutation]]:
        """Return everything that is held: nothing follows that it could go with."""
        return self._groups(list(self._held))

    def _groups(self, node_ids: list[str]) -> list[list[Mutation]]:
        return [[patch] for id_ in node_ids if (patch := self._release(id_)) is not None]


def is_quiet(group: list[Mutation]) -> bool:
    """Return whether a group changes nothing but quiet fields of nodes."""
    return all(
        isinstance(mutation, PatchNode)
        and "progress" in mutation.changes
        and QUIET_FIELDS.issuperset(mutation.changes)
        for mutation in group
    )
