"""What each sub-command prints and returns, against the fakes."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from ramify.cli import review
from ramify.cli.main import app, invoke
from ramify.v1.project_pb2 import ExecutionSettings, ProjectState
from tests.unit.clients.cli.conftest import REPORT, Ramify, finished_run
from tests.unit.clients.fake_project import node_created, project_state
from tests.unit.clients.fake_state import FakeServices, status_of

S = ProjectState
COMMANDS = ["", *sorted(str(command.name) for command in app.registered_commands)]
COMMANDS += ["review", *(f"review {c.name}" for c in review.app.registered_commands)]


def documents(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_prints_the_report_alone_on_stdout(services: FakeServices, ramify: Ramify) -> None:
    services.orchestrator.script = finished_run()
    result = ramify("run", "a question")
    assert (result.code, result.out) == (0, REPORT)
    assert "run run-1 started" in result.err
    (request,) = services.orchestrator.started
    assert request.agent_options["corpus"].string_value == "stdlib"
    assert request.profile == "corpus"
    assert request.actor.startswith("cli:")


@pytest.mark.parametrize(
    "state, code",
    [
        (S.PROJECT_STATE_COMPLETED, 0),
        (S.PROJECT_STATE_FAILED, 4),
        (S.PROJECT_STATE_PARTIAL, 5),
        (S.PROJECT_STATE_CANCELLED, 6),
    ],
)
def test_the_exit_code_tells_how_a_run_ended(
    services: FakeServices, ramify: Ramify, state: S.ValueType, code: int
) -> None:
    services.orchestrator.script = finished_run(state)
    assert ramify("run", "a question").code == code
    assert ramify("watch", "run-1").code == code
    assert ramify("watch", "run-1", "--from-beginning").code == code


def test_run_hands_on_settings_labels_options_and_ids(
    services: FakeServices, ramify: Ramify, tmp_path: Path
) -> None:
    arguments = ["--set", "max_retries=0", "--set", "skip_atomization=true"]
    arguments += ["--label", "team=docs", "--option", "depth=2", "--option", "style=short"]
    arguments += ["--project", "mine", "--request-id", "r1", "--corpus", str(tmp_path)]
    result = ramify("run", "a question", "--detach", *arguments)
    assert (result.code, result.out) == (0, "mine\n")
    assert "ramify watch mine" in result.err
    (request,) = services.orchestrator.started
    assert request.settings.max_retries == 0
    assert request.settings.HasField("max_retries")
    assert request.settings.skip_atomization
    assert dict(request.labels) == {"team": "docs"}
    assert request.agent_options["depth"].number_value == 2
    assert request.agent_options["style"].string_value == "short"
    assert request.agent_options["corpus"].string_value == str(tmp_path.resolve())
    assert (request.project_id, request.request_id) == ("mine", "r1")


def test_run_writes_the_exact_report_to_a_file(
    services: FakeServices, ramify: Ramify, tmp_path: Path
) -> None:
    services.orchestrator.script = finished_run()
    target = tmp_path / "report.md"
    result = ramify("run", "a question", "--output", str(target))
    assert (result.code, result.out) == (0, "")
    assert target.read_text() == REPORT
    assert list(tmp_path.iterdir()) == [target]


def test_run_as_json_prints_every_change_and_then_the_project(
    services: FakeServices, ramify: Ramify
) -> None:
    services.orchestrator.script = finished_run()
    result = ramify("run", "a question", "--json")
    lines = documents(result.out)
    assert next(iter(lines[0])) == "created"
    assert "snapshot" in lines[1]
    assert lines[-1]["state"] == "PROJECT_STATE_COMPLETED"


def test_watch_prints_a_line_for_each_change(services: FakeServices, ramify: Ramify) -> None:
    fake = services.state.create("p")
    for changes in finished_run():
        fake.commit(*changes)
    result = ramify("watch", "p", "--from-beginning")
    words = [line.split()[1:4] for line in result.out.splitlines()]
    assert words == [
        ["r1", "PENDING", "project"],
        ["r2", "RUNNING", "project"],
        ["r2", "PENDING", "root"],
        ["r3", "RUNNING", "root"],
        ["r4", "PENDING", "child"],
        ["r4", "RUNNING", "child"],
        ["r5", "DONE", "child"],
        ["r6", "DONE", "root"],
        ["r7", "COMPLETED", "project"],
    ]
    assert "ramify show p --result" in result.err


def test_watch_goes_on_behind_a_revision(services: FakeServices, ramify: Ramify) -> None:
    fake = services.state.create("p")
    for changes in finished_run():
        fake.commit(*changes)
    result = ramify("watch", "p", "--after", "5", "--json")
    deltas = [line for line in documents(result.out) if "delta" in line]
    assert [line["resumeRevision"] for line in deltas] == ["6", "7"]
    assert ramify("watch", "p", "--after", "7").code == 0


def test_watch_of_a_run_that_was_left_and_ended_again_shows_both_ends(
    services: FakeServices, ramify: Ramify
) -> None:
    fake = services.state.create("p")
    for changes in finished_run(S.PROJECT_STATE_FAILED):
        fake.commit(*changes)
    fake.commit(project_state(S.PROJECT_STATE_RUNNING))
    fake.commit(project_state(S.PROJECT_STATE_COMPLETED))
    result = ramify("watch", "p", "--from-beginning")
    assert result.code == 0
    assert result.out.count("COMPLETED") == 1
    assert result.out.count("FAILED") == 1


def test_ls_lists_runs_with_their_counts(services: FakeServices, ramify: Ramify) -> None:
    for name in ("a", "b", "c"):
        services.state.create(name, f"goal of {name}")
    services.state.projects["b"].commit(node_created("n1"), node_created("n2"))
    result = ramify("ls")
    header, *rows = [line.split() for line in result.out.splitlines()]
    assert header == ["id", "state", "nodes", "age", "took", "lease", "goal"]
    assert [row[:3] for row in rows] == [
        ["a", "PENDING", "0/0"],
        ["b", "PENDING", "0/2"],
        ["c", "PENDING", "0/0"],
    ]
    assert [d["projectId"] for d in documents(ramify("ls", "--json", "--limit", "2").out)] == [
        "b",
        "c",
    ]
    assert ramify("ls", "--state", "completed").out == ""


def test_show_prints_the_tree_a_node_and_the_result(services: FakeServices, ramify: Ramify) -> None:
    fake = services.state.create("p", "the goal")
    for changes in finished_run():
        fake.commit(*changes)
    tree = ramify("show", "p").out
    assert "the goal" in tree.splitlines()[0]
    assert "└─ ✓ goal of child" in tree
    card = ramify("show", "p", "child").out
    assert "summary" in card
    assert "found" in card
    assert ramify("show", "p", "--result").out == REPORT
    assert ramify("show", "p", "root", "--result").out == REPORT
    project, *nodes = documents(ramify("show", "p", "--json").out)
    assert "project" in project
    assert len(nodes) == 2


def test_what_is_not_there_is_exit_code_3(services: FakeServices, ramify: Ramify) -> None:
    services.state.create("p").commit(node_created("n"))
    missing = ramify("show", "nothing")
    assert missing.code == 3
    assert missing.err == "error: there is no run nothing; `ramify ls` lists those there are\n"
    assert ramify("show", "p", "nothing").code == 3
    assert ramify("show", "p", "n", "--result").code == 3
    assert ramify("show", "p", "--result").code == 3
    assert ramify("watch", "nothing").code == 3
    assert ramify("watch", "p", "--node", "nothing").code == 3


def test_cancel_orders_and_waits(services: FakeServices, ramify: Ramify) -> None:
    services.state.create("p")
    result = ramify("cancel", "p", "--reason", "enough", "--wait")
    assert result.code == 0
    assert "p CANCELLED" in result.err
    assert services.orchestrator.cancelled[0].reason == "enough"
    services.state.create("q")
    assert documents(ramify("cancel", "q", "--json").out) == [{"commandId": "c1", "revision": "2"}]


def test_stats_shows_counters(services: FakeServices, ramify: Ramify) -> None:
    text = ramify("stats").out
    assert services.address in text
    assert "holder fake" in text
    assert documents(ramify("stats", "--json").out)[0]["stats"] == {
        "totalUpdates": "7",
        "commits": "3",
    }
    assert ramify("stats", "p").out.startswith("run      ")


def test_a_refusal_names_the_reason_and_a_remedy(services: FakeServices, ramify: Ramify) -> None:
    services.orchestrator.failures = [
        status_of(grpc.StatusCode.ALREADY_EXISTS, "PROJECT_EXISTS", "project p exists")
    ]
    result = ramify("run", "a question", "--project", "p")
    assert result.code == 8
    assert result.err == ("error: project p exists; choose another, ids are never reused\n")


def test_a_service_that_is_not_there_is_exit_code_7(
    ramify: Ramify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMIFY_STATE", "127.0.0.1:1")  # nobody listens on port 1
    result = ramify("ls")
    assert result.code == 7
    assert result.err == (
        "error: cannot reach 127.0.0.1:1: Connection refused; "
        "is it running? `ramify up` starts both services\n"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bogus"], "No such command 'bogus'"),
        (["show"], "Missing argument 'ID'"),
        (["run", "g", "--set", "speed=1"], "--set does not know 'speed'"),
        (["run", "g", "--set", "max_retries=many"], "takes a whole number, 0 to 100, not 'many'"),
        (["run", "g", "--set", "max_retries=-1"], "takes a whole number, 0 to 100, not '-1'"),
        (["run", "g", "--label", "team"], "--label 'team' is not key=value"),
        (["run", "g", "--corpus", "./nowhere"], "--corpus ./nowhere: no such folder"),
        (["run", "g", "--output", "nowhere/x"], "no such folder"),
        (["run", "g", "--on-interrupt", "panic"], "--on-interrupt is ask, detach or cancel"),
        (["ls", "--state", "asleep"], "'asleep' is not a state; states are PENDING, RUNNING"),
        (["watch", "p", "--after", "3", "--tree"], "--after needs no"),
        (["show", "p", "n", "--tree"], "--tree shows a run"),
        (["up", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["review", "--state-svc", "h:1", "list"], "; ramify review list --state-svc ADDR"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    ramify: Ramify, arguments: list[str], message: str
) -> None:
    result = ramify(*arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert message in result.err


@pytest.mark.parametrize("command", ["up", "run", "watch", "ls", "show", "cancel", "stats"])
def test_every_command_explains_itself_with_examples(ramify: Ramify, command: str) -> None:
    result = ramify(command, "--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert command in ramify("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_narrow_terminal(
    ramify: Ramify, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ramify(*command.split(), "--help")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize("group", ["", "review"])
def test_every_command_is_listed_with_its_whole_first_sentence(
    ramify: Ramify, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    commands = [c.removeprefix(group).strip() for c in COMMANDS if c.startswith(group)]
    expected = [c for c in commands if c and " " not in c]
    for columns in (80, 50):
        monkeypatch.setenv("COLUMNS", str(columns))
        listed = (
            ramify(*group.split(), "--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
        )
        rows = re.findall(r"^  (\w+) +(.+(?:\n {4,}.+)*)$", listed, re.MULTILINE)
        assert sorted(name for name, _ in rows) == sorted(expected)
        for name, text in rows:
            assert text.endswith("."), f"{name}: {text} is cut"
            assert not text.endswith("..")
            assert columns < 80 or "\n" not in text, f"{name} has one line"


def test_whoever_stops_reading_is_told_apart_from_a_run_that_is_done() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in (["settings", "--json"], ["settings"], ["--help"]):
            done = subprocess.run(
                [sys.executable, "-m", "ramify.cli.main", *arguments],
                stdout=writing,
                stderr=subprocess.PIPE,
                check=False,
            )
            assert (done.returncode, done.stderr) == (141, b"")
    finally:
        os.close(writing)


def test_an_interrupt_before_the_run_was_started_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(*_: object, **__: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # as asyncio does on Ctrl-C
        await asyncio.sleep(0)

    monkeypatch.setattr("ramify.client.AsyncClient.start_project", interrupted)
    with pytest.raises(asyncio.CancelledError):
        invoke(["run", "a question", "--profile", "scripted"])
    said = capsys.readouterr().err
    assert said == "no answer yet; `ramify ls` shows whether the run was started\n"


def test_ls_never_cuts_an_id_however_long_the_goals_are(
    services: FakeServices, ramify: Ramify
) -> None:
    name = "a-run-with-a-long-name-0123456789"
    services.state.create(name).project.goal = "why? " * 100
    listed = ramify("ls").out.splitlines()
    assert listed[1].split()[0] == name
    assert len(listed) == 2
    assert "…" in listed[1]


def test_ls_passes_over_what_is_deleted_meanwhile(services: FakeServices, ramify: Ramify) -> None:
    for name in ("a", "b"):
        services.state.create(name)
    services.state.failures = [
        None,  # the listing
        status_of(grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND", "no project a"),
    ]
    result = ramify("ls", "--json")
    assert result.code == 0
    assert len(documents(result.out)) == 1


def test_a_bug_is_one_line_without_a_traceback(
    ramify: Ramify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("ramify.cli.values.read_labels", broken)
    result = ramify("ls")
    assert result.code == 1
    assert result.err.startswith("error: RuntimeError: two lines; a bug")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from ramify.cli.main import invoke; invoke(['--help']); "
        "print([m for m in ('grpc', 'rich', 'google.protobuf', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_settings_lists_every_key_without_a_service(ramify: Ramify) -> None:
    result = ramify("settings")
    assert result.code == 0
    for name in ExecutionSettings.DESCRIPTOR.fields_by_name:
        assert name in result.out
    rows = [json.loads(line) for line in ramify("settings", "--json").out.splitlines()]
    assert {"key": "max_retries", "value": "3", "default": "3"}.items() <= rows[3].items()
