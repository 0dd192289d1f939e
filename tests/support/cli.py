"""The `ramify` command as a real process, and `ramify up` around both services."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect

COMMAND_SECONDS = 120.0  #: of a command on a machine that is busy with other things
RAMIFY = [sys.executable, "-m", "ramify.cli.main"]


class Up:
    """`ramify up` on free ports over one data folder."""

    def __init__(self, data: Path, *flags: str) -> None:
        listen = ["--state-listen", "127.0.0.1:0", "--orchestrator-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*RAMIFY, "up", "--data", str(data), "--json", *listen, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = [json.loads(self.process.stdout.readline()) for _ in range(2)]

    @property
    def env(self) -> dict[str, str]:
        """The environment that leads commands to these services."""
        state, orchestrator = (line["address"] for line in self.ready)
        return {**os.environ, "RAMIFY_STATE": state, "RAMIFY_ORCHESTRATOR": orchestrator}

    def children(self) -> dict[str, int]:
        """Return the process ids of the services by name."""
        return services_of(self.process.pid)

    def wait(self) -> tuple[int, str]:
        """Wait until it has ended by itself; return its exit code and what it said."""
        _, errors = self.process.communicate(timeout=COMMAND_SECONDS)
        return self.process.returncode, errors

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal; return its exit code and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()


def services_of(pid: int) -> dict[str, int]:
    """Return the process ids of the services that `ramify up` with this id has started."""
    found = {}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found[command[2].decode()] = int(child)
    return found


def ramify(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; its streams are not terminals."""
    return subprocess.run(
        [*RAMIFY, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        env=env,
        check=False,
    )


def on_terminal(*arguments: str, env: dict[str, str]) -> pexpect.spawn[str]:
    """Run one command on a terminal of 100 by 30 characters."""
    return pexpect.spawn(
        RAMIFY[0],
        [*RAMIFY[1:], *arguments],
        env={**env, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        encoding="utf-8",
        timeout=COMMAND_SECONDS,
        dimensions=(30, 100),
    )


async def read_until(stream: asyncio.StreamReader | None, word: bytes) -> bytes:
    """Read lines up to the first that has `word` in it; return them. Fails at the end."""
    assert stream is not None
    text = b""
    while word not in text:
        line = await stream.readline()
        assert line, f"it ended before it said {word!r}; it said:\n{text.decode()}"
        text += line
    return text
