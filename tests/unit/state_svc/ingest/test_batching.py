"""When a commit is due: by number, bytes or age of the first, at once if told so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_svc.ingest.batching import BatchBuffer, BatchLimits

_LIMITS = BatchLimits(max_mutations=5, max_bytes=100, max_delay=1.0)


def _buffer(*, eager: bool = False) -> BatchBuffer[str]:
    return BatchBuffer(replace(_LIMITS, eager=eager))


def test_nothing_is_due_while_nothing_waits() -> None:
    for eager in (False, True):
        assert _buffer(eager=eager).due_in(10.0) is None


def test_a_commit_is_due_when_the_first_batch_ages_not_the_last() -> None:
    buffer = _buffer()
    buffer.add("a", mutations=1, size=1, now=10.0)
    buffer.add("b", mutations=1, size=1, now=10.75)
    assert buffer.due_in(10.75) == 0.25
    assert buffer.due_in(11.0) == 0.0
    assert buffer.due_in(99.0) == 0.0


@pytest.mark.parametrize(
    "mutations, size, due", [(4, 99, 1.0), (5, 1, 0.0), (9, 1, 0.0), (1, 100, 0.0), (1, 500, 0.0)]
)
def test_a_commit_is_due_when_it_is_full_by_mutations_or_bytes(
    mutations: int, size: int, due: float
) -> None:
    buffer = _buffer()
    buffer.add("a", mutations=mutations, size=size, now=10.0)
    assert buffer.due_in(10.0) == due


def test_batches_count_together() -> None:
    buffer = _buffer()
    for number in range(5):
        assert buffer.due_in(0.0) != 0.0
        buffer.add(str(number), mutations=1, size=1, now=0.0)
    assert buffer.due_in(0.0) == 0.0
    assert buffer.size == 5


def test_an_eager_buffer_is_due_as_soon_as_it_holds_anything() -> None:
    buffer = _buffer(eager=True)
    buffer.add("a", mutations=1, size=1, now=0.0)
    assert buffer.due_in(0.0) == 0.0


def test_one_immediate_batch_takes_all_that_wait_along() -> None:
    buffer = _buffer()
    buffer.add("a", mutations=1, size=1, now=0.0)
    buffer.add("b", mutations=1, size=1, now=0.0, immediate=True)
    buffer.add("c", mutations=1, size=1, now=0.0)
    assert buffer.due_in(0.0) == 0.0
    assert buffer.take() == ["a", "b", "c"]


def test_hurry_makes_what_waits_due_and_nothing_later() -> None:
    buffer = _buffer()
    buffer.hurry()
    assert buffer.due_in(0.0) is None
    buffer.add("a", mutations=1, size=1, now=0.0)
    assert buffer.due_in(0.0) == 1.0
    buffer.hurry()
    assert buffer.due_in(0.0) == 0.0


def test_after_a_take_the_buffer_starts_anew() -> None:
    buffer = _buffer()
    buffer.add("a", mutations=9, size=500, now=0.0, immediate=True)
    assert buffer.take() == ["a"]
    assert buffer.due_in(0.0) is None
    assert buffer.size == 0
    buffer.add("b", mutations=1, size=1, now=5.0)
    assert buffer.due_in(5.0) == 1.0


@given(items=st.lists(st.binary(max_size=4)), max_mutations=st.integers(1, 5))
def test_no_batch_is_lost_or_reordered(items: list[bytes], max_mutations: int) -> None:
    limits = BatchLimits(max_mutations=max_mutations, max_bytes=6, eager=False)
    buffer: BatchBuffer[bytes] = BatchBuffer(limits)
    committed: list[bytes] = []
    for item in items:
        buffer.add(item, mutations=1, size=len(item), now=0.0)
        if buffer.due_in(0.0) == 0.0:
            committed += buffer.take()
    while rest := buffer.take():
        committed += rest
    assert committed == items


# Pools: projects with a watermark of their own


def _put(buffer: BatchBuffer[str], item: str, now: float, limits: BatchLimits) -> None:
    buffer.add(item, mutations=1, size=1, now=now, pool=item[0], limits=limits)


def test_a_projects_watermark_brings_a_commit_forward_for_all() -> None:
    buffer = _buffer()
    buffer.add("shared", mutations=1, size=1, now=10.0)
    assert buffer.due_in(10.0) == 1.0
    _put(buffer, "a", 10.0, replace(_LIMITS, max_delay=0.25, eager=False))
    assert buffer.due_in(10.0) == 0.25
    assert buffer.take() == ["shared", "a"], "what waits is taken along, in order of arrival"


def test_a_projects_watermark_puts_no_other_off() -> None:
    buffer = _buffer()
    _put(buffer, "a", 10.0, replace(_LIMITS, max_delay=60.0, max_mutations=1_000, eager=False))
    assert buffer.due_in(10.0) == 60.0
    buffer.add("shared", mutations=1, size=1, now=10.0)
    assert buffer.due_in(10.0) == 1.0
    _put(buffer, "eager", 10.0, replace(_LIMITS, eager=True))
    assert buffer.due_in(10.0) == 0.0


def test_pools_count_for_themselves() -> None:
    buffer = _buffer()
    for name in ("a", "b"):
        for number in range(3):
            _put(buffer, f"{name}{number}", 0.0, replace(_LIMITS, eager=False))
    assert buffer.due_in(0.0) == 1.0, "three of five each"
    for number in range(2):
        _put(buffer, f"a{number}", 0.0, replace(_LIMITS, eager=False))
    assert buffer.due_in(0.0) == 0.0


def test_with_a_watermark_of_one_a_commit_takes_one_batch_of_the_project() -> None:
    buffer = _buffer()
    debug = BatchLimits(max_mutations=1, max_delay=0.0)
    for item in ("d1", "d2"):
        _put(buffer, item, 0.0, debug)
    buffer.add("shared", mutations=1, size=1, now=0.0)
    _put(buffer, "d3", 0.0, debug)
    taken = []
    while buffer.due_in(0.0) == 0.0:
        taken.append(buffer.take())
    assert taken == [["d1", "shared"], ["d2"], ["d3"]]
    assert buffer.size == 0


def test_of_all_nothing_stays_behind() -> None:
    buffer = BatchBuffer[str](BatchLimits(max_mutations=1))
    for item in ("a", "b", "c"):
        buffer.add(item, mutations=1, size=1, now=0.0)
    assert buffer.take() == ["a"]
    assert buffer.take_all() == ["b", "c"]
    assert buffer.due_in(0.0) is None
