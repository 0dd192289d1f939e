"""`ramify run` against both real services: its report, Ctrl-C, and kills while it follows."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.cli import COMMAND_SECONDS, RAMIFY, Up, on_terminal, ramify, read_until
from tests.support.orchestrator_process import ORCHESTRATOR, STATE, Services

#: A run that lasts until somebody ends it.
ENDLESS = ["--profile", "scripted", "--option", 'rules=[{"stage": "execute", "hang": true}]']
#: A run of 85 nodes and about two seconds.
SLOW = ["--profile", "scripted", "--option", "depth=3", "--option", "breadth=4"]
SLOW += ["--option", "delay_ms=60"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Both services for all tests of this module."""
    running = Up(tmp_path_factory.mktemp("up"))
    yield running
    assert running.stop() == (0, "")


def state_of(up: Up, project_id: str) -> str:
    done = ramify("ls", "--json", env=up.env)
    projects = {p["projectId"]: p["state"] for p in map(json.loads, done.stdout.splitlines())}
    return str(projects[project_id]).removeprefix("PROJECT_STATE_")


def await_state(up: Up, project_id: str, state: str) -> None:
    deadline = time.monotonic() + COMMAND_SECONDS
    while state_of(up, project_id) != state:
        assert time.monotonic() < deadline, f"{project_id} is not {state}"


def test_a_run_over_a_folder_prints_its_report_and_can_be_read_again(
    up: Up, tmp_path: Path
) -> None:
    (tmp_path / "bees.md").write_text(
        "# Bees\n\nBees make honey from nectar. A hive stores honey for the winter.\n"
    )
    question = "How do bees make honey?"
    done = ramify("run", question, "--corpus", str(tmp_path), "--project", "bees", env=up.env)
    assert done.returncode == 0, done.stderr
    assert "bees.md:3" in done.stdout
    assert "COMPLETED" in done.stderr
    assert ramify("show", "bees", "--result", env=up.env).stdout == done.stdout
    tree = ramify("show", "bees", env=up.env).stdout
    assert tree.count("✓") == tree.count("DONE") > 3
    again = ramify("run", question, "--corpus", str(tmp_path), env=up.env)
    assert again.stdout == done.stdout


def test_a_question_without_evidence_fails_and_says_so(up: Up, tmp_path: Path) -> None:
    (tmp_path / "bees.md").write_text("# Bees\n\nBees make honey from nectar.\n")
    done = ramify("run", "Why do submarines dive?", "--corpus", str(tmp_path), env=up.env)
    assert done.returncode == 4
    assert "FAILED" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_watch_shows_the_whole_history_and_any_part_of_it(up: Up) -> None:
    assert ramify("run", "slow", *SLOW, "--project", "slow", env=up.env).returncode == 0
    whole = ramify("watch", "slow", "--from-beginning", "--json", env=up.env)
    deltas = [d["delta"] for d in map(json.loads, whole.stdout.splitlines()) if "delta" in d]
    seen = [n for d in deltas for n in range(int(d["firstRevision"]), int(d["lastRevision"]) + 1)]
    assert seen == list(range(1, seen[-1] + 1))
    after = ramify("watch", "slow", "--after", str(seen[-1] - 2), env=up.env)
    assert after.stdout.splitlines()[-1].split()[2] == "COMPLETED"
    part = ramify("watch", "slow", "--node", "root.1.0", "--from-beginning", env=up.env)
    nodes = {line.split()[3] for line in part.stdout.splitlines()} - {"project"}
    assert nodes
    assert all(node.startswith("root.1.0") for node in nodes)


def test_show_and_explain_agree_on_what_is_used_of_the_budgets(up: Up) -> None:
    budget = ["--set", "budget_tokens=90000", "--set", "budget_nodes=100"]
    assert ramify("run", "budgets", *SLOW, *budget, "--project", "b", env=up.env).returncode == 0
    shown = map(json.loads, ramify("show", "b", "--json", env=up.env).stdout.splitlines())
    used = next(d["explanation"]["budgets"] for d in shown if "explanation" in d)
    explained = json.loads(ramify("explain", "b", "--json", env=up.env).stdout)
    assert used == explained["explanation"]["budgets"]
    assert used[1] == {"nodeId": "root", "resource": "nodes", "limit": 100, "used": 85}
    assert "85 of 100 nodes" in ramify("show", "b", env=up.env).stdout


def test_what_is_typed_over_a_live_tree_neither_shows_nor_answers(up: Up) -> None:
    run = on_terminal("run", "endless", *ENDLESS, "--project", "typed", env=up.env)
    run.expect("RUNNING.*revision")
    run.send("cancel it\r" * 3)
    run.expect("RUNNING.*revision")  # a frame that was drawn after it
    assert "cancel it" not in f"{run.before}{run.after}"
    run.sendintr()
    run.expect("etach .default.*watching. ")
    run.sendline("k")
    run.expect("k\r\n.*RUNNING")  # a question is answered in the open
    run.sendintr()
    run.expect("etach .default.*watching. ")
    run.sendline("d")
    run.expect(pexpect.EOF)
    assert run.wait() == 130
    assert state_of(up, "typed") == "RUNNING"
    assert ramify("cancel", "typed", "--wait", env=up.env).returncode == 0


