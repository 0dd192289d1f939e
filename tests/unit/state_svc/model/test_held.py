"""What a batch holds in memory beside its bytes is counted, and it is bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import TaskType
from ramify.v1.payload_pb2 import Payload
from ramify.v1.plan_pb2 import Plan, PlanTask
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import ProposedPlan, ProposedTask, ReviewState
from state_svc.model import limits
from state_svc.model.entity import create_project
from state_svc.model.project import LiveProject, View
from state_svc.watch.feed import Feed, Held
from tests.support.live import INVALID, NOW, refusals, settle, write
from tests.support.mutations import (
    change_project,
    create,
    open_review,
    patch,
    patch_review,
)

SIZE = 1 << 20
GOALS = ["g" * 9_000] * (SIZE // 9_000)

#: Small changes of large entities, by number.
CHANGES: dict[str, Callable[[int], Mutation]] = {
    "project": lambda n: change_project(label_upserts={"n": str(n)}),
    "review": lambda n: patch_review("r", escalation_count=n + 1),
    "node": lambda n: patch("n", retry_count=n + 1),
}


@pytest.fixture
def project() -> LiveProject:
    """A project with a plan, a node with a result and a review with a plan, 1 MiB each."""
    plan = Plan(tasks=[PlanTask(goal=goal) for goal in GOALS])
    entity = Project(project_id="p", project_uid="u", goal="large", plan=plan)
    project = LiveProject(View(entity=entity))
    settle(project, create_project(entity, micros=NOW, actor="me"))
    tasks = [ProposedTask(goal=goal, task_type=TaskType.TASK_TYPE_SEARCH) for goal in GOALS]
    write(
        project,
        create("n", result=Payload(text="x" * (SIZE - 100))),
        open_review("r", "n", plan=ProposedPlan(tasks=tasks)),
    )
    return project


def test_a_batch_whose_effects_are_too_large_to_be_stored_is_refused(
    project: LiveProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each review that it closes leaves the record of a stage, with the review's message."""
    monkeypatch.setattr(limits, "MAX_REVISION_BYTES", 200_000)
    names = [f"r{number}" for number in range(60)]
    for part in names[:30], names[30:]:
        write(project, *[open_review(name, "n", message="m" * 4_096) for name in part])
    withdrawn = [patch_review(name, state=ReviewState.REVIEW_STATE_WITHDRAWN) for name in names]
    assert refusals(project, *withdrawn) == [(0, INVALID, "")]
    assert refusals(project, *withdrawn[:45]) == []


@pytest.mark.parametrize("kind", CHANGES)
def test_a_batch_that_changes_a_large_entity_again_and_again_is_refused(
    project: LiveProject, kind: str
) -> None:
    change = CHANGES[kind]
    assert refusals(project, *map(change, range(30))) == []
    found = refusals(project, *map(change, range(60)))
    assert {(reason, field) for _, reason, field in found} == {(INVALID, f"{kind}.patch")}
    assert 30 < found[0][0] < 40


def test_many_small_entities_may_be_changed_again_and_again(project: LiveProject) -> None:
    write(project, *(create(f"s{n}") for n in range(1_000)))
    twice = [patch(f"s{n}", retry_count=count) for count in (1, 2, 3) for n in range(1_000)]
    assert refusals(project, *twice) == []


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_kept_for_watches_counts_with_the_entities_that_it_holds(
    project: LiveProject, kind: str
) -> None:
    feed = Feed(project.view.revision, Held())
    for number in range(40):
        feed.extend([write(project, CHANGES[kind](number))])
    assert len(feed) < 10
    assert feed.bytes > 2 * SIZE
