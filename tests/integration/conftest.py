"""Fixtures of tests on real processes."""

from pathlib import Path

import pytest

from tests.support.fixtures import *  # noqa: F403 - what `__all__` names

#: A test of the command starts up to ten processes, each of which takes seconds on a machine that
#: is busy with other things.
_CLI_TEST_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the command more time than others."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name.startswith("test_cli_"):
            item.add_marker(pytest.mark.timeout(_CLI_TEST_SECONDS))
