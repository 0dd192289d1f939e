"""`ramify review`: read what waits for a human, and decide."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.group import Group
from ramify.cli.options import (
    DEFAULT_ORCHESTRATOR,
    DEFAULT_STATE,
    Json,
    OrchestratorAddress,
    ProjectArgument,
    StateAddress,
)

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.v1.review_pb2 import ProposedPlan, Review, ReviewDecision

app = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ReviewArgument = Annotated[
    str, typer.Argument(metavar="REVIEW", help="Which review; default: the only open one.")
]
Comment = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")]
Etag = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="Only if the review still has this version; 0: any."),
]
RequestId = Annotated[
    str, typer.Option(metavar="TEXT", help="Repeating it within 24 h decides once.")
]


@app.callback(invoke_without_command=True)
def review(
    context: typer.Context,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Read what waits for a human, and decide. Alone, in a terminal: answer one after the other.

    A run asks where it was told to: `ramify run --review`, or `--set enable_hitl=true` with the
    other `hitl_` keys; with `--set on_exhausted=ask` before it gives up a task, with
    `--set budget_policy=ask` before it spends more. What is not answered waits, whatever happens
    to the services.

    \b
    Examples:
      ramify review                           go through all that is open
      ramify review list
      ramify review show ID
      ramify review approve ID
      ramify review modify ID -i "drop 2; add How is it tested?"
      ramify review reject ID root.r1 --comment "out of scope"
      ramify review abort ID                  end the whole run
    """
    if context.invoked_subcommand is not None:
        for name in ("state_svc", "orchestrator_svc"):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                flag = "--" + name.replace("_", "-")
                raise CliError(
                    f"{flag} goes behind the command",
                    f"ramify review {context.invoked_subcommand} {flag} ADDR",
                    ExitCode.USAGE,
                )
        return ExitCode.OK
    import sys

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return list_reviews(state_svc=state_svc)
    from ramify.cli.review_session import answer_all
    from ramify.cli.session import run_session

    return run_session(answer_all, state_svc, orchestrator_svc)


