"""Fixtures of tests on real processes."""

from tests.support.fixtures import *  # noqa: F403 - what `__all__` names
