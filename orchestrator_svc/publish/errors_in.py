"""Turns what state_svc answers, as a status or inside the stream, into domain exceptions."""

from __future__ import annotations

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from orchestrator_svc import errors
from ramify.v1.error_pb2 import Error, ErrorReason

DOMAIN = "ramify"
_DETAILS_KEY = "grpc-status-details-bin"
_PREFIX = "ERROR_REASON_"
#: What gRPC for asyncio overwrites the status of a call with that ends while it is written to
#: (grpc/grpc issue 36066). The reason is lost: the next try may learn it.
_WRITE_FAILED = "Internal error from Core"

BY_REASON: dict[str, type[errors.RamifyError]] = {
    "INVALID_MUTATION": errors.InvalidMutation,
    "INVALID_REQUEST": errors.InvalidRequest,
    "PROJECT_NOT_FOUND": errors.ProjectNotFound,
    "NODE_NOT_FOUND": errors.NodeNotFound,
    "PAYLOAD_NOT_FOUND": errors.PayloadNotFound,
    "PAYLOAD_TOO_LARGE": errors.PayloadTooLarge,
    "REVIEW_NOT_FOUND": errors.ReviewNotFound,
    "REVIEW_CLOSED": errors.ReviewClosed,
    "PROJECT_EXISTS": errors.ProjectExists,
    "ILLEGAL_TRANSITION": errors.IllegalTransition,
    "PRODUCER_FENCED": errors.ProducerFenced,
    "VERSION_CONFLICT": errors.VersionConflict,
    "SEQUENCE_GAP": errors.SequenceGap,
    "REVISION_COMPACTED": errors.RevisionCompacted,
    "REVISION_AHEAD": errors.RevisionAhead,
    "OVERLOADED": errors.Overloaded,
    "LIMIT_REACHED": errors.LimitReached,
    "SERVER_DRAINING": errors.ServerDraining,
    "STORE_UNAVAILABLE": errors.StoreUnavailable,
    "CORRUPT_RECORD": errors.CorruptRecord,
    "LEASE_HELD": errors.LeaseHeld,
    "PLAN_NOT_ALLOWED": errors.PlanNotAllowed,
    "PROFILE_NOT_FOUND": errors.ProfileNotFound,
    "PROJECT_ENDED": errors.ProjectEnded,
    "COMMAND_REFUSED": errors.CommandRefused,
    "INTERNAL": errors.Internal,
}

#: These pass by themselves: the same batch or call may succeed later.
TRANSIENT = (errors.StoreUnavailable, errors.Overloaded, errors.ServerDraining)


def from_stream(error: Error) -> errors.RamifyError:
    """Return the exception for an in-band error."""
    reason = ErrorReason.Name(error.reason).removeprefix(_PREFIX)
    violations = "; ".join(f"{v.index} {v.field}: {v.description}" for v in error.violations[:10])
    fields = dict(error.metadata) | ({"violations": violations} if violations else {})
    return BY_REASON.get(reason, errors.Internal)(error.message, **fields)


def from_rpc(error: grpc.aio.AioRpcError) -> errors.RamifyError:
    """Return the exception for a failed call; without an ErrorInfo the code decides."""
    info = _error_info(error)
    details = error.details() or ""
    if info is not None and info.reason in BY_REASON:
        return BY_REASON[info.reason](details, **dict(info.metadata))
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return errors.StoreUnavailable(f"the state service does not answer: {details}")
    if details == _WRITE_FAILED:
        return errors.StoreUnavailable("the state service ended a call that was being written to")
    return errors.Internal(f"{error.code().name}: {details}")


def _error_info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        for detail in Status.FromString(value).details:
            info = ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                return info
    return None
