"""Domain exceptions of the orchestrator. A docstring's first line is the meaning, then the remedy.

RamifyError
├── InvalidRequest, InvalidMutation, IllegalTransition
├── PlanNotAllowed
├── ProjectNotFound, NodeNotFound, ReviewNotFound, ProjectExists, ProfileNotFound
├── ProjectEnded, ReviewClosed, CommandRefused
├── PayloadNotFound, PayloadTooLarge
├── ProducerFenced, LeaseHeld, VersionConflict, SequenceGap
├── RevisionCompacted, RevisionAhead, ProjectReplaced
├── Overloaded, ServerDraining, StoreUnavailable
├── CorruptRecord, Internal
└── StartupError           before serving: one line for the operator, exit code 1

`rpc/error_map.py` translates them once, at the edge; `publish/errors_in.py` makes them of what
state_svc answers.
"""

from __future__ import annotations

from collections.abc import Iterator


class RamifyError(Exception):
    """An error of the orchestrator; `fields` hold the values, as strings, for machines."""

    def __init__(self, detail: str = "", **fields: object) -> None:
        self.detail = detail
        self.fields = {name: str(value) for name, value in fields.items()}
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The detail if there is one, else the docstring's first line; then the fields."""
        summary = self.detail or (self.__doc__ or "").split("\n", 1)[0].strip().rstrip(".")
        values = ", ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{summary} ({values})" if values else summary


class InvalidRequest(RamifyError):
    """The request is not valid. Fix the named field."""


class InvalidMutation(RamifyError):
    """A mutation breaks a limit or a rule. A bug here, or a project changed by hand."""


class IllegalTransition(RamifyError):
    """A move is not in the state table. A bug here, or a project changed by hand."""


class ProjectNotFound(RamifyError):
    """No project has this id."""


class NodeNotFound(RamifyError):
    """The project has no node with this id."""


class PayloadNotFound(RamifyError):
    """The payload store has no such body, or the project does not reference it."""


class PayloadTooLarge(RamifyError):
    """The body is larger than the payload store takes."""


class ReviewNotFound(RamifyError):
    """The project has no review with this id."""


class ReviewClosed(RamifyError):
    """The review is closed: somebody has decided, or nobody did in time."""


class ProjectExists(RamifyError):
    """A project with this id exists or existed. Choose another id."""


class ProfileNotFound(RamifyError):
    """No profile has this name. GetRunner lists those that exist."""


class PlanNotAllowed(RamifyError):
    """This orchestrator does not run plans, which hold commands. Allow it with `allow_plans`."""


class ProjectEnded(RamifyError):
    """The project has ended, so the order cannot have an effect."""


class CommandRefused(RamifyError):
    """The run or the node is in no state for the order. The message names what would work."""


class ProducerFenced(RamifyError):
    """Another writer is in force. Stop writing, never retry."""


class LeaseHeld(RamifyError):
    """Another orchestrator holds the lease of the project. It executes it."""


class VersionConflict(RamifyError):
    """The project is not as expected. Read it again and decide again."""


class SequenceGap(RamifyError):
    """A sequence was skipped. Resend from the expected one."""


class RevisionCompacted(RamifyError):
    """The resume point is older than the retained history. Load the project again."""


class RevisionAhead(RamifyError):
    """The resume point is newer than the store, which was replaced. Load the project again."""


class ProjectReplaced(RamifyError):
    """The project or the store is not the one that was loaded (SEM 13). Load it again."""


class Overloaded(RamifyError):
    """A queue or quota is full. Back off and try again."""


class LimitReached(RamifyError):
    """A number that only grows has reached its limit. Waiting does not help, the remedy does."""


class ServerDraining(RamifyError):
    """The server is stopping. Try again elsewhere or later."""


class StoreUnavailable(RamifyError):
    """The state service cannot be reached or cannot commit. Try again later."""


class CorruptRecord(RamifyError):
    """Stored data fails its checksum. Restore a backup."""


class Internal(RamifyError):
    """The state service failed in a way it does not explain. Its log has the cause."""


class StartupError(RamifyError):
    """The service cannot start. The message is for the operator and names a remedy."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside nested exception groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
