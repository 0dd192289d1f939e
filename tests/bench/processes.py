"""Starts the services under load as real processes with fsync on, and ends them by their pid."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A running service."""

    address: str
    pid: int
    data: Path

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def resident_bytes(self) -> int:
        """Return the memory that the process has in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096


@asynccontextmanager
async def service(
    module: str, *flags: str, data: Path | None = None, kill: bool = False
) -> AsyncIterator[Process]:
    """Run `python -m module` until the block ends, then drain it (or `kill` it).

    Its data go to a temporary directory unless `data` names one that stays.
    """
    with tempfile.TemporaryDirectory(prefix="ramify-bench-") as directory:
        folder = data or Path(directory) / "data"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--data", str(folder), "--listen", "127.0.0.1:0",
            "--log-level", "WARNING", *flags,
            stdout=asyncio.subprocess.PIPE, env=_environment(),
        )  # fmt: skip
        assert process.stdout is not None
        try:
            ready = json.loads(await process.stdout.readline())
            yield Process(ready["address"], process.pid, folder)
        finally:
            if kill:
                process.kill()
            else:
                process.terminate()
            await process.wait()


def _environment() -> dict[str, str]:
    """Return ours without what is set for the children of the load alone."""
    return {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
