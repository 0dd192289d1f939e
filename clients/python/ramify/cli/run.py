"""`ramify run`: start a run, follow it, print its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.options import (
    DEFAULT_ORCHESTRATOR,
    DEFAULT_STATE,
    Json,
    OrchestratorAddress,
    StateAddress,
)

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Value

    from ramify.cli.attend import OnInterrupt
    from ramify.cli.display import Display
    from ramify.client import AsyncClient
    from ramify.plan_file import PlanFile
    from ramify.v1.project_pb2 import ExecutionSettings, Project, StateSettings


def run(
    goal: Annotated[
        str, typer.Argument(metavar="[GOAL]", help="What the run is for; or give --plan.")
    ] = "",
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Run the tasks of a YAML or JSON file."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --plan: check it, print its tree, run nothing.")
    ] = False,
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the set of agents.")
    ] = "corpus",
    corpus: Annotated[
        str,
        typer.Option(
            metavar="stdlib|DIR",
            help="What the corpus agents read: Python's standard library or a folder.",
        ),
    ] = "stdlib",
    project: Annotated[
        str, typer.Option(metavar="ID", help="Id of the run; default: assigned.")
    ] = "",
    request_id: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Repeating it within 24 h returns the same run."),
    ] = "",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="K=V", help="An option for the profile's agents; repeatable."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="An execution key; repeatable."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K=V", help="A mark to select by; repeatable."),
    ] = None,
    review: Annotated[
        bool,
        typer.Option(
            "--review", help="Ask before the root's plan is carried out; in a terminal, here."
        ),
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the id and do not follow.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the report to a file."),
    ] = None,
    on_interrupt: Annotated[
        str,
        typer.Option(
            metavar="ask|detach|cancel",
            help="What Ctrl-C does; without a terminal `ask` means `detach`.",
        ),
    ] = "ask",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Start a run, show its tree live, print its report.

    The tree and all messages go to stderr, the report to stdout. The run belongs to the services:
    Ctrl-C, a closed terminal or a restarted service lose nothing.

    \b
    Examples:
      ramify run "How does asyncio cancel tasks?" --corpus stdlib
      ramify run "What does retry do?" --corpus ./docs > report.md
      ramify run "..." --set max_concurrent_nodes=4 --label team=docs
      ramify run "..." --profile scripted --option depth=3 --option delay_ms=200
      ramify run --plan examples/take_stock.yaml --dry-run
      ramify run --plan p.yaml --dry-run --json    # .plan, .counts, .violations
      ramify run --plan examples/take_stock.yaml --set max_concurrent_nodes=4
      ramify run --plan examples/research.yaml --review
      ramify replan ID root                # do again what has failed
      ramify run "..." --review            # elsewhere: ramify review
      ramify run "..." --detach            # then: ramify watch ID
      ramify run "..." --json | jq .       # every change, then the project

    `ramify settings` lists the keys for --set.
    """
    from asyncio import CancelledError

    from ramify.cli.attend import OnInterrupt
    from ramify.cli.failure import explain
    from ramify.cli.plan import refused
    from ramify.cli.session import run_session
    from ramify.cli.terminal import note
    from ramify.cli.values import read_labels, read_options, read_settings
    from ramify.errors import InvalidRequestError

    try:
        wish = OnInterrupt(on_interrupt)
    except ValueError:
        raise CliError(
            f"--on-interrupt is ask, detach or cancel, not {on_interrupt!r}", "", ExitCode.USAGE
        ) from None
    if output is not None and not output.absolute().parent.is_dir():
        raise CliError(f"--output {output}: no such folder", "create it first", ExitCode.USAGE)
    if (plan is None) == (not goal):
        raise CliError("a run has either a GOAL or --plan FILE", "", ExitCode.USAGE)
    if dry_run and plan is None:
        raise CliError("--dry-run is for --plan", "", ExitCode.USAGE)
    file = _read_plan(plan, json and dry_run) if plan is not None else None
    wanted = [*(file.settings if file else ()), *(settings or ())]
    keys, storage = read_settings(wanted)
    if review:
        keys.enable_hitl = True
    marks = {**(file.labels if file else {}), **read_labels(labels or ())}
    if dry_run and file is not None:
        return _dry_run(file, keys, storage, marks, json)
    agent_options = read_options(options or ())
    if file is not None:
        profile = ""
    elif profile == "corpus":
        agent_options.setdefault("corpus", _corpus_option(corpus, orchestrator_svc))

    async def work(client: "AsyncClient") -> int:
        try:
            started = await client.start_project(
                goal,
                plan=file.plan if file is not None else None,
                project_id=project,
                profile=profile,
                settings=keys,
                state_settings=storage,
                agent_options=agent_options,
                labels=marks,
                request_id=request_id,
            )
        except InvalidRequestError as error:
            raise (explain(error) if file is None else refused(file, error)) from None
        except CancelledError:
            note("no answer yet; `ramify ls` shows whether the run was started")
            raise
        if detach:
            return _detached(client, started, json)
        return await _follow(client, started, wish, output, json, review)

    return run_session(work, state_svc, orchestrator_svc)


