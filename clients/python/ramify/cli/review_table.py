"""Reviews as a table of text: one line each. Pure."""

from collections.abc import Sequence

from ramify.cli.format import one_line
from ramify.cli.review_card import checkpoint_name, decision_name, state_name
from ramify.v1.state_service_pb2 import ListedReview

_HEAD = ("RUN", "REVIEW", "STATE", "CHECKPOINT", "")
_QUESTION_WIDTH = 70
_LEAST_QUESTION = 20


def table(found: Sequence[ListedReview], width: int) -> str:
    """Return a table with a line per review, of at most `width` columns if questions allow it."""
    rows = [_HEAD, *(_row(item) for item in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    room = max(_LEAST_QUESTION, width - sum(widths) - 2 * len(widths))
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, one_line(row[-1], room)]).rstrip())
    return "\n".join(lines) + "\n"


def _row(item: ListedReview) -> tuple[str, ...]:
    review = item.review
    decided = decision_name(review)
    text = one_line(review.message, _QUESTION_WIDTH)
    if decided:
        text = decided + (f" by {review.actor}" if review.actor else "")
    elif review.overdue:
        text = f"overdue: {text}"
    return item.project_id, review.review_id, state_name(review), checkpoint_name(review), text
