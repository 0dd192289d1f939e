"""Modes, coalescing, encodings and broadcast modes, on the real service over the wire (SEM 24)."""

from __future__ import annotations

import pytest

from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.project_pb2 import BroadcastMode, ExecutionSettings, ProjectState
from ramify.v1.state_service_pb2 import Coalescing, EntityKind, WatchFilter, WatchMode
from state_svc.model import transitions
from tests.support.life import as_bytes, flat, random_life, view_of, whole_log
from tests.support.mutations import (
    CANCELLED,
    DONE,
    READY,
    RUNNING,
    change_project,
    create,
    order_cancel,
    patch,
)
from tests.support.view import NodeView
from tests.support.watch import WatchLog
from tests.support.wire import Wire, refusal

_DIFF = WatchMode.WATCH_MODE_DIFF
_FULL = WatchMode.WATCH_MODE_FULL
_TERMINAL = WatchMode.WATCH_MODE_TERMINAL
_ALWAYS = Coalescing.COALESCING_ALWAYS


def _settings(**fields: object) -> ExecutionSettings:
    return ExecutionSettings(**fields)  # type: ignore[arg-type]


def _created(log: WatchLog) -> WatchMode.ValueType:
    return log.messages[0].created.mode


def _changes(*pairs: tuple[str, int]) -> list[Mutation]:
    return [patch(node_id, state=state) for node_id, state in pairs]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("states", [(), (READY, RUNNING)])
async def test_full_and_diff_views_are_equal(
    shared_wire: Wire, states: tuple[int, ...], seed: int
) -> None:
    """Live and from the store, compressed or not, with a filter or without."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    some = WatchFilter(states=states)  # type: ignore[arg-type]
    manners = [
        {"mode": mode, "accept_encodings": encodings, "filter": some}
        for mode in (_DIFF, _FULL)
        for encodings in ([], ["zstd"])
    ]
    live = [wire.watch(project_id, from_beginning=True, **manner) for manner in manners]
    late = [wire.watch(project_id, from_beginning=True, **manner) for manner in manners]
    async with live[0] as one, live[1] as two, live[2] as three, live[3] as four:
        last = await random_life(wire, project_id, seed=seed)
        views = [as_bytes((await w.through(last)).view) for w in (one, two, three, four)]
    async with late[0] as one, late[1] as two, late[2] as three, late[3] as four:
        views += [as_bytes((await w.through(last)).view) for w in (one, two, three, four)]
    assert all(view == views[0] for view in views)
    if not states:
        assert views[0] == await view_of(wire, project_id)
    places = [[(r, index) for r, index, _ in flat(watch.log)] for watch in (*live, *late)]
    assert all(found == places[0] for found in places), "a mode hides no change"
    effects = {c.node.WhichOneof("effect") for r in live[2].log.changes.values() for c in r}
    assert "patch" not in effects
    assert sum(watch.log.compressed for watch in late) > 0


async def test_a_coalesced_view_is_right_at_every_resume_revision(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    views: dict[int, dict[str, bytes]] = {}
    fields = {"coalescing": _ALWAYS, "max_interval_ms": 100}
    async with wire.watch(project_id, from_beginning=True, **fields) as watch:
        take = watch.log.take

        def note(message: object) -> None:
            take(message)  # type: ignore[arg-type]
            if watch.log.resume:
                views[watch.log.resume] = as_bytes(watch.log.view)

        watch.log.take = note  # type: ignore[method-assign]
        last = await random_life(wire, project_id, rounds=60)
        await watch.through(last)
    assert watch.log.coalesced
    assert last in views
    for revision, view in views.items():
        if revision > 1:
            assert view == as_bytes(NodeView(await wire.nodes(project_id, at_revision=revision)))
    everything = await whole_log(wire, project_id, last)
    assert len(flat(watch.log)) < len(flat(everything))


async def test_a_coalesced_watch_resumes_at_each_of_its_messages(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    last = await random_life(wire, project_id)
    for after in range(1, last, 7):
        watch = wire.watch(project_id, after_revision=after, coalescing=_ALWAYS)
        watch.log.view = NodeView(await wire.nodes(project_id, at_revision=after))
        async with watch:
            log = await watch.through(last)
        assert as_bytes(log.view) == await view_of(wire, project_id)


async def test_broadcast_mode_none_shows_terminal_states_only_and_these_always(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    settings = _settings(broadcast_mode=BroadcastMode.BROADCAST_MODE_NONE)
    project_id = (await wire.create_project(settings=settings)).project_id
    async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
        await watch.started()
        await wire.commit(project_id, create("a", state=READY), create("b"), create("c"))
        await wire.commit(project_id, change_project(state=ProjectState.PROJECT_STATE_RUNNING))
        await wire.commit(project_id, *_changes(("a", RUNNING)))
        done = await wire.commit(project_id, *_changes(("a", DONE)))
        both = await wire.commit(project_id, *_changes(("b", CANCELLED), ("c", CANCELLED)))
        end = await wire.commit(
            project_id, change_project(state=ProjectState.PROJECT_STATE_PARTIAL)
        )
        log = await watch.until(lambda log: log.announced >= end and log.bookmarks)
    assert _created(log) == _TERMINAL
    assert {r: len(changes) for r, changes in log.changes.items()} == {done: 1, both: 2, end: 1}
    assert log.changes[end][0].project.project.state == ProjectState.PROJECT_STATE_PARTIAL
    assert as_bytes(log.view) == await view_of(wire, project_id)
    history = await whole_log_of(wire, project_id, end)
    assert sorted(history.changes) == list(range(1, end + 1)), "the history is complete"


async def whole_log_of(wire: Wire, project_id: str, revision: int) -> WatchLog:
    """Return everything from the beginning, whatever the project's broadcast mode."""
    async with wire.watch(project_id, from_beginning=True, mode=_DIFF) as watch:
        return await watch.through(revision)


