"""A filtered watch shows what comes into its view and what leaves it (SEM 31)."""

from __future__ import annotations

from ramify.v1.mutation_pb2 import Change, Delta, Mutation, Removal
from ramify.v1.node_pb2 import NodeState, TaskType
from ramify.v1.project_pb2 import ProjectState
from ramify.v1.state_service_pb2 import EntityKind, WatchFilter, WatchMode
from state_svc.model.node import NodeSpec
from state_svc.model.project import LiveProject
from state_svc.watch.filter import ViewFilter, encode_shown, find_in
from tests.support.live import live_project, node, write
from tests.support.mutations import (
    CANCELLED,
    DONE,
    NEEDS_REPLAN,
    READY,
    RUNNING,
    change_project,
    create,
    delete,
    order_cancel,
    order_outcome,
    patch,
)

_NODE = EntityKind.ENTITY_KIND_NODE
_PROJECT = EntityKind.ENTITY_KIND_PROJECT
_COMMAND = EntityKind.ENTITY_KIND_COMMAND
_RUNNING = WatchFilter(states=[NodeState.NODE_STATE_RUNNING])


def _shown(
    request: WatchFilter,
    project: LiveProject,
    *mutations: Mutation,
    mode: WatchMode.ValueType = WatchMode.WATCH_MODE_DIFF,
) -> Delta:
    """Return what a filter shows of a batch."""
    gone = {n.spec.node_id: n.spec for n in project.view.nodes.values()}
    applied = write(project, *mutations)

    def find(node_id: str) -> NodeSpec | None:
        live = project.view.nodes.get(node_id)
        return gone.get(node_id) if live is None else live.spec

    shown = ViewFilter(request, mode).show(applied.changes(), applied.images, find, applied.wholes)
    return Delta.FromString(encode_shown([applied.info], shown))


def _one(delta: Delta) -> Change:
    assert len(delta.changes) == len(delta.revisions) == 1
    return delta.changes[0]


def _tree() -> LiveProject:
    return live_project(
        create("root"),
        create("left", "root", 1),
        create("right", "root", 1, task_type=TaskType.TASK_TYPE_WRITE),
        create("deep", "left", 2),
        create("deeper", "deep", 3),
    )


def _selected(request: WatchFilter, project: LiveProject) -> list[str]:
    nodes = project.view.nodes

    def find(node_id: str) -> NodeSpec | None:
        live = nodes.get(node_id)
        return None if live is None else live.spec

    found = ViewFilter(request).select(nodes.values(), find)
    return [live.spec.node_id for live in found]


# Selection


def test_an_empty_filter_shows_all_nodes_and_the_project_but_no_commands() -> None:
    project = _tree()
    assert _selected(WatchFilter(), project) == ["root", "left", "right", "deep", "deeper"]
    view = ViewFilter(WatchFilter())
    assert (view.is_default, view.shows_project, view.shows_commands) == (True, True, False)
    delta = _shown(
        WatchFilter(), project, order_cancel("c"), change_project(root_node_id="root"), create("n")
    )
    assert [c.WhichOneof("entity") for c in delta.changes] == ["project", "node"]


def test_a_subtree_is_its_root_and_everything_below() -> None:
    project = _tree()
    assert _selected(WatchFilter(subtree_root_node_id="left"), project) == [
        "left",
        "deep",
        "deeper",
    ]
    assert _selected(WatchFilter(subtree_root_node_id="none"), project) == []


def test_the_path_to_the_root_of_a_subtree_is_walked_once_for_all_nodes() -> None:
    """Or one batch of deep nodes takes the loop for its number times their depth."""
    chain = [create("n0"), *(create(f"n{i}", f"n{i - 1}", i) for i in range(1, 300))]
    nodes = live_project(*chain).view.nodes
    asked = []

    def find(node_id: str) -> NodeSpec | None:
        asked.append(node_id)
        return nodes[node_id].spec

    for root in ("n0", "elsewhere"):
        asked.clear()
        within = ViewFilter(WatchFilter(subtree_root_node_id=root))
        deepest_first = within.select(reversed(list(nodes.values())), find)
        assert len(deepest_first) == (300 if root == "n0" else 0)
        assert len(asked) < 300


