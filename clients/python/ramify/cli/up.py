"""`ramify up`: both services on this machine, until Ctrl-C."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import CliError, ExitCode
from ramify.cli.options import DEFAULT_ORCHESTRATOR, DEFAULT_STATE

if TYPE_CHECKING:
    from ramify.cli.services import LocalConfig, LocalServices


def up(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Where everything is kept; created if missing.")
    ] = Path("data"),
    state_listen: Annotated[
        str, typer.Option(metavar="ADDR", help="Address of state_svc; port 0 picks one.")
    ] = DEFAULT_STATE,
    orchestrator_listen: Annotated[
        str, typer.Option(metavar="ADDR", help="Address of orchestrator_svc; port 0 picks one.")
    ] = DEFAULT_ORCHESTRATOR,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file; sections state_svc, orchestrator_svc, execution.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="K=V", help="An execution key for runs that do not set it; repeatable."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Logs to stderr instead of DIR/logs.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the services' ready lines, JSON, and no more.")
    ] = False,
) -> int:
    """Start both services and keep them until Ctrl-C.

    Unfinished runs go on at once. Ctrl-C, SIGTERM or a closed terminal drains the orchestrator,
    then state_svc; a second signal kills both, which loses nothing that was acknowledged. A
    service that ends by itself is not restarted: the other one is stopped and the exit code is 9.

    \b
    Data:
      DIR/state         every project, revision by revision (SQLite)
      DIR/orchestrator  caches of agents, for example corpus indexes
      DIR/logs          state_svc.log, orchestrator_svc.log

    \b
    Examples:
      ramify up
      ramify up --data /srv/ramify --config ramify.yaml
      ramify up --set max_concurrent_nodes=4        # see: ramify settings
      ramify up --state-listen 127.0.0.1:0 --json   # a free port, for scripts
    """
    import asyncio

    from ramify.cli.services import LocalConfig
    from ramify.cli.session import first_leaf
    from ramify.cli.terminal import note
    from ramify.cli.values import chosen_keys

    settings = LocalConfig(
        data=data,
        state_listen=state_listen,
        orchestrator_listen=orchestrator_listen,
        config=config,
        execution=chosen_keys(chosen or ()),
        verbose=verbose,
        tell=(lambda text: None) if json else note,
    )
    try:
        return asyncio.run(_up(settings, json))
    except BaseExceptionGroup as group:
        raise first_leaf(group) from None


async def _up(config: "LocalConfig", json: bool) -> int:
    """Start, wait for a signal or a death, stop."""
    import asyncio
    import signal

    from ramify.cli.services import LocalServices
    from ramify.cli.terminal import note

    services = LocalServices(config)
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            services.kill()
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ask)

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(_serve(services, config, json), name="serve")
        asking = group.create_task(asked.wait(), name="signals")
        await asyncio.wait({serving, asking}, return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
        serving.cancel()
    try:
        if asked.is_set() and not json:
            note("stopping: orchestrator_svc, then state_svc")
    finally:  # a closed terminal takes no note
        await services.stop()
    if not serving.cancelled():
        raise serving.result()
    if not json:
        note(f"stopped; everything is in {config.data}, `ramify up` goes on with it")
    return ExitCode.OK


async def _serve(services: "LocalServices", config: "LocalConfig", json: bool) -> CliError:
    """Start the services and return the error of the first that ends."""
    from ramify.cli.terminal import note, print_raw

    if not json:
        note(f"starting state_svc and orchestrator_svc, data in {config.data}")
    await services.start()
    if json:
        print_raw("".join(service.ready_line + "\n" for service in services.running))
    else:
        note(_welcome(services, config))
    return await services.wait()


def _welcome(services: "LocalServices", config: "LocalConfig") -> str:
    from ramify.cli.outcome import exports_for

    prefix = exports_for(services.state_address, services.orchestrator_address)
    lines = [
        f"  state_svc         {services.state_address}",
        f"  orchestrator_svc  {services.orchestrator_address}",
    ]
    if not config.verbose:
        lines.append(f"  logs              {config.data / 'logs'}")
    lines += [
        "ready; in another terminal:",
        f'  {prefix}ramify run "How does asyncio cancel tasks?" --corpus stdlib',
        f"  {prefix}ramify ls",
        "Ctrl-C stops both.",
    ]
    return "\n".join(lines)
