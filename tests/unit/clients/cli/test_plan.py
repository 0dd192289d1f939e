"""What `ramify run --plan FILE --dry-run` tells people and programs; no service is needed."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf.json_format import ParseDict

from ramify.plan_file import read_plan_file
from ramify.v1.orchestrator_service_pb2 import StartProjectRequest
from tests.unit.clients.cli.conftest import Ramify, Result

PLAN = """
goal: a plan in two levels
settings: {max_retries: 4, state_batch_size: 7}
labels: {team: docs, stage: trial}
tasks:
- {id: first, command: [echo, "é"]}
- id: rest
  depends_on: [first]
  tasks:
  - {id: call, python: "m:f", args: [1, {deep: [null]}]}
  - {id: ask, http: {url: "http://localhost/"}}
"""


def dry_run(ramify: Ramify, path: Path, *more: str) -> tuple[Result, dict[str, object]]:
    """Return what a dry run with --json says, and the one document on stdout."""
    result = ramify("run", "--plan", str(path), "--dry-run", "--json", *more)
    (line,) = result.out.splitlines()
    document: dict[str, object] = json.loads(line)
    return result, document


def test_a_dry_run_as_json_has_the_plan_as_it_would_be_started(
    ramify: Ramify, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    result, document = dry_run(ramify, path, "--set", "max_retries=1", "--label", "stage=real")
    assert (result.code, result.err) == (0, "")
    assert document.pop("counts") == {"tasks": 3, "groups": 1, "levels": 2}
    assert document.pop("violations") == []
    request = ParseDict(document, StartProjectRequest())
    assert request.plan == read_plan_file(path).plan
    assert (request.settings.max_retries, request.state_settings.state_batch_size) == (1, 7)
    assert dict(request.labels) == {"team": "docs", "stage": "real"}


def test_a_dry_run_as_json_has_every_violation_with_its_place(
    ramify: Ramify, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("goal: a goal\ntasks:\n- {id: a, command: ls, depends_on: [x]}\n- {id: b}\n")
    result, document = dry_run(ramify, path)
    assert result.code == 2
    assert document == {
        "violations": [
            {
                "file": str(path),
                "line": 3,
                "task": "a",
                "description": "depends_on: there is no task x",
            },
            {
                "file": str(path),
                "line": 4,
                "task": "b",
                "description": "has one of command, python, http and tasks, not none of them",
            },
        ]
    }
    assert result.err.startswith(f"error: {path}:3: task a: depends_on: "), "for people as ever"


def test_a_dry_run_as_json_tells_of_wrong_settings_and_of_no_file(
    ramify: Ramify, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "goal: a goal\ntasks:\n- {id: a, command: ls}\n"
        "settings:\n  max_nodes: 1\n  max_retries: -1\n"
    )
    result, document = dry_run(ramify, path)
    assert result.code == 2
    assert document["violations"] == [
        {"file": str(path), "line": 5, "task": "", "description": "does not know 'max_nodes'"},
        {
            "file": str(path),
            "line": 6,
            "task": "",
            "description": "max_retries takes a whole number, 0 to 100, not '-1'",
        },
    ]
    absent = tmp_path / "absent.yaml"
    result, document = dry_run(ramify, absent)
    assert result.code == 2
    assert document["violations"] == [
        {"file": str(absent), "line": 0, "task": "", "description": "No such file or directory"}
    ]
    assert result.err == f"error: {absent}: No such file or directory\n"


def test_a_file_with_more_violations_than_people_read_has_all_of_them_as_json(
    ramify: Ramify, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("goal: a goal\ntasks:\n" + "".join(f"- {{id: t{n}}}\n" for n in range(30)))
    result, document = dry_run(ramify, path)
    assert isinstance(document["violations"], list)
    assert len(document["violations"]) == 30
    assert "10 more problems" in result.err
