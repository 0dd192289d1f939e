"""`ramify backup`, `export` and `import` as processes, against a real state_svc."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.cli import on_terminal, ramify
from tests.support.mutations import create
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import Wire


@pytest.fixture
async def env(state: StateProcess, wire: Wire) -> dict[str, str]:
    """The environment of a service with one project, `p`."""
    await wire.create_project("p")
    for number in range(5):
        await wire.commit("p", create(f"n{number}"))
    return {**os.environ, "RAMIFY_STATE": state.address}


def test_a_backup_is_a_file_that_restore_takes(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "store.ramify"
    result = ramify("backup", str(file), env=env)
    assert (result.returncode, result.stdout) == (0, "")
    assert file.name in result.stderr
    assert [path.name for path in tmp_path.glob("*.part")] == []
    restored = run_to_end("restore", str(file), str(tmp_path / "restored"))
    assert restored.returncode == 0, restored
    assert "6 revisions" in restored.stdout


def test_a_project_leaves_and_comes_in_again(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "p.ramify"
    assert ramify("export", "p", str(file), env=env).returncode == 0
    result = ramify("import", str(file), "--project", "copy", env=env)
    assert (result.returncode, result.stdout) == (0, "copy\n")
    assert "PAUSED" in result.stderr
    shown = json.loads(ramify("import", str(file), "--project", "b", "--json", env=env).stdout)
    assert (shown["project"]["projectId"], shown["project"]["revision"]) == ("b", "7")
    assert len(ramify("show", "copy", "--json", env=env).stdout.splitlines()) == 6


def test_no_file_is_ever_replaced(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("precious")
    for command in (["backup"], ["export", "p"]):
        result = ramify(*command, str(file), env=env)
        assert result.returncode == 8
        assert "exists already" in result.stderr
    assert file.read_text() == "precious"


def test_what_fails_is_one_line_and_leaves_no_file(env: dict[str, str], tmp_path: Path) -> None:
    damaged, file = tmp_path / "damaged", tmp_path / "file"
    damaged.write_bytes(b"no export at all")
    refused = [
        (["export", "unknown", str(file)], 3),
        (["export", "p", str(tmp_path / "no" / "folder")], 1),
        (["import", str(damaged)], 1),
        (["import", str(tmp_path / "nothing")], 2),
    ]
    for command, code in refused:
        result = ramify(*command, env=env)
        assert (result.returncode, result.stdout) == (code, ""), command
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()].count("file") == 0


def test_a_terminal_sees_how_far_it_has_come(env: dict[str, str], tmp_path: Path) -> None:
    child = on_terminal("backup", str(tmp_path / "store.ramify"), env=env)
    child.expect("store.ramify: ")
    child.expect("KiB")
    child.wait()
    assert child.exitstatus == 0
