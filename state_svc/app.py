"""Composition root: builds the service from its settings, runs it, drains it.

The only place that names concrete stores. Drain order: health NOT_SERVING; watches end with
their place and producers are told; the last batches are committed and acknowledged; the server
stops; the store closes.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import signal
import time
from collections.abc import Awaitable
from contextlib import suppress

from prometheus_client import start_http_server

from state_svc import __version__
from state_svc.config import Settings
from state_svc.errors import AddressInUse, CorruptRecord, InvalidConfig, StoreUnavailable
from state_svc.history.past import Past
from state_svc.history.registry import ProjectRegistry
from state_svc.history.retention import Retention
from state_svc.history.snapshots import Snapshotter
from state_svc.ingest.committer import Committer
from state_svc.lease.clock import lease_now
from state_svc.lease.table import LeaseTable
from state_svc.metrics import ServiceMetrics
from state_svc.model.limits import Limits
from state_svc.model.storing import StoringRules
from state_svc.payload.payloads import Payloads
from state_svc.rpc.server import RpcServer, bound_address
from state_svc.service import Damage, Requests, Service, now_micros
from state_svc.store.base import StateStore
from state_svc.store.sqlite import SqliteStore
from state_svc.watch.hub import WatchHub
from state_svc.watch.style import BroadcastDefaults

_log = logging.getLogger(__name__)
_SWEEP_SECONDS = 60
_LAST_CALLS_SECONDS = 1.0  #: how long calls may go on after the last commit of a drain
_GC_ALLOCATIONS, _GC_YOUNG, _GC_OLD = 50_000, 20, 100  #: measured: 10 to 20 % more mutations/s
_MINUTES_PER_HOUR = 60


async def build(store: StateStore, settings: Settings) -> Service:
    """Return the parts of a service over an open store."""
    metrics = ServiceMetrics(prometheus_projects=settings.metrics_projects)
    limits = Limits(
        max_projects=settings.max_projects,
        max_producers=settings.max_producers,
        max_watchers=settings.max_watchers,
        max_streams=settings.max_streams,
        max_calls=settings.max_calls,
    )
    hub = WatchHub(
        metrics,
        frame_budget=settings.watch_frame_budget_us / 1e6,
        max_watchers=limits.max_watchers,
    )
    rules = StoringRules(settings.storing())
    committer = Committer(
        store,
        rules=rules,
        publish=hub.notify,
        grew=lambda *what: snapshots.grew(*what),
        metrics=metrics,
        max_pending_bytes=settings.max_pending_bytes,
    )
    avoided = metrics.damaged_snapshots.inc
    projects = ProjectRegistry(
        store, lambda *what: snapshots.replayed(*what), avoided=avoided, limits=limits
    )

    async def settled() -> None:
        for project in projects.live():
            await committer.settled(project)

    payloads = Payloads(
        store,
        limits=limits,
        threshold=rules.base.compression_threshold,
        settled=settled,
        metrics=metrics,
    )
    snapshots = Snapshotter(
        store,
        revisions=settings.snapshot_revisions,
        size=settings.snapshot_bytes,
        mutations=settings.snapshot_mutations,
        rules=rules,
        released=payloads.collect_soon,
        verified=metrics.final_state,
    )
    await projects.open()
    await payloads.measure()
    damaged = await store.list_damage()
    for row in damaged:
        _log.error("row is damaged", extra={"fields": {"table": row.table, "row": row.name}})
    damage = Damage(damaged)
    return Service(
        store=store,
        projects=projects,
        committer=committer,
        hub=hub,
        snapshots=snapshots,
        retention=Retention(store, projects, snapshots, rules),
        past=Past(store, avoided),
        leases=LeaseTable(now=lease_now()),
        metrics=metrics,
        limits=limits,
        broadcast=BroadcastDefaults(
            diffs=settings.enable_diff_updates,
            batch_changes=settings.ws_batch_size,
            batch_seconds=settings.ws_batch_timeout_ms / 1_000,
            compress=settings.enable_ws_compression,
        ),
        producers={r.producer_id: r.epoch for r in await store.list_producers()},
        requests=Requests(await store.list_requests(now_micros() - Requests.KEEP_MICROS), damage),
        damage=damage,
        payloads=payloads,
    )


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `StartupError` before serving."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started = time.perf_counter()
    store = SqliteStore(settings.data)
    try:
        service = await build(store, settings)
        _start_metrics(service, settings.metrics_listen)
        server = RpcServer(service, store.sqlite_version)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(service.committer.run(), name="commit-loop"),
                tasks.create_task(service.snapshots.run(), name="snapshots"),
                tasks.create_task(_housekeeping(service, settings), name="housekeeping"),
            ]
            _spare_collections()
            port = await server.listen(settings.listen)
            _announce(settings, port, store, time.perf_counter() - started)
            await stop.wait()
            await drain(service, server, settings.drain_seconds)
            for task in background:
                task.cancel()
    finally:
        await store.aclose()


async def drain(service: Service, server: RpcServer, seconds: float) -> None:
    """End everything that is open so that nothing accepted is lost."""
    _log.info("draining")
    service.draining = True
    await server.stop_accepting()
    service.hub.end_all()
    last_calls = min(seconds, _LAST_CALLS_SECONDS)
    server.sessions.drain(last_calls)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await service.committer.drain()
    await server.stop(last_calls)
    _log.info("drained")


async def _housekeeping(service: Service, settings: Settings) -> None:
    for minute in itertools.count(1):
        await asyncio.sleep(_SWEEP_SECONDS)
        unloaded = service.projects.sweep(settings.max_live_bytes, service.is_in_use)
        if unloaded:
            _log.info("unloaded idle projects", extra={"fields": {"count": unloaded}})
        shortened = await service.retention.sweep(now_micros())
        if shortened:
            _log.info("dropped history", extra={"fields": {"projects": shortened}})
        await service.payloads.measure()
        await _try(service.forget_requests(), "old requests")
        hour = minute % _MINUTES_PER_HOUR == 0
        if hour:
            await _try(service.forget_stages(settings.stage_archive_days), "old stage records")
        # Not soon after a start: a producer may have waited for it with what it had put before.
        if (hour or service.payloads.due) and minute >= _MINUTES_PER_HOUR:
            await _try(service.payloads.collect(now_micros()), "unreferenced payloads")


async def _try(work: Awaitable[object], what: str) -> None:
    """Do one thing; if the store fails, it is done at the next time, and the others now."""
    try:
        await work
    except (StoreUnavailable, CorruptRecord):
        _log.exception("left for later", extra={"fields": {"what": what}})


def _spare_collections() -> None:
    """Let the cyclic garbage collector run less: what is kept here for long has no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, _GC_YOUNG, _GC_OLD)


def _start_metrics(service: Service, address: str) -> None:
    if not address:
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise InvalidConfig(key="metrics_listen", problem="is not HOST:PORT")
    try:
        start_http_server(int(port), host, service.metrics.registry)
    except OSError as error:
        raise AddressInUse(metrics_listen=address) from error


def _announce(settings: Settings, port: int, store: SqliteStore, seconds: float) -> None:
    address = bound_address(settings.listen, port)
    _log.info("settings", extra={"fields": settings.model_dump(mode="json")})
    _log.info("serving", extra={"fields": {"address": address, "start_seconds": seconds}})
    ready = {
        "service": "state_svc",
        "address": address,
        "version": __version__,
        "data": str(settings.data),
        "store_id": store.store_id,
    }
    print(json.dumps(ready), flush=True)  # noqa: T201 - the promised line on stdout
