"""Finds projects that nobody executes, and takes its share of them (SEM 18).

Orchestrators do not know of each other; they see who holds which leases. So each takes at most its
share of the projects (all of them divided by the holders, itself included), half of what is free at
a time, in an order of its own, and looks again: of what becomes free at one moment, all who have
room get about as much. What is still free at the next scan is taken by anybody.

A project of a profile that this orchestrator does not have is left to those that have it. But
orders about it take no agent: it is taken up for as long as they are carried out.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from orchestrator_svc.errors import RamifyError
from orchestrator_svc.logs import get_logger
from orchestrator_svc.publish.records import HALF_DONE, UnfinishedProject

SCANS_PER_TTL = 3
ROUNDS_PER_TTL = 50  #: of taking, one after the other
MAX_LOOKS = 100  #: at projects that are left to others, for orders, in one scan

_log = get_logger(__name__)


class Projects(Protocol):
    """Where unfinished projects are found."""

    async def unfinished(self, *, leased: bool) -> Sequence[UnfinishedProject]:
        """Return the unfinished projects that somebody holds, or those that nobody does.

        The holder that a project of the latter kind names has let its lease run out.
        """

    async def has_orders(self, project_id: str) -> bool:
        """Return whether an order to a project is open. Raises `ProjectNotFound` and the like."""


class Scanner:
    """Looks for projects every third of a lease time. Owned by the supervisor."""

    def __init__(
        self,
        projects: Projects,
        *,
        holder: str,
        ttl: float,
        take_up: Callable[[str], None],
        problem_with: Callable[[str], str],
    ) -> None:
        self._projects = projects
        self._holder = holder
        self._ttl = ttl
        self._take_up = take_up
        self._problem_with = problem_with  #: why a profile is not executed here; empty: it is
        self._left: frozenset[str] = frozenset()
        self._looked: dict[str, int] = {}  #: projects that are left, without orders: revision
        self._seen: dict[str, int] = {}  #: free projects: scans in a row that have found them

    @property
    def missing(self) -> list[str]:
        """Profiles of projects that are free and that others have to execute, by name."""
        return sorted(self._left)

    async def run(self) -> None:
        """Scan until cancelled; first, take up what this holder has held before."""
        first = True
        while True:
            try:
                await self.scan(first=first)
                first = False
            except RamifyError as error:
                _log.warning("scan failed", cause=error.message)
            await asyncio.sleep(self._ttl / SCANS_PER_TTL)

    async def scan(self, *, first: bool = False) -> None:
        """Take up what this orchestrator should have of what is free."""
        present = await self._projects.unfinished(leased=False)
        free = self._executable(present)
        await self._serve([project for project in present if project.profile in self._left])
        if first:
            for project in await self._projects.unfinished(leased=True):
                if project.holder == self._holder and not self._problem_with(project.profile):
                    self._take_up(project.project_id)
        self._seen = {p.project_id: self._seen.get(p.project_id, 0) + 1 for p in free}
        wanted = {
            project.project_id
            for project in free
            # A new project is left to whoever has started it.
            if project.lease_epoch or self._seen[project.project_id] > 1
        }
        overdue = {project_id for project_id, scans in self._seen.items() if scans > 2}
        await self._share(wanted, overdue)

    def _executable(self, free: Sequence[UnfinishedProject]) -> list[UnfinishedProject]:
        """Return what can be executed here; say once of every other profile that it is left."""
        found = {project.profile: self._problem_with(project.profile) for project in free}
        left = frozenset(profile for profile, problem in found.items() if problem)
        for profile in sorted(left - self._left):
            cause = found[profile]
            _log.warning("projects are left to other orchestrators", profile=profile, cause=cause)
        self._left = left
        return [project for project in free if project.profile not in left]

    async def _serve(self, left: Sequence[UnfinishedProject]) -> None:
        """Take up what is left to others if an order about it is open or half done.

        What has not changed since it was looked at has no new one.
        """
        self._looked = {p.project_id: self._looked.get(p.project_id, -1) for p in left}
        changed = [p for p in left if self._looked[p.project_id] != p.revision]
        for project in changed[:MAX_LOOKS]:
            try:
                addressed = project.state in HALF_DONE or await self._projects.has_orders(
                    project.project_id
                )
            except RamifyError as error:  # that one cannot be read is no matter of the others
                _log.debug("not looked at", project_id=project.project_id, cause=error.message)
                addressed = False
            if addressed:
                self._take_up(project.project_id)
            else:
                self._looked[project.project_id] = project.revision

    async def _share(self, wanted: set[str], overdue: set[str]) -> None:
        while wanted:
            present = await self._projects.unfinished(leased=False)
            free = [p.project_id for p in present if p.project_id in wanted]
            held = Counter(p.holder for p in await self._projects.unfinished(leased=True))
            chosen = portion(free, held, self._holder, overdue)
            for project_id in chosen:
                self._take_up(project_id)
            wanted = set(free).difference(chosen)
            if not chosen or not wanted:
                return
            await asyncio.sleep(self._ttl / ROUNDS_PER_TTL)


def portion(
    free: Iterable[str], held: Counter[str], holder: str, overdue: Iterable[str] = ()
) -> list[str]:
    """Return which of the free projects `holder` takes now.

    Half of them, but no more than bring it to its share; and those that are overdue.
    """
    ranked = sorted(free, key=lambda project_id: _rank(holder, project_id))
    others = sum(1 for other in held if other != holder)
    share = -(-(held.total() + len(ranked)) // (others + 1))
    count = min(-(-len(ranked) // 2), max(0, share - held[holder]))
    late = set(overdue)
    return [id_ for place, id_ in enumerate(ranked) if place < count or id_ in late]


def _rank(holder: str, project_id: str) -> bytes:
    """Return a place that differs by holder, so that two seldom reach for the same project."""
    return hashlib.sha256(f"{holder}\0{project_id}".encode()).digest()
