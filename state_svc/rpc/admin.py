"""RPCs about the service itself."""

from __future__ import annotations

from ramify.v1.state_service_pb2 import (
    GetServerInfoRequest,
    GetServerInfoResponse,
    GetStatsRequest,
    GetStatsResponse,
)
from state_svc import __version__
from state_svc.model.node import set_micros
from state_svc.rpc.convert import limits_message
from state_svc.service import Service
from state_svc.store.sqlite_schema import FORMAT_VERSION


class AdminRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service, sqlite_version: str) -> None:
        self._service = service
        self._sqlite_version = sqlite_version

    async def get_server_info(self, request: GetServerInfoRequest) -> GetServerInfoResponse:
        """Return versions, limits and identity."""
        response = GetServerInfoResponse(
            version=__version__,
            store_id=self._service.store.store_id,
            format_version=FORMAT_VERSION,
            limits=limits_message(self._service.limits),
            sqlite_version=self._sqlite_version,
        )
        set_micros(response.start_time, self._service.start_micros)
        return response

    async def get_stats(self, request: GetStatsRequest) -> GetStatsResponse:
        """Return the counters of the service or of one project."""
        service = self._service
        if request.project_id:
            project = await service.live(request.project_id)
            stats = service.metrics.seen(request.project_id).to_stats()
            stats.watchers = service.hub.count(project)
            stats.unsynced_watchers = service.hub.unsynced_count(project)
        else:
            await service.payloads.measure()
            stats = service.metrics.service.to_stats()
            stats.watchers = service.hub.watcher_count
            stats.unsynced_watchers = service.hub.unsynced_count()
        return GetStatsResponse(stats=stats)
