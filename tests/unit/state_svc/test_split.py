"""What is stored and sent stays small: runs of revisions are cut, a revision never is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.mutation_pb2 import RevisionInfo
from state_svc.codec.delta import MAX_FRAME_BYTES, split
from state_svc.model.project import Applied


def _applied(revision: int, size: int) -> Applied:
    return Applied(
        revision=revision,
        micros=0,
        mutation_count=1,
        info=RevisionInfo(revision=revision),
        body=b"x" * size,
        images=[],
        nodes={},
        entity=None,
        commands={},
    )


@given(st.lists(st.sampled_from([1, 1_000, MAX_FRAME_BYTES // 2, MAX_FRAME_BYTES, 3 << 20])))
def test_parts_hold_every_revision_in_order_and_only_a_lone_revision_is_too_large(
    sizes: list[int],
) -> None:
    run = [_applied(number, size) for number, size in enumerate(sizes, 1)]
    parts = split(run)
    assert [item for part in parts for item in part] == run
    for part in parts:
        assert part
        assert len(part) == 1 or sum(len(item.body) for item in part) <= MAX_FRAME_BYTES
