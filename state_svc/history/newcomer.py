"""Stores a project that comes with a past: a fork or an import.

It takes several transactions, and the project does not exist before the last of them. If the
process dies half-way, the next start clears away what there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from state_svc.codec.project import encode_project
from state_svc.history.registry import ProjectRegistry
from state_svc.model.project import LiveProject
from state_svc.store.base import RequestRecord, StateStore


async def store_newcomer(
    store: StateStore,
    projects: ProjectRegistry,
    project: LiveProject,
    request: RequestRecord,
    write: Callable[[], Awaitable[None]],
) -> None:
    """Store a project, whose snapshots and segments `write` stores; then it is found.

    The answer to the request becomes durable with the project. Raises `StoreUnavailable` or what
    `write` raises; then there is no such project.
    """
    failure: Exception | None = None
    with projects.reserved(project.project_id):
        try:
            await store.begin_project(encode_project(project.view.entity), project.view.compacted)
            await write()
            await store.finish_project(project.uid, [request] if request.request_id else [])
        except Exception as error:
            # If it is not unfinished, the last step took effect after all.
            if await store.drop_unfinished(project.uid) or not await _exists(store, project.uid):
                failure = error
    if failure is not None:
        raise failure
    projects.add(project)


async def _exists(store: StateStore, project_uid: str) -> bool:
    heads = await store.list_projects()
    return any(head.record.project_uid == project_uid for head in heads)
