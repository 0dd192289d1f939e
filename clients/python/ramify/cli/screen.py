"""What the live tree looks like: a frame from a view and the time. Draws, decides nothing."""

from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ramify.budgets import budget_uses
from ramify.cli.budgets import TIGHT, by_node, line, share
from ramify.cli.format import duration, one_line, seconds_of
from ramify.cli.outline import OutlineRow, active_nodes, counts, done_and_total, outline
from ramify.cli.style import node_glyph, node_style, project_style
from ramify.cli.terminal import FILE_WIDTH
from ramify.states import (
    TERMINAL_NODE_STATES,
    TERMINAL_PROJECT_STATES,
    node_state_name,
    project_state_name,
)
from ramify.v1.node_pb2 import Node, NodeState, TaskType
from ramify.v1.project_pb2 import Project
from ramify.view import View

_MIN_ROWS = 3
_ACTIVITY_ROWS = 2
_LIVE_BUDGETS = 3  #: of the root, and of the nodes that have least left
_ID_WIDTH = 24  #: columns of an id in a live tree
_ROOM_FOR_IDS = 100  #: columns of a terminal
_MOST_CHARS = 200  #: of a line of text, where no terminal is narrower
_MOST_GOAL_CHARS = 80  #: of a goal in a tree, likewise
_COUNTED = ("RUNNING", "AGGREGATING", "READY", "PENDING", "FAILED", "CANCELLED")


@dataclass(slots=True)
class Frame:
    """Everything that one frame shows."""

    view: View
    project: Project
    now: float  #: server time in seconds since 1970
    trouble: str = ""  #: why nothing arrives at the moment; empty while connected
    notice: str = ""  #: something else the user has to know
    whole: bool = True  #: the view holds all nodes, so that they can be added up
    live: bool = True  #: drawn again and again: it must fit, and ids may be cut


def render(frame: Frame, console: Console, rows: int) -> RenderableType:
    """Return a frame of at most `rows` lines for this console."""
    parts: list[RenderableType] = [_title(frame, min(console.width, _MOST_CHARS))]
    ended = frame.project.state in TERMINAL_PROJECT_STATES
    footer = _footer(frame, console, ended)
    budget = max(_MIN_ROWS, rows - len(parts) - len(footer) - 1)
    if frame.view.nodes:
        parts.append(_tree(outline(frame.view, budget), frame, console))
    return Group(*parts, *footer)


def _title(frame: Frame, width: int) -> Text:
    project = frame.project
    state = project_state_name(project.state)
    tail = f"  {project.project_id}"
    room = max(10, width - len(tail) - len(state) - 3)
    title = Text(one_line(project.goal, room), style="bold")
    title.append(tail, style="dim")
    title.append("  ")
    title.append(state, style=project_style(project.state))
    return title


def _tree(rows: list[OutlineRow], frame: Frame, console: Console) -> Table:
    unicode = _unicode(console)
    fills = console.width < FILE_WIDTH  # else the tree is as wide as it needs
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black", expand=fills
    )
    most = None if fills else _MOST_GOAL_CHARS
    table.add_column("node", ratio=1, no_wrap=True, overflow="ellipsis", max_width=most)
    ids = not frame.live or console.width >= _ROOM_FOR_IDS
    if not frame.live:
        table.add_column("id", overflow="fold")
    elif ids:
        table.add_column("id", no_wrap=True, overflow="ellipsis", max_width=_ID_WIDTH)
    table.add_column("state", no_wrap=True, min_width=11)
    wide = console.width >= 72
    if wide:
        table.add_column("task", no_wrap=True, min_width=6)
        table.add_column("layer", no_wrap=True, justify="right")
    table.add_column("time", no_wrap=True, justify="right", min_width=6)
    for row in rows:
        label, *cells = _cells(row, frame.now, unicode, wide)
        if ids:
            cells.insert(0, Text(row.node.node_id if row.node else "", style="bright_black"))
        table.add_row(label, *cells)
    return table


def _cells(row: OutlineRow, now: float, unicode: bool, wide: bool) -> list[Text]:
    label = Text(_guides(row, unicode), style="bright_black")
    node = row.node
    if node is None:
        label.append(("… " if unicode else "... ") + row.hidden)
        return [label, *[Text()] * (4 if wide else 2)]
    style = "bright_black" if node.superseded else node_style(node.state)
    label.append(node_glyph(node.state, unicode) + " ", style=style)
    quiet = node.superseded or node.state in (
        NodeState.NODE_STATE_PENDING,
        NodeState.NODE_STATE_CANCELLED,
    )
    label.append(one_line(node.goal), style="bright_black" if quiet else "default")
    state = node_state_name(node.state)
    if node.superseded:
        state += " superseded"
    elif node.attempt > 1:
        state += f" #{node.attempt}"
    cells = [label, Text(state, style=style)]
    if wide:
        cells += [
            Text(task_name(node), style="bright_black"),
            Text(str(node.layer), style="bright_black"),
        ]
    return [*cells, Text(elapsed(node, now), style="bright_black")]


