"""The process host: `python -m orchestrator_svc.agents.processes.host FD`. One thread, no gRPC.

Starts children, each in a session and process group of its own, reads their output, ends them:
SIGTERM to the group, SIGKILL after a grace. A child that has ended takes its group with it, and
the strays that left the group too, as far as the system can tell whose they are.

When the orchestrator is gone, however it ended, the socket is at its end: the host ends all
children and itself. When the host is killed, the kernel kills its children, and the orchestrator
what those had started (Linux).
"""

from __future__ import annotations

import base64
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from orchestrator_svc.agents.processes import system
from orchestrator_svc.agents.processes.bounded import BoundedOutput
from orchestrator_svc.agents.processes.function import run_function
from orchestrator_svc.agents.processes.wire import LENGTH, MAX_FRAME_BYTES, Frame, decode, encode

MARK = "RAMIFY_CALL"  #: variable by which a child that left its group is known
LINE_INTERVAL = 0.5  #: seconds between two lines of one child that are told on, at least
MAX_LINE_BYTES = 200
MAX_STDERR_BYTES = 16 << 10
MAX_VALUE_BYTES = 2 << 20
LAST_READ_SECONDS = 1.0  #: for output that a killed group may have left in the pipes
ORPHANED_GRACE = 1.0  #: seconds between SIGTERM and SIGKILL when the orchestrator is gone
_READ_BYTES = 64 << 10


