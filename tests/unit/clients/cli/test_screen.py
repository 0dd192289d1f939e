"""A frame shows states, layers, durations and progress, and always fits the terminal."""

import io

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from ramify.checksum import checksum_of
from ramify.cli.clock import ServerClock
from ramify.cli.display import TreeDisplay
from ramify.cli.format import duration, one_line, plural, size
from ramify.cli.screen import Frame, render
from ramify.errors import UnavailableError
from ramify.events import WatchConnected, WatchDisconnected, WatchSnapshot
from ramify.v1.node_pb2 import Node, NodeState, TaskType
from ramify.v1.project_pb2 import ExecutionSettings, Project, ProjectState
from ramify.v1.state_service_pb2 import SnapshotChunk, WatchCreated, WatchFilter, WatchMode
from ramify.view import View

S = NodeState


def project() -> Project:
    return Project(
        project_id="p",
        goal="Why is the sky blue?",
        state=ProjectState.PROJECT_STATE_RUNNING,
        create_time=Timestamp(seconds=100),
    )


def snapshot(count: int) -> SnapshotChunk:
    """A root with `count` children, of which the second runs."""
    root = Node(node_id="r", goal="root goal", state=S.NODE_STATE_PLAN_DONE, version=1)
    children = (
        Node(
            node_id=f"n{number}",
            parent_node_id="r",
            goal=f"part {number}",
            layer=1,
            task_type=TaskType.TASK_TYPE_SEARCH,
            state=S.NODE_STATE_RUNNING if number == 1 else S.NODE_STATE_DONE,
            start_time=Timestamp(seconds=110),
            end_time=Timestamp(seconds=112),
            version=1,
        )
        for number in range(count)
    )
    nodes = [root, *children]
    return SnapshotChunk(
        revision=9, last=True, project=project(), nodes=nodes, checksum=checksum_of(nodes)
    )


def draw(
    count: int,
    rows: int = 24,
    width: int = 80,
    encoding: str = "utf-8",
    trouble: str = "",
    settings: ExecutionSettings | None = None,
    live: bool = True,
) -> list[str]:
    view = View()
    view.apply_snapshot(snapshot(count))
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, height=rows, force_terminal=False)
    run = project()
    run.settings.CopyFrom(settings or ExecutionSettings())
    console.print(render(Frame(view, run, 115.0, trouble, live=live), console, rows))
    stream.seek(0)
    return stream.read().splitlines()


def test_a_frame_shows_states_layers_durations_and_progress() -> None:
    title, header, root, first, second, _, footer, activity = draw(3)
    assert title.split() == ["Why", "is", "the", "sky", "blue?", "p", "RUNNING"]
    assert header.split() == ["node", "state", "task", "layer", "time"]
    assert root.split() == ["◇", "root", "goal", "PLAN_DONE", "0"]
    assert first.split() == ["├─", "✓", "part", "0", "DONE", "SEARCH", "1", "2.0", "s"]
    assert second.split() == ["├─", "●", "part", "1", "RUNNING", "SEARCH", "1", "5.0", "s"]
    assert "2/4 nodes · 1 running · 15 s · revision 9" in footer
    assert activity.split() == ["SEARCH", "part", "1"]


def test_ids_are_shown_where_there_is_room_and_whole_where_they_are_printed() -> None:
    assert "n1" not in " ".join(draw(3)).split()
    assert draw(3, width=100)[4].split()[:6] == ["├─", "●", "part", "1", "n1", "RUNNING"]
    assert draw(3, live=False)[4].split()[:6] == ["├─", "●", "part", "1", "n1", "RUNNING"]


def test_what_is_used_of_a_budget_is_shown_where_there_is_one() -> None:
    settings = ExecutionSettings(budget_tokens=20_000, budget_cost_usd=0.5, budget_nodes=5)
    line = "budget of r: 0 of 20,000 tokens · $0.00 of $0.50 · 4 of 5 nodes"
    assert line in draw(3, settings=settings)
    assert line in draw(3, settings=settings, live=False)


def test_a_part_of_a_run_shows_no_budgets() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24)
    run = project()
    run.settings.budget_nodes = 5
    seen = snapshot(2)
    seen.project.CopyFrom(run)
    display = TreeDisplay(run, console)
    for created, shown in (
        (WatchCreated(), True),
        (WatchCreated(filter=WatchFilter(subtree_root_node_id="r")), False),
        (WatchCreated(mode=WatchMode.WATCH_MODE_TERMINAL), False),
    ):
        display.show(WatchConnected(created))
        display.show(WatchSnapshot(seen, 9))
        stream.truncate(0)
        console.print(display.draw(20))
        assert ("budget of r: 3 of 5 nodes" in stream.getvalue()) is shown


@pytest.mark.parametrize("rows", [10, 24, 60])
@pytest.mark.parametrize("count", [3, 30, 1_000])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_frame_always_fits(count: int, rows: int, width: int) -> None:
    settings = ExecutionSettings(budget_tokens=10**9, budget_wall_seconds=86_400, budget_nodes=9)
    lines = draw(count, rows, width, trouble="reconnecting…", settings=settings)
    assert len(lines) <= rows
    assert max(len(line) for line in lines) <= width
    assert any("part 1 " in line and "RUNNING" in line for line in lines)


def test_a_terminal_without_unicode_gets_plain_signs() -> None:
    lines = draw(2, encoding="ascii")
    assert "`- * part 1" in lines[4]
    assert all(line.isascii() for line in lines)


def test_a_lost_connection_is_shown_until_it_is_back() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24)
    display = TreeDisplay(project(), console)
    display.show(WatchSnapshot(snapshot(2), 9))
    display.show(WatchDisconnected(UnavailableError("cannot reach x"), 3, 0.5))
    console.print(display.draw(20))
    assert "reconnecting… (attempt 3; nothing is lost) cannot reach x" in stream.getvalue()
    display.show(WatchConnected(WatchCreated()))
    stream.truncate(0)
    console.print(display.draw(20))
    assert "reconnecting" not in stream.getvalue()


@pytest.mark.parametrize(
    "seconds, text",
    [
        (-1, "0 ms"),
        (0.0451, "45 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (185, "3m 05s"),
        (7_800, "2h 10m"),
        (4 * 86_400 + 3 * 3_600, "4d 3h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_texts_are_cut_to_one_line() -> None:
    assert one_line("a\n b\tc") == "a b c"
    assert one_line("abcdef", 4) == "abc…"
    assert (plural(1, "node"), plural(2_000, "node")) == ("1 node", "2,000 nodes")
    assert (size(812), size(4_300), size(5 << 30)) == ("812 B", "4.2 KiB", "5.0 GiB")


def test_the_servers_clock_runs_on_from_the_latest_commit() -> None:
    clock = ServerClock()
    assert clock.now(5.0) == 0.0
    clock.observe(1_000.0, monotonic=5.0)
    assert clock.now(7.5) == 1_002.5
    clock.observe(1_001.0, monotonic=8.0)  # older than the estimate: it was long under way
    assert clock.now(8.0) == 1_003.0
    clock.observe(1_010.0, monotonic=9.0)
    assert clock.now(9.0) == 1_010.0
