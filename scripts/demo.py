"""Run one research project over real documents, end to end: what `make demo` does.

Starts both services on free ports with data in ./data, follows one `ramify run` with its live
tree, prints its report, stops both services whatever happens, and says how to go on.
"""

import asyncio
import os
import shlex
import signal
import sys
import uuid
from pathlib import Path

from ramify.addresses import DEFAULT_STATE, ORCHESTRATOR_ENV, STATE_ENV
from ramify.cli.exits import CliError
from ramify.cli.services import LocalConfig, LocalServices
from ramify.cli.session import first_leaf

QUESTION = "How does asyncio cancel tasks, and what should code do to clean up?"
DATA = Path("data")


def main() -> int:
    """Run the demo; return the exit code of `ramify run`, or that of a service that failed."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file
    try:
        return asyncio.run(_demo(f"demo-{uuid.uuid4().hex[:8]}"))
    except (CliError, BaseExceptionGroup) as error:
        cause = first_leaf(error)
        if not isinstance(cause, CliError):
            raise
        print(f"error: {cause.message}; {cause.remedy}", file=sys.stderr)
        return cause.code


async def _demo(project_id: str) -> int:
    services = LocalServices(
        LocalConfig(
            data=DATA, state_listen="127.0.0.1:0", orchestrator_listen="127.0.0.1:0", verbose=False
        )
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Ctrl-C also reaches `ramify run`, which detaches or cancels; the others are passed on below.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    print(f"==> starting state_svc and orchestrator_svc on free ports, data in ./{DATA}")
    await services.start()
    try:
        print(f"    state_svc         {services.state_address}")
        print(f"    orchestrator_svc  {services.orchestrator_address}")
        code = await _run(services, project_id, stop)
    finally:
        try:
            print("\n==> stopping both services", flush=True)
        finally:  # a closed terminal takes no print
            await services.stop()
    print(_how_to_go_on(project_id))
    return code


async def _run(services: LocalServices, project_id: str, stop: asyncio.Event) -> int:
    """Run `ramify run` in this terminal; a service that ends by itself is an error."""
    arguments = ["run", QUESTION, "--corpus", "stdlib", "--project", project_id]
    print(f"==> ramify {shlex.join(arguments)}\n", flush=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ramify.cli.main", *arguments),
        env={
            **os.environ,
            STATE_ENV: services.state_address,
            ORCHESTRATOR_ENV: services.orchestrator_address,
        },
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(process.wait(), name="ramify run")
        dying = group.create_task(services.wait(), name="services")
        stopping = group.create_task(stop.wait(), name="signals")
        await asyncio.wait({running, dying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            process.terminate()  # it detaches
            await running
        dead = dying.result() if dying.done() else None
        dying.cancel()
        stopping.cancel()
    if dead is not None:
        raise dead
    code = running.result()
    return code if code >= 0 else 128 - code  # as a shell reports a signal


def _how_to_go_on(project_id: str) -> str:
    folder = Path(sys.executable).parent
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    request = f'{{"project_id":"{project_id}","from_beginning":true}}'
    return f"""
Everything is kept in ./{DATA}: ./{DATA}/state/state.sqlite3 has every revision
of the run, ./{DATA}/logs what the services said. To go on:

  make up              # both services, in a terminal of their own
  {folder}/ramify ls
  {folder}/ramify show {project_id} --result
  {folder}/ramify watch {project_id} --events --from-beginning

The same history through the public API, from any tool (stop with Ctrl-C;
`make dev` installs buf):

  grpcurl -plaintext -d '{request}' \\
    {DEFAULT_STATE} ramify.v1.StateService/WatchProject

  {folder}/buf curl --protocol grpc --http2-prior-knowledge \\
    -d '{request}' \\
    http://{DEFAULT_STATE}/ramify.v1.StateService/WatchProject
"""


if __name__ == "__main__":
    sys.exit(main())