@app.command("list")
def list_reviews(
    project_id: Annotated[
        str, typer.Argument(metavar="ID", help="Which run; default: all runs.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Decided ones too.")] = False,
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """List open reviews, the oldest first.

    With `--all` the decided ones too.

    \b
    Examples:
      ramify review list
      ramify review list ID --all
      ramify review list --json | jq -r '.projectId + " " + .review.reviewId'
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import note, out, print_json, print_raw
        from ramify.v1.review_pb2 import ReviewState

        states = () if every else (ReviewState.REVIEW_STATE_OPEN,)
        found = [item async for item in client.list_reviews(project_id, states=states)]
        if json:
            for item in found:
                print_json(item)
        elif not found:
            note("no reviews" if every else "nothing waits for a human")
        else:
            from ramify.cli.review_table import table

            print_raw(table(found, out().width))
        return ExitCode.OK

    return run_session(work, state_svc)


@app.command("show")
def show(
    project_id: ProjectArgument,
    review_id: ReviewArgument = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
) -> int:
    """Show what a review asks and proposes, or what was decided.

    A proposed plan is shown as a tree.

    \b
    Examples:
      ramify review show ID
      ramify review show ID root.r1 --json | jq .plan > plan.json
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.review_session import lines
        from ramify.cli.terminal import print_json, print_lines

        found = await _find(client, project_id, review_id)
        if json:
            print_json(found)
        else:
            print_lines(await lines(client, project_id, found))
        return ExitCode.OK

    return run_session(work, state_svc)


@app.command("approve")
def approve(
    project_id: ProjectArgument,
    review_id: ReviewArgument = "",
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on with this plan instead of the proposed one."),
    ] = None,
    comment: Comment = "",
    etag: Etag = 0,
    request_id: RequestId = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Go on with what is proposed, or with a plan of your own.

    What is asked before a task is given up is tried again; of a budget, as much again is allowed.

    \b
    Examples:
      ramify review approve ID
      ramify review show ID --json | jq .plan > plan.json   # then edit it
      ramify review approve ID root.r1 --plan plan.json
    """
    from ramify.v1.review_pb2 import ReviewDecision

    return _decide(
        (state_svc, orchestrator_svc),
        project_id,
        review_id,
        ReviewDecision.REVIEW_DECISION_APPROVE,
        json,
        modified_plan=_read_plan(plan) if plan is not None else None,
        comment=comment,
        etag=etag,
        request_id=request_id,
    )


@app.command("modify")
def modify(
    project_id: ProjectArgument,
    review_id: ReviewArgument = "",
    instructions: Annotated[
        str,
        typer.Option("--instructions", "-i", metavar="TEXT", help="What to change; else asked."),
    ] = "",
    comment: Comment = "",
    etag: Etag = 0,
    request_id: RequestId = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Ask for another proposal, which comes back as a review.

    The corpus and scripted agents understand, one per line or divided by `;`:
    drop 2, 4 - drop TEXT - keep 1, 3 - keep TEXT - add GOAL. Of a given plan, tasks can be
    dropped and kept; more of them need the file.

    \b
    Examples:
      ramify review modify ID -i "drop 2"
      ramify review modify ID root.r1 -i "keep 1, 3; add How is it tested?"
    """
    import sys

    from ramify.v1.review_pb2 import ReviewDecision

    text = instructions
    if not text and sys.stdin.isatty():
        text = str(typer.prompt("What shall be changed", err=True))
    if not text.strip():
        raise CliError("nothing says what to change", "give --instructions TEXT", ExitCode.USAGE)
    return _decide(
        (state_svc, orchestrator_svc),
        project_id,
        review_id,
        ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION,
        json,
        instructions=text,
        comment=comment,
        etag=etag,
        request_id=request_id,
    )


@app.command("reject")
def reject(
    project_id: ProjectArgument,
    review_id: ReviewArgument = "",
    comment: Comment = "",
    etag: Etag = 0,
    request_id: RequestId = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Fail the node that asks, without another try.

    Of a budget, what it forbids fails. The rest of the run goes on.

    \b
    Examples:
      ramify review reject ID root.1.2.r1 --comment "out of scope"
    """
    from ramify.v1.review_pb2 import ReviewDecision

    return _decide(
        (state_svc, orchestrator_svc),
        project_id,
        review_id,
        ReviewDecision.REVIEW_DECISION_REJECT,
        json,
        comment=comment,
        etag=etag,
        request_id=request_id,
    )


@app.command("abort")
def abort(
    project_id: ProjectArgument,
    review_id: ReviewArgument = "",
    comment: Comment = "",
    etag: Etag = 0,
    request_id: RequestId = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Cancel the whole run.

    \b
    Examples:
      ramify review abort ID --comment "wrong question"
    """
    from ramify.v1.review_pb2 import ReviewDecision

    return _decide(
        (state_svc, orchestrator_svc),
        project_id,
        review_id,
        ReviewDecision.REVIEW_DECISION_ABORT,
        json,
        comment=comment,
        etag=etag,
        request_id=request_id,
    )


def _decide(
    addresses: tuple[str, str],
    project_id: str,
    review_id: str,
    decision: "ReviewDecision.ValueType",
    json: bool,
    *,
    comment: str,
    etag: int,
    request_id: str,
    instructions: str = "",
    modified_plan: "ProposedPlan | None" = None,
) -> int:
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.review_card import decision_name
        from ramify.cli.terminal import note, print_json

        found = await _find(client, project_id, review_id)
        closed = await client.resolve_review(
            project_id,
            found.review_id,
            decision,
            etag=etag,
            instructions=instructions,
            modified_plan=modified_plan,
            comment=comment,
            request_id=request_id,
        )
        if json:
            print_json(closed)
        else:
            note(f"{closed.review_id}: {decision_name(closed)}")
        return ExitCode.OK

    return run_session(work, *addresses)


async def _find(client: "AsyncClient", project_id: str, review_id: str) -> "Review":
    """Return the named review, or the only open one."""
    from ramify.v1.review_pb2 import ReviewState

    if review_id:
        return await client.get_review(project_id, review_id)
    states = (ReviewState.REVIEW_STATE_OPEN,)
    found = [item.review async for item in client.list_reviews(project_id, states=states)]
    if not found:
        raise CliError(
            f"nothing of {project_id} waits for a human",
            f"`ramify review list {project_id} --all` has what was decided",
            ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        names = ", ".join(item.review_id for item in found)
        raise CliError(f"{len(found)} reviews are open", f"name one: {names}", ExitCode.USAGE)
    return found[0]


def _read_plan(path: Path) -> "ProposedPlan":
    """Return a plan as `ramify review show --json | jq .plan` prints it."""
    from google.protobuf.json_format import Parse, ParseError

    from ramify.v1.review_pb2 import ProposedPlan

    try:
        return Parse(path.read_text("utf-8"), ProposedPlan())
    except (OSError, UnicodeDecodeError, ParseError) as error:
        cause = " ".join(str(error).split())
        raise CliError(
            f"--plan {path}: {cause}",
            "begin with what `ramify review show ID --json | jq .plan` prints",
            ExitCode.USAGE,
        ) from error
