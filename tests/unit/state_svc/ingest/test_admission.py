"""Which batches are let in: size, then lease, then expected revision (SEM 2, 4, 7, 19)."""

from __future__ import annotations

import pytest

from ramify.v1.command_pb2 import CommandPatch, CommandState
from ramify.v1.mutation_pb2 import CommandMutation, Mutation, MutationBatch
from ramify.v1.state_service_pb2 import CommitBatchRequest
from state_svc.errors import BatchRejected, ProducerFenced
from state_svc.ingest.admission import admit
from state_svc.model.apply import apply_batch
from state_svc.model.entity import change_lease
from state_svc.model.limits import MAX_NAME_CHARS, MAX_TRACEPARENT_CHARS, Limits
from state_svc.model.project import Applied, LiveProject, Origin
from tests.support.live import CONFLICT, INVALID, NOW, live_project, settle
from tests.support.mutations import batch, create, order_cancel, patch

_SMALL = Limits(max_batch_mutations=3, max_batch_bytes=2_000, max_project_nodes=4)


def _admit(project: LiveProject, request: MutationBatch, limits: Limits = _SMALL) -> Applied:
    return admit(project, request, limits=limits, micros=NOW)


def _refusals(project: LiveProject, request: MutationBatch) -> list[tuple[int, str]]:
    with pytest.raises(BatchRejected) as caught:
        _admit(project, request)
    return [(v.reason, v.field) for v in caught.value.violations]


def _leased(epoch: int = 7) -> LiveProject:
    project = live_project(create("a"))
    settle(project, change_lease(project, "holder", epoch, micros=NOW, actor="holder"))
    return project


def _created(count: int) -> list[Mutation]:
    return [create(f"n{i}") for i in range(count)]


def test_a_batch_is_never_empty() -> None:
    assert _refusals(live_project(), batch("p", 1)) == [(INVALID, "mutations")]


def test_a_batch_has_a_greatest_number_of_mutations() -> None:
    assert _admit(live_project(), batch("p", 1, *_created(3))).mutation_count == 3
    assert _refusals(live_project(), batch("p", 1, *_created(4))) == [(INVALID, "mutations")]


def test_a_batch_has_a_greatest_size_in_bytes() -> None:
    request = batch("p", 1, create("a", goal="x"))
    goal = "x" * (_SMALL.max_batch_bytes - request.ByteSize() - 6)
    request = batch("p", 1, create("a", goal=goal))
    goal += "x" * (_SMALL.max_batch_bytes - request.ByteSize())
    assert batch("p", 1, create("a", goal=goal)).ByteSize() == _SMALL.max_batch_bytes
    _admit(live_project(), batch("p", 1, create("a", goal=goal)))
    assert _refusals(live_project(), batch("p", 1, create("a", goal=goal + "x"))) == [(INVALID, "")]


def test_a_project_has_a_greatest_number_of_nodes() -> None:
    project = live_project(create("a"), create("b"))
    _admit(project, batch("p", 1, *_created(2)))
    assert _refusals(project, batch("p", 1, *_created(3))) == [(INVALID, "node.create")]


@pytest.mark.parametrize(
    "field, most", [("actor", MAX_NAME_CHARS), ("traceparent", MAX_TRACEPARENT_CHARS)]
)
def test_who_writes_is_not_long(field: str, most: int) -> None:
    request = batch("p", 1, create("a"))
    setattr(request, field, "x" * most)
    assert getattr(_admit(live_project(), request).info, field) == "x" * most
    setattr(request, field, "x" * (most + 1))
    assert _refusals(live_project(), request) == [(INVALID, field)]


# Leases


def test_a_free_project_takes_a_batch_of_anyone_without_an_epoch() -> None:
    _admit(live_project(), batch("p", 1, create("a")))


@pytest.mark.parametrize("epoch", [1, 7])
def test_a_free_project_refuses_the_epoch_of_a_lease_that_is_gone(epoch: int) -> None:
    project = _leased(7)
    settle(project, change_lease(project, "", 7, micros=NOW, actor="holder"))
    with pytest.raises(ProducerFenced):
        _admit(project, batch("p", 1, patch("a", waiting_on="x"), lease_epoch=epoch))
    _admit(project, batch("p", 1, patch("a", waiting_on="x")))


@pytest.mark.parametrize("epoch", [0, 6, 8])
def test_a_leased_project_takes_batches_of_the_present_epoch_only(epoch: int) -> None:
    project = _leased(7)
    _admit(project, batch("p", 1, patch("a", waiting_on="x"), lease_epoch=7))
    with pytest.raises(ProducerFenced) as caught:
        _admit(project, batch("p", 1, patch("a", waiting_on="x"), lease_epoch=epoch))
    assert caught.value.fields == {"project_id": "p", "lease_epoch": "7", "holder": "holder"}


def test_a_lease_that_is_not_durable_yet_counts() -> None:
    project = live_project(create("a"))
    project.accept(change_lease(project, "holder", 1, micros=NOW, actor="holder"))
    with pytest.raises(ProducerFenced):
        _admit(project, batch("p", 1, patch("a", waiting_on="x")))


def test_commands_may_be_given_by_anyone_and_their_outcome_by_the_holder_only() -> None:
    project = _leased()
    settle(project, _admit(project, batch("p", 1, order_cancel("c"), order_cancel("d"))))
    outcome = Mutation(
        command=CommandMutation(
            command_id="c", patch=CommandPatch(state=CommandState.COMMAND_STATE_APPLIED)
        )
    )
    with pytest.raises(ProducerFenced):
        _admit(project, batch("p", 1, outcome))
    _admit(project, batch("p", 1, outcome, lease_epoch=7))


def test_a_command_does_not_take_other_mutations_along() -> None:
    with pytest.raises(ProducerFenced):
        _admit(_leased(), batch("p", 1, order_cancel("c"), patch("a", waiting_on="x")))


def test_a_command_with_a_wrong_epoch_is_refused() -> None:
    with pytest.raises(ProducerFenced):
        _admit(_leased(), batch("p", 1, order_cancel("c"), lease_epoch=3))


# Expected revision


def test_an_expected_revision_counts_what_is_pending() -> None:
    project = live_project(create("a"))
    project.accept(apply_batch(project, [patch("a", waiting_on="x")], micros=NOW))
    assert _admit(project, batch("p", 1, create("b"), expected_revision=3)).revision == 4
    for revision in (0, 2, 4):
        request = batch("p", 1, create("b"), expected_revision=revision)
        assert _refusals(project, request) == [(CONFLICT, "expected_revision")]


def test_a_fenced_writer_is_told_so_before_anything_about_its_batch() -> None:
    with pytest.raises(ProducerFenced):
        _admit(_leased(), batch("p", 1, patch("none", waiting_on="x"), expected_revision=99))


def test_nothing_changes_by_admission() -> None:
    project = live_project(create("a"))
    admit(
        project,
        CommitBatchRequest(project_id="p", mutations=[create("b")]),
        limits=_SMALL,
        micros=NOW,
        origin=Origin("p", 1, 1),
    )
    assert (project.revision, len(list(project.all_nodes())), project.producers) == (2, 1, {})
