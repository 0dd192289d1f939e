"""Fixtures of tests on real processes."""

from tests.support.fixtures import (
    pytest_runtest_makereport,
    shared_state,
    shared_wire,
    start_state,
    state,
    wire,
)

__all__ = [
    "pytest_runtest_makereport",
    "shared_state",
    "shared_wire",
    "start_state",
    "state",
    "wire",
]
