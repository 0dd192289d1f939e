"""An order that nobody would carry out is refused: its project has ended."""

from __future__ import annotations

import pytest

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.project_pb2 import ProjectState
from state_svc.errors import BatchRejected
from state_svc.model.apply import apply_batch
from tests.support.live import NOW, live_project
from tests.support.mutations import change_project, create, order_cancel

ENDED = ErrorReason.ERROR_REASON_PROJECT_ENDED


@pytest.mark.parametrize("end", ["COMPLETED", "PARTIAL", "FAILED", "CANCELLED"])
def test_a_cancel_of_an_ended_project_is_refused(end: str) -> None:
    state = ProjectState.Value(f"PROJECT_STATE_{end}")
    running = ProjectState.PROJECT_STATE_RUNNING
    project = live_project(create("root"), change_project(state=running))
    order = [order_cancel("late")]
    assert apply_batch(project, order, micros=NOW).commands["late"].version == 1
    ended = apply_batch(project, [change_project(state=state)], micros=NOW)
    project.accept(ended)
    with pytest.raises(BatchRejected) as caught:
        apply_batch(project, order, micros=NOW)
    assert [v.reason for v in caught.value.violations] == [ENDED]
    assert end in caught.value.message


def test_an_end_and_an_order_after_it_in_one_batch_are_refused_together() -> None:
    project = live_project(create("root"))
    failed = change_project(state=ProjectState.PROJECT_STATE_FAILED)
    with pytest.raises(BatchRejected):
        apply_batch(project, [failed, order_cancel("late")], micros=NOW)
    assert apply_batch(project, [order_cancel("early"), failed], micros=NOW).entity is not None
