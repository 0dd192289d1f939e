"""Why the execution of a run ended although its process goes on, and when that is its outcome.

An execution that ends so is no crash (SEM 21): the calls that it loses are no fault of their nodes.
What is refused again and again is not asked for without end: the node that it is about fails, and
where none is known, or its failure is refused too, the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_REFUSALS = 3  #: of the same in a row; then what was refused fails
REMEMBERED_SECONDS = 600.0  #: after which a refusal is the first again


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """How the last execution of a run ended."""

    reason: str
    kind: str = ""  #: the same for what is refused for the same reason
    node_id: str = ""  #: whose change was refused, or in whose turn it happened; empty: unknown
    refused: bool = False  #: by the store, or by an error of the orchestrator: it will come again
    passes: bool = False  #: the store is away or has no room: nobody's fault
    is_outcome: bool = False  #: it came `MAX_REFUSALS` times

    @property
    def is_crash(self) -> bool:
        """Whether calls that it has cut off count as cut off by a crash."""
        return not self.refused and not self.passes


class Setbacks:
    """The setbacks of one run in this process."""

    def __init__(self) -> None:
        self.latest: Setback | None = None  #: as the next execution sees it
        self._key = ("", "")  #: of the latest refusal
        self._count = 0  #: of the latest, in a row
        self._at = 0.0  #: seconds, of the latest
        self._settled: set[tuple[str, str]] = set()  #: of whose node the failure was the outcome

    def add(self, setback: Setback, now: float) -> None:
        """Take note of a setback at monotonic time `now`; one that passes leaves the count."""
        self.latest = setback
        if not setback.refused:
            return
        key = setback.kind, setback.node_id
        if key != self._key or now - self._at > REMEMBERED_SECONDS:
            self._count = 0
        self._key, self._at = key, now
        self._count += 1
        if self._count < MAX_REFUSALS:
            return
        self._count = 0
        again = key in self._settled
        self._settled.add(key)
        self.latest = replace(
            setback,
            is_outcome=True,
            node_id="" if again else setback.node_id,
            reason=f"refused {MAX_REFUSALS} times: {setback.reason}",
        )
