"""What a filtered watch shows, on the real service over the wire (SEM 31)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from ramify.v1.mutation_pb2 import Removal
from ramify.v1.state_service_pb2 import (
    EntityKind,
    WatchFilter,
)
from tests.support.life import (
    flat,
    only,
    random_life,
)
from tests.support.mutations import (
    DONE,
    FAILED,
    READY,
    RUNNING,
    change_project,
    create,
    delete,
    order_cancel,
    patch,
)
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, eventually

Start = Callable[..., StateProcess]


async def test_a_filtered_watch_resumes_at_every_revision(shared_wire: Wire) -> None:
    """With a filter too, what was told live is told again from any point on."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    view_filter = WatchFilter(states=[RUNNING, FAILED], agent_names=["first"])
    async with wire.watch(
        project_id, from_beginning=True, filter=view_filter, bookmark_interval_ms=100
    ) as live:
        await live.started()
        last = await random_life(wire, project_id, seed=3)
        await live.through(last)
    everything = flat(live.log)
    assert everything
    for after in range(last + 1):
        async with wire.watch(
            project_id, after_revision=after, filter=view_filter, bookmark_interval_ms=100
        ) as watch:
            log = await watch.through(last)
        assert flat(log) == [item for item in everything if item[0] > after]


async def test_bookmarks_cover_revisions_that_the_filter_hides(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"), create("b"))
    only_b = WatchFilter(subtree_root_node_id="b")
    async with wire.watch(
        project_id, snapshot=True, filter=only_b, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        for at in range(5):
            await wire.commit(project_id, patch("a", output_summary=str(at)))
        log = await watch.until(lambda log: log.resume == 7)
        assert not log.changes
        await wire.commit(project_id, patch("b", output_summary="seen"))
        log = await watch.through(8)
    assert list(log.changes) == [8]
    assert log.view is not None
    assert set(log.view.nodes) == {"b"}


TREE = [
    create("root", state=READY),
    create("a", "root", state=READY, agent_name="x"),
    create("b", "root", state=READY, agent_name="y"),
    create("a1", "a", 2, state=READY, agent_name="x"),
    create("a2", "a", 2, state=READY, agent_name="y"),
    create("a11", "a1", 3, state=READY, agent_name="x"),
    create("b1", "b", 2, state=READY, agent_name="x"),
]


NODE, PROJECT, COMMAND = (
    EntityKind.ENTITY_KIND_NODE,
    EntityKind.ENTITY_KIND_PROJECT,
    EntityKind.ENTITY_KIND_COMMAND,
)


@pytest.mark.parametrize(
    "view_filter, shown",
    [
        (WatchFilter(), "root a b a1 a2 a11 b1"),
        (WatchFilter(subtree_root_node_id="a"), "a a1 a2 a11"),
        (WatchFilter(subtree_root_node_id="a", max_depth=1), "a a1 a2"),
        (WatchFilter(subtree_root_node_id="a", max_depth=0), "a"),
        (WatchFilter(max_depth=1), "root a b"),
        (WatchFilter(agent_names=["x"]), "a a1 a11 b1"),
        (WatchFilter(agent_names=["x"], subtree_root_node_id="b"), "b1"),
        (WatchFilter(states=[RUNNING]), ""),
        (WatchFilter(kinds=[PROJECT]), ""),
        (WatchFilter(subtree_root_node_id="nothing"), ""),
    ],
)
async def test_a_snapshot_and_the_log_show_the_same_filtered_view(
    shared_wire: Wire, view_filter: WatchFilter, shown: str
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, *TREE)
    for start in ({"snapshot": True}, {"from_beginning": True}):
        async with wire.watch(
            project_id, filter=view_filter, bookmark_interval_ms=100, **start
        ) as watch:
            log = await watch.until(lambda log: log.announced >= 2 and log.bookmarks)
            assert log.messages[0].created.filter == view_filter
            assert log.view is not None
            assert set(log.view.nodes) == set(shown.split())


async def test_entering_a_filter_sends_the_whole_node_and_leaving_says_left(
    shared_wire: Wire,
) -> None:
    """By state and by agent; live and from the store."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, *TREE)
    view_filter = WatchFilter(states=[RUNNING], agent_names=["x"])
    async with wire.watch(
        project_id, snapshot=True, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        await wire.commit(project_id, patch("a", state=RUNNING), patch("b", state=RUNNING))
        await wire.commit(project_id, patch("a", output_summary="inside"))
        await wire.commit(project_id, patch("a", agent_name="y"))
        await wire.commit(project_id, patch("a", output_summary="outside"))
        await wire.commit(project_id, patch("a", agent_name="x"))
        await wire.commit(project_id, patch("a", state=DONE))
        live = await watch.until(lambda log: log.resume == 8)
    async with wire.watch(
        project_id, after_revision=2, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        stored = await watch.until(lambda log: log.resume == 8)
    for log in (live, stored):
        assert sorted(log.changes) == [3, 4, 5, 7, 8]
        changes = {revision: only(log, revision) for revision in log.changes}
        assert {change.node.node_id for change in changes.values()} == {"a"}
        entered, inside, left = changes[3].node, changes[4].node, changes[5].node
        assert entered.node.goal == "goal of a"
        assert entered.node.parent_node_id == "root"
        assert entered.node.state == RUNNING
        assert entered.previous_state == READY
        assert inside.patch.output_summary == "inside"
        assert left.removal == Removal.REMOVAL_LEFT
        assert left.previous_agent_name == "x"
        assert changes[7].node.node.output_summary == "outside"
        assert changes[7].node.node.version == changes[7].node.version
        assert changes[8].node.removal == Removal.REMOVAL_LEFT


async def test_kinds_select_nodes_project_and_commands(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    everything: dict[str, list[int]] = {
        "": [1, 2, 4],
        "NODE": [2],
        "PROJECT": [1, 4],
        "COMMAND": [3],
        "NODE COMMAND": [2, 3],
        "NODE PROJECT COMMAND": [1, 2, 3, 4],
    }
    await wire.commit(project_id, create("n"))
    await wire.commit(project_id, order_cancel("c"))
    await wire.commit(project_id, change_project(label_upserts={"a": "b"}))
    for names, revisions in everything.items():
        kinds = [EntityKind.Value(f"ENTITY_KIND_{name}") for name in names.split()]
        async with wire.watch(
            project_id,
            from_beginning=True,
            filter=WatchFilter(kinds=kinds),
            bookmark_interval_ms=100,
        ) as watch:
            log = await watch.until(lambda log: log.resume == 4)
        assert sorted(log.changes) == revisions, names
    async with wire.watch(project_id, snapshot=True, filter=WatchFilter(kinds=[COMMAND])) as watch:
        log = await watch.through(4)
    chunk = log.messages[1].snapshot
    assert [command.command_id for command in chunk.commands] == ["c"]
    assert not chunk.HasField("project")


async def test_a_subtree_deleted_in_one_batch_leaves_the_view(shared_wire: Wire) -> None:
    """A leaf and then its parent: both removals are shown although the chain is gone."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, *TREE)
    view_filter = WatchFilter(subtree_root_node_id="a")
    async with wire.watch(
        project_id, snapshot=True, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        await wire.commit(
            project_id,
            patch("a11", output_summary="last words"),
            *[delete(node_id) for node_id in ("a11", "a1", "a2", "a")],
        )
        log = await watch.until(lambda log: log.resume == 3)
    assert log.view is not None
    assert not log.view.nodes
    assert len(log.changes[3]) == 5
    async with wire.watch(
        project_id, after_revision=2, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        stored = await watch.until(lambda log: log.resume == 3)
    assert flat(stored) == flat(log)


async def test_many_watchers_with_the_same_filter_are_told_the_same(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    view_filter = WatchFilter(states=[RUNNING, DONE])
    async with AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(
                wire.watch(
                    project_id,
                    from_beginning=True,
                    filter=view_filter,
                    bookmark_interval_ms=500,
                )
            )
            for _ in range(60)
        ]
        for watch in watches:
            await watch.started()
        last = await random_life(wire, project_id, seed=5)
        logs = [await watch.through(last) for watch in watches]
        expected = flat(logs[0])
        assert expected
        assert all(flat(log) == expected for log in logs)

    async def gone() -> bool:
        return (await wire.stats(project_id)).watchers == 0

    await eventually(gone, "watchers whose clients have gone are forgotten")