def _footer(frame: Frame, console: Console, ended: bool) -> list[RenderableType]:
    width = min(console.width, _MOST_CHARS)
    by_state = counts(frame.view.nodes.values())
    done, total = done_and_total(by_state)
    parts = [f"{done}/{total} nodes"]
    parts += [f"{by_state[name]} {name.lower()}" for name in _COUNTED if by_state.get(name)]
    if frame.project.HasField("create_time"):
        created = seconds_of(frame.project.create_time)
        end = seconds_of(frame.project.end_time) if ended else frame.now
        parts.append(duration(end - created))
    parts.append(f"revision {frame.view.revision}")
    separator = " · " if _unicode(console) else " | "
    progress = Table.grid(padding=(0, 2, 0, 0))
    progress.add_column(no_wrap=True)
    progress.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(
        total=max(1, total),
        completed=done,
        width=min(30, max(10, width // 4)),
        complete_style="cyan",
        finished_style=project_style(frame.project.state),
    )
    progress.add_row(bar, Text(separator.join(parts), style="bright_black"))
    footer: list[RenderableType] = [progress]
    if not ended:
        footer += [
            Text(
                one_line(f"{task_name(node) or 'WORK'}  {node.goal}", width - 4),
                style="cyan",
            )
            for node in active_nodes(frame.view)[:_ACTIVITY_ROWS]
        ]
    if not ended:
        asked = (one_line(text, width) for text in _asked(frame))
        # In the place of what works: the frame has to fit, and this is what needs the reader.
        footer[1:] = [Text(text, style="bold yellow") for text in asked] or footer[1:]
    footer[1:1] = _budgets(frame, console, separator)
    if frame.trouble:
        footer.append(Text(one_line(frame.trouble, width), style="yellow"))
    if frame.notice:
        footer.append(Text(one_line(frame.notice, width), style="yellow"))
    return footer


def _budgets(frame: Frame, console: Console, separator: str) -> list[Text]:
    """Return a line for each budget; while the tree is live, of the most pressing ones."""
    if not frame.whole:
        return []
    budgets = by_node(budget_uses(frame.project, frame.view.nodes.values(), frame.now))
    if frame.live:
        first, others = budgets[:1], budgets[1:]
        others.sort(key=lambda uses: max(map(share, uses)), reverse=True)
        budgets = (first + others)[:_LIVE_BUDGETS]
    width = console.width if frame.live else 0
    return [
        Text(
            one_line(line(uses, separator), width),
            style="yellow" if max(map(share, uses)) >= TIGHT else "bright_black",
        )
        for uses in budgets
    ]


def _asked(frame: Frame) -> list[str]:
    """Return what waits for a human, and how to answer."""
    found = frame.view.open_reviews()
    if not found:
        return []
    first, more = found[0], len(found) - 1
    others = f" (and {more} more)" if more else ""
    which = f" {first.review_id}" if more else ""
    return [
        f"REVIEW {first.review_id}{others}: {first.message}",
        f"to answer: ramify review, or ramify review approve {frame.project.project_id}{which}",
    ]


def task_name(node: Node) -> str:
    """Return the name of a node's task type without its prefix; empty if it has none."""
    if not node.task_type:
        return ""
    return TaskType.Name(node.task_type).removeprefix("TASK_TYPE_")


def elapsed(node: Node, now: float) -> str:
    """Return how long a node has been at work or was; empty if it never was."""
    if not node.HasField("start_time"):
        return ""
    ended = node.state in TERMINAL_NODE_STATES and node.HasField("end_time")
    end = seconds_of(node.end_time) if ended else now
    return duration(end - seconds_of(node.start_time))


def _guides(row: OutlineRow, unicode: bool) -> str:
    if row.depth == 0:
        return ""
    bar, tee, corner = ("│  ", "├─ ", "└─ ") if unicode else ("|  ", "|- ", "`- ")
    return "".join(bar if goes_on else "   " for goes_on in row.guides) + (
        corner if row.last else tee
    )


def _unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
