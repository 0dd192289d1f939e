"""Fixtures of tests on real processes."""

from tests.support.fixtures import (
    make_services,
    pytest_runtest_makereport,
    runs,
    shared_orchestrator,
    shared_state,
    shared_wire,
    start_state,
    state,
    wire,
)

__all__ = [
    "make_services",
    "pytest_runtest_makereport",
    "runs",
    "shared_orchestrator",
    "shared_state",
    "shared_wire",
    "start_state",
    "state",
    "wire",
]
