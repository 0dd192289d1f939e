"""What the tests let children do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def add(left: int, right: int) -> int:
    """Return a sum."""
    return left + right


async def later(value: object) -> object:
    """Return a value from a coroutine."""
    return value


def fail(text: str) -> None:
    """Raise."""
    sys.stderr.write("on the way\n")
    raise RuntimeError(text)


def place() -> list[str | None]:
    """Return where and with what this runs."""
    return [os.getcwd(), os.environ.get("COLOUR"), os.environ.get("ORCHESTRATOR_SVC_SECRET")]


def unshowable() -> object:
    """Return what is no JSON."""
    return object()


def text(length: int) -> str:
    """Return a text."""
    return "x" * length


def without_output() -> dict[str, int]:
    """Return a value, after closing what is printed to."""
    sys.stdout.close()
    os.closerange(4, 64)
    return {"answer": 42}


def hold_the_interpreter(pid_file: str) -> None:
    """Write a pid, start a daemon that leaves its group, ignore SIGTERM, never return."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(pid_file + ".part").write_text(f"{os.getpid()} {daemon.pid}")
    Path(pid_file + ".part").rename(pid_file)
    while True:
        time.sleep(600)


def fork_a_daemon(pid_file: str) -> None:
    """Fork a daemon that leads a session and writes down the pids; never return."""
    child, host = os.getpid(), os.getppid()
    if os.fork() == 0:
        os.setsid()
        Path(pid_file + ".part").write_text(f"{child} {host} {os.getpid()}")
        Path(pid_file + ".part").rename(pid_file)
    while True:
        time.sleep(600)


def print_and_wait(text: str, go_on: str) -> None:
    """Print, without flushing, and wait for a file."""
    print(text)
    while not Path(go_on).exists():
        time.sleep(0.01)
