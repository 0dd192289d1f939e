"""Stages and large results of real runs: recorded, watched, resolved, shown (S4.9, SEM 12, 28)."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from pathlib import Path

from ramify.client import AsyncClient
from ramify.v1.orchestrator_service_pb2 import CancelNodeRequest, StartProjectRequest
from ramify.v1.plan_pb2 import Plan
from ramify.v1.stage_pb2 import Stage, StageRecord
from ramify.v1.state_service_pb2 import EntityKind, ListStagesRequest, WatchFilter
from tests.support.bound import WAIT_SECONDS
from tests.support.cli import RAMIFY
from tests.support.runs import Runs
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, eventually


async def ramify(*args: str) -> str:
    """Run the command; return what it printed."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*RAMIFY, *args],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    return done.stdout


async def stages(wire: Wire, project_id: str) -> list[StageRecord]:
    """Return the records of a run, oldest first."""
    request = ListStagesRequest(project_id=project_id, page_size=1_000)
    page = await wire.stub.ListStages(request)
    assert not page.next_page_token
    return list(page.stages)


async def test_every_stage_of_a_run_is_recorded_with_what_went_in_and_came_out(runs: Runs) -> None:
    rule = {"node": "root.*.1", "attempts": [1], "error": "CONNECTION", "message": "no route"}
    project = await runs.script(
        breadth=2, input_tokens=7, cost_micro_usd=3, types=False, rules=[rule]
    )
    project_id = project.project_id
    history = await runs.finish(project_id)
    records = await stages(runs.wire, project_id)
    count = Counter((r.node_id, Stage.Name(r.stage).removeprefix("STAGE_")) for r in records)
    children = [node_id for node_id in history.nodes if node_id != "root"]
    assert len(children) == 2
    assert count["root", "PLAN"] == count["root", "AGGREGATE"] == 1
    assert sum(node.usage.agent_calls for node in history.nodes.values()) == len(records)
    (broken,) = [r for r in records if r.HasField("error")]
    assert (broken.error.message, broken.attempt) == ("no route", 1)
    assert not broken.HasField("output")
    for record in records:
        node = history.nodes[record.node_id]
        given = json.loads(record.input.text)
        assert given["goal"] == node.goal
        assert record.agent_name == "scripted"
        assert record.usage.input_tokens == 7
        assert not record.model, "nothing is made up"
        assert not record.HasField("prompt")
        took = record.end_time.ToNanoseconds() - record.start_time.ToNanoseconds()
        assert abs(took - record.duration.ToNanoseconds()) < 10_000
        if record.stage == Stage.STAGE_EXECUTE and not record.HasField("error"):
            assert record.output == node.result
    # In the batch of its outcome, which the revision of the node's end shows.
    last = {record.node_id: record for record in records}
    for node_id, record in last.items():
        assert record.revision == history.nodes[node_id].update_revision
    only = WatchFilter(kinds=[EntityKind.ENTITY_KIND_STAGE])
    async with runs.wire.watch(project_id, from_beginning=True, filter=only) as watch:
        log = await watch.through(records[-1].revision)
    seen = [change.stage.stage.stage_id for changes in log.changes.values() for change in changes]
    assert seen == [record.stage_id for record in records]


async def test_large_results_lie_in_the_payload_store_and_every_reader_gets_them(
    runs: Runs, shared_state: StateProcess
) -> None:
    project_id = (await runs.script(breadth=2, output_chars=20_000)).project_id
    history = await runs.finish(project_id)
    child = next(node for node in history.nodes.values() if node.parent_node_id)
    ref = child.result.ref
    assert (ref.original_bytes, ref.is_text) == (20_000, True)
    assert ref.stored_bytes < 4_000
    record = next(r for r in await stages(runs.wire, project_id) if r.node_id == child.node_id)
    assert record.output.ref.digest == ref.digest, "stored once"
    address = shared_state.address
    async with AsyncClient(address) as client:
        whole = await client.get_node(project_id, child.node_id)
        assert len(whole.result.text) == 20_000
        assert [r.stage_id async for r in client.list_stages(project_id, node_id="root")] == [
            "root.s1",
            "root.s2",
        ]
        put = await client.put_payload("text é" * 300_000)
        assert (put.ref.original_bytes, put.ref.is_text) == (2_100_000, True)
    at = ("--state-svc", address)
    shown = await ramify("show", project_id, child.node_id, "--result", *at)
    assert shown == whole.result.text + "\n"
    card = await ramify("show", project_id, child.node_id, *at)
    assert "19.5 KiB of text/plain, stored as" in card
    trace = await ramify("show", project_id, "--trace", *at)
    assert "root  plan  attempt 1  scripted" in trace
    assert trace.count("  execute  ") == 2
    lines = (await ramify("show", project_id, "root", "--trace", "--json", *at)).splitlines()
    assert [json.loads(line)["stageId"] for line in lines] == ["root.s1", "root.s2"]


async def test_a_cancelled_call_that_ends_after_its_run_is_recorded(
    runs: Runs, tmp_path: Path
) -> None:
    plan = Plan(goal="one command that is slow to end")
    begun = tmp_path / "begun"
    slow = f"trap 'sleep 1.5; exit 0' TERM; touch {begun}; while :; do sleep 0.05; done"
    plan.tasks.add(id="slow").command.shell = slow
    plan.tasks.add(id="quick").command.shell = "true"
    request = StartProjectRequest(plan=plan)
    project = (await runs.stub.StartProject(request, timeout=WAIT_SECONDS)).project
    async with runs.follow(project.project_id) as follower:
        await follower.until(lambda history: "root.1.1" in history.ended_at)
        await eventually(begun.exists, "the slow command runs")
        await runs.stub.CancelNode(
            CancelNodeRequest(project_id=project.project_id, node_id="root.1.0")
        )
        await follower.ended()

    async def recorded() -> bool:
        records = await stages(runs.wire, project.project_id)
        return any(record.node_id == "root.1.0" for record in records)

    await eventually(recorded, "the cancelled call is recorded")