def test_ctrl_c_detaches_by_default_and_the_run_goes_on(up: Up) -> None:
    run = on_terminal("run", "endless", *ENDLESS, "--project", "detached", env=up.env)
    run.expect("RUNNING")
    run.sendintr()
    run.expect("etach .default.")
    run.sendline("")
    run.expect("ramify watch detached")
    run.expect(pexpect.EOF)
    assert run.wait() == 130
    assert state_of(up, "detached") == "RUNNING"
    watch = on_terminal("watch", "detached", env=up.env)
    watch.expect("RUNNING")
    assert ramify("cancel", "detached", "--wait", env=up.env).returncode == 0
    watch.expect(pexpect.EOF)
    assert watch.wait() == 6
    late = ramify("cancel", "detached", env=up.env)
    assert late.returncode == 8
    assert late.stderr.startswith("error: ")


def test_ctrl_c_can_cancel_the_run_after_keeping_it(up: Up) -> None:
    run = on_terminal("run", "endless", *ENDLESS, "--project", "cancelled", env=up.env)
    run.expect("RUNNING")
    run.sendintr()
    run.expect("eep watching")
    run.sendline("k")
    run.expect("revision")
    run.sendintr()
    run.expect("eep watching")
    run.sendline("c")
    run.expect("cancelled CANCELLED")
    run.expect(pexpect.EOF)
    assert run.wait() == 6
    assert state_of(up, "cancelled") == "CANCELLED"


def test_a_second_ctrl_c_detaches_at_once(up: Up) -> None:
    run = on_terminal("run", "endless", *ENDLESS, "--project", "left", env=up.env)
    run.expect("RUNNING")
    run.sendintr()
    run.expect("eep watching")
    run.sendintr()
    run.expect("nothing is lost")
    run.expect(pexpect.EOF)
    assert run.wait() == 130
    assert state_of(up, "left") == "RUNNING"
    ramify("cancel", "left", "--wait", env=up.env)


@pytest.mark.parametrize(
    "wish, code, state", [("detach", 130, "RUNNING"), ("cancel", 6, "CANCELLED")]
)
async def test_an_interrupt_without_a_terminal_does_what_was_said_before(
    up: Up, wish: str, code: int, state: str
) -> None:
    name = f"unattended-{wish}"
    arguments = ["run", "endless", *ENDLESS, "--project", name, "--on-interrupt", wish]
    run = await asyncio.create_subprocess_exec(
        *(*RAMIFY, *arguments), env=up.env, stderr=asyncio.subprocess.PIPE
    )
    assert run.stderr is not None
    async with asyncio.timeout(COMMAND_SECONDS):
        await read_until(run.stderr, b"RUNNING")
        run.send_signal(signal.SIGINT)
        await run.stderr.read()
        assert await run.wait() == code
    assert state_of(up, name) == state
    if state == "RUNNING":
        ramify("cancel", name, "--wait", env=up.env)


@pytest.mark.parametrize("victims", [[STATE], [ORCHESTRATOR], [STATE, ORCHESTRATOR]])
async def test_run_follows_to_the_end_although_services_are_killed(
    tmp_path: Path, victims: list[str]
) -> None:
    services = await Services(tmp_path).start()
    hold = services.orchestrator.hold_roots()
    env = {"RAMIFY_STATE": services.state.address}
    env["RAMIFY_ORCHESTRATOR"] = services.orchestrator.address
    try:
        arguments = ["run", "a slow run", *SLOW, "--project", "p", "--json"]
        run = await asyncio.create_subprocess_exec(
            *(*RAMIFY, *arguments),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        assert run.stdout is not None
        assert run.stderr is not None
        lines = [await run.stdout.readline() for _ in range(4)]
        await services.kill_and_restart(victims)
        hold.release()
        async with asyncio.timeout(COMMAND_SECONDS):
            lines += [line async for line in run.stdout]
            errors = await run.stderr.read()
            code = await run.wait()
    finally:
        services.end()
    assert code == 0, errors
    messages = [json.loads(line) for line in lines]
    assert messages[-1]["state"] == "PROJECT_STATE_COMPLETED"
    deltas = [message["delta"] for message in messages if "delta" in message]
    covered = [
        n for d in deltas for n in range(int(d["firstRevision"]), int(d["lastRevision"]) + 1)
    ]
    assert covered == list(range(covered[0], covered[-1] + 1))
    assert sum("snapshot" in message for message in messages) == 1
    assert (STATE in victims) == (b"reconnecting" in errors)


def test_a_tree_on_a_terminal_ends_with_the_report(up: Up, tmp_path: Path) -> None:
    (tmp_path / "bees.md").write_text("# Bees\n\nBees make honey from nectar.\n")
    run = on_terminal("run", "How do bees make honey?", "--corpus", str(tmp_path), env=up.env)
    run.expect("COMPLETED")
    run.expect("Sources")
    run.expect(pexpect.EOF)
    assert run.wait() == 0
