"""What is joined for a watcher that is behind takes few bytes, however much it read."""

from __future__ import annotations

from ramify.v1.mutation_pb2 import Change, Delta, NodeChange, RevisionInfo
from ramify.v1.node_pb2 import NodePatch
from ramify.v1.payload_pb2 import Payload
from state_svc.model.merge import Shown
from state_svc.watch.filter import encode_shown
from state_svc.watch.joined import MAX_JOINED_BYTES, Joined


def _shown(revision: int, node_id: str, size: int) -> tuple[RevisionInfo, Shown]:
    patch = NodePatch(result=Payload(text=f"{revision} " + "x" * size))
    body = NodeChange(node_id=node_id, version=revision, patch=patch)
    return RevisionInfo(revision=revision), Shown(Change(revision=revision, node=body), False)


def test_changes_of_one_entity_are_one_piece_however_large_they_are_together() -> None:
    joined, everything = Joined(), []
    for revision in range(1, 41):
        info, item = _shown(revision, f"n{revision % 2}", 500_000)
        joined.add([info], [item])
        everything.append((info, item))
        assert not joined.full
        assert sum(held.change.ByteSize() for held in joined._shown) <= MAX_JOINED_BYTES
        assert len(joined._infos) <= len(joined._shown)
    infos, shown = [info for info, _ in everything], [item for _, item in everything]
    assert joined.take() == encode_shown(infos, shown, coalesced=True)
    assert joined.take() == b""


def test_changes_of_many_entities_are_pieces_that_are_bounded() -> None:
    joined, sizes, seen = Joined(), [], []
    for revision in range(1, 41):
        info, item = _shown(revision, f"n{revision}", 500_000)
        joined.add([info], [item])
        if joined.full:
            body = joined.take()
            sizes.append(len(body))
            seen += [change.revision for change in Delta.FromString(body).changes]
            assert not joined.full
    seen += [change.revision for change in Delta.FromString(joined.take()).changes]
    assert seen == [*range(1, 41)]
    assert 3 < len(sizes) < 10
    assert max(sizes) < MAX_JOINED_BYTES + 1_000_000
