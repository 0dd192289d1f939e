"""Fits what an agent may look at into a number of tokens. Pure and deterministic.

Tokens are estimated, since every model counts in its own way: four ASCII characters or one other
character are one token, three bytes of a body that is not text are one. For English that is about
what today's tokenizers give, for other scripts it is rather too many.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator_svc.agents.base import Output, RelatedNode
from orchestrator_svc.engine.trusted import trusted

CHARS_PER_TOKEN = 4  #: of ASCII
BYTES_PER_TOKEN = 3  #: of a body that is not text
NODE_TOKENS = 16  #: of a related node's id, state and the like
MIN_OUTPUT_TOKENS = 32  #: less of an output than this is not worth showing
GOAL_TOKENS = 128  #: of a shortened node's goal
MARK = "\n[…]"  #: stands where text was left out


def tokens_of(text: str) -> int:
    """Return the estimated number of tokens of a text."""
    if text.isascii():
        return -(-len(text) // CHARS_PER_TOKEN)
    others = len(text) - len(text.encode("ascii", "ignore"))
    return others + -(-(len(text) - others) // CHARS_PER_TOKEN)


def node_tokens(node: RelatedNode) -> int:
    """Return the estimated number of tokens of a related node."""
    count = NODE_TOKENS + tokens_of(node.goal) + tokens_of(node.error)
    if node.output is not None:
        output = node.output
        count += tokens_of(output.text) + len(output.data) // BYTES_PER_TOKEN
        count += tokens_of(output.summary)
    return count


def fit(nodes: Sequence[RelatedNode], limit: int) -> tuple[RelatedNode, ...]:
    """Return the nodes with at most `limit` tokens in all, the longest shortened first.

    None is left out and their order is kept: what remains of each when there is no room at all
    is its id, its state and the beginning of its goal.
    """
    sizes = [node_tokens(node) for node in nodes]
    if sum(sizes) <= limit:
        return tuple(nodes)
    most = _level(sizes, limit)
    return tuple(
        node if size <= most else shortened(node, most)
        for node, size in zip(nodes, sizes, strict=True)
    )


def _level(sizes: Sequence[int], limit: int) -> int:
    """Return the most that each may have so that all together have `limit` (max-min fair)."""
    left = limit
    for number, size in enumerate(ordered := sorted(sizes)):
        share = left // (len(ordered) - number)
        if size > share:
            return max(0, share)
        left -= size
    return max(ordered, default=0)


def shortened(node: RelatedNode, limit: int) -> RelatedNode:
    """Return a node with about `limit` tokens: its summary, then the beginning of its result."""
    goal = cut(node.goal, min(GOAL_TOKENS, max(8, limit // 4)))
    left = limit - NODE_TOKENS - tokens_of(goal)
    error = cut(node.error, max(0, left)) if node.error else ""
    left -= tokens_of(error)
    output = None
    if node.output is not None and left >= MIN_OUTPUT_TOKENS:
        output = _shortened_output(node.output, left)
    return trusted(
        RelatedNode,
        node_id=node.node_id,
        goal=goal,
        task_type=node.task_type,
        state=node.state,
        output=output,
        error=error,
        shortened=True,
        details=node.details,
    )


def _shortened_output(output: Output, limit: int) -> Output:
    """Return the summary of an output and as much of its text as there is room for.

    The text may end anywhere, so it is no JSON or Markdown any more but plain text.
    """
    summary = cut(output.summary, limit // 2)
    text = cut(output.text, limit - tokens_of(summary)) if output.text else ""
    return trusted(Output, content_type="text/plain", text=text, data=b"", summary=summary)


def cut(text: str, limit: int) -> str:
    """Return `text`, or as much of its beginning as has `limit` tokens with a mark at the end."""
    if tokens_of(text) <= limit:
        return text
    room = limit - tokens_of(MARK)
    if room <= 0:
        return ""
    low, high = 0, min(len(text), room * CHARS_PER_TOKEN)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        if tokens_of(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low] + MARK
