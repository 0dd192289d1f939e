"""Execution keys in real services: where they come from, that a run keeps them, that they act."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import grpc
import pytest

from orchestrator_svc.errors import NodeNotFound
from orchestrator_svc.graph.settings import effective
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.state_store import StateServiceStore
from orchestrator_svc.publish.stream import MutationStream
from orchestrator_svc.settings import KEYS, to_message
from ramify.v1.explain_pb2 import BlockerKind, ExplainNodeRequest
from ramify.v1.node_pb2 import ErrorClass
from ramify.v1.orchestrator_service_pb2 import GetRunnerRequest
from ramify.v1.project_pb2 import BroadcastMode, StatePreset, StateSettings
from tests.support.cli import Up, ramify
from tests.support.orchestrator_process import OrchestratorProcess, Services
from tests.support.run_history import RunHistory, node_state
from tests.support.runs import Runs, connect_both
from tests.support.state_process import run_to_end
from tests.support.wire import eventually
from tests.unit.orchestrator_svc.test_settings import other_value

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HANG = {"node": "*", "hang": True}


def attempt(history: RunHistory, node_id: str) -> int:
    """Return the attempt of a node; 0 if there is none yet."""
    return history.nodes[node_id].attempt if node_id in history.nodes else 0


async def test_a_run_keeps_the_keys_it_was_started_with(
    make_services: Callable[..., Services],
) -> None:
    services = await make_services("--max-retries", "7", "--state-batch-size", "9").start()
    async with connect_both(services.state.address, services.orchestrator.address) as runs:
        started = await runs.script({"max_concurrent_nodes": 3}, rules=[HANG])
        kept = (await runs.wire.project(started.project_id)).settings
        assert (kept.max_retries, kept.max_concurrent_nodes, kept.max_recursion_depth) == (7, 3, 5)
        assert started.state_settings == StateSettings(state_batch_size=9)

        async with runs.follow(started.project_id) as follower:
            await follower.until(lambda history: attempt(history, "root") == 1)
            services.orchestrator.kill()
            services.orchestrator.start("--max-retries", "1")
            await follower.until(lambda history: attempt(history, "root") == 2)
        await runs.ready()
        runner = await runs.stub.GetRunner(GetRunnerRequest())
        assert runner.settings.max_retries == 1, "of runs that begin now"
        assert [active.settings for active in runner.projects] == [kept]
        assert services.orchestrator.stop() == 0


async def test_a_run_may_choose_every_key(runs: Runs) -> None:
    values = {name: other_value(name) for name in KEYS}
    values |= {"timeout_warning_seconds": 1.0, "timeout_soft_seconds": 2.0}
    chosen = to_message(effective(values), values)
    keys = {field.name: value for field, value in chosen.ListFields()}
    assert len(keys) == len(KEYS)
    started = await runs.script(keys, rules=[HANG])
    assert started.settings == chosen
    await runs.cancel(started.project_id)


async def test_a_silent_agent_is_shown_cancelled_and_tried_again(runs: Runs) -> None:
    keys = {
        "timeout_warning_seconds": 0.05,
        "timeout_soft_seconds": 0.0,
        # Of all calls: the others must end within it on a busy machine too.
        "timeout_hard_seconds": 3.0,
    }
    rule = {"node": "root.1.0", "attempts": [1], "hang": True}
    started = await runs.script(keys, breadth=1, rules=[rule])
    history = await runs.finish(started.project_id)
    assert history.state == "COMPLETED"
    assert history.nodes["root.1.0"].retry_count == 1
    assert "no sign of life" in history.nodes["root.1.0"].aux_data["progress"].string_value


async def test_a_page_of_results_is_read_from_the_store(runs: Runs) -> None:
    project_id = (await runs.script(breadth=3, output_chars=300)).project_id
    history = await runs.finish(project_id)
    leaves = [f"root.1.{number}" for number in range(3)]
    stream = cast(MutationStream, SimpleNamespace(buffer=None))  # reading needs none
    store = StateServiceStore(runs.wire.stub, stream, Metrics())
    found = await store.read_results(project_id, leaves)
    assert list(found) == leaves
    assert [found[id_].text for id_ in leaves] == [history.nodes[i].result.text for i in leaves]
    with pytest.raises(NodeNotFound):
        await store.read_results(project_id, ["nobody"])


async def test_rate_limit_rpm_holds_agents_back_and_explain_says_so(runs: Runs) -> None:
    started = await runs.script({"rate_limit_rpm": 3}, breadth=5, provider_calls=1)
    request = ExplainNodeRequest(project_id=started.project_id, node_id="root.1.4")

    async def waits() -> bool:
        with suppress(grpc.aio.AioRpcError):  # there is no such node yet
            answer = (await runs.stub.ExplainNode(request)).explanation
            return {link.kind for link in answer.blockers} == {BlockerKind.BLOCKER_KIND_RATE_LIMIT}
        return False

    await eventually(waits, "the last leaf waits for its place")

    async def two_are_done() -> bool:
        nodes = await runs.wire.nodes(started.project_id)
        return [node_state(node.state) for node in nodes].count("DONE") == 2

    await eventually(two_are_done, "the planner and two leaves had their turn")
    await runs.cancel(started.project_id)
    assert (await runs.finish(started.project_id)).state == "CANCELLED"


async def test_time_outs_beyond_max_recovery_attempts_fail_the_node(runs: Runs) -> None:
    keys = {
        "timeout_warning_seconds": 0,
        "timeout_soft_seconds": 0,
        "timeout_hard_seconds": 3.0,
        "max_recovery_attempts": 0,
    }
    started = await runs.script(keys, breadth=2, rules=[{"node": "root.1.0", "hang": True}])
    history = await runs.finish(started.project_id)
    assert history.state == "PARTIAL"
    error = history.nodes["root.1.0"].error
    assert error.error_class == ErrorClass.ERROR_CLASS_TIMEOUT


async def test_the_high_load_example_acts_below_flags_and_the_command_line_shows_it(
    tmp_path: Path,
) -> None:
    high_load = ("--config", str(EXAMPLES / "high-load.yaml"))
    up = Up(tmp_path / "data", *high_load, "--set", "max_retries=2", "--set", "preset=debug")
    state, orchestrator = (line["address"] for line in up.ready)
    async with connect_both(state, orchestrator) as runs:
        hang = {"node": "root.1.*", "hang": True}
        started = await runs.start(
            "high load", profile="scripted", options={"breadth": 40, "rules": [hang]}
        )
        project = await runs.wire.project(started.project_id)
        assert project.state_settings == StateSettings(
            preset=StatePreset.STATE_PRESET_DEBUG,
            state_batch_size=100,
            state_batch_timeout_ms=50,
            enable_state_compression=True,
        )
        assert project.settings.broadcast_mode == BroadcastMode.BROADCAST_MODE_BATCH

        async def full() -> bool:
            runner = await runs.stub.GetRunner(GetRunnerRequest())
            return [(p.running_nodes, p.ready_nodes) for p in runner.projects] == [(15, 25)]

        await eventually(full, "15 calls are open")
        shown = ramify("settings", started.project_id, env=up.env).stdout
        await runs.cancel(started.project_id)
        assert (await runs.finish(started.project_id)).state == "CANCELLED"
    assert up.stop(signal.SIGTERM) == (0, "")
    rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines()[1:] if line.strip()}
    assert rows["max_retries"] == ["2", "*"]
    assert rows["preset"] == ["debug", "*"]
    assert rows["execution_strategy"] == ["realtime", "*"]
    assert rows["max_recursion_depth"][0] == "5"


async def test_a_second_orchestrator_on_a_data_folder_is_refused_and_the_first_goes_on(
    runs: Runs, shared_orchestrator: OrchestratorProcess
) -> None:
    flags = ("--data", str(shared_orchestrator.data), "--listen", "127.0.0.1:0")
    second = await asyncio.to_thread(
        run_to_end, *flags, "--state", "127.0.0.1:1", module="orchestrator_svc"
    )
    assert second.returncode == 1
    assert second.stderr.endswith("; stop it, or choose another with --data\n")
    assert second.stderr.count("\n") == 1
    assert (await runs.stub.GetRunner(GetRunnerRequest())).holder
