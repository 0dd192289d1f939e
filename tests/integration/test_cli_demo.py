"""`make demo`: twice in a row in one folder, and stopped half-way."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.cli import COMMAND_SECONDS, read_until

DEMO = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "demo.py")]


def test_the_demo_works_twice_in_a_row_and_leaves_the_same_report(tmp_path: Path) -> None:
    reports = []
    for _ in range(2):
        done = subprocess.run(
            DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        report = re.search(r"^# How does asyncio.*?(?=\n==> stopping)", done.stdout, re.S | re.M)
        assert report is not None
        reports.append(report[0])
        assert "make up" in done.stdout
        assert "grpcurl" in done.stdout
        assert "COMPLETED" in done.stderr
        farewell = done.stdout.partition("==> stopping")[2]
        farewell = farewell.replace(str(Path(sys.executable).parent), ".venv/bin")
        assert max(map(len, farewell.splitlines())) <= 80
    assert reports[0] == reports[1]
    assert (tmp_path / "data" / "state" / "state.sqlite3").exists()


async def test_a_demo_that_is_stopped_stops_its_services_and_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    demo = await asyncio.create_subprocess_exec(
        *DEMO, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert demo.stdout is not None
    assert demo.stderr is not None
    async with asyncio.timeout(COMMAND_SECONDS):
        await read_until(demo.stderr, b"started")
        demo.send_signal(signal.SIGTERM)
        said = (await demo.stdout.read()).decode()
        await demo.stderr.read()
        assert await demo.wait() == 130
    assert said.index("stopping both services") < said.index("ramify watch demo-")
    for name in ("state_svc", "orchestrator_svc"):
        assert "drained" in (tmp_path / "data" / "logs" / f"{name}.log").read_text()
