"""Only what nothing refers to can be deleted, in the order of the batch (SEM 9)."""

from __future__ import annotations

import pytest

from state_svc.errors import BatchRejected
from state_svc.model.apply import apply_batch
from tests.support.live import NOW, live_project
from tests.support.mutations import create, delete


def test_children_go_before_their_parent_in_one_batch() -> None:
    project = live_project(create("root"), create("a", "root"), create("b", "root"))
    applied = apply_batch(project, [delete("a"), delete("b"), delete("root")], micros=NOW)
    assert applied.nodes == {"a": None, "b": None, "root": None}
    with pytest.raises(BatchRejected, match="root has children"):
        apply_batch(project, [delete("a"), delete("root"), delete("b")], micros=NOW)


def test_a_dependency_is_kept_until_its_dependant_is_deleted() -> None:
    project = live_project(create("a"), create("b", depends_on=["a"]))
    with pytest.raises(BatchRejected, match="a has children or dependants"):
        apply_batch(project, [delete("a")], micros=NOW)
    assert apply_batch(project, [delete("b"), delete("a")], micros=NOW).nodes["a"] is None


def test_a_node_made_after_a_deletion_in_the_batch_keeps_its_parent() -> None:
    project = live_project(create("root"), create("a"))
    batch = [delete("a"), create("b", "root"), delete("root")]
    with pytest.raises(BatchRejected, match="root has children"):
        apply_batch(project, batch, micros=NOW)
