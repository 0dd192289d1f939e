"""Every domain exception has its code and reason; nothing unexpected is told."""

from __future__ import annotations

import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from orchestrator_svc import errors
from orchestrator_svc.publish.errors_in import BY_REASON, from_stream
from orchestrator_svc.rpc.error_map import INTERNAL_TEXT, TABLE, to_status
from ramify.v1.error_pb2 import Error, ErrorReason

#: Answers of state_svc to administrators, whose calls this service does not make.
ADMINISTRATION = {"PROJECT_ACTIVE", "DAMAGED_FILE"}
REASONS = (
    {value.name.removeprefix("ERROR_REASON_") for value in ErrorReason.DESCRIPTOR.values}
    - {"UNSPECIFIED"}
    - ADMINISTRATION
)


def info_of(status: Status) -> ErrorInfo:
    """Return the ErrorInfo of a status."""
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def test_the_table_covers_every_exception_and_every_reason() -> None:
    assert set(TABLE) == set(errors.RamifyError.__subclasses__())
    assert {reason for _, reason, _ in TABLE.values()} == REASONS
    assert set(BY_REASON) == REASONS


@pytest.mark.parametrize("reason", sorted(REASONS - {"INTERNAL"}))
def test_what_state_svc_answers_is_passed_on_with_its_reason(reason: str) -> None:
    number = ErrorReason.Value(f"ERROR_REASON_{reason}")
    error = from_stream(Error(reason=number, message="why", metadata={"key": "value"}))
    info = info_of(to_status(error))
    assert (info.reason, info.domain, info.metadata["key"]) == (reason, "ramify", "value")


@pytest.mark.parametrize(
    "error", [ValueError("a secret"), errors.Internal("a secret"), errors.StartupError("a secret")]
)
def test_an_unexpected_error_gets_a_fixed_text(error: Exception) -> None:
    status = to_status(error)
    assert (status.code, status.message) == (Code.INTERNAL, INTERNAL_TEXT)
    assert b"secret" not in status.SerializeToString()
    assert info_of(status).reason == "INTERNAL"


def test_groups_are_unwrapped() -> None:
    group = ExceptionGroup("g", [ExceptionGroup("h", [errors.ProjectNotFound(project_id="p")])])
    status = to_status(group)
    assert status.code == Code.NOT_FOUND
    assert info_of(status).metadata == {"project_id": "p"}


def test_a_bad_field_is_named_as_a_violation() -> None:
    status = to_status(errors.InvalidRequest("is needed", field="goal"))
    bad = BadRequest()
    assert status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "goal"


def test_messages_name_the_meaning_and_the_fields() -> None:
    assert errors.LeaseHeld(holder="x").message == (
        "Another orchestrator holds the lease of the project. It executes it (holder=x)"
    )
