"""StartProject, CancelProject and GetRunner of the real service: repeats, refusals, cancelling."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from ramify.v1.command_pb2 import CommandState
from ramify.v1.orchestrator_service_pb2 import GetRunnerRequest
from ramify.v1.project_pb2 import ExecutionSettings
from ramify.v1.state_service_pb2 import ListProjectsRequest
from tests.support.orchestrator_process import OrchestratorProcess
from tests.support.runs import Runs
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import eventually, refusal

FOR_EVER = {"node": "root.*", "stage": "execute", "hang": True}
SCRIPTED: dict[str, Any] = {"goal": "a scripted run", "profile": "scripted"}


async def count_projects(runs: Runs) -> int:
    """Return how many projects the store has."""
    response = await runs.wire.stub.ListProjects(ListProjectsRequest(page_size=1_000))
    assert not response.next_page_token
    return len(response.projects)


# Repeats


async def test_a_repeated_start_is_one_project(runs: Runs) -> None:
    before = await count_projects(runs)
    first = await runs.start(**SCRIPTED, request_id="start-once")
    assert (await runs.start(**SCRIPTED, request_id="start-once")).project_id == first.project_id
    await runs.finish(first.project_id)
    repeated = await runs.start(**SCRIPTED, request_id="start-once")
    assert (repeated.project_id, repeated.project_uid) == (first.project_id, first.project_uid)
    assert await count_projects(runs) == before + 1
    assert len((await runs.finish(first.project_id)).dispatches) == 5, "it ran once"


async def test_the_same_start_many_times_at_once_is_one_project(runs: Runs) -> None:
    before = await count_projects(runs)
    started = await asyncio.gather(
        *(runs.start(**SCRIPTED, request_id="start-at-once") for _ in range(12))
    )
    assert len({project.project_uid for project in started}) == 1
    assert await count_projects(runs) == before + 1
    assert (await runs.finish(started[0].project_id)).state == "COMPLETED"


async def test_a_start_may_choose_the_id_and_labels(runs: Runs) -> None:
    project = await runs.start(
        **SCRIPTED, project_id="team-a/chosen", labels={"color": "green"}, actor="someone"
    )
    assert project.project_id == "team-a/chosen"
    assert (await runs.finish("team-a/chosen")).state == "COMPLETED"
    stored = await runs.wire.project("team-a/chosen")
    assert dict(stored.labels) == {"color": "green"}
    assert stored.profile == "scripted"


async def test_runs_do_not_disturb_each_other(runs: Runs) -> None:
    started = [
        await runs.script(breadth=3, depth=2, delay_ms=2, rules=rules)
        for rules in ([], [{"node": "root.*.1", "error": "AUTH"}]) * 6
    ]
    histories = await asyncio.gather(*(runs.finish(project.project_id) for project in started))
    assert [history.state for history in histories] == ["COMPLETED", "PARTIAL"] * 6


# Refusals


@pytest.mark.parametrize(
    "fields, code, reason, field",
    [
        ({"goal": "hi"}, "INVALID_ARGUMENT", "INVALID_REQUEST", "goal"),
        ({"goal": ""}, "INVALID_ARGUMENT", "INVALID_REQUEST", "goal"),
        ({"goal": "x" * 10_001}, "INVALID_ARGUMENT", "INVALID_REQUEST", "goal"),
        ({"goal": "a\0goal"}, "INVALID_ARGUMENT", "INVALID_REQUEST", "goal"),
        ({"goal": "\x1b[2J all"}, "INVALID_ARGUMENT", "INVALID_REQUEST", "goal"),
        ({"options": {"a": ["b\0"]}}, "INVALID_ARGUMENT", "INVALID_REQUEST", "agent_options"),
        ({"profile": "no-such"}, "INVALID_ARGUMENT", "PROFILE_NOT_FOUND", None),
        ({"request_id": "r" * 129}, "INVALID_ARGUMENT", "INVALID_REQUEST", "request_id"),
        ({"project_id": "not an id"}, "INVALID_ARGUMENT", "INVALID_REQUEST", "project_id"),
        ({"actor": "a" * 256}, "INVALID_ARGUMENT", "INVALID_REQUEST", "actor"),
        ({"labels": {"k": "v" * 256}}, "INVALID_ARGUMENT", "INVALID_REQUEST", "labels"),
        ({"options": {"nonsense": 1}}, "INVALID_ARGUMENT", "INVALID_REQUEST", "agent_options"),
        ({"options": {"depth": "deep"}}, "INVALID_ARGUMENT", "INVALID_REQUEST", "agent_options"),
        ({"profile": "corpus"}, "INVALID_ARGUMENT", "INVALID_REQUEST", "agent_options"),
    ],
)
async def test_a_bad_start_is_refused_by_name_and_makes_nothing(
    runs: Runs, fields: dict[str, Any], code: str, reason: str, field: str | None
) -> None:
    before = await count_projects(runs)
    refused = await refusal(runs.start(**{**SCRIPTED, **fields}))
    assert refused.code == grpc.StatusCode[code]
    assert refused.reason == reason
    if field is not None:
        assert [name.split(".")[0].split("[")[0] for name in refused.fields] == [field]
    assert await count_projects(runs) == before


@pytest.mark.parametrize(
    "key, value",
    [
        ("max_concurrent_nodes", 0),
        ("max_concurrent_nodes", 10_001),
        ("max_execution_steps", 10_001),
        ("max_recursion_depth", 0),
        ("max_recursion_depth", 21),
        ("max_retries", 101),
        ("retry_delay_seconds", -1.0),
        ("retry_delay_seconds", float("nan")),
        ("retry_delay_seconds", 3_601.0),
        ("node_execution_timeout_seconds", 0.0),
        ("node_execution_timeout_seconds", float("inf")),
    ],
)
async def test_a_setting_out_of_range_is_refused_by_name(
    runs: Runs, key: str, value: float
) -> None:
    refused = await refusal(runs.start(**SCRIPTED, settings={key: value}))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason == "INVALID_REQUEST"
    assert refused.fields == [f"settings.{key}"]
    assert key in ExecutionSettings.DESCRIPTOR.fields_by_name


async def test_a_corpus_that_cannot_be_read_is_refused_with_a_remedy(
    runs: Runs, tmp_path: Path
) -> None:
    (tmp_path / "file.md").write_text("# A file, not a folder\n")
    (tmp_path / "empty").mkdir()
    before = await count_projects(runs)
    cases = {
        str(tmp_path / "missing"): "does not exist",
        str(tmp_path / "file.md"): "not a folder",
        str(tmp_path / "empty"): "add documents",
        "": "name",
    }
    for corpus, words in cases.items():
        refused = await refusal(runs.start(options={"corpus": corpus}))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.reason == "INVALID_REQUEST"
        assert refused.fields == ["agent_options"]
        assert words in refused.message
    assert await count_projects(runs) == before


async def test_an_id_is_not_given_twice(runs: Runs) -> None:
    await runs.start(**SCRIPTED, project_id="given-once")
    refused = await refusal(runs.start(**SCRIPTED, project_id="given-once"))
    assert refused.code == grpc.StatusCode.ALREADY_EXISTS
    assert refused.reason == "PROJECT_EXISTS"
    assert (await runs.finish("given-once")).state == "COMPLETED"


# Cancelling


async def test_cancel_ends_a_run_in_the_middle(runs: Runs) -> None:
    project_id = (
        await runs.script({"max_concurrent_nodes": 2}, breadth=6, rules=[FOR_EVER])
    ).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(lambda history: history.count("RUNNING") == 2)
        await runs.cancel(project_id, reason="enough", actor="someone")
        assert await follower.ended() == "CANCELLED"
    history = follower.history
    history.check_accounts()
    assert history.states == ["PENDING", "RUNNING", "CANCELLING", "CANCELLED"]
    assert history.count("CANCELLED") == len(history.nodes) == 7
    assert len(history.dispatches) == 1 + 2, "nothing was dispatched after the order"
    commands = [
        change.command
        for changes in follower.log.changes.values()
        for change in changes
        if change.HasField("command")
    ]
    assert commands[0].command.actor == "someone"
    assert commands[0].command.message == "enough"
    assert commands[-1].patch.state == CommandState.COMMAND_STATE_APPLIED

    async def let_go() -> bool:
        runner = await runs.stub.GetRunner(GetRunnerRequest())
        return project_id not in {active.project_id for active in runner.projects}

    await eventually(let_go, "the runner is gone")


async def test_what_was_done_before_a_cancel_stays_done(runs: Runs) -> None:
    rule = {"node": "root.*.2", "stage": "execute", "hang": True}
    project_id = (await runs.script(rules=[rule])).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(lambda history: history.count("DONE") == 2)
        await runs.cancel(project_id)
        assert await follower.ended() == "CANCELLED"
    assert follower.history.count("DONE") == 2
    assert follower.history.count("CANCELLED") == 2


async def test_a_repeated_cancel_is_one_order(runs: Runs) -> None:
    project_id = (await runs.script(rules=[FOR_EVER])).project_id
    first = await runs.cancel(project_id, request_id="cancel-once")
    assert await runs.cancel(project_id, request_id="cancel-once") == first
    assert (await runs.finish(project_id)).state == "CANCELLED"
    assert await runs.cancel(project_id, request_id="cancel-once") == first


async def test_cancel_of_what_has_ended_is_refused(runs: Runs) -> None:
    project_id = (await runs.script()).project_id
    await runs.finish(project_id)
    head = (await runs.wire.project(project_id)).revision
    refused = await refusal(runs.cancel(project_id))
    assert refused.code == grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "PROJECT_ENDED"
    assert refused.metadata["project_id"] == project_id
    assert (await runs.wire.project(project_id)).revision - head in (0, 1), "at most the release"


async def test_cancel_of_what_is_not_there_is_refused(runs: Runs) -> None:
    refused = await refusal(runs.cancel("no-such-project"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")
    refused = await refusal(runs.cancel(""))
    assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["project_id"])
    refused = await refusal(runs.cancel("no-such-project", reason="r" * 4_097))
    assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["reason"])


async def test_cancel_of_a_retry_that_waits_does_not_wait_for_it(runs: Runs) -> None:
    rule = {"node": "root.*.0", "stage": "execute", "error": "CONNECTION"}
    settings = {"retry_delay_seconds": 3_600.0}
    project_id = (await runs.script(settings, breadth=1, rules=[rule])).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(lambda history: history.failures)
        await runs.cancel(project_id)
        assert await follower.ended() == "CANCELLED"


# The runner


async def test_the_runner_shows_what_it_does(runs: Runs) -> None:
    project_id = (
        await runs.script({"max_concurrent_nodes": 2}, breadth=5, rules=[FOR_EVER])
    ).project_id
    async with runs.follow(project_id) as follower:
        await follower.until(lambda history: history.count("RUNNING") == 2)
        runner = await runs.stub.GetRunner(GetRunnerRequest())
        active = {item.project_id: item for item in runner.projects}[project_id]
        assert (active.running_nodes, active.ready_nodes, active.steps) == (2, 3, 3)
        lease = (await runs.wire.project(project_id)).lease
        assert (lease.holder, lease.lease_epoch) == (runner.holder, active.lease_epoch)
        assert list(runner.profiles) == ["corpus", "plan", "scripted"]
        await runs.cancel(project_id)
        await follower.ended()

    async def released() -> bool:
        return not (await runs.wire.project(project_id)).lease.holder

    await eventually(released, "the lease is given back")


# The process


def test_a_port_in_use_is_one_line_with_a_remedy(
    tmp_path: Path, shared_state: StateProcess, shared_orchestrator: OrchestratorProcess
) -> None:
    ended = run_to_end(
        *("--state", shared_state.address, "--data", str(tmp_path / "data")),
        *("--listen", shared_orchestrator.address),
        module="orchestrator_svc",
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert shared_orchestrator.address in ended.stderr.splitlines()[-1]
    assert "--listen" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "--state"),
        (["--state", "nowhere"], "state"),
        (["--state", "127.0.0.1:1", "--max-retries", "many"], "max_retries"),
        (["--state", "127.0.0.1:1", "--default-profile", "none"], "default_profile"),
    ],
)
def test_a_bad_flag_is_one_line(tmp_path: Path, flags: list[str], words: str) -> None:
    ended = run_to_end(
        *flags, *("--data", str(tmp_path), "--listen", "127.0.0.1:0"), module="orchestrator_svc"
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert words in ended.stderr


async def test_a_drain_of_an_idle_service_is_quick_and_clean(
    tmp_path: Path, shared_state: StateProcess
) -> None:
    process = OrchestratorProcess(tmp_path / "data", shared_state.address, witnessed=False)
    process.start()
    assert process.ready["service"] == "orchestrator_svc"
    assert process.ready["state"] == shared_state.address
    assert process.stop() == 0
    assert "Traceback" not in process.read_log()
