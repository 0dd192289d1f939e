"""Every error has a code and a reason, and every reason is used."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from orchestrator_svc.rpc import error_map as orchestrator
from ramify.v1.error_pb2 import ErrorReason
from state_svc import errors
from state_svc.rpc.error_map import DOMAIN, TABLE, VIOLATION_CODES, to_error, to_status

_RETRYABLE = {errors.Overloaded, errors.ServerDraining, errors.StoreUnavailable}


def _subclasses(kind: type[errors.RamifyError]) -> Iterator[type[errors.RamifyError]]:
    for found in kind.__subclasses__():
        if found.__module__ == errors.__name__:
            yield found
            yield from _subclasses(found)


def _reaches_clients(kind: type[errors.RamifyError]) -> bool:
    return not issubclass(kind, errors.StartupError | errors.BatchRejected)


def _details(status: Status) -> dict[type[Message], Message]:
    found: dict[type[Message], Message] = {}
    for packed in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    return found


def _rejected() -> errors.BatchRejected:
    reason = ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
    return errors.BatchRejected(
        (
            errors.Violation(3, reason, "node.patch.state", "no such move"),
            errors.Violation(5, ErrorReason.ERROR_REASON_INVALID_MUTATION, "", "too large"),
        ),
        project_id="p",
    )


def test_every_error_that_can_reach_a_client_is_in_the_table() -> None:
    kinds = _subclasses(errors.RamifyError)
    assert set(TABLE) == {kind for kind in kinds if _reaches_clients(kind)}


def test_every_reason_is_used_by_one_of_the_services() -> None:
    used = {reason for _, reason, _ in TABLE.values()} | set(VIOLATION_CODES)
    names = {ErrorReason.Name(reason).removeprefix("ERROR_REASON_") for reason in used}
    names |= {reason for _, reason, _ in orchestrator.TABLE.values()} | {"UNSPECIFIED"}
    known = ErrorReason.DESCRIPTOR.values_by_name
    assert names == {name.removeprefix("ERROR_REASON_") for name in known}


@pytest.mark.parametrize("kind", TABLE)
def test_an_error_is_shown_with_its_code_reason_and_values(kind: type[errors.RamifyError]) -> None:
    code, reason, retryable = TABLE[kind]
    error = kind(project_id="p", revision=7)
    shown = to_error(error)
    assert (shown.code, shown.reason) == (code, reason)
    assert dict(shown.metadata) == {"project_id": "p", "revision": "7"}
    status = to_status(error)
    assert (status.code, status.message) == (code, shown.message)
    assert status.message.endswith("project_id=p, revision=7")
    info = _details(status)[ErrorInfo]
    name = ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    assert info == ErrorInfo(reason=name, domain=DOMAIN, metadata=dict(shown.metadata))
    assert (RetryInfo in _details(status)) == retryable == (kind in _RETRYABLE)


def test_a_refused_batch_is_shown_with_every_violation() -> None:
    shown = to_error(_rejected())
    assert shown.code == Code.FAILED_PRECONDITION
    assert [(v.index, v.reason, v.field) for v in shown.violations] == [
        (3, ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION, "node.patch.state"),
        (5, ErrorReason.ERROR_REASON_INVALID_MUTATION, ""),
    ]
    bad = _details(to_status(_rejected()))[BadRequest]
    assert isinstance(bad, BadRequest)
    assert [v.field for v in bad.field_violations] == [
        "mutations[3].node.patch.state",
        "mutations[5]",
    ]


def test_a_bad_request_names_its_field() -> None:
    status = to_status(errors.InvalidRequest(field="project_id", problem="is not a valid id"))
    bad = _details(status)[BadRequest]
    assert isinstance(bad, BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("project_id", "is not a valid id")
    ]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a secret"),
        errors.DataDirectoryLocked(data="a secret"),
        errors.RamifyError(data="a secret"),
        ExceptionGroup("a secret", [KeyError("a secret")]),
    ],
)
def test_of_any_other_error_nothing_is_told(error: Exception) -> None:
    status = to_status(error)
    assert status.code == Code.INTERNAL
    assert "secret" not in str(status)
    assert to_error(error).reason == ErrorReason.ERROR_REASON_INTERNAL


def test_an_error_in_a_group_is_shown_as_itself() -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [errors.ServerDraining()])])
    status = to_status(nested)
    assert status.code == Code.UNAVAILABLE
    assert RetryInfo in _details(status)


def test_every_error_has_one_sentence_for_people() -> None:
    for kind in _subclasses(errors.RamifyError):
        if kind is not errors.BatchRejected:
            assert len(kind().message) > 15


_LONG = "é" * 100_000


@pytest.mark.parametrize(
    "error",
    [
        errors.ProjectNotFound(project_id=_LONG),
        errors.InvalidRequest(field="project_id", problem=_LONG, more=_LONG, and_more=_LONG),
        errors.BatchRejected(
            tuple(
                errors.Violation(i, ErrorReason.ERROR_REASON_INVALID_MUTATION, "node.create", _LONG)
                for i in range(100)
            ),
            project_id=_LONG,
        ),
        errors.BatchRejected(
            tuple(
                errors.Violation(i, ErrorReason.ERROR_REASON_INVALID_MUTATION, "node.node_id", "?")
                for i in range(100)
            )
        ),
    ],
    ids=["metadata", "description", "violations", "many"],
)
def test_an_error_is_never_too_large_to_be_sent(error: errors.RamifyError) -> None:
    """gRPC drops trailers beyond 8 KiB: the client would see RESOURCE_EXHAUSTED instead."""
    status = to_status(error)
    trailers = len(b64encode(status.SerializeToString())) + len(quote(status.message))
    assert trailers < 7_500
    assert ErrorInfo in _details(status)
    if isinstance(error, errors.BatchRejected):
        bad = _details(status)[BadRequest]
        assert isinstance(bad, BadRequest)
        assert len(bad.field_violations) > 5
        assert len(to_error(error).violations) == 100
    assert to_error(error).ByteSize() < 100_000, "inside a stream too"


def test_what_is_short_enough_is_shown_as_it_is() -> None:
    longest = "n" * 128 + "/" + "p" * 128
    assert to_error(errors.ProjectNotFound(project_id=longest)).metadata["project_id"] == longest


def test_a_group_is_shown_as_the_error_in_it() -> None:
    error = errors.InvalidRequest(field="project_id", problem="is not a valid id")
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [error])])
    assert to_status(group) == to_status(error)