async def test_what_left_a_terminal_state_leaves_the_view(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a", state=READY), create("b"))
    await wire.commit(project_id, patch("a", state=RUNNING), patch("b", state=CANCELLED))
    await wire.commit(project_id, patch("a", state=transitions_failed()))
    async with wire.watch(project_id, snapshot=True, mode=_TERMINAL) as watch:
        await watch.until(lambda log: log.view is not None and log.view.nodes)
        assert watch.log.view is not None
        assert sorted(watch.log.view.nodes) == ["a", "b"]
        last = await wire.commit(project_id, patch("a", state=READY))
        log = await watch.through(last)
    assert log.view is not None
    assert list(log.view.nodes) == ["b"]


def transitions_failed() -> int:
    """Return the state that a retry may leave."""
    return next(n for n, name in transitions.NODE.names.items() if name == "FAILED")


async def test_the_broadcast_mode_of_a_running_project_is_changed_by_a_batch(
    shared_wire: Wire,
) -> None:
    """For watches that begin later; other settings cannot be changed, and nothing else is."""
    wire = shared_wire
    project_id = (await wire.create_project(settings=_settings(max_retries=1))).project_id
    async with wire.watch(project_id, snapshot=True) as before:
        await before.started()
        chosen = _settings(broadcast_mode=BroadcastMode.BROADCAST_MODE_FULL, ws_batch_size=7)
        await wire.commit(project_id, change_project(settings=chosen))
        last = await wire.commit(project_id, create("a"), patch("a", state=READY))
        log = await before.through(last)
        assert _created(log) == _DIFF
        assert log.changes[last][1].node.HasField("patch")
    project = await wire.project(project_id)
    assert (project.settings.max_retries, project.settings.ws_batch_size) == (1, 7)
    async with wire.watch(project_id, after_revision=1) as after:
        log = await after.through(last)
    assert _created(log) == _FULL
    assert log.changes[last][1].node.node.state == READY
    for bad, field in (
        (_settings(max_retries=2), "project.patch.settings.max_retries"),
        (_settings(ws_batch_size=0), "project.patch.settings"),
    ):
        refused = await refusal(wire.commit(project_id, change_project(settings=bad)))
        assert (refused.reason, refused.fields) == ("INVALID_MUTATION", [f"mutations[0].{field}"])


async def test_without_accepted_encodings_every_message_is_readable(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    long = patch("a", output_summary="the same words again " * 100)
    last = await wire.commit(project_id, create("a"), long)
    for encodings, compressed in (([], 0), (["br"], 0), (["br", "zstd"], 1)):
        async with wire.watch(project_id, from_beginning=True, accept_encodings=encodings) as watch:
            log = await watch.through(last)
        assert log.compressed == compressed
        assert as_bytes(log.view) == await view_of(wire, project_id)
        assert log.messages[0].created.encoding == ("zstd" if compressed else "")
    async with wire.watch(project_id, snapshot=True, accept_encodings=["zstd"]) as watch:
        assert (await watch.through(last)).compressed == 1, "snapshots too"


async def test_a_watch_of_some_fields_is_told_nothing_else_and_has_no_checksum(
    shared_wire: Wire,
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"))
    some = WatchFilter(node_fields=["state"])
    async with wire.watch(
        project_id, snapshot=True, filter=some, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        hidden = await wire.commit(project_id, patch("a", output_summary="x"))
        shown = await wire.commit(project_id, patch("a", state=READY, output_summary="y"))
        log = await watch.until(lambda log: log.bookmarks and log.announced >= shown)
    snapshot = next(m.snapshot for m in log.messages if m.HasField("snapshot"))
    assert not snapshot.HasField("checksum")
    assert (snapshot.nodes[0].goal, snapshot.nodes[0].node_id) == ("", "a")
    assert hidden not in log.changes
    assert [f.name for f, _ in log.changes[shown][0].node.patch.ListFields()] == ["state"]
    assert not any(m.bookmark.HasField("checksum") for m in log.messages)


async def test_open_commands_come_in_as_many_chunks_as_they_need(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    count, last = 2_000, 0
    for first in range(0, count, 500):
        orders = [order_cancel(f"c{first + n}") for n in range(500)]
        for order in orders:
            order.command.create.message = "why " * 250
        last = await wire.commit(project_id, *orders)
    kinds = [EntityKind.ENTITY_KIND_COMMAND, EntityKind.ENTITY_KIND_PROJECT]
    async with wire.watch(project_id, snapshot=True, filter=WatchFilter(kinds=kinds)) as watch:
        log = await watch.through(last)
    chunks = [m.snapshot for m in log.messages if m.HasField("snapshot")]
    assert sum(len(chunk.commands) for chunk in chunks) == count
    assert len(chunks) > 1
    assert max(chunk.ByteSize() for chunk in chunks) < 1.1 * (1 << 20)
    assert [chunk.HasField("project") for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
