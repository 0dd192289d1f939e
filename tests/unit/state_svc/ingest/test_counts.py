"""Commands and reviews of a project are bounded, for they stay in memory when they have ended."""

from __future__ import annotations

import pytest

from ramify.v1.command_pb2 import Command, CommandType
from ramify.v1.mutation_pb2 import CommandMutation, Mutation
from ramify.v1.review_pb2 import ReviewDecision
from state_svc.errors import LimitReached
from state_svc.ingest.admission import admit
from state_svc.model.limits import Limits
from state_svc.model.project import LiveProject
from tests.support.live import NOW, live_project, settle, write
from tests.support.mutations import batch, create, open_review, order_cancel, order_outcome, resolve

LIMITS = Limits(max_project_commands=3, max_project_reviews=4, max_open_reviews=2)
APPROVE = ReviewDecision.REVIEW_DECISION_APPROVE


def _order(command_id: str) -> Mutation:
    pause = Command(type=CommandType.COMMAND_TYPE_PAUSE_PROJECT)
    return Mutation(command=CommandMutation(command_id=command_id, create=pause))


def _take(project: LiveProject, *mutations: Mutation, durable: bool = True) -> None:
    applied = admit(project, batch("p", 1, *mutations), limits=LIMITS, micros=NOW)
    if durable:
        settle(project, applied)
    else:
        project.accept(applied)


def _refused(project: LiveProject, *mutations: Mutation) -> str:
    before = project.revision
    with pytest.raises(LimitReached) as caught:
        _take(project, *mutations)
    assert project.revision == before
    assert caught.value.fields["remedy"]
    return caught.value.fields["limit"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_project_has_a_greatest_number_of_commands_and_can_be_cancelled_all_the_same(
    durable: bool,
) -> None:
    project = live_project(create("n"))
    _take(project, _order("c1"), _order("c2"), durable=durable)
    assert _refused(project, _order("c3"), _order("c4")) == "max_project_commands"
    _take(project, _order("c3"), order_outcome("c1"), durable=durable)
    assert _refused(project, _order("c4")) == "max_project_commands"
    assert _refused(project, _order("c4"), order_cancel("c5")) == "max_project_commands"
    _take(project, order_cancel("stop"), durable=durable)
    _take(project, order_outcome("c2"), durable=durable)


def test_a_project_has_a_greatest_number_of_open_reviews_and_room_again_when_one_is_decided() -> (
    None
):
    project = live_project(create("n"))
    _take(project, open_review("r1", "n"), open_review("r2", "n"))
    assert _refused(project, open_review("r3", "n")) == "max_open_reviews"
    _take(project, resolve("r1", APPROVE), open_review("r3", "n"))


def test_a_project_has_a_greatest_number_of_reviews() -> None:
    project = live_project(create("n"))
    for number in range(4):
        _take(project, open_review(f"r{number}", "n"), resolve(f"r{number}", APPROVE))
    assert _refused(project, open_review("r9", "n")) == "max_project_reviews"


def test_a_project_that_has_more_already_is_not_stopped() -> None:
    project = live_project(create("n"))
    write(project, *(open_review(f"r{number}", "n") for number in range(6)))
    write(project, *(_order(f"c{number}") for number in range(6)))
    _take(project, resolve("r1", APPROVE), order_outcome("c1"))
    assert _refused(project, _order("more")) == "max_project_commands"
