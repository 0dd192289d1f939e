"""Runs commands and Python functions in child processes, from the event loop.

A call that is cancelled, for whatever reason, ends its child before the cancellation goes on:
SIGTERM to the process group, SIGKILL after `grace`. Nothing here blocks the loop.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from orchestrator_svc.agents.base import AgentError, ErrorClass, stop_wish
from orchestrator_svc.agents.processes.wire import LENGTH, Frame, decode, encode

GRACE_SECONDS = 2.0  #: between SIGTERM and SIGKILL
KILL_SECONDS = 5.0  #: longest wait for a killed child
STOP_SECONDS = 5.0  #: longest wait for the host at the end
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


class Refused(Exception):
    """A child could not be started, for example because there is no such program."""


@dataclass(slots=True)
class _Open:
    ended: asyncio.Future[Ended]
    on_line: Callable[[str], None]


class Processes:
    """The children of this orchestrator. Owned by the loop; starts its host when needed."""

    def __init__(self, max_processes: int) -> None:
        self._slots = asyncio.Semaphore(max_processes)
        self._starting = asyncio.Lock()
        self._host: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._open: dict[int, _Open] = {}
        self._last = 0

    async def run(
        self,
        what: Command | Function,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: str = "",
        max_output: int = DEFAULT_MAX_OUTPUT,
        grace: float = GRACE_SECONDS,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Ended:
        """Run a child to its end, whatever that is; `on_line` gets a line of output now and then.

        Raises `Refused`, and `AgentError` (CONNECTION) if the process host died.
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
        async with self._slots:
            await self._start_host()
            self._last += 1
            number = frame["id"] = self._last
            opened = _Open(asyncio.get_running_loop().create_future(), on_line)
            self._open[number] = opened
            self._send(frame)
            try:
                return await self._until_ended(number, opened.ended, grace)
            finally:
                self._open.pop(number, None)

    async def _until_ended(self, number: int, ended: asyncio.Future[Ended], grace: float) -> Ended:
        wish = asyncio.ensure_future(stop_wish().wait())
        try:
            await asyncio.wait((ended, wish), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self._send({"op": "end", "id": number, "grace": grace})
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not ended.done():
                self._send({"op": "end", "id": number, "grace": grace})
            await _in_any_case(ended, grace + KILL_SECONDS)
            raise
        finally:
            wish.cancel()

    def _send(self, frame: Frame) -> None:
        if self._writer is not None:
            self._writer.write(encode(frame))

    # The host

    async def _start_host(self) -> None:
        async with self._starting:
            if self._writer is not None:
                return
            if self._host is not None:
                await asyncio.to_thread(self._host.wait)
            ours, theirs = socket.socketpair()
            with theirs:
                self._host = await asyncio.to_thread(_spawn_host, theirs)
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            self._reader_task = asyncio.create_task(self._read(reader), name="process-host")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                self._take(decode(await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError, ValueError):
            pass  # the host has died; its children have died with it
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            for opened in self._open.values():
                if not opened.ended.done():
                    opened.ended.set_exception(
                        AgentError(ErrorClass.CONNECTION, "the process host has died")
                    )
                    opened.ended.exception()  # nobody may be waiting any more

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


def _spawn_host(connection: socket.socket) -> subprocess.Popen[bytes]:
    fd = connection.fileno()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_PREFIXES)}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator_svc.agents.processes.host", str(fd)],
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
