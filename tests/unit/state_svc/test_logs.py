"""Each record is one line of JSON that programs can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from state_svc.logs import configure


@pytest.fixture(autouse=True)
def same_root() -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)


def test_a_record_is_one_line_with_its_fields_and_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = datetime.now(UTC)
    configure("INFO")
    try:
        raise ValueError("first\nsecond")
    except ValueError as cause:
        logging.getLogger("ramify.test").error(
            "a thing failed", exc_info=cause, extra={"fields": {"project_id": "p", "odd": {1}}}
        )
    logging.getLogger("ramify.test").debug("too fine")
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert before <= datetime.fromisoformat(said.pop("timestamp")) <= datetime.now(UTC)
    assert said.pop("exception").endswith("ValueError: first\nsecond")
    assert said == {
        "event": "a thing failed",
        "level": "error",
        "logger": "ramify.test",
        "project_id": "p",
        "odd": "{1}",
    }


def test_records_of_libraries_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    logging.getLogger("library").warning("%d of %s", 3, "them")
    said = json.loads(capsys.readouterr().err)
    assert (said["event"], said["level"]) == ("3 of them", "warning")
