"""Finds projects to execute and keeps one runner for each, whatever happens to the others.

A project comes from StartProject or from the scan for unfinished projects that nobody holds
(SEM 18). It is executed under a lease; when its runner fails, the lease is given back before the
next try, so that nothing the failed runner sent can become durable in between.

A project of a profile that this orchestrator does not have is left to those that have it. Orders
about it take no agent, so they are carried out here, and then it is given back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator_svc.agents.profile import ProfileEntry, ProfileRegistry
from orchestrator_svc.aside import aside
from orchestrator_svc.engine.leases import Lease, LeaseKeeper
from orchestrator_svc.engine.runner import Runner
from orchestrator_svc.engine.scan import Projects, Scanner
from orchestrator_svc.engine.setback import setback_of
from orchestrator_svc.engine.store import Store
from orchestrator_svc.errors import (
    LeaseHeld,
    ProducerFenced,
    ProjectNotFound,
    RamifyError,
    leaves,
)
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.scene import Live
from orchestrator_svc.graph.setback import Setbacks
from orchestrator_svc.graph.settings import Scalar, Settings, effective
from orchestrator_svc.graph.types import TERMINAL_PROJECT_STATES
from orchestrator_svc.logs import get_logger
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.records import LoadedProject

RETRY_BASE_DELAY = 0.1  #: seconds before a failed runner's project is tried again
RETRY_MAX_DELAY = 30.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveRunner:
    """A runner as GetRunner shows it."""

    project_id: str
    lease_epoch: int
    running_nodes: int
    ready_nodes: int
    steps: int
    settings: Settings


class Supervisor:
    """All runners of this orchestrator. Owned by the loop; `run` is its life."""

    def __init__(
        self,
        *,
        store: Store,
        projects: Projects,
        leases: LeaseKeeper,
        profiles: ProfileRegistry,
        default_profile: str,
        execution: Mapping[str, Scalar],
        max_projects: int,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._leases = leases
        self._profiles = profiles
        self._default_profile = default_profile
        self._execution = execution  #: keys chosen for projects that do not set them
        self._max_projects = max_projects
        self._metrics = metrics
        self._scanner = Scanner(
            projects,
            holder=leases.holder,
            ttl=leases.ttl,
            take_up=self.take_up,
            problem_with=self.problem_with,
        )
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runners: dict[str, Runner] = {}
        self._again: set[str] = set()  #: projects to be taken up again once they are let go
        self._leasing: set[str] = set()  #: projects whose lease is being acquired or released
        self._setbacks: dict[str, Setbacks] = {}  #: by project that is tried again and again
        self._draining = False

    def active(self) -> list[ActiveRunner]:
        """Return what is executed now."""
        return [
            ActiveRunner(id_, r.lease.lease_epoch, r.busy, r.waiting, r.steps, r.settings)
            for id_, r in self._runners.items()
        ]

    def live(self, project_id: str) -> Live | None:
        """Return what only the executor of a project knows; None if that is not this one."""
        runner = self._runners.get(project_id)
        return runner.live() if runner else None

    def setback(self, project_id: str) -> str:
        """Return how the last execution of a project has ended that is tried again; empty: none."""
        found = self._setbacks.get(project_id)
        return found.latest.reason if found is not None and found.latest is not None else ""

    @property
    def missing_profiles(self) -> list[str]:
        """Profiles of projects that nobody executes and that others have to, by name."""
        return self._scanner.missing

    def problem_with(self, profile: str) -> str:
        """Return why no project of a profile is executed here; empty if they are."""
        name = profile or self._default_profile
        entry = self._profiles.get(name)
        if entry is None:
            known = ", ".join(self._profiles.names())
            lacks = f"this orchestrator has no profile {name!r}, it knows: {known}"
            return f"{lacks}; configure `profiles`"
        return entry.refusal

    @property
    def _is_full(self) -> bool:
        return len(self._tasks) >= self._max_projects

    @property
    def no_room(self) -> str:
        """Return why no other project is taken up here, and what would help; empty if one is.

        Those that are paused or wait for humans keep their places, so that orders and answers are
        acted on at once.
        """
        if not self._is_full:
            return ""
        still = sum(runner.stands_still for runner in self._runners.values())
        keep = f", {still} of them paused or waiting for humans" if still else ""
        return (
            f"this one executes {len(self._tasks)}{keep}, as many as `max_projects` allows; "
            "room comes with a larger number, another orchestrator, or the end of one of them"
        )

    def settings_of(self, own: Mapping[str, Scalar]) -> Settings:
        """Return the execution keys in force for a project that sets `own`."""
        return effective(self._execution, own)

    def take_up(self, project_id: str) -> None:
        """Execute a project unless that is done already or there is no room.

        Without room the project waits for the scan of whichever orchestrator has some. One whose
        runner is letting go is taken up again then: an order may just have reopened it.
        """
        if project_id in self._tasks and project_id not in self._runners:
            self._again.add(project_id)
        if self._group is None or self._draining or project_id in self._tasks or self._is_full:
            return
        task = self._group.create_task(self._keep_executing(project_id), name="project")
        self._tasks[project_id] = task
        self._metrics.active_projects.set(len(self._tasks))
        task.add_done_callback(lambda _: self._gone(project_id))

    def _gone(self, project_id: str) -> None:
        self._tasks.pop(project_id, None)
        self._setbacks.pop(project_id, None)
        self._metrics.active_projects.set(len(self._tasks))
        if project_id in self._again:
            self._again.discard(project_id)
            self.take_up(project_id)

    async def run(self) -> None:
        """Scan and execute until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._scanner.run()
            finally:
                self._draining = True

    async def drain(self, grace: float, deadline: float) -> None:
        """Give every project back: calls get `grace` seconds, everything `deadline` seconds."""
        self._draining = True
        for runner in self._runners.values():
            runner.drain(grace)
        tasks = list(self._tasks.values())
        if not tasks:
            return
        for project_id, task in self._tasks.items():
            # Not in the middle of a lease call: what it was granted could not be given back.
            if project_id not in self._runners and project_id not in self._leasing:
                task.cancel()
        _, late = await asyncio.wait(tasks, timeout=deadline)
        for task in late:
            task.cancel()
        if late:
            _log.warning("projects were not given back in time", projects=len(late))
            await asyncio.wait(late, timeout=deadline)

    async def _keep_executing(self, project_id: str) -> None:
        backoff = Backoff(RETRY_BASE_DELAY, RETRY_MAX_DELAY)
        while not self._draining:
            try:
                await self._execute(project_id)
            except (LeaseHeld, ProjectNotFound) as error:
                _log.debug("project is not ours", project_id=project_id, cause=error.message)
            except Exception as error:
                # A task group may have dropped a cancellation in favour of its error.
                if self._should_stop(project_id, error) or self._draining:
                    return
                self._take_note(project_id, error)
                await asyncio.sleep(backoff.next_delay())
                continue
            return

    def _take_note(self, project_id: str, error: Exception) -> None:
        setbacks = self._setbacks.setdefault(project_id, Setbacks())
        setbacks.add(setback_of(error), time.monotonic())

    def _should_stop(self, project_id: str, error: Exception) -> bool:
        """Log why a runner ended; return whether the project is somebody else's now."""
        causes = list(leaves(error))
        self._metrics.runner_failures.labels(error=type(causes[0]).__name__).inc()
        if any(isinstance(cause, ProducerFenced) for cause in causes):
            _log.warning("another orchestrator took over", project_id=project_id)
            return True
        if all(isinstance(cause, RamifyError) for cause in causes):
            _log.warning("runner ended", project_id=project_id, cause=str(causes[0]))
        else:
            _log.error("runner failed", project_id=project_id, exc_info=error)
        return False

    async def _execute(self, project_id: str) -> None:
        await self._store.quiesce(project_id)
        with self._at_lease(project_id):
            lease = await self._leases.acquire(project_id)
        try:
            if not self._draining:
                await self._execute_leased(lease)
        except* ProducerFenced:
            self._leases.forget(lease)
            raise
        finally:
            if self._leases.holds(lease):
                with self._at_lease(project_id):
                    await asyncio.shield(self._leases.release(lease))

    @contextmanager
    def _at_lease(self, project_id: str) -> Iterator[None]:
        self._leasing.add(project_id)
        try:
            yield
        finally:
            self._leasing.discard(project_id)

    async def _execute_leased(self, lease: Lease) -> None:
        project = await self._store.load(lease.project_id)
        self._check_held(lease)
        if project.state in TERMINAL_PROJECT_STATES:
            return
        problem = self.problem_with(project.profile)
        if problem and not project.is_addressed:
            _log.info("project is left to others", project_id=lease.project_id, cause=problem)
            return
        # Whose agents is all the same for orders alone: none is called.
        entry = self._entry(self._default_profile if problem else project.profile)
        run = await aside(len(project.nodes), lambda: self._make_run(project, entry))
        self._check_held(lease)
        setbacks = self._setbacks.get(lease.project_id)
        run.setback = setbacks.latest if setbacks is not None else None
        runner = Runner(
            project,
            run,
            lease=lease,
            store=self._store,
            agents=entry.agents,
            options={**project.agent_options, **entry.service_options},
            metrics=self._metrics,
            dispatches=not problem,
        )
        lease.on_lost = lambda: runner.abandon(ProducerFenced(project_id=lease.project_id))
        self._runners[lease.project_id] = runner
        self._again.discard(lease.project_id)  # it follows whatever was ordered since it was loaded
        try:
            await runner.execute()
        finally:
            del self._runners[lease.project_id]
            lease.on_lost = lambda: None  # lest both and the whole run wait for the collector

    def _check_held(self, lease: Lease) -> None:
        """Raise `ProducerFenced` if it was lost while there was no runner to be told."""
        if not self._leases.holds(lease):
            raise ProducerFenced(project_id=lease.project_id)

    def _make_run(self, project: LoadedProject, entry: ProfileEntry) -> Run:
        return Run(
            goal=project.goal,
            state=project.state,
            settings=effective(self._execution, project.settings),
            agent_names=entry.profile.agent_name,
            random=random.random,
            root_id=project.root_id,
            pause_time=project.pause_time,
            nodes=project.nodes,
            reviews=project.reviews,
        )

    def _entry(self, profile: str) -> ProfileEntry:
        entry = self._profiles.get(profile or self._default_profile)
        assert entry is not None  # the default profile exists
        return entry
