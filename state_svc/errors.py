"""Domain exceptions of the state service. The first line of a docstring is the public message.

RamifyError
├── BatchRejected          one batch breaks rules; carries every violation
├── InvalidRequest
├── ProjectNotFound, NodeNotFound, ReviewNotFound, ProjectExists, ProjectActive
├── PayloadNotFound, PayloadTooLarge
├── ProducerFenced, SequenceGap, LeaseHeld
├── RevisionCompacted, RevisionAhead
├── Overloaded, LimitReached, ServerDraining, StoreUnavailable
├── CorruptRecord, DamagedFile
└── StartupError           before serving: one line for the operator, exit code 1
    ├── DataDirectoryLocked, DataDirectoryTooNew, DataDirectoryUnreadable
    ├── DataDirectoryInUse, CommitsMissing
    ├── AddressInUse, InvalidConfig

`rpc/error_map.py` translates them once, at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramify.v1.error_pb2 import ErrorReason


class RamifyError(Exception):
    """An error of the state service; `fields` hold the values, as strings, for machines."""

    def __init__(self, **fields: object) -> None:
        self.fields = {name: str(value) for name, value in fields.items()}
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The first line of the class docstring, followed by the fields."""
        summary = (self.__doc__ or "").split("\n", 1)[0].strip().rstrip(".")
        values = ", ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{summary}: {values}" if values else summary


@dataclass(frozen=True, slots=True)
class Violation:
    """Why one mutation of a batch is refused."""

    index: int  #: position in the batch, from 0
    reason: ErrorReason.ValueType
    field: str  #: path inside the mutation, for example `node.create.goal`
    description: str


class BatchRejected(RamifyError):
    """The batch was refused and changed nothing.

    The reason of the first violation decides the status code.
    """

    def __init__(
        self,
        violations: tuple[Violation, ...],
        *,
        missing: frozenset[str] = frozenset(),
        **fields: object,
    ) -> None:
        self.violations = violations
        self.missing = missing  #: digests that were not known; they may be in the store
        super().__init__(**fields)

    @property
    def reason(self) -> ErrorReason.ValueType:
        """Reason of the first violation."""
        return self.violations[0].reason

    @property
    def message(self) -> str:
        """What is wrong with the first bad mutation, and how many more there are."""
        first = self.violations[0]
        where = f"mutation {first.index}, {first.field}" if first.field else f"{first.index}"
        more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
        return f"{where}: {first.description}{more}"


class InvalidRequest(RamifyError):
    """The request is not valid.

    Fix the named field; repeating the same request fails again.
    """


class ProjectNotFound(RamifyError):
    """No project has this id."""


class NodeNotFound(RamifyError):
    """The project has no node with this id."""


class ReviewNotFound(RamifyError):
    """The project has no review with this id."""


class PayloadNotFound(RamifyError):
    """The payload store has no such body, or the project does not reference it."""


class PayloadTooLarge(RamifyError):
    """The body is larger than the payload store takes; nothing of it was inflated or stored."""


class ProjectExists(RamifyError):
    """A project with this id exists or existed; ids are never reused."""


class ProjectActive(RamifyError):
    """The project has not ended or is leased; cancel it first, or use force."""


class ProducerFenced(RamifyError):
    """Another writer is in force; stop writing and never retry."""


class SequenceGap(RamifyError):
    """A sequence was skipped; resend from expected_sequence."""


class LeaseHeld(RamifyError):
    """Another holder has the lease of the project; try again when it has expired."""


class RevisionCompacted(RamifyError):
    """The history before this revision was dropped; watch again from a snapshot."""


class RevisionAhead(RamifyError):
    """The resume point is newer than the store.

    The store was replaced by an older one: raise an alarm, then watch again from a snapshot.
    """


class Overloaded(RamifyError):
    """A queue or quota is full; back off and try again."""


class LimitReached(RamifyError):
    """A number that only grows has reached its limit; waiting does not help, the remedy does."""


class ServerDraining(RamifyError):
    """The server is stopping; reconnect with backoff."""


class StoreUnavailable(RamifyError):
    """The store cannot commit at the moment; nothing was applied, try again with backoff."""


class CorruptRecord(RamifyError):
    """Stored data fails its checksum or has an unknown format.

    Nothing is served from it and nothing is written over it. Restore a backup of the data
    directory.
    """


class DamagedFile(RamifyError):
    """The file is damaged, incomplete or not of the kind that is needed; take another copy.

    Nothing was stored. The fields name the place.
    """


class StartupError(RamifyError):
    """The service cannot start."""


class DataDirectoryLocked(StartupError):
    """Another process uses the data directory; stop it, or choose another with --data."""


class DataDirectoryTooNew(StartupError):
    """The data directory was written by a newer version; upgrade ramify to open it."""


class DataDirectoryUnreadable(StartupError):
    """The data directory cannot be read; restore a backup, or choose another with --data."""


class CommitsMissing(StartupError):
    """Commits that were acknowledged are lost; restore a backup, or remove the mark to go on.

    The database and its WAL are left as they are.
    """


class DataDirectoryInUse(StartupError):
    """The data directory is not empty, and nothing is ever replaced; choose or make another."""


class AddressInUse(StartupError):
    """The address cannot be listened on; stop what uses it, or choose another with --listen."""


class InvalidConfig(StartupError):
    """The configuration is not valid."""
