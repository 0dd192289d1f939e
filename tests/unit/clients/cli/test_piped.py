"""What is not printed on a terminal: whole, one line each, without blanks at the end."""

from collections.abc import Iterator

import pytest

from ramify.cli.terminal import out
from tests.unit.clients.cli.conftest import Ramify, finished_run
from tests.unit.clients.fake_state import FakeServices

LONG = "Why does it rain " + "and rain again " * 8 + "in spring?"


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has set a width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    out.cache_clear()
    yield
    out.cache_clear()


def add_run(services: FakeServices, goal: str = "a goal") -> None:
    """Let there be a run of two nodes, that has ended."""
    fake = services.state.create("p", goal)
    for changes in finished_run():
        fake.commit(*changes)


@pytest.mark.parametrize("command", ["ls", "show p", "show p root", "stats", "settings"])
def test_a_table_in_a_pipe_has_no_blanks_at_the_end(
    services: FakeServices, ramify: Ramify, command: str
) -> None:
    add_run(services)
    lines = ramify(*command.split()).out.splitlines()
    assert lines
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_list_in_a_pipe_has_one_line_per_run_with_its_whole_goal(
    services: FakeServices, ramify: Ramify
) -> None:
    add_run(services, LONG)
    _, line = ramify("ls").out.splitlines()
    assert line.endswith(LONG)


def test_a_tree_in_a_pipe_is_as_wide_as_it_needs(services: FakeServices, ramify: Ramify) -> None:
    add_run(services)
    lines = ramify("show", "p").out.splitlines()
    assert max(map(len, lines)) < 80
    assert len([line for line in lines if "DONE" in line]) == 2


def test_colours_in_a_pipe_make_it_no_terminal(
    services: FakeServices, ramify: Ramify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    add_run(services)
    for command in (["ls"], ["show", "p"], ["show", "p", "root"]):
        assert max(map(len, ramify(*command).out.splitlines())) < 300
    assert "\x1b[?25l" not in ramify("watch", "p").out, "no cursor is hidden"


def test_the_wish_of_columns_is_obeyed_in_a_pipe(
    services: FakeServices, ramify: Ramify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    add_run(services, LONG)
    assert max(map(len, ramify("ls").out.splitlines())) <= 70
