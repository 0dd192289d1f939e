"""A profile from a YAML file, with agents of one's own, executed by the real services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.cli import Up, ramify

ROOT = Path(__file__).parents[2]
PAGES = {"one.md": "a b c", "two.md": "d e"}


def test_the_example_profile_runs_its_own_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `ramify up --config examples/words-service.yaml` does from the project's folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    service = yaml.safe_load((ROOT / "examples" / "words-service.yaml").read_text("utf-8"))
    service["orchestrator_svc"]["profiles"] = str(ROOT / service["orchestrator_svc"]["profiles"])
    config = tmp_path / "service.yaml"
    config.write_text(yaml.safe_dump(service))
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, text in PAGES.items():
        (pages / name).write_text(text)
    up = Up(tmp_path / "data", "--config", str(config))
    try:
        options = ("--profile", "words", "--option", f"folder={pages}")
        done = ramify("run", "Count all words", *options, "--project", "count", env=up.env)
        assert done.returncode == 0, done.stderr
        assert "| one.md | 3 |\n| two.md | 2 |\n| all | 5 |" in done.stdout
        shown = ramify("show", "count", "root.1.0", "--json", env=up.env)
        assert json.loads(shown.stdout)["agentName"] == "examples.words:Words"
        assert "words" in ramify("stats", env=up.env).stdout, "it lists the profiles"
    finally:
        assert up.stop() == (0, "")
