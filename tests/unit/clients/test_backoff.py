"""Backoff grows, is bounded and is spread over the whole interval."""

from ramify.backoff import Backoff


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base=0.1, cap=1.0)
    longest = [backoff.delay(attempt, rand=lambda: 1.0) for attempt in range(6)]
    assert longest == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_is_full() -> None:
    backoff = Backoff(base=1.0, cap=8.0)
    assert backoff.delay(3, rand=lambda: 0.0) == 0.0
    assert backoff.delay(3, rand=lambda: 0.25) == 2.0


def test_no_number_of_failures_overflows() -> None:
    assert Backoff(cap=3.0).delay(1_000_000, rand=lambda: 1.0) == 3.0
