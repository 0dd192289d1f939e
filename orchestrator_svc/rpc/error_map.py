"""One table from domain exceptions to gRPC codes and reasons; everything else is INTERNAL."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from orchestrator_svc import errors
from orchestrator_svc.publish.errors_in import DOMAIN

INTERNAL_TEXT = "internal error; the log of the service has the cause"
RETRY_SECONDS = 1
#: gRPC drops trailers beyond 8 KiB, and with them the error: what it repeats of a request, or of
#: what state_svc answered, is cut.
_MAX_MESSAGE_BYTES = 300
_MAX_VALUE_BYTES = 300
_MAX_METADATA_BYTES = 1_200

#: exception → code, reason, whether the same call may succeed later
TABLE: dict[type[errors.RamifyError], tuple[Code, str, bool]] = {
    errors.InvalidRequest: (Code.INVALID_ARGUMENT, "INVALID_REQUEST", False),
    errors.InvalidMutation: (Code.INVALID_ARGUMENT, "INVALID_MUTATION", False),
    errors.IllegalTransition: (Code.FAILED_PRECONDITION, "ILLEGAL_TRANSITION", False),
    errors.ProjectNotFound: (Code.NOT_FOUND, "PROJECT_NOT_FOUND", False),
    errors.NodeNotFound: (Code.NOT_FOUND, "NODE_NOT_FOUND", False),
    errors.PayloadNotFound: (Code.NOT_FOUND, "PAYLOAD_NOT_FOUND", False),
    errors.PayloadTooLarge: (Code.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", False),
    errors.ReviewNotFound: (Code.NOT_FOUND, "REVIEW_NOT_FOUND", False),
    errors.ReviewClosed: (Code.FAILED_PRECONDITION, "REVIEW_CLOSED", False),
    errors.ProjectExists: (Code.ALREADY_EXISTS, "PROJECT_EXISTS", False),
    errors.PlanNotAllowed: (Code.PERMISSION_DENIED, "PLAN_NOT_ALLOWED", False),
    errors.ProfileNotFound: (Code.INVALID_ARGUMENT, "PROFILE_NOT_FOUND", False),
    errors.ProjectEnded: (Code.FAILED_PRECONDITION, "PROJECT_ENDED", False),
    errors.CommandRefused: (Code.FAILED_PRECONDITION, "COMMAND_REFUSED", False),
    errors.ProducerFenced: (Code.FAILED_PRECONDITION, "PRODUCER_FENCED", False),
    errors.LeaseHeld: (Code.FAILED_PRECONDITION, "LEASE_HELD", True),
    errors.VersionConflict: (Code.ABORTED, "VERSION_CONFLICT", False),
    errors.ProjectReplaced: (Code.ABORTED, "VERSION_CONFLICT", False),
    errors.SequenceGap: (Code.ABORTED, "SEQUENCE_GAP", False),
    errors.RevisionCompacted: (Code.OUT_OF_RANGE, "REVISION_COMPACTED", False),
    errors.RevisionAhead: (Code.OUT_OF_RANGE, "REVISION_AHEAD", False),
    errors.Overloaded: (Code.RESOURCE_EXHAUSTED, "OVERLOADED", True),
    errors.LimitReached: (Code.RESOURCE_EXHAUSTED, "LIMIT_REACHED", False),
    errors.ServerDraining: (Code.UNAVAILABLE, "SERVER_DRAINING", True),
    errors.StoreUnavailable: (Code.UNAVAILABLE, "STORE_UNAVAILABLE", True),
    errors.CorruptRecord: (Code.DATA_LOSS, "CORRUPT_RECORD", False),
    errors.Internal: (Code.INTERNAL, "INTERNAL", False),
    errors.StartupError: (Code.INTERNAL, "INTERNAL", False),
}


def to_status(error: BaseException) -> Status:
    """Return the status of a failed call, with ErrorInfo and what else a client can act on."""
    cause = next(errors.leaves(error))
    entry = TABLE.get(type(cause)) if isinstance(cause, errors.RamifyError) else None
    if not isinstance(cause, errors.RamifyError) or entry is None or entry[0] == Code.INTERNAL:
        info = ErrorInfo(reason="INTERNAL", domain=DOMAIN)
        return Status(code=Code.INTERNAL, message=INTERNAL_TEXT, details=[_pack(info)])
    code, reason, retryable = entry
    info = ErrorInfo(reason=reason, domain=DOMAIN, metadata=_metadata(cause))
    message = _cut(cause.message, _MAX_MESSAGE_BYTES)
    details = [_pack(info)]
    if "field" in cause.fields:
        bad = BadRequest()
        field = _cut(cause.fields["field"], _MAX_VALUE_BYTES)
        bad.field_violations.add(field=field, description=message)
        details.append(_pack(bad))
    if retryable:
        retry = RetryInfo()
        retry.retry_delay.seconds = RETRY_SECONDS
        details.append(_pack(retry))
    return Status(code=code, message=message, details=details)


def _metadata(error: errors.RamifyError) -> dict[str, str]:
    """Return the fields of an error, cut, as many as fit."""
    shown: dict[str, str] = {}
    room = _MAX_METADATA_BYTES
    for name, value in error.fields.items():
        text = _cut(value, _MAX_VALUE_BYTES)
        room -= len(name.encode()) + len(text.encode())
        if room < 0:
            break
        shown[name] = text
    return shown


def _cut(text: str, most: int) -> str:
    """Return a text of at most `most` bytes, or its beginning with an ellipsis."""
    data = text.encode()
    return text if len(data) <= most else data[:most].decode(errors="ignore") + "…"


def _pack(message: ErrorInfo | BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
