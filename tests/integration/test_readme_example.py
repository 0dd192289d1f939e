"""The Python example of the README runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.bound import WAIT_SECONDS
from tests.support.orchestrator_process import OrchestratorProcess
from tests.support.state_process import StateProcess

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_python_example_prints_a_report(shared_state: StateProcess, tmp_path: Path) -> None:
    example = re.search(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    assert example is not None
    orchestrator = OrchestratorProcess(tmp_path / "data", shared_state.address, witnessed=False)
    orchestrator.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", example.group(1)],
            env={
                **os.environ,
                "RAMIFY_STATE": shared_state.address,
                "RAMIFY_ORCHESTRATOR": orchestrator.address,
            },
            capture_output=True,
            text=True,
            timeout=2 * WAIT_SECONDS,
            check=False,
        )
    finally:
        orchestrator.stop()
    assert done.returncode == 0, done.stderr
    assert "PROJECT_STATE_COMPLETED" in done.stdout
    assert "# How is a zip file read?" in done.stdout
    assert "`zipfile" in done.stdout
