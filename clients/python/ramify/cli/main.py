"""The `ramify` command: its sub-commands, and the one place that exits.

Nothing heavy is imported here or at the top of a sub-command's module, so that `--help` is quick.
"""

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from typer.main import get_command

from ramify.cli import (
    backup,
    cancel,
    compact,
    delete,
    diff,
    explain,
    export,
    fork,
    imports,
    ls,
    pause,
    pin,
    replan,
    resume,
    retry,
    review,
    run,
    settings,
    show,
    stats,
    up,
    watch,
)
from ramify.cli.exits import CliError, ExitCode
from ramify.cli.group import Group

EPILOG = """\b
Exit codes:
  0 done        1 error          2 usage          3 not found
  4 run FAILED  5 run PARTIAL    6 run CANCELLED  7 service unreachable
  8 refused     9 service died   130 interrupted, the run goes on
  141 nobody reads the output any more
\b
Addresses: --state-svc or RAMIFY_STATE (127.0.0.1:7420),
           --orchestrator-svc or RAMIFY_ORCHESTRATOR (127.0.0.1:7421).
"""

app = typer.Typer(
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


@app.callback(invoke_without_command=True, epilog=EPILOG)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> int:
    """Start runs of agent task trees, follow them live, read what they produced.

    \b
    Begin:
      ramify up                                   both services, data in ./data
      ramify run "How does asyncio cancel tasks?" --corpus stdlib
      ramify ls                                   every run
      ramify show ID --result                     its report
    """
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(f"ramify {installed_version('ramify')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    return ExitCode.OK


app.command("up")(up.up)
app.command("run")(run.run)
app.command("watch")(watch.watch)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("explain")(explain.explain)
app.add_typer(review.app, name="review")
app.command("cancel")(cancel.cancel)
app.command("pause")(pause.pause)
app.command("resume")(resume.resume)
app.command("retry")(retry.retry)
app.command("replan")(replan.replan)
app.command("diff")(diff.diff)
app.command("fork")(fork.fork)
app.command("compact")(compact.compact)
app.command("pin")(pin.pin)
app.command("unpin")(pin.unpin)
app.command("delete")(delete.delete)
app.command("settings")(settings.settings)
app.command("stats")(stats.stats)
app.command("backup")(backup.backup)
app.command("export")(export.export)
app.command("import")(imports.import_)


def main() -> None:
    """Run the command and exit with its code."""
    # The gRPC core would report every lost connection on stderr, over the live tree.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A terminal that cannot show a sign shows another one; results are written as bytes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(invoke(sys.argv[1:]))


def invoke(args: list[str]) -> int:
    """Run the command with these arguments; return its exit code. Errors become one line."""
    command = get_command(app)
    try:
        with command.make_context("ramify", args) as context:
            code = command.invoke(context)
        sys.stdout.flush()  # here, so that a reader who has gone is noticed here
    except typer.Exit as ending:  # after --help
        return ending.exit_code
    except CliError as error:
        return _fail(error)
    except typer.TyperException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "ramify")
        return _fail(CliError(error.format_message(), f"see `{path} --help`", ExitCode.USAGE))
    except (typer.Abort, KeyboardInterrupt, EOFError):
        typer.echo("\ninterrupted" if sys.stderr.isatty() else "interrupted", err=True)
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader has gone; rich makes a SystemExit of that. Not OK, because whatever
        # was followed has not ended. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.READER_GONE
    except Exception as error:
        if os.environ.get("RAMIFY_TRACEBACK"):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(CliError(text, "a bug; RAMIFY_TRACEBACK=1 shows where"))
    return int(code or 0)


def _fail(error: CliError) -> int:
    text = f"error: {error.message.rstrip('.')}"
    if error.remedy:
        text += f"; {error.remedy}"
    typer.echo(text, err=True)
    return error.code


if __name__ == "__main__":
    main()
