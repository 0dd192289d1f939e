"""What can go wrong, as types. One class per reason that a caller acts on.

A class says what happened and what to do; its fields carry the values. Code branches on the class
or on `reason`, never on the text. `ramify.rpc_errors` makes these from gRPC failures.
"""

from collections.abc import Mapping
from typing import ClassVar


class RamifyError(Exception):
    """A call or a watch failed.

    `code` is the name of the gRPC status code, `reason` the `ErrorReason` without its prefix
    (empty if the server named none), `metadata` the values to act on.
    """

    #: Whether the same call may succeed later without any change.
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after = 0.0  #: seconds that the server asks to wait before a retry


class InvalidMutationError(RamifyError):
    """A mutation breaks a limit or a rule on its fields. Correct it."""


class InvalidRequestError(RamifyError):
    """A request breaks a limit or a rule on its fields. Correct it."""


class ProfileNotFoundError(InvalidRequestError):
    """The orchestrator has no profile of this name. `GetRunner` lists those it has."""


class PayloadTooLargeError(RamifyError):
    """The body is larger than the payload store takes. `GetServerInfo` tells the limit."""


class NotFoundError(RamifyError):
    """What the call names does not exist."""


class ProjectNotFoundError(NotFoundError):
    """No project has this id. `list_projects` shows those there are."""


class NodeNotFoundError(NotFoundError):
    """No node of the project has this id."""


class PayloadNotFoundError(NotFoundError):
    """The payload store has no body with this digest, or the project does not reference it."""


class ReviewNotFoundError(NotFoundError):
    """The project has no review with this id."""


class ReviewClosedError(RamifyError):
    """The review is closed. The message names the decision and who took it."""


class ProjectExistsError(RamifyError):
    """A project with this id exists or existed; ids are never used twice. Choose another."""


class IllegalTransitionError(RamifyError):
    """The state table does not allow the move. A bug in the caller."""


class ProducerFencedError(RamifyError):
    """A newer epoch or another lease holder writes now. Stop writing; never retry."""


class VersionConflictError(RamifyError):
    """An expected version, state or revision did not hold. Read again, decide again."""


class SequenceGapError(RamifyError):
    """A sequence was skipped. Resend from `expected_sequence` in the metadata."""


class RevisionCompactedError(RamifyError):
    """The resume point is older than the retained history. Start from a snapshot."""


class RevisionAheadError(RamifyError):
    """The resume point is newer than the store: the store was replaced or went back in time."""


class LeaseHeldError(RamifyError):
    """Another holder has the lease of the project. Try later."""


class PlanNotAllowedError(RamifyError):
    """The orchestrator does not run plans, which hold commands. The message says why."""


class ProjectEndedError(RamifyError):
    """The project has ended, so the command cannot have an effect."""


class CommandRefusedError(RamifyError):
    """The run or the node is in no state for the order. The message names what would work."""


class ProjectActiveError(RamifyError):
    """The project has not ended, or is leased. Cancel it first."""


class CorruptRecordError(RamifyError):
    """Stored data fails its checksum. Stop and look at the server; nothing wrong was served."""


class DamagedFileError(RamifyError):
    """A file that was sent is damaged or of another kind. Nothing was stored; take another copy."""


class InternalError(RamifyError):
    """The server failed in a way it does not explain. Its log has the cause."""


class UnavailableError(RamifyError):
    """The service cannot answer now, or cannot be reached at all."""

    retryable = True


class ServerDrainingError(UnavailableError):
    """The server is stopping. Reconnect."""


class StoreUnavailableError(UnavailableError):
    """The store cannot commit. Nothing was applied."""


class OverloadedError(UnavailableError):
    """A queue or quota is full. Back off."""


class LimitReachedError(RamifyError):
    """A number that only grows has reached its limit. The message says what helps."""


class DeadlineError(RamifyError):
    """No answer came in time. A mutating call may have had its effect: repeat its request_id."""


class ClientClosedError(RamifyError):
    """The client was closed before the call or during it. A mutating call may have had its effect.

    Use another client; repeat a mutating call with its request_id.
    """


class WatchGapError(RamifyError):
    """A watch skipped or repeated revisions. The view built from it cannot be trusted."""


class ViewDivergedError(RamifyError):
    """A local view has another checksum than the server's. Something was lost or changed."""


#: The class of each `ErrorReason`, by the reason's name without prefix.
BY_REASON: Mapping[str, type[RamifyError]] = {
    "INVALID_MUTATION": InvalidMutationError,
    "INVALID_REQUEST": InvalidRequestError,
    "PROJECT_NOT_FOUND": ProjectNotFoundError,
    "NODE_NOT_FOUND": NodeNotFoundError,
    "PAYLOAD_NOT_FOUND": PayloadNotFoundError,
    "REVIEW_NOT_FOUND": ReviewNotFoundError,
    "REVIEW_CLOSED": ReviewClosedError,
    "PAYLOAD_TOO_LARGE": PayloadTooLargeError,
    "PROJECT_EXISTS": ProjectExistsError,
    "ILLEGAL_TRANSITION": IllegalTransitionError,
    "PRODUCER_FENCED": ProducerFencedError,
    "VERSION_CONFLICT": VersionConflictError,
    "SEQUENCE_GAP": SequenceGapError,
    "REVISION_COMPACTED": RevisionCompactedError,
    "REVISION_AHEAD": RevisionAheadError,
    "OVERLOADED": OverloadedError,
    "LIMIT_REACHED": LimitReachedError,
    "SERVER_DRAINING": ServerDrainingError,
    "STORE_UNAVAILABLE": StoreUnavailableError,
    "CORRUPT_RECORD": CorruptRecordError,
    "DAMAGED_FILE": DamagedFileError,
    "LEASE_HELD": LeaseHeldError,
    "PROFILE_NOT_FOUND": ProfileNotFoundError,
    "PLAN_NOT_ALLOWED": PlanNotAllowedError,
    "PROJECT_ENDED": ProjectEndedError,
    "PROJECT_ACTIVE": ProjectActiveError,
    "COMMAND_REFUSED": CommandRefusedError,
    "INTERNAL": InternalError,
}

#: The class of a gRPC status code that comes without a reason of ours, for example because no
#: server was reached. Codes that are absent give `RamifyError`.
BY_CODE: Mapping[str, type[RamifyError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "DATA_LOSS": CorruptRecordError,
    "INTERNAL": InternalError,
}


def error_for(
    code: str, reason: str, message: str, metadata: Mapping[str, str] | None = None
) -> RamifyError:
    """Return the error of the most precise class for a reason, else for a code."""
    kind = BY_REASON.get(reason) or BY_CODE.get(code) or RamifyError
    return kind(message, code=code, reason=reason, metadata=metadata)
