"""What a producer's sequence means, and which revisions are remembered (SEM 1, 4, 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_svc.model.producer import (
    REMEMBERED,
    ProducerPosition,
    Run,
    Verdict,
    expected_sequence,
    judge,
)


def _position(epoch: int, committed: int, accepted: int) -> ProducerPosition:
    position = ProducerPosition(epoch)
    for sequence in range(1, accepted + 1):
        position.accept(sequence)
    for sequence in range(1, committed + 1):
        position.commit(sequence, 100 + sequence)
    return position


@pytest.mark.parametrize(
    "epoch, sequence, expected",
    [
        (5, 0, Verdict.GAP),
        (5, 1, Verdict.REPEAT),
        (5, 3, Verdict.REPEAT),
        (5, 4, Verdict.PENDING),
        (5, 6, Verdict.PENDING),
        (5, 7, Verdict.ACCEPT),
        (5, 8, Verdict.GAP),
        (5, 1_000_000, Verdict.GAP),
        (6, 1, Verdict.ACCEPT),
        (6, 2, Verdict.GAP),
        (6, 7, Verdict.GAP),
        (9, 1, Verdict.ACCEPT),
        (4, 1, Verdict.FENCED),
        (4, 7, Verdict.FENCED),
        (1, 99, Verdict.FENCED),
    ],
)
def test_a_batch_is_judged_by_its_epoch_and_sequence(
    epoch: int, sequence: int, expected: Verdict
) -> None:
    assert judge(_position(5, committed=3, accepted=6), epoch, sequence) is expected


@pytest.mark.parametrize(
    "sequence, expected", [(0, Verdict.GAP), (1, Verdict.ACCEPT), (2, Verdict.GAP)]
)
def test_a_producer_that_is_new_to_a_project_begins_at_1(sequence: int, expected: Verdict) -> None:
    assert judge(None, 3, sequence) is expected


def test_the_expected_sequence_is_the_one_that_is_accepted() -> None:
    position = _position(5, committed=3, accepted=6)
    for epoch in (5, 6, 7):
        assert judge(position, epoch, expected_sequence(position, epoch)) is Verdict.ACCEPT
    assert expected_sequence(None, 1) == 1


def test_what_is_not_durable_is_forgotten_without_consuming_a_sequence() -> None:
    position = _position(5, committed=3, accepted=6)
    position.drop_pending()
    assert (position.accepted, position.committed) == (3, 3)
    assert judge(position, 5, 4) is Verdict.ACCEPT
    assert judge(position, 5, 5) is Verdict.GAP


def test_consecutive_sequences_at_consecutive_revisions_are_one_run() -> None:
    position = ProducerPosition(1)
    for sequence, revision in ((1, 10), (2, 11), (3, 13), (4, 14), (5, 20)):
        position.commit(sequence, revision)
    assert position.runs() == [Run(1, 2, 10), Run(3, 4, 13), Run(5, 5, 20)]
    assert [position.revision_of(s) for s in range(7)] == [None, 10, 11, 13, 14, 20, None]


def test_the_runs_handed_out_are_a_copy() -> None:
    position = _position(1, committed=2, accepted=2)
    position.runs()[0].first_revision = 0
    assert position.revision_of(1) == 101


@pytest.mark.parametrize("apart", [1, 2], ids=["one run", "a run each"])
def test_the_last_1024_sequences_are_remembered_and_no_more(apart: int) -> None:
    position = ProducerPosition(1)
    last = REMEMBERED + 500
    for sequence in range(1, last + 1):
        position.commit(sequence, sequence * apart)
    assert REMEMBERED == 1_024
    for sequence in range(1, last + 1):
        known = sequence > last - REMEMBERED
        assert position.revision_of(sequence) == (sequence * apart if known else None)
    assert len(position.runs()) <= REMEMBERED


@given(st.lists(st.integers(1, 3), max_size=60))
def test_a_position_restored_from_its_runs_knows_the_same(steps: list[int]) -> None:
    position, revision = ProducerPosition(2), 0
    for sequence, step in enumerate(steps, 1):
        revision += step
        position.commit(sequence, revision)
    restored = ProducerPosition(2, position.committed)
    restored.restore(position.runs())
    for known in (position, restored):
        known.commit(len(steps) + 1, revision + 1)
    sequences = range(len(steps) + 3)
    assert [restored.revision_of(s) for s in sequences] == [
        position.revision_of(s) for s in sequences
    ]
    assert restored.accepted == restored.committed == len(steps) + 1
