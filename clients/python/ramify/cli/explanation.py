"""An explanation as lines of text. Pure."""

from collections.abc import Iterator
from datetime import datetime

from ramify.cli.budgets import amount
from ramify.cli.format import duration, one_line, plural, seconds_of
from ramify.states import node_state_name
from ramify.v1.explain_pb2 import Blocker, BlockerKind, Explanation, NodeMove, Outlook

_OUTLOOKS = {
    Outlook.OUTLOOK_ENDED: "It has ended.",
    Outlook.OUTLOOK_RUNNING: "Agents are at work.",
    Outlook.OUTLOOK_WAITING: "It goes on by itself.",
    Outlook.OUTLOOK_NEEDS_ACTION: "Somebody has to do something.",
}
#: What has happened once, and does not go on.
_OVER = (BlockerKind.BLOCKER_KIND_FAILURE, BlockerKind.BLOCKER_KIND_CANCELLED)
_MESSAGE_WIDTH = 300


def lines(explanation: Explanation) -> Iterator[str]:
    """Yield the answer, the chain with its remedies, the node's moves, and the source."""
    subject = explanation.node_id or explanation.project_id
    yield f"{subject}: {one_line(explanation.summary, _MESSAGE_WIDTH)}."
    yield _OUTLOOKS.get(explanation.outlook, "")
    if explanation.blockers:
        yield ""
    now = seconds_of(explanation.explain_time)
    for blocker in explanation.blockers:
        yield from _link(blocker, now)
    if explanation.omitted_root_causes:
        yield f"  and {plural(explanation.omitted_root_causes, 'more root cause')}"
    if explanation.budgets:
        yield ""
    for use in explanation.budgets:
        yield f"  budget of {use.node_id}: {amount(use)}"
    if explanation.moves:
        yield ""
    for move in explanation.moves:
        yield _move(move, now)
    yield ""
    executor = f"executed by {explanation.holder}" if explanation.holder else "executed by nobody"
    source = "its own memory and the store" if explanation.live else "the store alone"
    yield f"revision {explanation.revision}, {executor}, answered from {source}"


def _link(blocker: Blocker, now: float) -> Iterator[str]:
    indent = "  " * (blocker.depth + 1)
    kind = BlockerKind.Name(blocker.kind).removeprefix("BLOCKER_KIND_")
    text = f"{indent}{blocker.blocked_node_id or 'project'}  {kind}  "
    text += one_line(blocker.message, _MESSAGE_WIDTH)
    notes = []
    if blocker.kind in _OVER and blocker.HasField("since_time"):
        notes.append(f"at {_clock(seconds_of(blocker.since_time), now)}")
    elif blocker.HasField("elapsed"):
        notes.append(f"for {duration(blocker.elapsed.ToMicroseconds() / 1e6)}")
    if blocker.HasField("until_time"):
        notes.append(f"until {_clock(seconds_of(blocker.until_time), now)}")
    if blocker.live:
        notes.append("live")
    yield f"{text} ({', '.join(notes)})" if notes else text
    if blocker.remedy:
        yield f"{indent}  → {blocker.remedy}"


def _move(move: NodeMove, now: float) -> str:
    line = f"  {_clock(seconds_of(move.commit_time), now)}  r{move.revision:<5} "
    before = node_state_name(move.from_state) if move.from_state else "(created)"
    line += f"{before} → {node_state_name(move.to_state)}"
    return f"{line}  by {move.actor}" if move.actor else line


def _clock(seconds: float, now: float) -> str:
    """Return a time of day, with its day unless that is today's."""
    at = datetime.fromtimestamp(seconds)
    today = not now or at.date() == datetime.fromtimestamp(now).date()
    return at.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
