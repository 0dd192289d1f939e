"""Failpoints do what the setting says, where and when it says it, and nothing without it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from threading import Thread

import pytest

from state_svc import failpoints
from state_svc.failpoints import NAMES, failpoint, parse
from tests.support.bound import WAIT_SECONDS
from tests.support.hold import Hold

_SOURCE = Path(failpoints.__file__).parent


def test_nothing_happens_without_a_setting() -> None:
    for name in NAMES:
        failpoint(name)


def test_a_setting_names_places_actions_and_times() -> None:
    actions = parse("before_commit=kill@3,after_ack=sleep:0.5,before_begin=error,")
    assert {name: (action.kind, action.seconds, action.at) for name, action in actions.items()} == {
        "before_commit": ("kill", 0.0, 3),
        "after_ack": ("sleep", 0.5, 0),
        "before_begin": ("error", 0.0, 0),
    }
    assert parse("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "nowhere=kill",
        "before_commit",
        "before_commit=explode",
        "before_commit=kill@x",
        "before_commit=hold",
        "=kill",
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"failpoint|invalid literal"):
        parse(text)


def test_an_error_comes_at_its_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_actions", parse("before_commit=error@2"))
    failpoint("before_commit")
    failpoint("after_commit")
    with pytest.raises(OSError, match="before_commit"):
        failpoint("before_commit")
    failpoint("before_commit")


def test_an_error_without_a_time_comes_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_actions", parse("before_commit=error"))
    for _ in range(3):
        with pytest.raises(OSError, match="before_commit"):
            failpoint("before_commit")


def test_a_hold_lasts_as_long_as_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hold = Hold(tmp_path / "hold")
    monkeypatch.setattr(failpoints, "_actions", parse(f"before_commit=hold:{hold}@2"))
    failpoint("before_commit")
    assert not hold.reached()
    held = Thread(target=failpoint, args=("before_commit",))
    held.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while not hold.reached():
        assert time.monotonic() < deadline, "it does not say that it waits"
    assert held.is_alive()
    hold.release()
    held.join()
    assert not hold.path.exists()


def test_the_names_are_the_places_in_the_code() -> None:
    found = {
        name
        for path in _SOURCE.rglob("*.py")
        for name in re.findall(r'\bfailpoint\("(\w+)"\)', path.read_text("utf-8"))
    }
    assert found == set(NAMES)
