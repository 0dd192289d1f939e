"""A review as text tells what is asked, what is proposed and what was decided."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from ramify.cli.lines import LineWriter
from ramify.cli.review_card import card
from ramify.cli.review_table import table
from ramify.events import WatchDelta
from ramify.v1.mutation_pb2 import Change, Delta, ReviewChange, RevisionInfo
from ramify.v1.node_pb2 import NodeType, TaskType
from ramify.v1.payload_pb2 import Payload
from ramify.v1.plan_pb2 import Plan
from ramify.v1.review_pb2 import (
    ProposedPlan,
    ProposedTask,
    Review,
    ReviewCheckpoint,
    ReviewDecision,
    ReviewExpiryPolicy,
    ReviewPatch,
    ReviewState,
)
from ramify.v1.state_service_pb2 import ListedReview
from ramify.view import View

OPEN = ReviewState.REVIEW_STATE_OPEN
RESOLVED = ReviewState.REVIEW_STATE_RESOLVED
REJECT = ReviewDecision.REVIEW_DECISION_REJECT
PLAN = ProposedPlan(
    tasks=[
        ProposedTask(goal="Search it", task_type=TaskType.TASK_TYPE_SEARCH),
        ProposedTask(
            goal="Write it",
            task_type=TaskType.TASK_TYPE_WRITE,
            node_type=NodeType.NODE_TYPE_PLAN,
            depends_on=[0],
        ),
    ]
)


def review(**fields: object) -> Review:
    known: dict[str, object] = {
        "review_id": "root.r1",
        "node_id": "root",
        "checkpoint": ReviewCheckpoint.REVIEW_CHECKPOINT_PLAN_GENERATION,
        "state": OPEN,
        "attempt": 1,
        "message": "is this plan right?",
        "agent_name": "planner",
        "create_time": Timestamp(seconds=100),
    }
    return Review(**{**known, **fields})  # type: ignore[arg-type]


def shown(found: Review, now: float = 160.0) -> list[str]:
    return list(card(found, now))


def test_a_plan_is_a_tree_counted_from_one() -> None:
    lines = shown(review(plan=PLAN, attempt=2))
    assert lines[0] == "root.r1  OPEN  plan generation, attempt 2"
    assert lines[1] == "node root, proposed by planner 1m 00s ago"
    assert lines[-3:] == [
        "plan of 2 tasks",
        "├─ 1. Search it  [search]",
        "└─ 2. Write it  [write, to be planned, after 1]",
    ]


def test_what_the_tasks_of_a_given_plan_do_is_shown_before_it_is_approved() -> None:
    given = Plan(goal="a goal")
    group = given.tasks.add(id="tests")
    group.tasks.add(id="unit").command.shell = "make unit"
    given.tasks.add(id="pack").python.function = "build:pack"
    group.tasks.add(id="slow", depends_on=["unit"]).command.argv.extend(["make", "slow"])
    proposed = ProposedPlan()
    details = {"task": Value(string_value="tests")}
    kind = NodeType.NODE_TYPE_PLAN
    proposed.tasks.add(
        goal="group tests",
        task_type=TaskType.TASK_TYPE_AGGREGATE,
        node_type=kind,
        details=details,
    )
    proposed.tasks.add(
        goal="pack it",
        task_type=TaskType.TASK_TYPE_CUSTOM,
        depends_on=[0],
        details={"task": Value(string_value="pack")},
    )
    lines = list(card(review(plan=proposed), 160.0, given))
    assert lines[-4:] == [
        "├─ 1. group tests  [group]",
        "│   ├── unit  make unit",
        "│   └── slow  make slow  after unit",
        "└─ 2. pack it  [build:pack(), after 1]",
    ]


def test_an_open_review_says_what_happens_if_nobody_answers() -> None:
    policy = ReviewExpiryPolicy.REVIEW_EXPIRY_POLICY_REJECT
    asked = review(expire_time=Timestamp(seconds=170), expiry_policy=policy)
    assert shown(asked)[-1] == "rejected in 10 s unless somebody answers"
    late = review(expire_time=Timestamp(seconds=150), overdue=True, escalation_count=2)
    assert shown(late)[-1] == "overdue, escalated 2 times; it stays open"


def test_a_decided_review_says_what_by_whom_and_why() -> None:
    decided = review(
        state=RESOLVED,
        decision=REJECT,
        actor="ada",
        comment="out of scope",
        end_time=Timestamp(seconds=150),
        modified_plan=PLAN,
    )
    lines = shown(decided)
    assert "reject by ada 10 s ago" in lines
    assert lines[-1] == "comment: out of scope"
    assert "with this plan instead:" in lines


def test_other_proposals_are_shown_as_what_they_are() -> None:
    assert "split it into parts" in shown(review(verdict=NodeType.NODE_TYPE_PLAN))
    result = shown(review(result=Payload(text="line\n" * 60)))
    assert result[-1] == "│ … 20 more lines (--json has them all)"


def test_a_table_has_a_line_per_review() -> None:
    rows = table(
        [
            ListedReview(project_id="p", review=review()),
            ListedReview(
                project_id="longer", review=review(state=RESOLVED, decision=REJECT, actor="ada")
            ),
        ],
        80,
    ).splitlines()
    assert rows[0].split() == ["RUN", "REVIEW", "STATE", "CHECKPOINT"]
    assert rows[1] == "p       root.r1  OPEN      plan generation  is this plan right?"
    assert rows[2].endswith("reject by ada")


def test_a_question_in_a_table_is_cut_to_the_terminal() -> None:
    rows = table([ListedReview(project_id="p", review=review(message="why " * 50))], 60)
    assert [len(line) <= 60 for line in rows.splitlines()] == [True, True]
    assert rows.endswith("…\n")


def deltas() -> list[Delta]:
    opened = Change(revision=1, review=ReviewChange(review_id="root.r1", version=1))
    opened.review.review.CopyFrom(review(plan=PLAN))
    patch = ReviewPatch(state=RESOLVED, decision=REJECT, actor="ada")
    closed = Change(revision=2, review=ReviewChange(review_id="root.r1", version=2, patch=patch))
    return [
        Delta(
            first_revision=change.revision,
            last_revision=change.revision,
            revisions=[RevisionInfo(revision=change.revision)],
            changes=[change],
        )
        for change in (opened, closed)
    ]


def test_lines_tell_of_reviews_as_they_open_and_close() -> None:
    writer = LineWriter()
    first, second = (
        line for delta in deltas() for line in writer.lines(WatchDelta(delta, delta.last_revision))
    )
    assert "REVIEW" in first
    assert "is this plan right?" in first
    assert "RESOLVED" in second
    assert "REJECT by ada" in second


def test_a_view_knows_what_waits_for_a_human() -> None:
    view = View()
    opened, closed = deltas()
    view.apply_delta(opened)
    assert [item.review_id for item in view.open_reviews()] == ["root.r1"]
    view.apply_delta(closed)
    assert view.open_reviews() == []
    decided = view.reviews["root.r1"]
    assert (decided.version, decided.actor, decided.plan) == (2, "ada", PLAN)
