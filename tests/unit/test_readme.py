"""The README tells the truth: its lines are tested ones, its tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from orchestrator_svc.config import ServiceConfig
from scripts.readme_keys import HEAD, table
from state_svc.config import Settings
from state_svc.model import limits
from state_svc.watch import feed, hub

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def _blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}[^\n]*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_every_buf_line_is_one_that_the_recipes_test_runs() -> None:
    blocks = _blocks(README, "sh buf")
    tested = _blocks((ROOT / "docs" / "recipes.md").read_text("utf-8"), "sh buf")
    assert len(blocks) >= 5
    assert [block for block in blocks if block not in tested] == []


@pytest.mark.parametrize(
    "section, model, skipped",
    [
        ("state_svc", Settings, set[str]()),
        ("orchestrator_svc", ServiceConfig, {"execution"}),
    ],
)
def test_the_tables_of_settings_name_every_key_with_its_default(
    section: str, model: type[BaseModel], skipped: set[str]
) -> None:
    expected = {}
    for name, field in model.model_fields.items():
        if name not in skipped:
            default = field.default
            absent = default is None or default is PydanticUndefined
            text = str(default).lower() if isinstance(default, bool) else str(default)
            expected[name] = "" if absent else text
    assert {name: row[0] for name, row in _table(section).items()} == expected


def test_the_table_of_execution_keys_is_that_of_the_contract() -> None:
    written = README.partition(HEAD)[2].partition("\n\n")[0] + "\n"
    assert written == table(), "run scripts/readme_keys.py"


def _table(section: str) -> dict[str, list[str]]:
    """Return the cells behind each key of a table."""
    table = README.partition(f"| `{section}` | default |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in rows}


def test_the_table_of_limits_is_what_is_enforced() -> None:
    enforced = limits.Limits()
    for name, value in {
        "mutations in a batch": enforced.max_batch_mutations,
        "batches in a frame": enforced.max_frame_batches,
        "nodes of a project": enforced.max_project_nodes,
        "dependencies of a node": limits.MAX_DEPENDENCIES,
        "open watches": enforced.max_watchers,
    }.items():
        assert f"| {name} | {value:,} |".replace(",", " ") in README
    assert f"| bytes in a batch | {enforced.max_batch_bytes >> 20} MiB |" in README
    assert f"| bytes in a frame | {enforced.max_message_bytes >> 20} MiB |" in README
    assert f"| bytes of a payload | {enforced.max_payload_bytes >> 20} MiB |" in README
    stored = enforced.max_stored_payload_bytes >> 20
    assert f"| bytes of a body in the payload store | {stored} MiB |" in README
    goal = f"{limits.MIN_GOAL_CHARS} to {enforced.max_goal_chars:,}".replace(",", " ")
    assert f"| characters of a goal | {goal} |" in README
    assert (
        f"| changes of a project kept for its watchers | {feed.MAX_FEED_BYTES >> 20} MiB |"
        in README
    )
    assert f"| immediate watches | {hub.MAX_IMMEDIATE} |" in README


def test_every_file_that_the_docs_name_exists() -> None:
    for page in ("architecture.md", "guarantees.md", "execution.md"):
        text = (ROOT / "docs" / page).read_text("utf-8")
        for name in re.findall(r"`([\w/]+\.(?:py|sql|proto))`", text):
            found = [
                base
                for base in ("", "state_svc", "orchestrator_svc", "clients/python/ramify")
                if (ROOT / base / name).exists()
            ]
            assert found, f"{page} names {name}"


def test_every_test_that_the_docs_name_exists() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        for name in re.findall(r"`(tests/[\w/]+\.py::\w+)`", page.read_text("utf-8")):
            path, _, function = name.partition("::")
            source = (ROOT / path).read_text("utf-8")
            assert re.search(rf"^(?:async )?def {function}\(", source, re.MULTILINE), name
