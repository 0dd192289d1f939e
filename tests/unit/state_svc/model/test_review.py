"""What a batch does to reviews (SEM 27): one decision, by whoever was first."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.node_pb2 import NodeState, NodeType, TaskType
from ramify.v1.review_pb2 import (
    ProposedPlan,
    ProposedTask,
    Review,
    ReviewCheckpoint,
    ReviewDecision,
    ReviewExpiryPolicy,
    ReviewState,
)
from ramify.v1.stage_pb2 import Stage, StageRecord
from state_svc.codec.segment import decode_segment, encode_segment
from state_svc.codec.snapshot import decode_snapshot, encode_snapshot, freeze
from state_svc.errors import ProducerFenced
from state_svc.history.past import fork_view
from state_svc.history.replay import Replay
from state_svc.ingest.admission import check_lease
from state_svc.model import limits
from state_svc.model.apply import apply_batch
from state_svc.model.ids import is_id
from state_svc.model.project import Applied, LiveProject
from tests.support.live import (
    CONFLICT,
    ILLEGAL,
    INVALID,
    NOW,
    live_project,
    node,
    refusals,
    write,
)
from tests.support.mutations import create, open_review, patch, patch_review, resolve

CLOSED = ErrorReason.ERROR_REASON_REVIEW_CLOSED
APPROVE = ReviewDecision.REVIEW_DECISION_APPROVE
REJECT = ReviewDecision.REVIEW_DECISION_REJECT
MODIFY = ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION
OPEN, RESOLVED, EXPIRED, WITHDRAWN = ReviewState.values()[1:]


def plan(*goals: str) -> ProposedPlan:
    return ProposedPlan(
        tasks=[ProposedTask(goal=goal, task_type=TaskType.TASK_TYPE_SEARCH) for goal in goals]
    )


@pytest.fixture
def project() -> LiveProject:
    return live_project(create("root"), open_review("r1", "root", plan=plan("one part")))


def review(project: LiveProject, review_id: str = "r1") -> Review:
    found = project.review(review_id)
    assert found is not None
    return found


# Opening


def test_a_new_review_is_open_and_counted(project: LiveProject) -> None:
    opened = review(project)
    assert (opened.state, opened.version, opened.attempt) == (OPEN, 1, 1)
    assert opened.create_time.ToMicroseconds() == NOW
    assert (project.entity.open_review_count, project.entity.review_count) == (1, 1)


@pytest.mark.parametrize(
    "review_id, fields, bad",
    [
        ("r1", {}, "review.review_id"),
        ("no good", {}, "review.review_id"),
        ("r2", {"node_id": "nobody"}, "review.create.node_id"),
        ("r2", {"state": RESOLVED}, "review.create.state"),
        ("r2", {"version": 1}, "review.create.version"),
        ("r2", {"overdue": True}, "review.create.overdue"),
        ("r2", {"decision": APPROVE}, "review.create.decision"),
        ("r2", {"message": "x" * 4_097}, "review.create.message"),
        ("r2", {"plan": ProposedPlan()}, "review.create.plan"),
        ("r2", {"plan": plan("no")}, "review.create.plan"),
        ("r2", {"checkpoint": 99}, "review.create.checkpoint"),
        ("r2", {"checkpoint": 0}, "review.create.checkpoint"),
        ("r2", {"expiry_policy": 99}, "review.create.expiry_policy"),
    ],
)
def test_a_bad_review_is_refused_with_its_field(
    project: LiveProject, review_id: str, fields: dict[str, Any], bad: str
) -> None:
    fields = {"node_id": "root", **fields}
    assert refusals(project, open_review(review_id, **fields)) == [(0, INVALID, bad)]


def test_a_plan_may_only_name_its_own_tasks(project: LiveProject) -> None:
    proposed = plan("first", "second")
    proposed.tasks[0].depends_on.append(2)
    found = refusals(project, open_review("r2", "root", plan=proposed))
    assert found == [(0, INVALID, "review.create.plan")]


def test_a_review_that_no_message_could_hold_is_refused(project: LiveProject) -> None:
    proposed = plan(*["x" * 10_000] * (limits.MAX_REVIEW_BYTES // 10_000))
    found = refusals(project, open_review("r2", "root", plan=proposed))
    assert found == [(0, INVALID, "review.create")]


# Deciding


def test_a_decision_names_what_who_and_when(project: LiveProject) -> None:
    decision = resolve("r1", APPROVE, comment="fine", actor="ada", modified_plan=plan("other"))
    write(project, decision, micros=NOW + 5)
    closed = review(project)
    assert (closed.state, closed.decision, closed.version) == (RESOLVED, APPROVE, 2)
    assert (closed.actor, closed.comment) == ("ada", "fine")
    assert [task.goal for task in closed.modified_plan.tasks] == ["other"]
    assert [task.goal for task in closed.plan.tasks] == ["one part"]
    assert closed.end_time.ToMicroseconds() == NOW + 5
    assert (project.entity.open_review_count, project.entity.review_count) == (0, 1)


def test_the_second_decision_is_told_about_the_first(project: LiveProject) -> None:
    write(project, resolve("r1", REJECT, actor="ada"))
    assert refusals(project, resolve("r1", APPROVE)) == [(0, CLOSED, "review.resolve")]
    assert review(project).decision == REJECT


def test_a_decision_about_another_version_is_refused(project: LiveProject) -> None:
    write(project, patch_review("r1", overdue=True))
    found = refusals(project, resolve("r1", APPROVE, expected_version=1))
    assert found == [(0, CONFLICT, "review.expected_version")]
    assert not refusals(project, resolve("r1", APPROVE, expected_version=2))


@pytest.mark.parametrize(
    "decision, fields, bad",
    [
        (0, {}, "decision"),
        (99, {}, "decision"),
        (MODIFY, {}, "instructions"),
        (MODIFY, {"instructions": " \n"}, "instructions"),
        (APPROVE, {"instructions": "add one"}, "instructions"),
        (REJECT, {"modified_plan": plan("other")}, "modified_plan"),
        (APPROVE, {"modified_plan": plan("")}, "modified_plan"),
        (APPROVE, {"actor": "x" * 256}, "actor"),
        (APPROVE, {"comment": "x" * 4_097}, "comment"),
    ],
)
def test_a_bad_decision_is_refused_and_the_review_stays_open(
    project: LiveProject, decision: int, fields: dict[str, Any], bad: str
) -> None:
    found = refusals(project, resolve("r1", decision, **fields))
    assert found == [(0, INVALID, f"review.resolve.{bad}")]
    assert review(project).state == OPEN


def test_a_plan_cannot_be_given_where_none_was_proposed(project: LiveProject) -> None:
    write(project, open_review("r2", "root", verdict=NodeType.NODE_TYPE_PLAN))
    found = refusals(project, resolve("r2", APPROVE, modified_plan=plan("other")))
    assert found == [(0, INVALID, "review.resolve.modified_plan")]


# The stage that it was


def stages(applied: Applied) -> list[StageRecord]:
    changes = applied.changes()
    assert len(changes) == len(applied.images)
    places = [change.index for change in changes]
    assert places == sorted(set(places)), "each change has a place of its own"
    return [change.stage.stage for change in changes if change.HasField("stage")]


def test_a_decision_is_recorded_as_a_stage_in_the_same_revision(project: LiveProject) -> None:
    write(project, patch("root", state=NodeState.NODE_STATE_RUNNING, attempt=1))
    decision = resolve(
        "r1", APPROVE, comment="fine", actor="ada", modified_plan=plan("other", "more")
    )
    applied = write(project, decision, patch("root", output_summary="goes on"), micros=NOW + 5)
    (stage,) = stages(applied)
    assert (stage.stage_id, stage.node_id, stage.attempt) == ("r1", "root", 1)
    assert (stage.stage, stage.agent_name) == (Stage.STAGE_REVIEW, "ada")
    assert json.loads(stage.output.text) == {
        "state": "RESOLVED",
        "decision": "APPROVE",
        "comment": "fine",
        "modified_plan_tasks": 2,
    }
    closed = review(project)
    assert stage.input.text == closed.message
    assert (stage.start_time, stage.end_time) == (closed.create_time, closed.end_time)
    assert stage.duration.ToMicroseconds() == 5
    assert stage.create_time.ToMicroseconds() == NOW + 5


@pytest.mark.parametrize("state, decision", [(EXPIRED, {"decision": "REJECT"}), (WITHDRAWN, {})])
def test_every_end_of_a_review_is_recorded_once(
    project: LiveProject, state: ReviewState.ValueType, decision: dict[str, str]
) -> None:
    policy = ReviewExpiryPolicy.REVIEW_EXPIRY_POLICY_REJECT
    write(project, open_review("r2", "root", expiry_policy=policy))
    overdue = write(project, patch_review("r2", overdue=True))
    assert stages(overdue) == []
    applied = write(project, patch_review("r2", state=state))
    (stage,) = stages(applied)
    name = ReviewState.Name(state).removeprefix("REVIEW_STATE_")
    assert json.loads(stage.output.text) == {"state": name, **decision}
    late = write(project, patch_review("r2", state=state))
    assert stages(late) == []


# Expiry and withdrawal


def test_an_expired_review_says_what_its_policy_stood_for(project: LiveProject) -> None:
    policy = ReviewExpiryPolicy.REVIEW_EXPIRY_POLICY_REJECT
    write(project, open_review("r2", "root", expiry_policy=policy))
    write(project, patch_review("r2", state=EXPIRED))
    assert (review(project, "r2").state, review(project, "r2").decision) == (EXPIRED, REJECT)


@pytest.mark.parametrize("policy", [0, 1, 4])
def test_a_review_that_parks_or_escalates_cannot_expire(project: LiveProject, policy: int) -> None:
    write(project, open_review("r2", "root", expiry_policy=policy))
    found = refusals(project, patch_review("r2", state=EXPIRED))
    assert found == [(0, ILLEGAL, "review.patch.state")]


def test_a_patch_cannot_decide(project: LiveProject) -> None:
    assert refusals(project, patch_review("r1", state=RESOLVED)) == [
        (0, ILLEGAL, "review.patch.state")
    ]
    for fields in ({"decision": APPROVE}, {"actor": "ada"}, {"comment": "because"}):
        assert refusals(project, patch_review("r1", **fields))[0][1] == INVALID


@pytest.mark.parametrize("fields", [{"state": EXPIRED}, {"state": WITHDRAWN}, {"overdue": True}])
def test_a_patch_that_comes_after_the_decision_changes_nothing(
    project: LiveProject, fields: dict[str, Any]
) -> None:
    write(project, resolve("r1", APPROVE))
    before = review(project)
    assert write(project, patch_review("r1", **fields)).changes() == []
    assert review(project) == before


def test_marks_and_times_of_an_open_review_can_be_changed(project: LiveProject) -> None:
    change = patch_review("r1", overdue=True, escalation_count=2)
    change.review.patch.expire_time.FromMicroseconds(NOW + 9)
    write(project, change)
    assert (review(project).overdue, review(project).escalation_count) == (True, 2)
    assert review(project).expire_time.ToMicroseconds() == NOW + 9
    assert write(project, patch_review("r1", overdue=True)).changes() == []


# Who may decide (SEM 2, 19)


def test_anyone_may_decide_but_only_the_holder_may_write_the_rest(project: LiveProject) -> None:
    lease = project.view.entity.lease
    lease.holder, lease.lease_epoch = "me", 3
    check_lease(project, 0, [resolve("r1", APPROVE)])
    for mutation in (patch_review("r1", overdue=True), open_review("r2", "root")):
        with pytest.raises(ProducerFenced):
            check_lease(project, 0, [mutation])
    with pytest.raises(ProducerFenced):
        check_lease(project, 0, [resolve("r1", APPROVE), patch("root", waiting_on="")])


# The log


def history(project: LiveProject) -> list[Applied]:
    applied = [write(project, create("leaf", "root"), open_review("r2", "leaf"))]
    applied.append(write(project, patch_review("r2", overdue=True), micros=NOW + 1))
    decision = resolve("r2", MODIFY, instructions="shorter", actor="ada")
    applied.append(write(project, decision, patch("root", waiting_on="review:r1"), micros=NOW + 2))
    return applied


def test_replay_gives_the_same_reviews_and_counts() -> None:
    project = live_project(create("root"))
    head = project.view.revision
    replay = Replay()
    replay.view, _ = decode_snapshot(list(encode_snapshot(freeze(project))))
    assert replay.view.revision == head
    segment = encode_segment("uid-p", history(project), 1_000).record
    replay.add_segment(decode_segment(segment))
    assert replay.view.reviews == project.view.reviews
    assert replay.view.entity == project.view.entity


def test_a_snapshot_holds_reviews_in_as_many_chunks_as_it_takes(project: LiveProject) -> None:
    history(project)
    for number in range(3):
        big = plan(*["x" * 9_000] * 80)
        write(project, open_review(f"big{number}", "root", plan=big))
    records = list(encode_snapshot(freeze(project)))
    view, _ = decode_snapshot(records)
    assert len(records) > 1
    assert view.reviews == project.view.reviews
    assert list(view.reviews) == list(project.view.reviews)


def test_a_failed_commit_takes_a_decision_back(project: LiveProject) -> None:
    project.accept(apply_batch(project, [resolve("r1", APPROVE)], micros=NOW))
    assert review(project).state == RESOLVED
    project.drop_pending()
    assert review(project).state == OPEN
    assert project.entity.open_review_count == 1


def test_pending_decisions_are_counted_by_the_next_batch(project: LiveProject) -> None:
    first = apply_batch(project, [resolve("r1", APPROVE, actor="ada")], micros=NOW)
    project.accept(first)
    second = apply_batch(project, [patch_review("r1", state=EXPIRED)], micros=NOW)
    assert second.changes() == []
    project.accept(second)
    project.promote(first)
    project.promote(second)
    assert (review(project).state, review(project).actor) == (RESOLVED, "ada")
    assert not project.has_pending


# Forks (SEM 32)


def test_open_reviews_of_a_fork_are_asked_again_under_new_ids(project: LiveProject) -> None:
    history(project)
    fork = fork_view(project.view, "f", "0123456789abcdef", NOW)
    ids = list(fork.reviews)
    assert ids == ["r1.01234567", "r2"]
    assert fork.reviews[ids[0]].state == OPEN
    assert fork.reviews["r2"] == project.view.reviews["r2"]
    assert fork.nodes["root"].to_node().waiting_on == "review:r1.01234567"
    assert node(project, "root").waiting_on == "review:r1"
    assert (fork.entity.open_review_count, fork.entity.review_count) == (1, 2)


def test_the_new_id_of_a_long_one_is_still_an_id() -> None:
    project = live_project(create("root"), open_review("r" * 128, "root", checkpoint=4))
    fork = fork_view(project.view, "f", "0123456789abcdef", NOW)
    (review_id,) = fork.reviews
    assert len(review_id) == 128
    assert review_id.endswith(".01234567")
    assert fork.reviews[review_id].checkpoint == (
        ReviewCheckpoint.REVIEW_CHECKPOINT_BEFORE_EXECUTION
    )


def test_open_reviews_of_a_fork_stay_as_many_however_alike_their_ids_are() -> None:
    alike = "r" * 119
    ids = [alike, *(f"{alike}{end}" for end in ("1", "2", ".0", "." + "0" * 8))]
    ids += [f"{'r' * 102}.{hashlib.sha256(i.encode()).hexdigest()[:16]}" for i in ids]
    opened = (open_review(i, "root", message=i) for i in ids)
    project = live_project(create("root"), *opened)
    fork = fork_view(project.view, "f", "0123456789abcdef", NOW)
    assert [review.message for review in fork.reviews.values()] == ids
    assert all(is_id(review_id) for review_id in fork.reviews)
    assert fork.entity.open_review_count == len(ids)
