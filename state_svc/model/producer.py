"""A producer's place in one project: what it has written and at which revision (SEM 1, 4, 5)."""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

REMEMBERED = 1_024  #: latest sequences whose revisions are known


class Verdict(enum.Enum):
    """What to do with a batch, by its sequence."""

    ACCEPT = enum.auto()  #: it is the next one
    REPEAT = enum.auto()  #: it is durable; acknowledge it again
    PENDING = enum.auto()  #: it is accepted; acknowledge it with its commit
    GAP = enum.auto()  #: one before it is missing
    FENCED = enum.auto()  #: a newer epoch has written


@dataclass(slots=True)
class Run:
    """Consecutive sequences that became consecutive revisions."""

    first_sequence: int
    last_sequence: int
    first_revision: int


class ProducerPosition:
    """Position of one producer epoch in one project."""

    __slots__ = ("_runs", "accepted", "committed", "epoch")

    def __init__(self, epoch: int, committed: int = 0) -> None:
        self.epoch = epoch
        self.committed = committed  #: highest durable sequence
        self.accepted = committed  #: highest sequence accepted, durable or not
        self._runs: list[Run] = []

    def accept(self, sequence: int) -> None:
        """Note the next sequence as accepted."""
        self.accepted = sequence

    def commit(self, sequence: int, revision: int) -> None:
        """Note that the next sequence is durable as `revision`."""
        self.committed = sequence
        self.accepted = max(self.accepted, sequence)
        runs = self._runs
        if runs:
            last = runs[-1]
            offset = sequence - last.first_sequence
            if sequence == last.last_sequence + 1 and revision == last.first_revision + offset:
                last.last_sequence = sequence
                return
        runs.append(Run(sequence, sequence, revision))
        if len(runs) > REMEMBERED:
            del runs[0]

    def drop_pending(self) -> None:
        """Forget sequences that are not durable."""
        self.accepted = self.committed

    @property
    def last_revision(self) -> int:
        """Revision of the last durable sequence that is remembered; 0 if there is none."""
        if not self._runs:
            return 0
        last = self._runs[-1]
        return last.first_revision + last.last_sequence - last.first_sequence

    def runs(self) -> list[Run]:
        """Return a copy of the runs that are remembered, oldest first."""
        return [Run(r.first_sequence, r.last_sequence, r.first_revision) for r in self._runs]

    def restore(self, runs: list[Run]) -> None:
        """Remember runs from a snapshot."""
        self._runs = runs

    def revision_of(self, sequence: int) -> int | None:
        """Return the revision of a durable sequence; None if it is forgotten."""
        if sequence <= self.committed - REMEMBERED:
            return None
        at = bisect_right(self._runs, sequence, key=lambda run: run.first_sequence) - 1
        if at < 0 or sequence > self._runs[at].last_sequence:
            return None
        return self._runs[at].first_revision + sequence - self._runs[at].first_sequence


def trim(
    producers: dict[str, ProducerPosition], most: int, may_write: Callable[[str], bool]
) -> bool:
    """Forget producers beyond `most` by id; return whether no more than that are left.

    Those that wrote longest ago go, and none that has something pending or that `may_write`
    again: what it has written must be known then.
    """
    excess = len(producers) - most
    if excess <= 0:
        return True
    idle = sorted(
        (position.last_revision, name)
        for name, position in producers.items()
        if position.accepted == position.committed and not may_write(name)
    )
    for _, name in idle[:excess]:
        del producers[name]
    return len(producers) <= most


def judge(position: ProducerPosition | None, epoch: int, sequence: int) -> Verdict:
    """Return what to do with a batch of `epoch` and `sequence`; a new epoch begins at 1."""
    if position is None or epoch > position.epoch:
        return Verdict.ACCEPT if sequence == 1 else Verdict.GAP
    if epoch < position.epoch:
        return Verdict.FENCED
    if sequence == position.accepted + 1:
        return Verdict.ACCEPT
    if sequence > position.accepted or not sequence:
        return Verdict.GAP
    return Verdict.REPEAT if sequence <= position.committed else Verdict.PENDING


def expected_sequence(position: ProducerPosition | None, epoch: int) -> int:
    """Return the sequence that would be accepted next."""
    return position.accepted + 1 if position is not None and position.epoch == epoch else 1
