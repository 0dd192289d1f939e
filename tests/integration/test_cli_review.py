"""`ramify review` against both real services: flags, a terminal, and what `ramify run` shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.cli import COMMAND_SECONDS, Up, on_terminal, ramify

SCRIPTED = ("--profile", "scripted", "--review")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Both services for all tests of this module."""
    running = Up(tmp_path_factory.mktemp("up"))
    yield running
    assert running.stop() == (0, "")


def await_review(up: Up, project_id: str, review_id: str) -> None:
    """Wait until a review is open."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while review_id not in ramify("review", "list", project_id, env=up.env).stdout:
        assert time.monotonic() < deadline, f"{review_id} of {project_id} is not open"


def test_a_plan_is_read_changed_and_approved_by_flags(up: Up, tmp_path: Path) -> None:
    asking = ("--profile", "scripted", "--set", "enable_hitl=true", "--project", "flags")
    run = on_terminal("run", "flags", *asking, env=up.env)
    run.expect("ramify review approve flags")
    listed = ramify("review", "list", "flags", env=up.env).stdout
    assert "root.r1" in listed
    assert "plan generation" in listed
    shown = ramify("review", "show", "flags", env=up.env).stdout
    assert "plan of 3 tasks" in shown
    assert "├─ 1. flags / part 1  [search]" in shown

    done = ramify("review", "modify", "flags", "-i", "drop 1; add Prove it", env=up.env)
    assert (done.returncode, done.stderr) == (0, "root.r1: request modification\n")
    run.expect("root.r2")
    late = ramify("review", "approve", "flags", "root.r1", env=up.env)
    assert late.returncode == 8
    assert "REQUEST_MODIFICATION by cli:" in late.stderr

    second = json.loads(ramify("review", "show", "flags", "root.r2", "--json", env=up.env).stdout)
    plan = second["plan"]
    assert [task["goal"] for task in plan["tasks"]][-1] == "Prove it"
    plan["tasks"][-1]["goal"] = "Prove it twice"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    own = ("--plan", str(tmp_path / "plan.json"), "--comment", "mine", "--json")
    approved = ramify("review", "approve", "flags", *own, env=up.env)
    assert json.loads(approved.stdout)["decision"] == "REVIEW_DECISION_APPROVE", approved.stderr
    run.expect("COMPLETED")
    run.expect(pexpect.EOF)
    run.close()
    assert run.exitstatus == 0
    assert "Prove it twice" in ramify("show", "flags", env=up.env).stdout
    decided = ramify("review", "show", "flags", "root.r2", env=up.env).stdout
    assert "approve by cli:" in decided
    assert "comment: mine" in decided
    assert "nothing waits" in ramify("review", "list", "flags", env=up.env).stderr
    trace = ramify("show", "flags", "root", "--trace", env=up.env).stdout
    assert trace.count("root  review  attempt 1  cli:") == 2
    assert '"decision": "REQUEST_MODIFICATION", "instructions": "drop 1; add Prove it"' in trace
    assert '"decision": "APPROVE", "comment": "mine", "modified_plan_tasks": 3' in trace


@pytest.mark.slow
def test_reviews_are_answered_one_after_the_other_in_a_terminal(up: Up) -> None:
    for project_id in ("left", "right"):
        done = ramify("run", "talk", *SCRIPTED, "--project", project_id, "-d", env=up.env)
        assert done.returncode == 0
        await_review(up, project_id, "root.r1")
    talk = on_terminal("review", env=up.env)
    talk.expect("run left.*plan of 3 tasks.*pprove, ")
    talk.sendline("m")
    talk.expect("What shall be changed")
    talk.sendline("make it nicer")
    talk.expect("root.r1: request modification")
    talk.expect("run right.*pprove, ")
    await_review(up, "left", "root.r2")
    talk.sendline("r")
    talk.expect("Why")
    talk.sendline("not now")
    talk.expect("root.r1: reject")
    talk.expect("run left.*could not be changed as requested.*not understood.*pprove, ")
    talk.sendline("a")
    talk.expect("root.r2: approve")
    talk.expect("nothing more waits for a human")
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
    assert ramify("watch", "left", env=up.env).returncode == 0
    rejected = ramify("watch", "right", env=up.env)
    assert rejected.returncode == 4
    assert "not now" in rejected.stderr


def test_what_is_not_answered_is_said_to_be_open(up: Up) -> None:
    asking = (*SCRIPTED, "--project", "open", "-d")
    assert ramify("run", "talk", *asking, env=up.env).returncode == 0
    await_review(up, "open", "root.r1")
    for answers in (("", "s"), ("m", pexpect.spawn.sendeof), (pexpect.spawn.sendeof,)):
        talk = on_terminal("review", env=up.env)
        for answer in answers:
            talk.expect(["pprove, .*uit. ", "What shall be changed. "])
            if isinstance(answer, str):
                talk.sendline(answer)
            else:
                answer(talk)
        if "s" in answers:
            talk.expect("1 review left open; `ramify review` asks again")
        talk.expect(pexpect.EOF)
        assert talk.wait() == 0
    assert "root.r1" in ramify("review", "list", "open", env=up.env).stdout
    assert ramify("cancel", "open", "--wait", env=up.env).returncode == 0


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (("show", "nobody"), 3, "no run nobody"),
        (("approve", "quiet"), 3, "nothing of quiet waits"),
        (("approve", "quiet", "root.r9"), 3, "no review"),
        (("modify", "quiet"), 2, "nothing says what to change"),
        (("approve", "quiet", "--plan", "missing.json"), 2, "missing.json"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(
    up: Up, arguments: tuple[str, ...], code: int, text: str
) -> None:
    if "quiet" not in ramify("ls", env=up.env).stdout:
        quiet = ("--profile", "scripted", "--project", "quiet", "-d")
        assert ramify("run", "quiet", *quiet, env=up.env).returncode == 0
    done = ramify("review", *arguments, env=up.env)
    assert done.returncode == code
    assert text in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1


def test_a_plan_file_is_shown_changed_approved_and_finished_in_one_terminal(
    up: Up, tmp_path: Path
) -> None:
    (tmp_path / "plan.yaml").write_text(
        "goal: Count what there is\n"
        "tasks:\n"
        "  - {id: one, command: [echo, first]}\n"
        "  - {id: two, command: [echo, second]}\n"
        "  - {id: three, command: [echo, third], depends_on: [one]}\n"
    )
    walk = on_terminal(
        "run", "--plan", str(tmp_path / "plan.yaml"), "--review", "--project", "walk", env=up.env
    )
    walk.expect("plan of 3 tasks.*after 1.*pprove, ")
    walk.sendline("m")
    walk.expect("What shall be changed")
    walk.sendline("drop 2")
    walk.expect("plan of 2 tasks.*pprove, ")
    assert ramify("review", "modify", "walk", "-i", "keep 1, 2", env=up.env).returncode == 0
    walk.expect("root.r2 was answered elsewhere.*plan of 2 tasks.*pprove, ")
    walk.sendline("a")
    walk.expect("COMPLETED")
    walk.expect(pexpect.EOF)
    walk.close()
    assert walk.exitstatus == 0
    tree = ramify("show", "walk", env=up.env).stdout
    assert "one" in tree
    assert "two" not in tree
