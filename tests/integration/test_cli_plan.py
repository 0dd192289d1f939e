"""`ramify run --plan` against both real services: the example, refusals, and kill -9 in a task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pexpect
import pytest

from ramify.v1.orchestrator_service_pb2 import StartProjectRequest
from ramify.v1.plan_pb2 import Plan
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.state_service_pb2 import GetProjectRequest
from tests.support.cli import Up, on_terminal, ramify
from tests.support.orchestrator_process import ORCHESTRATOR, Services
from tests.support.runs import connect_both
from tests.support.wire import eventually, refusal

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = str(EXAMPLES / "take_stock.yaml")
RESEARCH = str(EXAMPLES / "research.yaml")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Both services for the tests of this module that kill nothing."""
    running = Up(tmp_path_factory.mktemp("up"))
    yield running
    assert running.stop() == (0, "")


def test_the_example_runs_and_its_report_tells_what_ran(up: Up) -> None:
    done = ramify("run", "--plan", EXAMPLE, "--project", "stock", env=up.env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Take stock of the source tree\n\n5 of 5 tasks done.")
    assert "of the services can be parsed" in done.stdout
    assert "## sizes\n\n3 of 3 tasks done." in done.stdout
    tree = ramify("show", "stock", env=up.env).stdout
    assert "Count the words of the documents" in tree


def test_the_research_is_read_changed_approved_and_finished_in_a_terminal(up: Up) -> None:
    walk = on_terminal("run", "--plan", RESEARCH, "--review", "--project", "research", env=up.env)
    walk.expect("plan of 8 tasks.*examples.research:ask.*Count the files.*pprove, ")
    walk.sendline("m")
    walk.expect("What shall be changed")
    walk.sendline("drop 6")
    walk.expect("task 8 needs task 6, drop it too.*pprove, ")
    walk.sendline("m")
    walk.expect("What shall be changed")
    walk.sendline("drop 5")
    walk.expect("plan of 7 tasks.*pprove, ")
    assert "answered elsewhere" not in str(walk.before) + str(walk.after)
    walk.sendline("a")
    walk.expect("root.r3: approve")
    walk.expect("COMPLETED", timeout=240)
    walk.expect(pexpect.EOF)
    walk.close()
    assert walk.exitstatus == 0
    report = ramify("show", "research", "--result", env=up.env).stdout
    assert "7 of 7 tasks done." in report
    assert "- Future().result raises TimeoutError" in report
    assert "- subprocess.run raises subprocess.TimeoutExpired" in report
    assert "Count the files" not in ramify("show", "research", env=up.env).stdout


def test_a_plan_with_failures_is_partial_and_says_which(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "goal: a plan that fails in part\n"
        "tasks:\n"
        "- {id: good, command: [echo, fine]}\n"
        "- {id: bad, command: 'echo the reason >&2; exit 7'}\n"
    )
    done = ramify("run", "--plan", str(path), env=up.env)
    assert done.returncode == 5
    assert "| bad | FAILED | EXECUTION: exit code 7 after " in done.stdout
    assert "the reason" in done.stdout


def test_a_dry_run_needs_no_service_and_a_bad_file_is_one_line() -> None:
    env = {**os.environ, "RAMIFY_STATE": "127.0.0.1:9", "RAMIFY_ORCHESTRATOR": "127.0.0.1:9"}
    done = ramify("run", "--plan", EXAMPLE, "--dry-run", env=env)
    assert done.returncode == 0, done.stderr
    assert "├── sizes\n│   ├── code  find . -name" in done.stdout
    assert "└── summary  examples.take_stock:summarise()  after sizes" in done.stdout
    for arguments, said in (
        (("--plan", "absent.yaml"), "absent.yaml: No such file or directory"),
        (("a goal", "--plan", EXAMPLE), "a run has either a GOAL or --plan FILE"),
        ((), "a run has either a GOAL or --plan FILE"),
        (("a goal", "--dry-run"), "--dry-run is for --plan"),
    ):
        done = ramify("run", *arguments, env=env)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_what_only_the_services_know_is_said_with_its_line_too(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    for text, said in (
        ("- id: a\n  http:\n    url: 'http://:80'\n", f"{path}:5: task a: 'http://:80' is not"),
        ("- {id: a, command: ls}\nsettings: {max_nodes: 1}\n", f"{path}:4: does not know 'max_"),
        ("- {id: a, command: ls}\nsettings:\n  max_retries: -1\n", f"{path}:5: max_retries takes"),
    ):
        path.write_text("goal: a goal\ntasks:\n" + text)
        done = ramify("run", "--plan", str(path), env=up.env)
        assert done.returncode == 2
        assert said in done.stderr


async def test_a_plan_goes_on_after_kill_9_and_nothing_of_the_first_attempt_is_left(
    make_services: Callable[..., Services], tmp_path: Path
) -> None:
    services = await make_services().start()
    log, pids = tmp_path / "log", tmp_path / "pids"
    plan = Plan(goal="a plan that is cut off")
    plan.tasks.add(id="once").command.shell = f"echo once >> {log}"
    slow = plan.tasks.add(id="slow", depends_on=["once"])
    slow.command.shell = (
        f'echo $$ >> {pids}; test "$RAMIFY_ATTEMPT" -gt 1 && exit 0; sleep 600 & wait'
    )
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        request = StartProjectRequest(plan=plan, project_id="cut")
        started = (await runs.stub.StartProject(request)).project
        assert started.settings.max_execution_steps == 2 * (2 + 1 + 1)
        assert started.plan == plan
        await eventually(lambda: pids.exists() and bool(pids.read_text()), "the task runs")
        await services.kill_and_restart([ORCHESTRATOR])
        await runs.finish("cut")
        found = await runs.wire.stub.GetProject(GetProjectRequest(project_id="cut"))
    project = found.project
    assert project.state == ProjectState.PROJECT_STATE_COMPLETED
    assert log.read_text() == "once\n", "what was done is not run again"
    first = int(pids.read_text().split()[0])
    await eventually(lambda: not Path(f"/proc/{first}").exists(), "the first attempt is gone")


async def test_a_plan_is_refused_where_plans_are_not_allowed_or_cannot_run(
    make_services: Callable[..., Services],
) -> None:
    services = await make_services("--allow-plans", "never").start()
    good = Plan(goal="a plan")
    good.tasks.add(id="a").command.shell = "true"
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        refused = await refusal(runs.stub.StartProject(StartProjectRequest(plan=good)))
        assert refused.code == grpc.StatusCode.PERMISSION_DENIED
        assert refused.reason == "PLAN_NOT_ALLOWED"


async def test_a_plan_that_no_review_can_hold_is_refused_before_it_is_started(up: Up) -> None:
    plan = Plan(goal="more tasks side by side than one revision holds")
    inner = plan.tasks.add(id="many")
    for number in range(5_000):
        inner.tasks.add(id=f"t{number}").command.argv.append("true")
    addresses = up.env["RAMIFY_STATE"], up.env["RAMIFY_ORCHESTRATOR"]
    async with connect_both(*addresses) as runs:
        request = StartProjectRequest(plan=plan, project_id="huge", validate_only=True)
        assert (await runs.stub.StartProject(request)).project.profile == "plan"
        request.settings.enable_hitl = True
        assert (await runs.stub.StartProject(request)).project.profile == "plan", "root only"
        request.settings.hitl_root_plan_only = False
        refused = await refusal(runs.stub.StartProject(request))
        assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["plan.tasks[0].tasks"])
        request.plan.tasks.extend(plan.tasks[0].tasks)
        del request.plan.tasks[0]
        request.settings.hitl_root_plan_only = True
        refused = await refusal(runs.stub.StartProject(request))
        assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["plan.tasks"])
        assert "put them into groups" in refused.message


