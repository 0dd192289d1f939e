"""The backoff between attempts (S2.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.recovery import full_jitter


def test_the_ceiling_of_the_delay_doubles_up_to_the_cap() -> None:
    ceilings = [full_jitter(5.0, failures, 60.0, lambda: 1.0) for failures in range(6)]
    assert ceilings == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


@given(st.floats(0, 3_600), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_negative_and_never_above_the_cap_or_its_base(
    base: float, failures: int, drawn: float
) -> None:
    assert 0 <= full_jitter(base, failures, 300.0, lambda: drawn) <= max(300.0, base)
