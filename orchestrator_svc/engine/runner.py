"""Executes one project: the only owner of its run, and the only one who writes to it.

Whatever happens arrives in the inbox; decisions are pure (`graph/`); mutations go to the store
and the effects decided with them (agent calls, cancellations) begin when they are durable:

    inbox → decide → offer → durable → begin or cancel agent calls → inbox …

While `LANE_WINDOW` batches are under way, decisions gather into one fuller batch, and changes
that move no state are joined and come after all others (`graph/updates.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue

from orchestrator_svc.agents.profile import AgentSet
from orchestrator_svc.aside import aside
from orchestrator_svc.engine.abandon import CANCELLED
from orchestrator_svc.engine.activity import Activity
from orchestrator_svc.engine.agent_call import AgentCall
from orchestrator_svc.engine.calls import call_agent
from orchestrator_svc.engine.context import Views, agent_input, missing_results
from orchestrator_svc.engine.inbox import Inbox
from orchestrator_svc.engine.leases import Lease
from orchestrator_svc.engine.store import Store
from orchestrator_svc.errors import RamifyError
from orchestrator_svc.graph.decide import decide, first_turn
from orchestrator_svc.graph.dispatch import CALLED_STATES
from orchestrator_svc.graph.event import (
    Call,
    CallEnded,
    CallProgressed,
    Decision,
    Draining,
    Event,
    Failed,
    Outcome,
    Planned,
    TimeReached,
    TurnFailed,
)
from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.patience import Patience
from orchestrator_svc.graph.rate import RateWindow
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.scene import Live, OpenCall
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.types import ErrorClass, ProjectState
from orchestrator_svc.graph.updates import UpdateBuffer
from orchestrator_svc.metrics import Metrics
from orchestrator_svc.publish.backoff import Backoff
from orchestrator_svc.publish.errors_in import TRANSIENT
from orchestrator_svc.publish.outbox import LANE_WINDOW
from orchestrator_svc.publish.records import LoadedProject

_Preparation = asyncio.Task[dict[str, Result] | None]

LAST_LOOK_SECONDS = 2.0  #: longest wait for orders that came just before the end
GIVEN_BACK = Failed(ErrorClass.CANCELLED, "given back: the orchestrator was stopped")


@dataclass(slots=True)
class _Sent:
    """A batch under way and what is to be done when it is durable."""

    future: asyncio.Future[int]
    offered: float  #: loop time
    effects: Decision | None = None


class Runner:
    """One project in execution. Made for a project that was loaded under `lease`."""

    def __init__(
        self,
        project: LoadedProject,
        run: Run,
        *,
        lease: Lease,
        store: Store,
        agents: AgentSet,
        options: dict[str, JsonValue],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        dispatches: bool = True,
    ) -> None:
        """Without `dispatches` it carries out the orders that are open, and gives the run back."""
        self.lease = lease
        self._dispatches = dispatches
        run.draining = not dispatches
        self._project = project
        self._run = run
        run.open_orders.update(order.command_id for order in project.open_commands)
        self._store = store
        self._agents = agents
        self._options = options
        self._metrics = metrics
        self._clock = clock
        self._inbox = Inbox(project.open_commands)
        self._wake = asyncio.Event()
        self._updates = UpdateBuffer(run.settings)
        self._rate = RateWindow(run.settings.rate_limit_rpm)
        self._patience = Patience(run.settings)
        self._pending = Decision()  #: decided, not offered
        self._offering: float | None = None  #: loop time since which an `offer` waits
        self._sent: deque[_Sent] = deque()
        self._calls: dict[str, AgentCall] = {}  #: by node, that agents work on
        self._preparing: dict[str, _Preparation] = {}  #: by node, of calls before that
        self._fetched: list[tuple[Call, Mapping[str, Result]]] = []  #: calls that can begin
        self._views = Views()
        self._deciding = False  #: whether a turn is taken, perhaps in a thread
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._seen_revision = project.revision  #: how far the watch has come
        self._last_revision = project.revision  #: of the latest durable batch
        self._last_look: asyncio.TimerHandle | None = None  #: ends the wait for late orders
        self._looked = False  #: whether late orders are waited for no more
        self._draining = False
        self._grace_over = False  #: whether calls are given back, while draining
        self._gave_back = False
        self._failure: BaseException | None = None

    # For others on the loop

    @property
    def busy(self) -> int:
        """Agent calls decided and not ended."""
        return self._run.busy

    @property
    def waiting(self) -> int:
        """Nodes that could run but have no slot."""
        return len(self._run.queue)

    @property
    def stands_still(self) -> bool:
        """Whether it goes on only by an order or an answer: it is PAUSED or WAITING."""
        return self._run.state in (ProjectState.PAUSED, ProjectState.WAITING)

    @property
    def steps(self) -> int:
        """Agent-stage dispatches so far."""
        return self._run.steps

    @property
    def settings(self) -> Settings:
        """The execution keys in force."""
        return self._run.settings

    def live(self) -> Live | None:
        """Return what only this orchestrator knows of the project (S2.5).

        None while a long turn is taken: nobody else may look at the run then.
        """
        if self._deciding:
            return None
        now, nodes = asyncio.get_running_loop().time(), self._run.nodes.values()
        timeout = self._run.settings.node_execution_timeout_seconds
        begins = {
            node.node_id: OpenCall(node.stage, node.agent_name, self._clock(), timeout)
            for node in nodes
            if node.stage is not None
        }
        return Live(
            states={node.node_id: node.state for node in nodes},
            calls=begins | {id_: call.shown(self._clock()) for id_, call in self._calls.items()},
            queue={node_id: place for place, node_id in enumerate(self._run.queue)},
            busy=self._run.busy,
            steps=self._run.steps,
            budgets=self._run.accounts.report(self._clock()),
            draining=self._run.draining,
            lease_valid=self.lease.is_valid(),
            unsent_seconds=now - self._unsent_since(now),
        )

    def _unsent_since(self, now: float) -> float:
        if self._sent:
            return self._sent[0].offered
        return now if self._offering is None else self._offering

    def post(self, event: Event) -> None:
        """Put an event into the inbox."""
        self._inbox.post(event)
        self._wake.set()

    def drain(self, grace: float) -> None:
        """Dispatch no more; give calls `grace` seconds to end, then give their nodes back."""
        self._draining = self._run.draining = True
        asyncio.get_running_loop().call_later(grace, self._end_grace)
        self._wake.set()

    def _end_grace(self) -> None:
        self._grace_over = True
        self._wake.set()

    def abandon(self, error: BaseException) -> None:
        """End `execute` with `error`, without another write."""
        self._failure = error
        self._wake.set()

    # The loop

    async def execute(self) -> None:
        """Run the project until it has ended or was given back. Raises what made it stop."""
        try:
            await self._store.open_lane(self._project.project_id, self._project.project_uid)
            try:
                async with asyncio.TaskGroup() as group:
                    watch = group.create_task(self._follow(), name="runner-watch")
                    try:
                        await self._loop(group)
                    finally:
                        watch.cancel()
                        self._cancel_calls()
            finally:
                await self._end_calls()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._store.close_lane(self._project.project_id)

    async def _loop(self, group: asyncio.TaskGroup) -> None:
        orders = self._project.open_commands
        await self._decide(lambda run, now: first_turn(run, orders, now), len(self._run.nodes))
        while True:
            self._wake.clear()
            if self._failure is not None:
                raise self._failure
            self._take_durable(group)
            while self._fetched:
                self._begin_call(group, *self._fetched.pop())
            if self._inbox:
                await self._take_inbox()
            if self._draining or not self._dispatches:
                await self._give_back()
            if self._run.ended:
                self._cancel_calls()  # what they have cost and still say is recorded (SEM 20)
            if not self._is_full():
                self._release_updates()
                if self._pending:
                    await self._offer(group)
            if self._is_over():
                return
            self._arm_timer()
            await self._wake.wait()

    async def _take_inbox(self) -> None:
        await self._apply(self._inbox.take())

    async def _apply(self, events: list[Event]) -> None:
        await self._decide(
            lambda run, now: decide(run, events, now),
            max(_extent(event, self._run) for event in events),
        )

    async def _decide(self, turn: Callable[[Run, float], Decision], extent: int) -> None:
        """Take a turn of the run, which `extent` nodes may have to do with."""
        self._deciding = True
        decision = await aside(extent, lambda: turn(self._run, self._clock()))
        self._deciding = False  # not if this is cancelled: a thread goes on all the same
        groups = self._updates.take(decision.groups, self._clock(), full=self._is_full())
        self._pending.groups += groups
        self._pending.calls += decision.calls
        self._pending.cancels += decision.cancels

    def _is_full(self) -> bool:
        """Return whether no batch can be offered now: as many as may be are not durable."""
        return self._offering is not None or len(self._sent) >= LANE_WINDOW

    def _release_updates(self) -> None:
        """Send what the strategy has held long enough, or at the end everything."""
        if self._run.ended or self._gave_back:
            self._pending.groups += self._updates.flush()
        else:
            self._pending.groups += self._updates.pop_due(self._clock())

    async def _offer(self, group: asyncio.TaskGroup) -> None:
        """Hand on what is decided; if that has to wait for the store, the loop goes on."""
        decision, self._pending = self._pending, Decision()
        if self._store.is_ready(decision.groups):
            await self._hand_on(decision)
        else:
            self._offering = asyncio.get_running_loop().time()
            group.create_task(self._hand_on(decision), name="runner-offer")

    async def _hand_on(self, decision: Decision) -> None:
        since = asyncio.get_running_loop().time()
        futures = await self._store.offer(
            self._project.project_id, self.lease.lease_epoch, decision.groups
        )
        for future in futures:
            future.add_done_callback(self._settled)
            self._sent.append(_Sent(future, since))
        decision.groups = []  # a large plan need not be held until all of it is durable
        self._sent[-1].effects = decision
        if self._offering is not None:
            self._offering = None
            self._wake.set()

    def _settled(self, future: asyncio.Future[int]) -> None:
        if not future.cancelled():
            future.exception()  # read here; raised to the loop by `_take_durable`
        self._wake.set()

    def _take_durable(self, group: asyncio.TaskGroup) -> None:
        """Do what was decided with batches that are durable now. Raises why one is refused."""
        while self._sent and self._sent[0].future.done():
            sent = self._sent.popleft()
            self._last_revision = sent.future.result() or self._last_revision
            if sent.effects is not None:
                for call in sent.effects.calls:
                    self._begin_call(group, call)
                for node_id in sent.effects.cancels:
                    begun = self._calls.get(node_id) or self._preparing.get(node_id)
                    if begun is not None:
                        begun.cancel()

    # Agent calls

    def _begin_call(
        self, group: asyncio.TaskGroup, call: Call, fetched: Mapping[str, Result] | None = None
    ) -> None:
        node = self._run.nodes[call.node_id]
        if node.open_call != call.number:
            return
        cancelled = self._run.ended or self._run.state is ProjectState.CANCELLING
        if cancelled or node.state not in CALLED_STATES:
            self._not_begun(call)
            return
        missing = missing_results(self._run, call)
        if (fetched is not None or not missing) and self.lease.is_valid():
            self._ask(call, fetched or {})
            return
        task = group.create_task(self._prepare(call, missing), name="agent-call")
        self._preparing[call.node_id] = task
        task.add_done_callback(partial(self._prepared, call))

    async def _prepare(self, call: Call, missing: list[str]) -> dict[str, Result] | None:
        """Wait for what a call cannot begin without; return None if it has ended instead."""
        try:
            await self.lease.valid()
            return await self._fetch_results(missing)
        except RamifyError as error:
            failed = Failed(ErrorClass.CONNECTION, f"results cannot be read: {error.message}")
            self.post(CallEnded(call.node_id, call.number, failed))
            return None

    def _prepared(self, call: Call, task: _Preparation) -> None:
        del self._preparing[call.node_id]
        if task.cancelled():
            self._not_begun(call)
        elif task.exception() is None and (fetched := task.result()) is not None:
            self._fetched.append((call, fetched))
            self._wake.set()

    def _ask(self, call: Call, fetched: Mapping[str, Result]) -> None:
        task = agent_input(
            self._run,
            call,
            project_id=self._project.project_id,
            options=self._options,
            fetched=fetched,
            seen=self._views,
        )
        activity = Activity(partial(self._progressed, call), self._rate)
        at_work = self._calls[call.node_id] = AgentCall(call, task, activity, self._clock())
        at_work.begin(self._work(at_work), self._call_over)

    def _progressed(self, call: Call, note: str) -> None:
        usage = self._calls[call.node_id].activity.usage
        self.post(CallProgressed(call.node_id, call.number, note, usage))

    async def _work(self, at_work: AgentCall) -> Outcome:
        """Ask the agent, with nothing between it and the look at the lease that may wait.

        This process may have been stopped since the call was prepared, for longer than the TTL.
        """
        await self.lease.valid()
        call = at_work.call
        return await call_agent(
            self._agents,
            call.stage,
            at_work.task,
            call.timeout,
            at_work.activity,
            self._patience,
            at_work.asking,
        )

    async def _fetch_results(self, node_ids: list[str]) -> dict[str, Result]:
        """Read results that are not held, `knowledge_store_batch_size` at one time."""
        page, found = self._run.settings.knowledge_store_batch_size, dict[str, Result]()
        backoff = Backoff()
        while node_ids:
            ids = node_ids[:page]
            try:
                found.update(await self._store.read_results(self._project.project_id, ids))
            except TRANSIENT:  # that the store is away is no failure of the node
                await asyncio.sleep(backoff.next_delay())
            else:
                backoff.reset()
                node_ids = node_ids[page:]
        return found

    def _call_over(self, at_work: AgentCall, outcome: Outcome | BaseException) -> None:
        call = at_work.call
        at_work.activity.close()
        if self._calls.get(call.node_id) is at_work:
            del self._calls[call.node_id]
        if isinstance(outcome, BaseException):
            self.abandon(outcome)
            return
        if outcome is not CANCELLED:
            name = type(outcome).__name__.lower()
            self._metrics.call_ended(str(call.stage), name, at_work.seconds)
        try:
            self.post(self._ended(at_work, outcome))
        except Exception as error:  # a callback's errors are nobody's else
            known = isinstance(error, RamifyError | OSError)  # the store's or the disk's
            self.abandon(error if known else TurnFailed(call.node_id, error))

    def _ended(self, at_work: AgentCall, outcome: Outcome) -> CallEnded:
        return self._store.without_large(self._project.project_id, at_work.ended(outcome))

    def _not_begun(self, call: Call) -> None:
        """Say of a call that was cancelled before its agent was asked that it is over."""
        self.post(CallEnded(call.node_id, call.number, CANCELLED))

    def _cancel_calls(self) -> None:
        for task in self._preparing.values():
            task.cancel()
        for at_work in list(self._calls.values()):
            at_work.cancel()

    async def _end_calls(self) -> None:
        """End what is open; an agent that swallows its cancellation is abandoned."""
        self._cancel_calls()
        while self._calls:
            self._wake.clear()
            await self._wake.wait()

    # Time, orders, the end

    def _arm_timer(self) -> None:
        held_until = None if self._is_full() else self._updates.next_due()
        times = (self._run.next_due(), held_until)
        due = min((time for time in times if time is not None), default=None)
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due is not None:
            delay = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_at = None
        self.post(TimeReached())

    async def _follow(self) -> None:
        project = self._project
        sightings = self._store.follow(project.project_id, project.project_uid, project.revision)
        async for sighting in sightings:
            for command in sighting.commands:
                self.post(command)
            for closed in sighting.reviews:
                self.post(closed)
            if sighting.revision:
                self._seen_revision = sighting.revision
                if self._run.ended:
                    self._wake.set()

    async def _give_back(self) -> None:
        """Once no call is open, or the grace is over, end what is left: nothing is dispatched."""
        if self._gave_back or self._run.ended or (self._run.busy and not self._grace_over):
            return
        self._gave_back = True
        given_back = {id_: self._ended(call, GIVEN_BACK) for id_, call in self._calls.items()}
        self._cancel_calls()
        await self._apply([Draining(given_back)])

    def _is_over(self) -> bool:
        if self._pending or self._sent or self._inbox or self._offering is not None:
            return False
        if self._gave_back:
            return True
        if not self._run.ended or self._run.busy:
            return False
        if self._draining or self._seen_revision >= self._last_revision:
            return True
        # Orders given before the end are still on their way here; each of them gets its answer.
        if self._last_look is None:
            loop = asyncio.get_running_loop()
            self._last_look = loop.call_later(LAST_LOOK_SECONDS, self._stop_looking)
        return self._looked

    def _stop_looking(self) -> None:
        self._looked = True
        self._wake.set()


def _extent(event: Event, run: Run) -> int:
    """Return how many nodes an event may have to do with, at most: orders and failures spread."""
    if not isinstance(event, CallEnded):
        return 1 if isinstance(event, CallProgressed | TimeReached) else len(run.nodes)
    if isinstance(event.outcome, Planned):
        return len(event.outcome.tasks)
    return len(run.nodes) if isinstance(event.outcome, Failed) else 1