def _read_plan(path: Path, json: bool) -> "PlanFile":
    """Return the plan of a file; with `json`, print why it is none before that is raised."""
    from json import dumps

    from ramify.cli.plan import read, unusable, violations
    from ramify.cli.terminal import print_raw
    from ramify.plan_source import PlanFileError

    try:
        return read(path)
    except PlanFileError as error:
        if json:
            print_raw(dumps({"violations": violations(error)}, ensure_ascii=False) + "\n")
        raise unusable(error) from None


def _dry_run(
    file: "PlanFile",
    settings: "ExecutionSettings",
    state_settings: "StateSettings",
    labels: dict[str, str],
    json: bool,
) -> int:
    from json import dumps

    from ramify.cli.plan import as_json, count, draw
    from ramify.cli.terminal import note, print_lines, print_raw

    if json:
        document = as_json(file.plan, settings, state_settings, labels)
        print_raw(dumps(document, ensure_ascii=False) + "\n")
    else:
        print_lines(draw(file.plan))
        tasks = count(file.plan.tasks)
        note(f"{file.source.path} is a good plan of {tasks} tasks; nothing was run")
    return ExitCode.OK


def _corpus_option(corpus: str, orchestrator: str) -> "Value":
    """Return the corpus as the agents want it: `stdlib`, or a folder with its absolute name."""
    from google.protobuf.struct_pb2 import Value

    if corpus != "stdlib":
        folder = Path(corpus).expanduser()
        # The orchestrator reads the folder; on this machine we can tell at once.
        if orchestrator.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]"):
            if not folder.is_dir():
                raise CliError(
                    f"--corpus {corpus}: no such folder",
                    "name a folder of .md, .txt, .rst or .py files, or stdlib",
                    ExitCode.USAGE,
                )
            corpus = str(folder.resolve())
    return Value(string_value=corpus)


def _detached(client: "AsyncClient", started: "Project", json: bool) -> int:
    from ramify.cli.terminal import note, print_json, print_raw

    if json:
        print_json(started)
    else:
        print_raw(started.project_id + "\n")
        note(_how_to_go_on(client, started.project_id))
    return ExitCode.OK


async def _follow(
    client: "AsyncClient",
    started: "Project",
    wish: "OnInterrupt",
    output: Path | None,
    json: bool,
    review: bool,
) -> int:
    import sys

    from ramify.cli.attend import Asking, Attendant
    from ramify.cli.follow import EndDetector, follow
    from ramify.cli.outcome import again, ending, exit_code
    from ramify.cli.terminal import note, print_json
    from ramify.cursor import WatchStart

    project_id = started.project_id
    display = _display(started, json)
    detector = EndDetector(started, WatchStart.snapshot())
    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    with Attendant(client, project_id, display, wish, interactive) as attendant:
        if not json:
            note(f"run {project_id} started")
        asks = review and interactive and not json
        shown = Asking(display, attendant) if asks else display
        try:
            ended = await attendant.attend(
                follow(client, shown, detector, project_id, WatchStart.snapshot())
            )
        finally:
            display.close()
    if not ended:
        note("detached; nothing is lost and the run goes on\n" + _how_to_go_on(client, project_id))
        return ExitCode.INTERRUPTED
    project = await client.get_project(project_id)
    if json:
        print_json(project)
    await _print_report(client, project, output, json)
    code = exit_code(project)
    if code is not ExitCode.OK:
        note(f"{ending(project)}; `ramify show {project_id}` has the tree" + again(project))
    return code


async def _print_report(
    client: "AsyncClient", project: "Project", output: Path | None, json: bool
) -> None:
    from ramify.cli.outcome import body_of, read_result, write_file
    from ramify.cli.terminal import note, print_markdown

    root = await read_result(client, project)
    if root is None:
        return
    if output is not None:
        write_file(output, body_of(root))
        note(f"report written to {output}")
    elif not json:
        note("")
        print_markdown(root.result.text)


def _display(started: "Project", json: bool) -> "Display":
    import sys

    from ramify.cli.display import JsonDisplay, LineDisplay, TreeDisplay
    from ramify.cli.terminal import err, note

    if json:
        return JsonDisplay()
    return TreeDisplay(started, err()) if sys.stderr.isatty() else LineDisplay(note)


def _how_to_go_on(client: "AsyncClient", project_id: str) -> str:
    from ramify.cli.outcome import flags_for

    state = flags_for(client.state_address, "")
    both = flags_for(client.state_address, client.orchestrator_address)
    return (
        f"  follow it:  ramify watch {project_id}{state}\n"
        f"  its report: ramify show {project_id} --result{state}\n"
        f"  cancel it:  ramify cancel {project_id}{both}"
    )