def test_a_depth_counts_from_the_subtree_or_from_the_project() -> None:
    project = _tree()
    assert _selected(WatchFilter(max_depth=0), project) == ["root"]
    assert _selected(WatchFilter(max_depth=1), project) == ["root", "left", "right"]
    below = WatchFilter(subtree_root_node_id="left", max_depth=1)
    assert _selected(below, project) == ["left", "deep"]


def test_criteria_hold_together_and_their_values_are_alternatives() -> None:
    project = _tree()
    write(project, patch("left", agent_name="a"), patch("right", agent_name="b", state=READY))
    assert _selected(WatchFilter(agent_names=["a", "b"]), project) == ["left", "right"]
    both = WatchFilter(agent_names=["a", "b"], states=[READY])
    assert _selected(both, project) == ["right"]
    assert _selected(WatchFilter(task_types=[TaskType.TASK_TYPE_WRITE]), project) == ["right"]


def test_kinds_that_are_asked_for_are_the_only_ones_shown() -> None:
    project = _tree()
    assert _selected(WatchFilter(kinds=[_PROJECT]), project) == []
    for kinds, expected in (
        ([_COMMAND], ["command"]),
        ([_PROJECT, _COMMAND], ["command", "project"]),
        ([_NODE], ["node"]),
    ):
        delta = _shown(
            WatchFilter(kinds=kinds),
            _tree(),
            order_cancel("c"),
            change_project(root_node_id="root"),
            create("n"),
        )
        assert [c.WhichOneof("entity") for c in delta.changes] == expected


def test_equal_filters_share_their_messages() -> None:
    first = ViewFilter(WatchFilter(states=[1, 2], agent_names=["a"]))  # type: ignore[list-item]
    again = ViewFilter(WatchFilter(agent_names=["a"], states=[1, 2]))  # type: ignore[list-item]
    other = ViewFilter(WatchFilter(states=[1, 2]))  # type: ignore[list-item]
    assert first.key == again.key != other.key


# Changes


def test_a_node_that_enters_the_view_is_sent_whole() -> None:
    project = _tree()
    write(project, patch("left", state=READY, waiting_on="x"))
    change = _one(_shown(_RUNNING, project, patch("left", state=RUNNING)))
    assert change.node.node == node(project, "left")
    assert (change.node.version, change.node.previous_state) == (3, READY)


def test_a_node_that_stays_in_the_view_is_sent_as_its_change() -> None:
    project = _tree()
    write(project, patch("left", state=RUNNING))
    change = _one(_shown(_RUNNING, project, patch("left", waiting_on="x")))
    assert change.node.patch.waiting_on == "x"


def test_a_node_that_leaves_the_view_is_removed_and_said_to_have_left() -> None:
    project = _tree()
    write(project, patch("left", state=RUNNING, agent_name="a"))
    change = _one(_shown(_RUNNING, project, patch("left", state=CANCELLED)))
    assert change.node.removal == Removal.REMOVAL_LEFT
    assert (change.node.node_id, change.node.version) == ("left", 3)
    assert (change.node.previous_state, change.node.previous_agent_name) == (RUNNING, "a")


def test_a_node_that_is_deleted_is_said_to_be_deleted() -> None:
    project = _tree()
    subtree = WatchFilter(subtree_root_node_id="left")
    change = _one(_shown(subtree, project, delete("deeper")))
    assert change.node.removal == Removal.REMOVAL_DELETED


def test_a_whole_branch_deleted_in_one_batch_is_shown_to_its_watchers() -> None:
    project = _tree()
    subtree = WatchFilter(subtree_root_node_id="left")
    delta = _shown(subtree, project, delete("deeper"), delete("deep"), delete("left"))
    assert [c.node.node_id for c in delta.changes] == ["deeper", "deep", "left"]


def test_what_is_outside_before_and_after_is_not_sent_and_its_revision_folds() -> None:
    project = _tree()
    delta = _shown(_RUNNING, project, patch("left", state=READY), create("new"), delete("right"))
    assert delta == Delta()


def test_a_revision_shows_only_the_changes_that_match_at_their_own_place() -> None:
    project = _tree()
    delta = _shown(
        _RUNNING, project, patch("left", state=READY), patch("right", state=RUNNING), create("new")
    )
    assert (_one(delta).index, _one(delta).node.node_id) == (1, "right")
    assert delta.revisions[0].revision == 3


