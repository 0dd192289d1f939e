"""Children of agents: what comes back, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator_svc.agents.base import AgentError, ErrorClass, open_call
from orchestrator_svc.agents.processes.client import Command, Function, Processes, Refused
from orchestrator_svc.agents.processes.function import MAX_VALUE_BYTES
from orchestrator_svc.agents.processes.wire import MAX_FRAME_BYTES
from orchestrator_svc.engine.activity import Activity
from tests.support.bound import WAIT_SECONDS
from tests.support.wire import eventually

ROOT = str(Path(__file__).parents[5])
TARGETS = "tests.unit.orchestrator_svc.agents.processes.targets"
SHELL = ("/bin/sh", "-c")


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    """Children of one test."""
    made = Processes(8)
    yield made
    await made.aclose()


def target(name: str, *args: object) -> Function:
    """Return a function of `targets.py`."""
    return Function(name=f"{TARGETS}:{name}", args=args)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def appears(path: Path) -> list[int]:
    """Wait for a file of pids."""
    await eventually(path.exists, f"{path.name} is written")
    return _read_pids(path)


def _read_pids(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()]


async def gone(*pids: int) -> None:
    """Wait until processes do not run any more."""
    await eventually(lambda: not any(is_alive(pid) for pid in pids), f"{pids} have ended")


async def test_a_command_gives_its_output_its_errors_and_its_exit_code(
    processes: Processes, tmp_path: Path
) -> None:
    script = 'read line; echo "$line in $PWD, $COLOUR"; echo oops >&2; exit 3'
    ended = await processes.run(
        Command(argv=[*SHELL, script]), env={"COLOUR": "red"}, cwd=str(tmp_path), stdin="hello\n"
    )
    assert ended.out == f"hello in {tmp_path}, red\n".encode()
    assert (ended.err, ended.status) == (b"oops\n", 3)
    assert ended.seconds > 0


async def test_a_function_gives_its_value_or_its_error(processes: Processes) -> None:
    for function, value in (
        (target("add", 2, 3), '{"value": 5}'),
        (target("later", ["x"]), '{"value": ["x"]}'),
        (target("without_output"), '{"value": {"answer": 42}}'),
        (target("fail", "broken"), '{"error": "RuntimeError: broken"}'),
        (target("absent"), f'{{"error": "AttributeError: module \'{TARGETS}\' has no'),
        (target("unshowable"), f'{{"error": "the value of {TARGETS}:unshowable is no JSON'),
    ):
        ended = await processes.run(function, cwd=ROOT)
        assert ended.value.startswith(value)
        assert ended.status == (0 if "value" in value[:9] else 1)
    ended = await processes.run(target("fail", "broken"), cwd=ROOT)
    assert b"on the way" in ended.err
    assert b"Traceback" in ended.err


async def test_the_value_of_a_function_has_a_greatest_size(processes: Processes) -> None:
    quotes = 2
    ended = await processes.run(target("text", MAX_VALUE_BYTES - quotes), cwd=ROOT)
    assert (ended.status, len(ended.value)) == (0, MAX_VALUE_BYTES + len('{"value": }'))
    ended = await processes.run(target("text", MAX_VALUE_BYTES), cwd=ROOT)
    assert ended.status == 1
    assert f"has {MAX_VALUE_BYTES + quotes} bytes, at most {MAX_VALUE_BYTES}" in ended.value


async def test_a_child_has_its_place_and_its_variables_and_none_of_the_service(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SVC_SECRET", "hidden")
    ended = await processes.run(target("place"), cwd=ROOT, env={"COLOUR": "red"})
    assert ended.value == f'{{"value": ["{ROOT}", "red", null]}}'


@pytest.mark.parametrize("argv", [["/no/such/program"], ["bad\0argument"], ["/"]])
async def test_a_child_that_cannot_start_is_refused_with_the_reason(
    processes: Processes, argv: list[str]
) -> None:
    with pytest.raises(Refused):
        await processes.run(Command(argv=argv))
    with pytest.raises(Refused, match="No such file"):
        await processes.run(Command(argv=["true"]), cwd="/no/such/folder")
    assert (await processes.run(Command(argv=["true"]))).status == 0


async def test_long_output_is_cut_in_the_middle_and_says_so(processes: Processes) -> None:
    script = "print('A' * 500_000 + 'Z')"
    ended = await processes.run(Command(argv=[sys.executable, "-c", script]), max_output=1_000)
    assert ended.out.startswith(b"A" * 500 + b"\n")
    assert ended.out.endswith(b"AZ\n")
    assert ended.out_dropped == 499_002
    assert b"499002 bytes are left out" in ended.out


async def test_lines_are_told_while_the_child_runs(processes: Processes, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    lines: asyncio.Queue[str] = asyncio.Queue()
    script = f'echo begun; while [ ! -e "{go_on}" ]; do sleep 0.01; done'
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        command = Command(argv=[*SHELL, script])
        call = group.create_task(processes.run(command, on_line=lines.put_nowait))
        assert await lines.get() == "begun"
        go_on.touch()
    assert call.result().status == 0


async def test_a_cancelled_call_ends_its_child_and_the_daemons_it_started(
    processes: Processes, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pids"
    function = target("hold_the_interpreter", str(pid_file))
    call = asyncio.create_task(processes.run(function, cwd=ROOT, grace=0.1))
    child, daemon = await appears(pid_file)
    call.cancel()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not is_alive(child), "it is over before the cancellation goes on"
    await gone(daemon)


async def test_what_a_child_leaves_in_the_background_ends_with_it(
    processes: Processes, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pids"
    script = f'sleep 600 & echo $! > "{pid_file}"; setsid sleep 601 & echo $! >> "{pid_file}"'
    ended = await processes.run(Command(argv=[*SHELL, script]))
    assert ended.status == 0
    await gone(*await appears(pid_file))


async def test_a_call_that_is_asked_to_stop_gets_the_output_so_far(processes: Processes) -> None:
    activity = Activity(lambda note: None)
    begun = asyncio.Event()

    async def call() -> bytes:
        open_call.set(activity)
        command = Command(argv=[*SHELL, "echo begun; exec sleep 600"])
        return (await processes.run(command, on_line=lambda line: begun.set())).out

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await begun.wait()
        activity.stop_wish.set()
    assert task.result() == b"begun\n"


async def test_a_host_that_dies_takes_its_children_and_is_replaced(
    processes: Processes, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pids"
    script = (
        f'sleep 600 & a=$!; setsid sleep 601 & echo $$ $PPID $a $! > "{pid_file}.part"; '
        f'mv "{pid_file}.part" "{pid_file}"; wait'
    )
    call = asyncio.create_task(processes.run(Command(argv=[*SHELL, script])))
    child, host, *started = await appears(pid_file)
    os.kill(host, signal.SIGKILL)
    with pytest.raises(AgentError) as failure:
        await call
    assert failure.value.error_class is ErrorClass.CONNECTION
    await gone(child, host, *started)
    assert (await processes.run(Command(argv=["true"]))).status == 0


async def test_nothing_is_left_when_the_orchestrator_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    program = f"""
import asyncio
from orchestrator_svc.agents.processes.client import Function, Processes