async def test_a_bad_plan_makes_no_project_and_neither_does_a_trial(up: Up) -> None:
    bad, good = Plan(goal="a plan"), Plan(goal="a plan")
    bad.tasks.add(id="a", depends_on=["b"]).command.shell = "true"
    good.tasks.add(id="a").command.shell = "true"
    addresses = up.env["RAMIFY_STATE"], up.env["RAMIFY_ORCHESTRATOR"]
    async with connect_both(*addresses) as runs:
        request = StartProjectRequest(plan=bad, project_id="trial")
        refused = await refusal(runs.stub.StartProject(request))
        assert refused.reason == "INVALID_REQUEST"
        assert refused.fields == ["plan.tasks[0].depends_on"]
        request = StartProjectRequest(plan=good, project_id="trial", validate_only=True)
        project = (await runs.stub.StartProject(request)).project
        assert (project.profile, project.settings.max_execution_steps) == ("plan", 6)
        patience = project.settings.timeout_soft_seconds, project.settings.timeout_hard_seconds
        assert patience == (0.0, 0.0), "a silent command is at work"
        request.settings.timeout_hard_seconds = 70.0
        project = (await runs.stub.StartProject(request)).project
        assert project.settings.timeout_hard_seconds == 70.0
        request = StartProjectRequest(goal="a goal", profile="plan")
        refused = await refusal(runs.stub.StartProject(request))
        assert refused.fields == ["plan"]
    assert "trial" not in ramify("ls", env=up.env).stdout
