"""Both services as child processes: start, wait, stop in order."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ramify.cli.exits import CliError, ExitCode

READY_SECONDS = 600.0  #: longest start of a service, with a large store to recover
PATIENCE_SECONDS = 5.0  #: of a start before the user is told what it waits for
STOP_SECONDS = 15.0  #: longest drain before a service is killed; its own limit is shorter
_LOG_TAIL_BYTES = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """What to start and where."""

    data: Path  #: holds `state/`, `orchestrator/` and `logs/`
    state_listen: str
    orchestrator_listen: str
    config: Path | None = None  #: handed to both services, each reads its own section
    execution: Mapping[str, str] = field(default_factory=dict)  #: keys for the orchestrator
    verbose: bool = False  #: logs to stderr instead of files
    tell: Callable[[str], None] = lambda text: None  #: shows the user what takes long


class Service:
    """One child process and its log.

    It runs in a process group of its own, so that Ctrl-C in the terminal reaches only the parent,
    which stops the services in order.
    """

    def __init__(
        self, name: str, arguments: list[str], log: Path | None, tell: Callable[[str], None]
    ) -> None:
        self.name = name
        self.address = ""
        self.ready_line = ""
        self.log = log
        self._arguments = arguments
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait for its ready line. Raises `CliError` if it ends or stays silent."""
        sink: IO[bytes] | None = None
        if self.log is not None:
            sink = self.log.open("ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", self.name, *self._arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env={**os.environ, "GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "ERROR")},
                start_new_session=True,
            )
        finally:
            if sink is not None:
                sink.close()
        loop = asyncio.get_running_loop()
        telling = loop.call_later(PATIENCE_SECONDS, self._still_starting)
        try:
            async with asyncio.timeout(READY_SECONDS):
                self.ready_line = await self._read_ready_line()
            self.address = str(json.loads(self.ready_line)["address"])
        except TimeoutError:
            raise self._failure(f"was not ready within {READY_SECONDS:g} s") from None
        except (ValueError, KeyError):
            raise self._failure(f"said {self.ready_line!r} instead of its address") from None
        finally:
            telling.cancel()

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        await self._process.stdout.read()  # nothing is expected, but a full pipe would block it
        return await self._process.wait()

    async def stop(self) -> None:
        """Drain it: SIGTERM, and SIGKILL after `STOP_SECONDS`. Idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def kill(self) -> None:
        """End it at once; it recovers at its next start."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def died(self, code: int) -> CliError:
        """Return the error that says that it ended by itself."""
        failure = self._failure(f"ended by itself ({_ending(code)})")
        failure.remedy += "; start both again, every run goes on" if failure.remedy else ""
        return failure

    def _still_starting(self) -> None:
        where = "" if self.log is None else f"; its log is {self.log}"
        self._tell(f"{self.name} is still starting{where}")

    async def _read_ready_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode(errors="replace").strip()
        if not line:
            code = await self._process.wait()
            raise self._failure(f"did not start ({_ending(code)})")
        return line

    def _failure(self, what: str) -> CliError:
        message, remedy = f"{self.name} {what}", ""
        if self.log is not None:
            own = f"--{self.name.removesuffix('_svc')}-listen"  # the flag's name in `ramify up`
            last = _last_line(self.log).replace("--listen", own)
            message += f": {last}" if last else ""
            remedy = f"its log is {self.log}"
        return CliError(message, remedy, ExitCode.SERVICE_DIED)


class LocalServices:
    """state_svc and orchestrator_svc on this machine.

    Started in this order and stopped in the other one, so that the orchestrator's last batches
    find the store. Nothing is restarted: who owns this decides.
    """

    def __init__(self, config: LocalConfig) -> None:
        self._config = config
        self.running: list[Service] = []

    async def start(self) -> None:
        """Start both. Raises `CliError`, with nothing left running, if one does not start."""
        try:
            state = self._service("state_svc", "state", self._config.state_listen)
            await self._start(state)
            orchestrator = self._service(
                "orchestrator_svc",
                "orchestrator",
                self._config.orchestrator_listen,
                *("--state", state.address),
                *(f"--{k.replace('_', '-')}={v}" for k, v in self._config.execution.items()),
            )
            await self._start(orchestrator)
        except BaseException:
            await self.stop()
            raise

    @property
    def state_address(self) -> str:
        """Where state_svc listens."""
        return self.running[0].address

    @property
    def orchestrator_address(self) -> str:
        """Where orchestrator_svc listens."""
        return self.running[1].address

    async def wait(self) -> CliError:
        """Wait until one of them ends; return the error that says which and why."""
        async with asyncio.TaskGroup() as group:
            waits = {group.create_task(service.wait()): service for service in self.running}
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        first = done.pop()
        return waits[first].died(first.result())

    async def stop(self) -> None:
        """Drain the orchestrator, then state_svc. Idempotent."""
        for service in reversed(self.running):
            await service.stop()

    def kill(self) -> None:
        """End both at once."""
        for service in self.running:
            service.kill()

    async def _start(self, service: Service) -> None:
        self.running.append(service)  # before it starts, so that a failed start is stopped too
        await service.start()

    def _service(self, name: str, folder: str, listen: str, *more: str) -> Service:
        config = self._config
        arguments = ["--data", str(config.data / folder), "--listen", listen, *more]
        if config.config is not None:
            arguments += ["--config", str(config.config)]
        log = None
        if not config.verbose:
            logs = config.data / "logs"
            try:
                logs.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CliError(
                    f"cannot write to {config.data}: {error.strerror}", "choose another --data"
                ) from None
            log = logs / f"{name}.log"
        return Service(name, arguments, log, config.tell)


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(log: Path) -> str:
    """Return the last line of a log, where a service says why it ends; empty if that is news.

    One that is killed says nothing, and what it did last is no reason.
    """
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return "" if '"level": "info"' in last or '"level": "debug"' in last else last