async def main():
    function = Function(name="{TARGETS}:hold_the_interpreter", args=["{pid_file}"])
    await Processes(1).run(function, cwd="{ROOT}")

asyncio.run(main())
"""
    orchestrator = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
    try:
        children = await appears(pid_file)
    finally:
        orchestrator.kill()
        await orchestrator.wait()
    await gone(*children)


@pytest.mark.parametrize("kind", ["command", "function"])
async def test_what_is_left_when_all_was_killed_at_once_ends_before_the_next_child_begins(
    processes: Processes, tmp_path: Path, kind: str
) -> None:
    other = asyncio.create_task(processes.run(Command(argv=[*SHELL, "exec sleep 600"])))
    pid_file = tmp_path / "pids"
    shell = (
        f"sleep 600 & a=$!; setsid sleep 601 & echo $$ $PPID $a $! > {pid_file}.part; "
        f"mv {pid_file}.part {pid_file}; wait"
    )
    orders = {
        "command": Command(argv=[*SHELL, shell]),
        "function": target("fork_a_daemon", str(pid_file)),
    }
    program = f"""
import asyncio
from orchestrator_svc.agents.processes.client import Command, Function, Processes

asyncio.run(Processes(1).run({orders[kind]!r}, cwd={ROOT!r}))
"""
    orchestrator = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
    child, host, *left = await appears(pid_file)
    orchestrator.send_signal(signal.SIGSTOP)  # it cannot clear away after its host
    os.kill(host, signal.SIGKILL)
    await gone(host, child)
    orchestrator.kill()
    await orchestrator.wait()
    another = Processes(1)
    try:
        assert (await another.run(Command(argv=["true"]))).status == 0
        assert not any(is_alive(pid) for pid in left)
        assert not other.done(), "what another host leads goes on"
    finally:
        await another.aclose()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def test_a_call_whose_time_is_over_ends_its_child_and_gives_the_output_so_far(
    processes: Processes, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pids"
    script = f'echo begun; sleep 600 & echo $$ $! > "{pid_file}"; wait'
    ended = await processes.run(Command(argv=[*SHELL, script]), timeout=5.0)
    assert (ended.timed_out, ended.out) == (True, b"begun\n")
    await gone(*await appears(pid_file))
    assert not (await processes.run(Command(argv=["true"]), timeout=WAIT_SECONDS)).timed_out


async def test_an_order_that_is_too_large_is_refused_and_harms_no_other(
    processes: Processes, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    wait = f'while [ ! -e "{go_on}" ]; do sleep 0.01; done'
    other = asyncio.create_task(processes.run(Command(argv=[*SHELL, wait])))
    with pytest.raises(Refused, match="at most 16777216"):
        await processes.run(Command(argv=["cat"]), stdin="x" * MAX_FRAME_BYTES)
    go_on.touch()
    assert (await other).status == 0


async def test_what_a_function_prints_is_told_while_it_runs(
    processes: Processes, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    lines: asyncio.Queue[str] = asyncio.Queue()
    function = target("print_and_wait", "half of it", str(go_on))
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        call = group.create_task(processes.run(function, cwd=ROOT, on_line=lines.put_nowait))
        assert await lines.get() == "half of it"
        go_on.touch()
    assert call.result().status == 0


async def test_the_time_of_a_call_begins_with_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_svc.agents.processes.client.TURN_SECONDS", 0.01)
    processes = Processes(1)
    go_on, waits = tmp_path / "go-on", asyncio.Event()
    notes: list[str] = []

    def published(note: str) -> None:
        notes.append(note)
        waits.set()

    async def second() -> bool:
        open_call.set(Activity(published))
        return (await processes.run(Command(argv=["true"]), timeout=WAIT_SECONDS)).timed_out

    wait = f'while [ ! -e "{go_on}" ]; do sleep 0.01; done'
    try:
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
            first = group.create_task(processes.run(Command(argv=[*SHELL, wait])))
            await asyncio.sleep(0)
            late = group.create_task(second())
            await waits.wait()  # it has not begun, and it says so
            go_on.touch()
        assert (first.result().status, late.result()) == (0, False)
        assert notes == ["waits until fewer processes run"]
    finally:
        await processes.aclose()


async def test_many_children_wait_for_their_turn() -> None:
    processes = Processes(4)
    try:
        calls = (processes.run(target("add", n, 1), cwd=ROOT) for n in range(40))
        values = [ended.value for ended in await asyncio.gather(*calls)]
    finally:
        await processes.aclose()
    assert values == [f'{{"value": {n + 1}}}' for n in range(40)]
