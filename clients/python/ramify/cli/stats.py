"""`ramify stats`: counters of the service or of one run."""

from typing import TYPE_CHECKING, Annotated

import typer

from ramify.cli.exits import ExitCode
from ramify.cli.options import (
    DEFAULT_ORCHESTRATOR,
    DEFAULT_STATE,
    Json,
    OrchestratorAddress,
    StateAddress,
)

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.v1.orchestrator_service_pb2 import GetRunnerResponse
    from ramify.v1.state_service_pb2 import GetServerInfoResponse, Stats


def stats(
    project_id: Annotated[
        str, typer.Argument(metavar="ID", help="Which run; default: all of them.")
    ] = "",
    json: Json = False,
    state_svc: StateAddress = DEFAULT_STATE,
    orchestrator_svc: OrchestratorAddress = DEFAULT_ORCHESTRATOR,
) -> int:
    """Show counters of one run, or of everything.

    They count from the start of state_svc. Without ID it also shows both services, and the
    orchestrator's profiles and active runs. `--json` prints the counters alone.

    \b
    Examples:
      ramify stats
      ramify stats ID
      ramify stats --json | jq .stats.totalUpdates
    """
    from ramify.cli.session import run_session

    async def work(client: "AsyncClient") -> int:
        from ramify.cli.terminal import print_json
        from ramify.errors import RamifyError

        response = await client.get_stats(project_id)
        if json:
            print_json(response)
            return ExitCode.OK
        if project_id:
            _print([("run", project_id), *_counters(response.stats)])
            return ExitCode.OK
        rows = [*_server(client, await client.get_server_info()), *_counters(response.stats)]
        try:
            rows += _runner(client, await client.get_runner())
        except RamifyError as error:  # state_svc alone is worth showing
            rows += [("orchestrator_svc", error.message)]
        _print(rows)
        return ExitCode.OK

    return run_session(work, state_svc, orchestrator_svc)


def _server(client: "AsyncClient", info: "GetServerInfoResponse") -> list[tuple[str, str]]:
    return [
        ("state_svc", f"{client.state_address}  version {info.version}"),
        ("store", f"{info.store_id}  format {info.format_version}, SQLite {info.sqlite_version}"),
    ]


def _counters(stats: "Stats") -> list[tuple[str, str]]:
    from ramify.cli.format import size

    quantiles = {
        "p50": stats.commit_seconds_p50,
        "p90": stats.commit_seconds_p90,
        "p99": stats.commit_seconds_p99,
    }
    shown = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in quantiles.items())
    times = [("commit time", shown)] if stats.commit_seconds_p99 else []
    payloads = [
        (
            "payloads",
            f"{stats.payload_count:,}, {size(stats.payload_stored_bytes)} of "
            f"{size(stats.payload_original_bytes)}, {stats.payload_puts:,} put, "
            f"{stats.payloads_collected:,} dropped in {stats.payload_collections:,} collections",
        )
    ] * bool(stats.payload_count or stats.payload_puts or stats.payload_collections)
    failed = f", {stats.failed_commits:,} failed" if stats.failed_commits else ""
    return [
        (
            "updates",
            f"{stats.total_updates:,} ({stats.batched_updates:,} batched, "
            f"{stats.immediate_updates:,} immediate)",
        ),
        (
            "batches",
            f"{stats.batches:,} committed, {stats.rejected_batches:,} rejected, "
            f"{stats.repeated_batches:,} repeated",
        ),
        (
            "commits",
            f"{stats.commits:,}{failed}, {stats.mean_batch_fill:.1f} updates each on average",
        ),
        *times,
        (
            "stored",
            f"{size(stats.bytes_stored)} of {size(stats.bytes_in)}, "
            f"{size(stats.bytes_saved)} saved, "
            f"{stats.compression_ratio:.1f} to 1, {stats.compressions:,} compressed",
        ),
        *payloads,
        ("watchers", f"{stats.watchers:,}, {stats.unsynced_watchers:,} catching up"),
    ]


def _runner(client: "AsyncClient", runner: "GetRunnerResponse") -> list[tuple[str, str]]:
    rows = [
        (
            "orchestrator_svc",
            f"{client.orchestrator_address}  version {runner.version}, holder {runner.holder}",
        ),
        ("profiles", ", ".join(runner.profiles)),
        *_missing(runner),
        ("unacked", f"{runner.unacked_batches:,} batches"),
    ]
    for project in runner.projects:
        text = f"{project.running_nodes:,} running, {project.ready_nodes:,} ready"
        rows.append((project.project_id, f"{text}, {project.steps:,} steps"))
    return rows


def _missing(runner: "GetRunnerResponse") -> list[tuple[str, str]]:
    names = ", ".join(runner.missing_profiles)
    return [("missing", f"{names}: runs wait for an orchestrator that has it")] if names else []


def _print(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ramify.cli.terminal import print_table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    print_table(table)
