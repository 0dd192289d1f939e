"""Runs commands and Python functions in child processes, from the event loop.

A call that is cancelled, for whatever reason, ends its child before the cancellation goes on:
SIGTERM to the process group, SIGKILL after `grace`. One that takes too long or is asked to stop is
ended the same way, and gives what it has printed. Nothing here blocks the loop.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from orchestrator_svc.agents.base import AgentError, ErrorClass, report, stop_wish
from orchestrator_svc.agents.processes import system
from orchestrator_svc.agents.processes.turns import FairSlots
from orchestrator_svc.agents.processes.wire import (
    LENGTH,
    MAX_FRAME_BYTES,
    Frame,
    decode,
    encode,
)

HOST_PROGRAM = "orchestrator_svc.agents.processes.host"
HOST_MARK = "RAMIFY_HOST"  #: variable by which what a killed host leaves behind is known
GRACE_SECONDS = 2.0  #: between SIGTERM and SIGKILL
KILL_SECONDS = 5.0  #: longest wait for a killed child
STOP_SECONDS = 5.0  #: longest wait for the host at the end
TURN_SECONDS = 5.0  #: between two signs of life of a call that waits for its turn
DEFAULT_MAX_OUTPUT = 256 << 10
#: Not handed on: they configure the service, and some of them may be secret.
_OWN_PREFIXES = ("ORCHESTRATOR_SVC_", "STATE_SVC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program and its arguments."""

    argv: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A Python function by its name; its arguments and its value are JSON."""

    name: str  #: `module:function`; modules of the working directory are found first
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended."""

    status: int  #: exit code; minus the number of the signal that ended it
    seconds: float
    out: bytes
    out_dropped: int  #: bytes missing in the middle of `out`
    err: bytes  #: the end of it
    err_dropped: int  #: bytes missing before `err`
    value: str  #: of a function: its outcome as JSON, `{"value": …}` or `{"error": …}`
    timed_out: bool = False  #: whether it was ended because its time was over


class Refused(Exception):
    """A child could not be started, for example because there is no such program."""


@dataclass(slots=True)
class _Open:
    ended: asyncio.Future[Ended]
    on_line: Callable[[str], None]


