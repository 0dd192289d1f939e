"""What the process host asks of the operating system; Linux has all of it, others some."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_SECONDS = 1.0  #: longest wait for a killed child; it may hang in the kernel
_MAX_ROUNDS = 100  #: of looking for children whose parents were killed in the round before

_libc = ctypes.CDLL(None, use_errno=True) if _LINUX else None


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents have ended (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> Callable[[], None]:
    """Return what a child calls to be killed with its parent, even if that has just ended."""

    def enter() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return enter


def write_command_line(text: str) -> None:
    """Show another command line, as far as there is room; what is forked shows it too (Linux)."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: see proc(5)
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            if memory.read(end - start) == Path("/proc/self/cmdline").read_bytes():
                memory.seek(start)
                memory.write(text.encode()[: end - start - 1].ljust(end - start, b"\0"))


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the group that a child leads; nothing if it is empty."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def ended_child() -> int | None:
    """Return a child that has ended and is not reaped, without reaping it."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def has(pid: int, variable: bytes) -> bool:
    """Return whether a process was started with a variable, `NAME=value` (Linux)."""
    try:
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def kill_marked(variable: bytes) -> None:
    """Kill every process of this user that was started with a variable (Linux)."""
    for _ in range(_MAX_ROUNDS):  # one that is found may have started another meanwhile
        found = [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if has(int(entry.name), variable)
        ]
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def kill_abandoned(name: str, program: str) -> None:
    """Kill what has the variable `name` of a `program` that does not run any more (Linux).

    Not what has this process's own value. What the program forks leads no session while it shows
    the program's command line.
    """
    marked: set[bytes] = set()
    led: set[bytes] = set()
    prefix = name.encode() + b"="
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            leads = os.getsid(int(entry.name)) == int(entry.name)
        except OSError:
            continue
        found = {variable for variable in variables if variable.startswith(prefix)}
        marked |= found
        if leads and program.encode() in arguments:
            led |= found
    own = prefix + os.environ.get(name, "").encode()
    for mark in marked - led - {own}:
        kill_marked(mark)


def kill_children(parent: int, chosen: Callable[[int], bool]) -> None:
    """Kill the chosen children of a process, and those it adopts when they are dead (Linux)."""
    killed: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        found = [pid for pid in _children(parent) if pid not in killed and chosen(pid)]
        if not found:
            return
        for pid in found:
            killed.add(pid)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:  # once it has ended, its children are ours
            _wait_for_end(pid)


def _wait_for_end(pid: int) -> None:
    """Wait a little until a killed child has ended; it is left to be reaped."""
    until = time.monotonic() + _KILL_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.001)


def _children(parent: int) -> list[int]:
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii")
    except OSError:
        return []
    return [int(pid) for pid in text.split()]