def test_a_node_may_enter_and_leave_in_one_batch() -> None:
    project = _tree()
    delta = _shown(_RUNNING, project, patch("left", state=RUNNING), patch("left", state=CANCELLED))
    assert [c.node.WhichOneof("effect") for c in delta.changes] == ["node", "removal"]


# Modes and fields


def test_full_sends_the_whole_entity_as_it_is_after_each_change() -> None:
    project = _tree()
    delta = _shown(
        WatchFilter(),
        project,
        patch("left", state=READY),
        patch("left", state=RUNNING, waiting_on="x"),
        change_project(label_upserts={"a": "1"}),
        change_project(label_upserts={"b": "2"}),
        delete("deeper"),
        mode=WatchMode.WATCH_MODE_FULL,
    )
    first, second, one, two, gone = delta.changes
    assert (first.node.node.state, first.node.node.version) == (READY, 2)
    assert second.node.node == node(project, "left")
    assert (second.node.previous_state, second.node.version) == (READY, 3)
    assert (dict(one.project.project.labels), one.project.version) == ({"a": "1"}, 2)
    assert two.project.project == project.view.entity
    assert gone.node.removal == Removal.REMOVAL_DELETED


def test_full_sends_commands_and_reviews_whole() -> None:
    project = _tree()
    both = WatchFilter(kinds=[_COMMAND, EntityKind.ENTITY_KIND_REVIEW])
    full = WatchMode.WATCH_MODE_FULL
    given = _one(_shown(both, project, order_cancel("c"), mode=full))
    done = _one(_shown(both, project, order_outcome("c"), mode=full))
    assert given.command.command.command_id == done.command.command.command_id == "c"
    assert done.command.command == project.view.commands["c"]
    assert not done.command.HasField("patch")


def test_terminal_shows_what_has_ended_and_nothing_on_the_way() -> None:
    project = _tree()
    terminal = WatchMode.WATCH_MODE_TERMINAL

    def shown(*mutations: Mutation) -> Delta:
        return _shown(WatchFilter(), project, *mutations, mode=terminal)

    assert shown(patch("left", state=READY), patch("left", state=RUNNING)) == Delta()
    ended = _one(shown(patch("left", state=DONE, output_summary="found")))
    assert ended.node.node == node(project, "left")
    assert _one(shown(patch("left", waiting_on="x"))).node.patch.waiting_on == "x"
    again = _one(shown(patch("left", state=NEEDS_REPLAN)))
    assert again.node.removal == Removal.REMOVAL_LEFT


def test_terminal_sends_the_project_whole_when_it_ends_and_when_it_begins_again() -> None:
    project = _tree()
    terminal = WatchMode.WATCH_MODE_TERMINAL

    def shown(*mutations: Mutation) -> Delta:
        return _shown(WatchFilter(), project, *mutations, mode=terminal)

    assert shown(change_project(state=ProjectState.PROJECT_STATE_RUNNING)) == Delta()
    assert shown(change_project(label_upserts={"a": "1"})) == Delta()
    for state in (ProjectState.PROJECT_STATE_FAILED, ProjectState.PROJECT_STATE_RUNNING):
        assert _one(shown(change_project(state=state))).project.project == project.view.entity


def test_terminal_narrows_the_states_that_were_asked_for() -> None:
    view = ViewFilter(WatchFilter(states=[RUNNING]), WatchMode.WATCH_MODE_TERMINAL)
    project = _tree()
    write(project, patch("left", state=RUNNING))
    assert view.select(project.view.nodes.values(), find_in(project.view.nodes)) == []


def test_only_fields_that_were_asked_for_are_sent_and_other_changes_are_not() -> None:
    project = _tree()
    some = WatchFilter(node_fields=["state", "aux_data"])
    created = _one(_shown(some, project, create("n", goal="a long goal", agent_name="a")))
    names = {f.name for f, _ in created.node.node.ListFields()}
    assert names == {"node_id", "state", "version", "update_time", "update_revision"}
    assert _shown(some, project, patch("n", waiting_on="x")) == Delta()
    moved = _one(_shown(some, project, patch("n", state=READY, waiting_on="y")))
    assert [f.name for f, _ in moved.node.patch.ListFields()] == ["state"]
    aux = {"k": {"number_value": 1}}
    told = _one(_shown(some, project, patch("n", aux_upserts=aux)))
    assert list(told.node.patch.aux_upserts) == ["k"]
    assert _shown(some, project, patch("n", clear_fields=["waiting_on"])) == Delta()
