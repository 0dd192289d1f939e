"""Answers reviews one after the other in a terminal."""

import asyncio
import sys
import time

from ramify.cli.exits import ExitCode
from ramify.cli.format import fold, plural
from ramify.cli.review_card import card, decision_name
from ramify.cli.terminal import err, note, note_lines
from ramify.client import AsyncClient
from ramify.errors import InvalidRequestError, ReviewClosedError
from ramify.v1.review_pb2 import Review, ReviewDecision, ReviewState

QUESTION = "[a]pprove, [m]odify, [r]eject, a[b]ort the run, [s]kip, [q]uit? "
_WHAT, _WHY = "What shall be changed? ", "Why (may be empty)? "
_DECISIONS = {
    "a": ReviewDecision.REVIEW_DECISION_APPROVE,
    "m": ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION,
    "r": ReviewDecision.REVIEW_DECISION_REJECT,
    "b": ReviewDecision.REVIEW_DECISION_ABORT,
}


async def answer_all(client: AsyncClient) -> int:
    """Ask about every open review of every run; a modified plan comes up again by itself."""
    seen: set[tuple[str, str]] = set()
    while True:
        found = [
            (item.project_id, item.review)
            async for item in client.list_reviews(states=(ReviewState.REVIEW_STATE_OPEN,))
        ]
        fresh = [pair for pair in found if (pair[0], pair[1].review_id) not in seen]
        if not fresh:
            if found:
                left = plural(len(found), "review")
                note(f"{left} left open; `ramify review` asks again")
            else:
                note("nothing more waits for a human" if seen else "nothing waits for a human")
            return ExitCode.OK
        for project_id, review in fresh:
            seen.add((project_id, review.review_id))
            if not await answer(client, project_id, review):
                return ExitCode.OK


async def answer(
    client: AsyncClient, project_id: str, review: Review, decided: asyncio.Event | None = None
) -> bool:
    """Show one review and carry out what the user says; return False to stop asking.

    `decided` is set when the user has said all that is needed.
    """
    note_lines(["", f"run {project_id}", *await lines(client, project_id, review), ""])
    while True:
        said = await ask(QUESTION)
        if said is None or (word := said.lower()[:1]) == "q":
            return False
        if word == "s":
            return True
        decision = _DECISIONS.get(word)
        if decision is None:
            continue
        instructions = comment = ""
        if word in ("m", "r", "b"):
            said = await ask(_WHAT if word == "m" else _WHY)
            if said is None:
                return False
            if word != "m":
                comment = said
            elif not (instructions := said):
                continue
        if decided is not None:
            decided.set()
        try:
            closed = await client.resolve_review(
                project_id,
                review.review_id,
                decision,
                etag=review.version,
                instructions=instructions,
                comment=comment,
            )
        except (ReviewClosedError, InvalidRequestError) as error:
            note(error.message)
            return True
        note(f"{closed.review_id}: {decision_name(closed)}")
        return True


async def lines(client: AsyncClient, project_id: str, review: Review) -> list[str]:
    """Return a review as text, with a proposed result and what groups hold, wherever it lies."""
    given = None
    if review.HasField("plan"):
        given = (await client.get_project(project_id)).plan
    elif review.result.HasField("ref"):
        whole = Review()
        whole.CopyFrom(review)
        whole.result.CopyFrom(await client.whole(project_id, review.result))
        review = whole
    return list(card(review, time.time(), given))


async def ask(question: str) -> str | None:
    """Return a line from the terminal, None at its end. Nothing is read if it is cancelled."""
    sys.stderr.write("\n".join(fold(question.rstrip(), err().width)) + " ")
    sys.stderr.flush()
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin)
    typed = sys.stdin.readline()  # a terminal hands over whole lines
    if not typed:
        sys.stderr.write("\n")
        return None
    return typed.strip()
