"""Starts `python -m state_svc` as a real process and ends it by its own pid."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.support.bound import WAIT_SECONDS

#: Logs of the processes that the running test (or its module) has started: path and where the
#: test began. `tests/support/fixtures.py` shows them when a test fails.
logs: dict[Path, int] = {}


class StartFailed(AssertionError):
    """The process ended, or said nothing, before it was ready."""


class StateProcess:
    """One service over one data directory; it can be killed and started again.

    `address` stays the same over restarts, and nobody else gets it meanwhile.
    """

    def __init__(self, data: Path, *flags: str, module: str = "state_svc") -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.stderr"
        self.flags = flags
        self.address = ""
        self.ready: dict[str, str] = {}
        self._module = module
        self._listen = _reserve(self)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running service."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *flags: str, failpoints: str = "") -> StateProcess:
        """Start and wait for the ready line. Raises `StartFailed`."""
        assert not self.running
        env = {**environment(), "RAMIFY_FAILPOINTS": failpoints}
        logs.setdefault(self.log, 0)
        with self.log.open("ab") as errors:
            self._process = subprocess.Popen(
                command(
                    "--data",
                    str(self.data),
                    "--listen",
                    self._listen,
                    *self.flags,
                    *flags,
                    module=self._module,
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
            )
        stdout = self._process.stdout
        assert stdout is not None
        line = _read_line(stdout, time.monotonic() + WAIT_SECONDS)
        if not line.endswith(b"\n"):
            self.kill()
            raise StartFailed(f"not ready, it said {line!r}; log:\n{self.read_log()[-4_000:]}")
        self.ready = json.loads(line)
        self.address = self.ready["address"]
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process so that no code runs. Idempotent."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Drain by SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for the end, kill what does not end; return the exit code."""
        process = self._process
        if process is None:
            return 0
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not end; log:\n{self.read_log()[-4_000:]}") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
        self._process = None
        return code

    def restart(self, *flags: str, failpoints: str = "") -> None:
        """Kill and start again at the same address."""
        self.kill()
        self.start(*flags, failpoints=failpoints)

    def read_log(self) -> str:
        """Return what the service has logged so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def memory(self) -> int:
        """Return the resident bytes of the process."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1_024
        raise AssertionError("no VmRSS")


def environment() -> dict[str, str]:
    """Return the environment of a service: ours, but what concerns gRPC is its own choice."""
    return {k: v for k, v in os.environ.items() if not k.startswith("GRPC_")}


def command(*arguments: str, module: str = "state_svc") -> list[str]:
    """Return the command line of a service."""
    return [sys.executable, "-m", module, *arguments]


def run_to_end(
    *arguments: str, env: Mapping[str, str] | None = None, module: str = "state_svc"
) -> subprocess.CompletedProcess[str]:
    """Run a service that is expected to end by itself."""
    return subprocess.run(
        command(*arguments, module=module),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env={**environment(), **(env or {})},
        check=False,
    )


def _reserve(owner: object) -> str:
    """Return an address that is given to nobody who asks for any, as long as its owner lives.

    Its socket is bound and does not listen. Servers set SO_REUSEADDR too, so the one that is told
    the address may listen there.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        host, port = held.getsockname()
        weakref.finalize(owner, os.close, held.detach())
    return f"{host}:{port}"


def _read_line(stream: IO[bytes], deadline: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return line
        piece = os.read(stream.fileno(), 4_096)
        if not piece:
            return line
        line += piece
    return line
