"""Whatever the tree, what is shown fits and shows what matters."""

from hypothesis import given
from hypothesis import strategies as st

from ramify.checksum import checksum_of
from ramify.cli.outline import OutlineRow, counts, done_and_total, outline
from ramify.v1.node_pb2 import Node, NodeState
from ramify.v1.state_service_pb2 import SnapshotChunk
from ramify.view import View

S = NodeState
STATES = [S.NODE_STATE_PENDING, S.NODE_STATE_RUNNING, S.NODE_STATE_DONE, S.NODE_STATE_FAILED]


def view_of(*nodes: Node) -> View:
    view = View()
    view.apply_snapshot(
        SnapshotChunk(revision=1, last=True, nodes=nodes, checksum=checksum_of(nodes))
    )
    return view


def node(node_id: str, parent: str = "", state: S.ValueType = S.NODE_STATE_DONE) -> Node:
    layer = node_id.count(".")
    return Node(node_id=node_id, parent_node_id=parent, state=state, layer=layer, version=1)


@st.composite
def trees(draw: st.DrawFn) -> View:
    """A tree of up to 60 nodes; each parent is an earlier node."""
    parents = draw(st.lists(st.integers(0, 59), max_size=59))
    states = draw(st.lists(st.sampled_from(STATES), min_size=60, max_size=60))
    nodes = [node("0", "", states[0])]
    for number, parent in enumerate(parents, start=1):
        above = nodes[parent % len(nodes)]
        made = node(str(number), above.node_id, states[number])
        made.layer = above.layer + 1
        made.update_revision = number
        nodes.append(made)
    return view_of(*nodes)


def shown(rows: list[OutlineRow]) -> list[str]:
    return [row.node.node_id if row.node else row.hidden for row in rows]


@given(trees(), st.integers(1, 70))
def test_the_rows_fit_whatever_the_tree(view: View, budget: int) -> None:
    rows = outline(view, budget)
    assert 1 <= len(rows) <= max(1, budget)


@given(trees(), st.integers(3, 70))
def test_nodes_are_shown_with_their_parents_and_the_rest_is_counted(
    view: View, budget: int
) -> None:
    rows = outline(view, budget)
    ids = {row.node.node_id for row in rows if row.node is not None}
    for row in rows:
        if row.node is not None and row.node.parent_node_id:
            assert row.node.parent_node_id in ids
    if len(rows) < budget:  # nothing was cut off
        for node_id in ids:
            hidden = [child for child in view.children(node_id) if child.node_id not in ids]
            notes = [row for row in rows if row.node is None and row.hidden]
            assert not hidden or notes


@given(trees())
def test_everything_is_shown_when_it_fits(view: View) -> None:
    rows = outline(view, 60)
    assert sorted(shown(rows)) == sorted(view.nodes)


def test_nodes_at_work_win_over_finished_ones() -> None:
    nodes = [node("r", "", S.NODE_STATE_PLAN_DONE)]
    nodes += [node(f"r.{number:03}", "r") for number in range(100)]
    nodes[57].state = S.NODE_STATE_RUNNING
    nodes[80].state = S.NODE_STATE_FAILED
    rows = outline(view_of(*nodes), 4)
    assert shown(rows) == ["r", "r.056", "r.079", "98 more: 98 done"]


def test_a_deep_node_at_work_brings_its_ancestors() -> None:
    path = [node("r", ""), node("r.1", "r"), node("r.1.1", "r.1")]
    path[2].state = S.NODE_STATE_AGGREGATING
    others = [node(f"x{number}.", "r") for number in range(50)]
    rows = outline(view_of(*path, *others), 5)
    assert shown(rows) == ["r", "r.1", "r.1.1", "x0.", "49 more: 49 done"]


def test_guides_continue_below_nodes_that_have_siblings() -> None:
    rows = outline(
        view_of(node("r"), node("a", "r"), node("aa", "a"), node("b", "r"), node("bb", "b")), 9
    )
    assert [(row.depth, row.guides, row.last) for row in rows] == [
        (0, (), True),
        (1, (), False),
        (2, (True,), True),
        (1, (), True),
        (2, (False,), True),
    ]


def test_a_chain_deeper_than_pythons_stack_is_drawn() -> None:
    nodes = [node("0"), *(node(str(number), str(number - 1)) for number in range(1, 3_000))]
    assert len(outline(view_of(*nodes), 5_000)) == 3_000


def test_superseded_nodes_are_not_counted() -> None:
    old = node("b", "a")
    old.superseded = True
    by_state = counts([node("a", "", S.NODE_STATE_RUNNING), old, node("c", "a")])
    assert by_state == {"RUNNING": 1, "DONE": 1}
    assert done_and_total(by_state) == (1, 2)
