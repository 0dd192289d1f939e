"""One table from domain errors to what clients see, and back into messages."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from ramify.v1.error_pb2 import Error, ErrorReason, Violation
from state_svc import errors

DOMAIN = "ramify"
_PREFIX = "ERROR_REASON_"
_RETRY_SECONDS = 1
#: gRPC drops trailers beyond 8 KiB, and with them the error: what it repeats of a request is cut.
_MAX_MESSAGE_BYTES = 300
_MAX_VALUE_BYTES = 300
_MAX_METADATA_BYTES = 1_200
_MAX_DETAIL_BYTES = 3_000
_INTERNAL_TEXT = "internal error; the server's log has the cause"

#: Every error class that may reach a client: (code, reason, worth repeating as it is).
TABLE: dict[type[errors.RamifyError], tuple[int, ErrorReason.ValueType, bool]] = {
    errors.InvalidRequest: (
        Code.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_INVALID_REQUEST,
        False,
    ),
    errors.ProjectNotFound: (Code.NOT_FOUND, ErrorReason.ERROR_REASON_PROJECT_NOT_FOUND, False),
    errors.NodeNotFound: (Code.NOT_FOUND, ErrorReason.ERROR_REASON_NODE_NOT_FOUND, False),
    errors.ReviewNotFound: (Code.NOT_FOUND, ErrorReason.ERROR_REASON_REVIEW_NOT_FOUND, False),
    errors.PayloadNotFound: (Code.NOT_FOUND, ErrorReason.ERROR_REASON_PAYLOAD_NOT_FOUND, False),
    errors.PayloadTooLarge: (
        Code.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_PAYLOAD_TOO_LARGE,
        False,
    ),
    errors.ProjectExists: (Code.ALREADY_EXISTS, ErrorReason.ERROR_REASON_PROJECT_EXISTS, False),
    errors.ProjectActive: (
        Code.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_PROJECT_ACTIVE,
        False,
    ),
    errors.ProducerFenced: (
        Code.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_PRODUCER_FENCED,
        False,
    ),
    errors.SequenceGap: (Code.ABORTED, ErrorReason.ERROR_REASON_SEQUENCE_GAP, False),
    errors.LeaseHeld: (Code.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_LEASE_HELD, False),
    errors.RevisionCompacted: (
        Code.OUT_OF_RANGE,
        ErrorReason.ERROR_REASON_REVISION_COMPACTED,
        False,
    ),
    errors.RevisionAhead: (Code.OUT_OF_RANGE, ErrorReason.ERROR_REASON_REVISION_AHEAD, False),
    errors.Overloaded: (Code.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_OVERLOADED, True),
    errors.LimitReached: (
        Code.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_LIMIT_REACHED,
        False,
    ),
    errors.ServerDraining: (Code.UNAVAILABLE, ErrorReason.ERROR_REASON_SERVER_DRAINING, True),
    errors.StoreUnavailable: (Code.UNAVAILABLE, ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, True),
    errors.DamagedFile: (Code.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_DAMAGED_FILE, False),
    errors.CorruptRecord: (Code.DATA_LOSS, ErrorReason.ERROR_REASON_CORRUPT_RECORD, False),
}

#: Codes of the reasons that the violations of a batch can have.
VIOLATION_CODES: dict[ErrorReason.ValueType, int] = {
    ErrorReason.ERROR_REASON_INVALID_MUTATION: Code.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION: Code.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_VERSION_CONFLICT: Code.ABORTED,
    ErrorReason.ERROR_REASON_PROJECT_ENDED: Code.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_PAYLOAD_NOT_FOUND: Code.NOT_FOUND,
    ErrorReason.ERROR_REASON_REVIEW_CLOSED: Code.FAILED_PRECONDITION,
}


def unwrap(error: BaseException) -> BaseException:
    """Return the first leaf of nested exception groups; grpc would leak the group's name."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def to_error(error: BaseException) -> Error:
    """Return an error as it is sent inside a stream. Unknown ones get a fixed text."""
    error = unwrap(error)
    if isinstance(error, errors.BatchRejected):
        return Error(
            code=VIOLATION_CODES[error.reason],
            reason=error.reason,
            message=_cut(error.message, _MAX_MESSAGE_BYTES),
            metadata=_metadata(error),
            violations=[
                Violation(
                    index=v.index,
                    reason=v.reason,
                    field=_cut(v.field, _MAX_VALUE_BYTES),
                    description=_cut(v.description, _MAX_VALUE_BYTES),
                )
                for v in error.violations
            ],
        )
    entry = TABLE.get(type(error))  # type: ignore[arg-type]
    if entry is None or not isinstance(error, errors.RamifyError):
        reason = ErrorReason.ERROR_REASON_INTERNAL
        return Error(code=Code.INTERNAL, reason=reason, message=_INTERNAL_TEXT)
    code, reason, _ = entry
    message = _cut(error.message, _MAX_MESSAGE_BYTES)
    return Error(code=code, reason=reason, message=message, metadata=_metadata(error))


def to_status(error: BaseException) -> Status:
    """Return an error as the status of a call, with ErrorInfo and what else applies.

    Of many violations it has the first ones, as many as fit.
    """
    error = unwrap(error)
    shown = to_error(error)
    info = ErrorInfo(
        reason=ErrorReason.Name(shown.reason).removeprefix(_PREFIX),
        domain=DOMAIN,
        metadata=shown.metadata,
    )
    packed = [_pack(info)]
    if shown.violations:
        bad = BadRequest()
        for violation in shown.violations:
            field = f"mutations[{violation.index}].{violation.field}".rstrip(".")
            bad.field_violations.add(field=field, description=violation.description)
            if bad.ByteSize() > _MAX_DETAIL_BYTES:
                del bad.field_violations[-1]
                break
        packed.append(_pack(bad))
    elif isinstance(error, errors.InvalidRequest) and "field" in error.fields:
        bad = BadRequest()
        bad.field_violations.add(
            field=shown.metadata["field"], description=shown.metadata.get("problem", "")
        )
        packed.append(_pack(bad))
    entry = TABLE.get(type(error))  # type: ignore[arg-type]
    if entry is not None and entry[2]:
        retry = RetryInfo()
        retry.retry_delay.seconds = _RETRY_SECONDS
        packed.append(_pack(retry))
    return Status(code=shown.code, message=shown.message, details=packed)


def _metadata(error: errors.RamifyError) -> dict[str, str]:
    """Return the fields of an error, cut, as many as fit."""
    shown: dict[str, str] = {}
    room = _MAX_METADATA_BYTES
    for name, value in error.fields.items():
        text = _cut(value, _MAX_VALUE_BYTES)
        room -= len(name) + len(text.encode())
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