class Child:
    """One child with what it has said so far."""

    def __init__(self, number: int, mark: str, pid: int, max_output: int) -> None:
        self.number = number
        self.mark = mark
        self.pid = pid
        self.started = time.monotonic()
        self.seconds = 0.0
        self.status: int | None = None  #: exit code; minus the signal that ended it
        self.out = BoundedOutput(max_output // 2, max_output - max_output // 2)
        self.err = BoundedOutput(0, MAX_STDERR_BYTES)
        self.value = BoundedOutput(MAX_VALUE_BYTES, 0)
        self.pipes: dict[int, BoundedOutput] = {}
        self.kill_at: float | None = None
        self.give_up_at: float | None = None  #: when to read no more, once it has ended
        self.told_at = 0.0


class Host:
    """All children of one orchestrator."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._received = bytearray()
        self._over = False
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def run(self) -> None:
        """Serve until the orchestrator is gone and every child with it."""
        system.adopt_orphans()
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)  # not SIG_IGN, which the children would inherit
        self._watch(self._woken, self._clear_wakeup)
        self._watch(self._connection, self._receive)
        while not (self._over and not self._children):
            for key, _ in self._selector.select(self._timeout()):
                handler: Callable[[], None] = key.data
                handler()
            self._reap()
            self._keep_times()
        system.kill_children(os.getpid(), lambda pid: True)

    def _watch(self, file: socket.socket | int, handler: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, handler)

    def _clear_wakeup(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4_096)

    # Orders

    def _receive(self) -> None:
        try:
            data = self._connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._orphaned()
            return
        self._received += data
        while len(self._received) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._received)
            if size > MAX_FRAME_BYTES:
                self._orphaned()
                return
            if len(self._received) < LENGTH.size + size:
                return
            frame = decode(bytes(self._received[LENGTH.size : LENGTH.size + size]))
            del self._received[: LENGTH.size + size]
            if frame["op"] == "start":
                self._start(frame)
            else:
                self._end(frame)

    def _orphaned(self) -> None:
        if self._over:
            return
        self._over = True
        self._selector.unregister(self._connection)
        for child in self._children.values():
            self._end_child(child, ORPHANED_GRACE)

    def _send(self, frame: Frame) -> None:
        if self._over:
            return
        try:
            self._connection.sendall(encode(frame))
        except OSError:
            self._orphaned()

    def _start(self, frame: Frame) -> None:
        number = int(str(frame["id"]))
        mark = f"{os.getpid()}.{number}"
        try:
            child = self._spawn(number, mark, frame)
        except (ValueError, subprocess.SubprocessError) as error:
            self._send({"id": number, "ended": {"refused": str(error)}})
            return
        except OSError as error:
            what = error.filename or frame.get("cwd")
            message = f"{error.strerror}: {what}" if what else str(error.strerror)
            self._send({"id": number, "ended": {"refused": message}})
            return
        self._children[child.pid] = child
        for pipe in child.pipes:
            os.set_blocking(pipe, False)
            self._watch(pipe, partial(self._read, child, pipe))

    def _spawn(self, number: int, mark: str, frame: Frame) -> Child:
        environment = frame["env"]
        assert isinstance(environment, dict)
        environment = {**os.environ, **environment, MARK: mark}
        cwd = str(frame.get("cwd") or "") or None
        max_output = int(str(frame["max_output"]))
        with tempfile.TemporaryFile() as stdin:
            stdin.write(str(frame.get("stdin") or "").encode())
            stdin.seek(0)
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            value_read, value_write = os.pipe()
            try:
                if "argv" in frame:
                    argv = frame["argv"]
                    assert isinstance(argv, list)
                    process = subprocess.Popen(
                        argv,
                        stdin=stdin,
                        stdout=out_write,
                        stderr=err_write,
                        cwd=cwd,
                        env=environment,
                        start_new_session=True,
                        preexec_fn=system.die_with(os.getpid()),
                    )
                    process.returncode = 0  # reaped here, not by `subprocess`
                    pid = process.pid
                else:
                    if cwd is not None:
                        os.stat(cwd)
                    host = os.getpid()
                    pid = os.fork()
                    if pid == 0:
                        fds = (stdin.fileno(), out_write, err_write, value_write)
                        run_function(frame, environment, cwd, fds, host)
            except BaseException:
                for fd in (out_read, err_read, value_read):
                    os.close(fd)
                raise
            finally:
                for fd in (out_write, err_write, value_write):
                    os.close(fd)
        child = Child(number, mark, pid, max_output)
        child.pipes = {out_read: child.out, err_read: child.err, value_read: child.value}
        return child

    def _end(self, frame: Frame) -> None:
        for child in self._children.values():
            if child.number == frame["id"]:
                self._end_child(child, float(str(frame["grace"])))

    def _end_child(self, child: Child, grace: float) -> None:
        if child.status is None:
            system.signal_group(child.pid, signal.SIGTERM)
            kill_at = time.monotonic() + grace
            child.kill_at = kill_at if child.kill_at is None else min(child.kill_at, kill_at)

    # Output

    def _read(self, child: Child, pipe: int) -> None:
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(child, pipe)
            return
        output = child.pipes[pipe]
        output.add(data)
        now = time.monotonic()
        if output is not child.value and now >= child.told_at + LINE_INTERVAL:
            child.told_at = now
            line = data.strip().rsplit(b"\n", 1)[-1][:MAX_LINE_BYTES]
            self._send({"id": child.number, "line": line.decode(errors="replace")})

    def _close(self, child: Child, pipe: int) -> None:
        self._selector.unregister(pipe)
        os.close(pipe)
        del child.pipes[pipe]

    # Ends

    def _reap(self) -> None:
        """Take note of every child that has ended; end what it leaves behind."""
        while (pid := system.ended_child()) is not None:
            child = self._children.get(pid)
            if child is not None:  # before its pid, and so its group's, can be another's
                system.signal_group(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if child is not None:
                child.status = status
                child.seconds = time.monotonic() - child.started
                child.give_up_at = time.monotonic() + LAST_READ_SECONDS
                mark = f"{MARK}={child.mark}".encode()
                system.kill_children(os.getpid(), partial(system.has, variable=mark))

    def _keep_times(self) -> None:
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.status is None:
                if child.kill_at is not None and child.kill_at <= now:
                    system.signal_group(child.pid, signal.SIGKILL)
                    child.kill_at = None
            elif not child.pipes or (child.give_up_at is not None and child.give_up_at <= now):
                self._ended(child)

    def _timeout(self) -> float | None:
        times = [
            at
            for child in self._children.values()
            for at in (child.give_up_at if child.status is not None else child.kill_at,)
            if at is not None
        ]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _ended(self, child: Child) -> None:
        for pipe in list(child.pipes):
            self._close(child, pipe)
        del self._children[child.pid]
        out, out_end = child.out.value()
        _, err = child.err.value()
        value, _ = child.value.value()
        self._send(
            {
                "id": child.number,
                "ended": {
                    "status": child.status,
                    "seconds": round(child.seconds, 6),
                    "out": [base64.b64encode(part).decode() for part in (out, out_end)],
                    "out_dropped": child.out.dropped,
                    "err": base64.b64encode(err).decode(),
                    "err_dropped": child.err.dropped,
                    "value": value.decode(errors="replace"),
                },
            }
        )


def _ignore(*_: object) -> None:
    """Wake the selector and do nothing else."""


if __name__ == "__main__":
    Host(socket.socket(fileno=int(sys.argv[1]))).run()