class Processes:
    """The children of this orchestrator. Owned by the loop; starts its host when needed."""

    def __init__(self, max_processes: int) -> None:
        self._slots = FairSlots(max_processes)
        self._starting = asyncio.Lock()
        self._host: subprocess.Popen[bytes] | None = None
        self._mark = ""  #: variable of the host and of all that it starts
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._open: dict[int, _Open] = {}
        self._last = 0

    async def run(
        self,
        what: Command | Function,
        *,
        owner: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: str = "",
        max_output: int = DEFAULT_MAX_OUTPUT,
        timeout: float | None = None,
        grace: float = GRACE_SECONDS,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Ended:
        """Run a child to its end, whatever that is; `on_line` gets a line of output now and then.

        When `max_processes` run it waits for one to end; owners take turns at that.
        `timeout` counts from when the child's turn has come. Raises `Refused`, and `AgentError`:
        CONNECTION if the process host died, TIMEOUT if the child cannot be ended.
        """
        frame: Frame = {
            "op": "start",
            "env": dict(env or {}),
            "cwd": cwd,
            "stdin": stdin,
            "max_output": max_output,
        }
        if isinstance(what, Command):
            frame["argv"] = list(what.argv)
        else:
            frame["function"] = what.name
            frame["args"], frame["kwargs"] = list(what.args), dict(what.kwargs)
        self._last += 1
        number = frame["id"] = self._last
        order = encode(frame)
        if len(order) - LENGTH.size > MAX_FRAME_BYTES:
            text = f"its arguments and its input have {len(order)} bytes, at most {MAX_FRAME_BYTES}"
            raise Refused(text)
        await self._turn(owner)
        try:
            await self._start_host()
            opened = _Open(asyncio.get_running_loop().create_future(), on_line)
            self._open[number] = opened
            self._write(order)
            try:
                return await self._until_ended(number, opened.ended, timeout, grace)
            finally:
                self._open.pop(number, None)
        finally:
            self._slots.release()

    async def _turn(self, owner: str) -> None:
        """Wait for a free slot; to wait by order is no silence (SEM 22)."""
        turn = asyncio.ensure_future(self._slots.acquire(owner))
        try:
            while not (await asyncio.wait((turn,), timeout=TURN_SECONDS))[0]:
                report("waits until fewer processes run")
        except asyncio.CancelledError:
            if not turn.cancel():
                self._slots.release()
            raise

    async def _until_ended(
        self, number: int, ended: asyncio.Future[Ended], timeout: float | None, grace: float
    ) -> Ended:
        wish = asyncio.ensure_future(stop_wish().wait())
        try:
            first = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait((ended, wish), timeout=timeout, return_when=first)
            if ended not in done:
                self._send({"op": "end", "id": number, "grace": grace})
                await asyncio.wait((ended,), timeout=grace + KILL_SECONDS)
                if not ended.done():
                    raise AgentError(ErrorClass.TIMEOUT, "was to be ended, and cannot be killed")
            return replace(ended.result(), timed_out=not done)
        except asyncio.CancelledError:
            if not ended.done():
                self._send({"op": "end", "id": number, "grace": grace})
            await _in_any_case(ended, grace + KILL_SECONDS)
            raise
        finally:
            wish.cancel()

    def _send(self, frame: Frame) -> None:
        self._write(encode(frame))

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)

    # The host

    async def _start_host(self) -> None:
        async with self._starting:
            if self._writer is not None:
                return
            await self._bury()
            ours, theirs = socket.socketpair()
            self._mark = f"{HOST_MARK}={secrets.token_hex(8)}"
            with theirs:
                self._host = await asyncio.to_thread(_spawn_host, theirs, self._mark)
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            self._reader_task = asyncio.create_task(self._read(reader), name="process-host")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                self._take(decode(await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError, ValueError):
            pass  # the host has died
        finally:
            await self._host_ended()

    async def _host_ended(self) -> None:
        lost, self._open = self._open, {}
        try:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                await self._bury()
        finally:
            for opened in lost.values():
                if not opened.ended.done():
                    opened.ended.set_exception(
                        AgentError(ErrorClass.CONNECTION, "the process host has died")
                    )
                    opened.ended.exception()  # nobody may be waiting any more

    async def _bury(self) -> None:
        """Reap a host that has died, and kill what its children have left behind.

        At the first time that of hosts which were killed together with their orchestrators.
        """
        if self._host is None:
            await asyncio.to_thread(system.kill_abandoned, HOST_MARK, HOST_PROGRAM)
        else:
            await asyncio.to_thread(self._host.wait)
            await asyncio.to_thread(system.kill_marked, self._mark.encode())

    def _take(self, frame: Frame) -> None:
        opened = self._open.get(int(str(frame["id"])))
        if opened is None or opened.ended.done():
            return
        ended = frame.get("ended")
        if not isinstance(ended, dict):
            opened.on_line(str(frame["line"]))
        elif "refused" in ended:
            opened.ended.set_exception(Refused(str(ended["refused"])))
            opened.ended.exception()
        else:
            out = [base64.b64decode(part) for part in ended.pop("out")]
            err = base64.b64decode(ended.pop("err"))
            if ended["out_dropped"]:
                out.insert(1, f"\n… {ended['out_dropped']} bytes are left out …\n".encode())
            opened.ended.set_result(Ended(out=b"".join(out), err=err, **ended))

    async def aclose(self) -> None:
        """End every child and the host. Nothing may be run afterwards."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._host is not None:
            await asyncio.to_thread(_await_end, self._host)
        if self._reader_task is not None:
            self._reader_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader_task


async def _in_any_case(ended: asyncio.Future[Ended], seconds: float) -> None:
    """Wait for the end of a child although this task is cancelled, but not for ever."""
    until = time.monotonic() + seconds
    while not ended.done() and time.monotonic() < until:
        with suppress(asyncio.CancelledError):  # raised by the caller in the end
            await asyncio.wait((ended,), timeout=max(0.0, until - time.monotonic()))


def inherited_environment() -> dict[str, str]:
    """Return the variables of the orchestrator that its children get."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_OWN_PREFIXES)}


def _spawn_host(connection: socket.socket, mark: str) -> subprocess.Popen[bytes]:
    fd = connection.fileno()
    name, _, value = mark.partition("=")
    environment = {**inherited_environment(), name: value}
    return subprocess.Popen(
        [sys.executable, "-m", HOST_PROGRAM, str(fd)],
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def _await_end(host: subprocess.Popen[bytes]) -> None:
    try:
        host.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        host.kill()
        host.wait()
