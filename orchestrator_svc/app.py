"""Composition root: builds the service, runs it, drains it. The only place of concrete classes.

Drain order: health NOT_SERVING and new calls refused; runners dispatch no more, agent calls get a
moment, then their nodes are given back; the outbox is flushed; leases are released; the server
stops.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
from contextlib import suppress
from dataclasses import asdict

from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import start_http_server

from orchestrator_svc import __version__
from orchestrator_svc.agents.processes.client import Processes
from orchestrator_svc.config import ServiceConfig, load_profiles
from orchestrator_svc.engine.leases import LeaseKeeper
from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import StartupError
from orchestrator_svc.identity import locked_folder, producer_id
from orchestrator_svc.logs import get_logger
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.channel import open_channel
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.spool import Spool
from orchestrator_svc.publish.state_store import StateServiceStore
from orchestrator_svc.publish.stream import MutationStream, new_epoch
from orchestrator_svc.rpc.server import RpcServer
from orchestrator_svc.rpc.servicer import OrchestratorServicer
from orchestrator_svc.settings import settle
from ramify.v1.state_service_pb2_grpc import StateServiceStub

_GC_ALLOCATIONS = 50_000  #: objects made and kept, net, between two collections of the youngest
_GC_YOUNG, _GC_OLD = 10, 10  #: collections of one generation per collection of the next
LATE_CALL_SECONDS = 0.5  #: for RPCs that are still open when everything else is done

_log = get_logger(__name__)


async def run(config: ServiceConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises `StartupError` before serving and `ProducerFenced` when another process of the same
    name took over.
    """
    with locked_folder(config.data):
        await _run(config)


async def _run(config: ServiceConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    holder = producer_id(config.data, config.name)
    started = Timestamp()
    started.GetCurrentTime()
    metrics = Metrics()
    processes = Processes(config.max_processes)
    profiles = load_profiles(config, processes)
    channel = open_channel(config.state)
    stub = StateServiceStub(channel)
    epoch = new_epoch()
    spool = Spool(config.data, epoch, config.spool_bytes)
    stream = MutationStream(stub, producer_id=holder, epoch=epoch, metrics=metrics, spool=spool)
    client = StateClient(stub)
    leases = LeaseKeeper(client, holder=holder, ttl=config.lease_ttl_seconds, metrics=metrics)
    supervisor = Supervisor(
        store=StateServiceStore(stub, stream, metrics),
        projects=client,
        leases=leases,
        profiles=profiles,
        default_profile=config.default_profile,
        execution=config.execution,
        max_projects=config.max_projects,
        metrics=metrics,
    )
    servicer = OrchestratorServicer(
        client=client,
        stream=stream,
        supervisor=supervisor,
        profiles=profiles,
        default_profile=config.default_profile,
        execution=config.execution,
        holder=holder,
        started=started,
    )
    metrics.unacked_batches.set_function(lambda: stream.held_batches)
    server = RpcServer(servicer)
    try:
        address = await server.listen(config.listen)
        _serve_metrics(config, metrics)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(stream.run(), name="mutation-stream"),
                tasks.create_task(leases.run(), name="lease-renewal"),
                tasks.create_task(_supervise(stream, supervisor), name="supervisor"),
            ]
            _spare_collections()
            _announce(config, address, holder)
            await stop.wait()
            _log.info("draining")
            servicer.draining = True
            await server.stop_accepting()
            await supervisor.drain(config.drain_call_seconds, config.drain_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(LATE_CALL_SECONDS):
                    await stream.flush()
            for task in background:
                task.cancel()
        _log.info("drained")
    finally:
        await server.stop(LATE_CALL_SECONDS)
        await profiles.aclose()
        await processes.aclose()
        await channel.close()
        spool.close()


async def _supervise(stream: MutationStream, supervisor: Supervisor) -> None:
    """Execute once this epoch is in force: an older process of the same name is fenced then."""
    await stream.ready()
    await supervisor.run()


def _spare_collections() -> None:
    """Let the cyclic garbage collector run less: the nodes of a run are many and have no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, _GC_YOUNG, _GC_OLD)


def _serve_metrics(config: ServiceConfig, metrics: Metrics) -> None:
    if config.metrics_listen is None:
        return
    host, _, port = config.metrics_listen.rpartition(":")
    try:
        start_http_server(int(port), host, metrics.registry)
    except OSError as error:
        raise StartupError(
            f"{config.metrics_listen} cannot be listened on: {error.strerror}; "
            "stop what uses it, or pass another --metrics-listen"
        ) from error


def _announce(config: ServiceConfig, address: str, holder: str) -> None:
    _log.info("settings", **config.model_dump(mode="json", exclude={"execution"}))
    _log.info("execution settings", **asdict(settle(config.execution)))
    ready = {
        "service": "orchestrator_svc",
        "address": address,
        "version": __version__,
        "state": config.state,
        "holder": holder,
    }
    print(json.dumps(ready), flush=True)  # noqa: T201 - the promised line on stdout
