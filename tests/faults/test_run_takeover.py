"""Two orchestrators on one store: one is lost, the other finishes its runs; nobody is harmed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ramify.v1.explain_pb2 import BlockerKind, ExplainProjectRequest
from ramify.v1.orchestrator_service_pb2 import GetRunnerRequest
from ramify.v1.project_pb2 import Project
from tests.support.orchestrator_process import OrchestratorProcess
from tests.support.research import (
    ONE_BY_ONE,
    Undisturbed,
    check_watchers_agree,
    corpus,
    prove,
    start,
    undisturbed,
)
from tests.support.runs import Runs, connect_both, holders
from tests.support.state_process import StateProcess
from tests.support.wire import eventually
from tests.support.witness import AgentCall, read_calls

__all__ = ["corpus", "undisturbed"]

#: Long enough that nobody takes a project from its starter on a busy machine.
TTL_SECONDS = 5.0
#: For what must happen without any lease running out.
LONG_TTL_SECONDS = 60.0
HOLDER_A, HOLDER_B = "orchestrator/a", "orchestrator/b"


class Two:
    """Orchestrators `a` and `b` on one store, with a connection to each."""

    def __init__(
        self, a: OrchestratorProcess, b: OrchestratorProcess, by_a: Runs, by_b: Runs
    ) -> None:
        self.a, self.b, self.by_a, self.by_b = a, b, by_a, by_b

    def calls(self) -> list[AgentCall]:
        """Return the agent calls of both, oldest first."""
        return read_calls(self.a.data, self.b.data)


def orchestrator(
    state: StateProcess, data: Path, name: str, ttl: float = TTL_SECONDS
) -> OrchestratorProcess:
    """Return an orchestrator that is not started yet."""
    flags = ("--lease-ttl-seconds", f"{ttl:g}", "--name", name)
    return OrchestratorProcess(data, state.address, *flags)


@asynccontextmanager
async def two(
    state: StateProcess,
    folder: Path,
    *,
    names: tuple[str, str] = ("a", "b"),
    ttl: float = TTL_SECONDS,
) -> AsyncIterator[Two]:
    """Start two orchestrators on one store; kill them at the end."""
    a, b = (
        orchestrator(state, folder / f"orchestrator-{place}", name, ttl)
        for place, name in zip("ab", names, strict=True)
    )
    try:
        a.start()
        if names[0] != names[1]:
            b.start()
        b_address = b.address or a.address
        async with (
            connect_both(state.address, a.address) as by_a,
            connect_both(state.address, b_address) as by_b,
        ):
            yield Two(a, b, by_a, by_b)
    finally:
        a.kill()
        b.kill()


async def holder(runs: Runs, project_id: str) -> str:
    """Return who holds a project now."""
    return (await runs.wire.project(project_id)).lease.holder


async def busy(runs: Runs) -> set[str]:
    """Return the projects that an orchestrator executes."""
    runner = await runs.stub.GetRunner(GetRunnerRequest())
    return {active.project_id for active in runner.projects}


async def test_another_orchestrator_finishes_the_run_of_one_that_was_killed(
    state: StateProcess, tmp_path: Path, corpus: Path, undisturbed: Undisturbed
) -> None:
    async with two(state, tmp_path) as pair:
        pair.a.hold_roots()
        project = await start(pair.by_a, corpus, ONE_BY_ONE)
        async with pair.by_b.follow(project) as follower:
            await follower.through(undisturbed.revisions // 3)
            pair.a.kill()
            assert not follower.history.ended
            history = await prove(pair.by_b, project, follower, undisturbed, pair.calls)
            await follower.until(lambda _: holders(follower)[-1] == "")
        names = [name for name in holders(follower) if name]
        assert (names[0], names[-1]) == (HOLDER_A, HOLDER_B)
        assert sum(history.interruptions.values()) <= len(names) - 1


async def test_either_takes_over_the_runs_of_the_other(state: StateProcess, tmp_path: Path) -> None:
    async with two(state, tmp_path) as pair:
        for_ever = {"node": "root", "hang": True}
        project = (await pair.by_a.script(rules=[for_ever])).project_id
        for victim, heir, name in ((pair.a, pair.by_b, HOLDER_B), (pair.b, pair.by_a, HOLDER_A)):

            async def runs(of: Runs = pair.by_b if victim is pair.b else pair.by_a) -> bool:
                return project in await busy(of)

            await eventually(runs, "the first of the two executes the run")
            victim.kill()

            async def taken(by: Runs = heir, its_name: str = name) -> bool:
                return await holder(by, project) == its_name

            await eventually(taken, f"{name} takes the run over")
            await asyncio.to_thread(victim.start)
            await (pair.by_a if victim is pair.a else pair.by_b).ready()


async def test_nobody_takes_over_while_the_lease_is_renewed(
    state: StateProcess, tmp_path: Path
) -> None:
    """The run lasts several TTLs, and the other one looks for work all the time (SEM 18)."""
    async with two(state, tmp_path) as pair:
        slow: Project = await pair.by_a.script(
            {"max_concurrent_nodes": 1}, breadth=20, delay_ms=600
        )
        history = await pair.by_b.finish(slow.project_id)
        async with pair.by_b.follow(slow.project_id) as follower:
            await follower.until(lambda _: holders(follower)[-1:] == [""])
        assert holders(follower) == [HOLDER_A, ""]
        assert history.state == "COMPLETED"
        assert not history.interruptions
        assert await busy(pair.by_b) == set()


async def test_a_holder_that_was_only_stopped_is_fenced_without_harm(
    state: StateProcess, tmp_path: Path
) -> None:
    """It wakes up with calls in flight while the other one works: nothing it says counts."""
    # The first hundred are so quick that it always has acks in its socket when it is stopped: on
    # waking up it learns what it may begin, but not yet that the project is not its own.
    quick = [{"node": pattern, "delay_ms": 1} for pattern in ("root.1.?", "root.1.??")]
    async with two(state, tmp_path) as pair:
        holds = [pair.a.hold_roots(), pair.b.hold_roots()]
        project = await pair.by_a.script(
            {"max_concurrent_nodes": 8}, breadth=280, delay_ms=60, rules=quick
        )
        async with pair.by_b.follow(project.project_id) as follower:
            await follower.until(lambda history: history.count("DONE") >= 20)
            pair.a.signal(signal.SIGSTOP)
            await follower.until(lambda _: HOLDER_B in holders(follower))
            await follower.until(lambda history: history.interruptions)
            pair.a.signal(signal.SIGCONT)
            await eventually(
                lambda: "another orchestrator took over" in pair.a.read_log(), "it has learnt of it"
            )
            assert not follower.history.ended, "it woke up in the middle"
            for hold in holds:
                hold.release()
            assert await follower.ended() == "COMPLETED"
            await check_watchers_agree(pair.by_b, project.project_id, follower)
        taken_at = min(call.time for call in pair.b.calls())
        late = [call for call in pair.a.calls() if call.time > taken_at]
        # One: it may have been stopped in the moment between its look at the lease and the call.
        assert len(late) <= 1, "the loser starts no call (SEM 16)"

        history = follower.history
        history.check_accounts()
        history.check_calls(call for call in pair.calls() if call not in late)
        assert not history.failures
        losses = len([name for name in holders(follower) if name]) - 1
        assert max(history.interruptions.values()) <= losses
        assert sum(history.interruptions.values()) <= 8 * losses

        async def let_go() -> bool:
            return await busy(pair.by_a) == set()

        await eventually(let_go, "the loser lets go of the project")
        assert pair.a.running
        again = await pair.by_a.script(breadth=2)
        assert (await pair.by_a.finish(again.project_id)).state == "COMPLETED"


async def test_a_holder_stopped_for_less_than_its_ttl_goes_on(
    state: StateProcess, tmp_path: Path
) -> None:
    async with two(state, tmp_path, ttl=LONG_TTL_SECONDS) as pair:
        hold = pair.a.hold_roots()
        project = await pair.by_a.script(breadth=10, delay_ms=50)
        async with pair.by_b.follow(project.project_id) as follower:
            await follower.until(lambda history: len(history.dispatches) >= 5)
            pair.a.signal(signal.SIGSTOP)
            await pair.by_b.wire.flush(project.project_id)
            pair.a.signal(signal.SIGCONT)
            hold.release()
            assert await follower.ended() == "COMPLETED"
        assert HOLDER_B not in holders(follower)
        assert not follower.history.interruptions


async def test_runs_of_a_drained_orchestrator_are_taken_over_at_once(
    state: StateProcess, tmp_path: Path
) -> None:
    async with two(state, tmp_path, ttl=LONG_TTL_SECONDS) as pair:
        pair.a.hold_roots()
        project = await pair.by_a.script(breadth=6, delay_ms=100)
        async with pair.by_b.follow(project.project_id) as follower:
            await follower.until(lambda history: len(history.dispatches) >= 3)
            assert pair.a.stop() == 0
            assert await follower.ended() == "COMPLETED"
        names = holders(follower)
        assert names[:3] == [HOLDER_A, "", HOLDER_B], "given back, not run out"
        follower.history.check_accounts()
        follower.history.check_calls(pair.calls())
        assert not follower.history.failures


async def test_a_newer_process_of_the_same_name_ends_the_older_one(
    state: StateProcess, tmp_path: Path
) -> None:
    async with two(state, tmp_path, names=("same", "same")) as pair:
        pair.a.hold_roots()
        project = await pair.by_a.script({"max_concurrent_nodes": 2}, breadth=20, delay_ms=60)
        async with pair.by_a.follow(project.project_id) as follower:
            await follower.until(lambda history: history.count("DONE") >= 3)
            await asyncio.to_thread(pair.b.start)
            assert await follower.ended() == "COMPLETED"
            await check_watchers_agree(pair.by_a, project.project_id, follower)
        assert pair.a.wait() == 1
        assert "took over as orchestrator/same; give each one a" in pair.a.read_log()
        assert "Traceback" not in pair.a.read_log()
        taken_at = min(call.time for call in pair.b.calls())
        late = [call for call in pair.a.calls() if call.time > taken_at]
        assert len(late) <= 2, "what was about to begin when it was fenced (SEM 16)"
        follower.history.check_accounts()
        follower.history.check_calls(call for call in pair.calls() if call not in late)


async def test_a_run_waits_for_an_orchestrator_that_has_its_profile(
    state: StateProcess, tmp_path: Path
) -> None:
    profile = tmp_path / "mine.yaml"
    roles = ("atomizer", "planner", "executor", "aggregator")
    profile.write_text("".join(f"{role}: scripted\n" for role in roles))
    with_it, without = (tmp_path / name for name in ("with", "without"))
    data_b = "--lease-ttl-seconds", "5", "--name", "b", "--profiles", str(profile)
    a = orchestrator(state, without, "a")
    b = OrchestratorProcess(with_it, state.address, *data_b)
    try:
        a.start()
        b.start()
        async with (
            connect_both(state.address, a.address) as by_a,
            connect_both(state.address, b.address) as by_b,
        ):
            hold = b.hold_roots()
            options = {"breadth": 3}
            project = (await by_b.start("a goal", profile="mine", options=options)).project_id
            async with by_b.follow(project) as follower:
                await follower.until(lambda history: history.count("DONE") == 3)
                b.kill()
                request = ExplainProjectRequest(project_id=project)

                async def left() -> bool:
                    runner = await by_a.stub.GetRunner(GetRunnerRequest())
                    return list(runner.missing_profiles) == ["mine"]

                await eventually(left, "the other one sees what it has to leave")

                async def named() -> bool:
                    """Not before the lease has run out: a new project was left too."""
                    found = (await by_a.stub.ExplainProject(request)).explanation
                    first = found.blockers[0].kind == BlockerKind.BLOCKER_KIND_AGENT
                    return first and "has no profile 'mine'" in found.summary

                await eventually(named, "it says what is missing")
                hold.release()
                await asyncio.to_thread(b.start)
                assert await follower.ended() == "COMPLETED"
                assert HOLDER_A not in holders(follower)
    finally:
        a.kill()
        b.kill()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
async def test_a_run_that_changes_hands_again_and_again(
    state: StateProcess, tmp_path: Path, corpus: Path, undisturbed: Undisturbed, moment: int
) -> None:
    """Kill the holder, whoever it is, restart it, and so on through one run."""
    async with two(state, tmp_path) as pair:
        project = await start(pair.by_a, corpus, {"max_concurrent_nodes": 1 + moment % 3})
        async with pair.by_b.follow(project) as follower:
            for step in range(3):
                await follower.through((step + 1) * 7 + moment)
                if follower.history.ended:
                    break
                name = await holder(pair.by_b, project)
                victim = pair.b if name == HOLDER_B else pair.a
                victim.kill()
                victim.start()
            await prove(pair.by_b, project, follower, undisturbed, pair.calls)


@pytest.mark.slow
async def test_all_runs_of_one_that_was_killed_are_taken_over(
    state: StateProcess, tmp_path: Path
) -> None:
    """By whichever of the others: on a busy machine the first that looks may take all of them."""
    hang = [{"node": "root.*", "stage": "execute", "hang": True}]
    lost = orchestrator(state, tmp_path / "orchestrator-c", "c")
    async with two(state, tmp_path) as pair:
        try:
            lost.start()
            async with connect_both(state.address, lost.address) as by_c:
                ids = {(await by_c.script(rules=hang)).project_id for _ in range(12)}

                async def held_by(holder: str) -> set[str]:
                    projects = await pair.by_a.wire.projects()
                    return {p.project_id for p in projects if p.lease.holder == holder}

                async def all_held_by_c() -> bool:
                    return await held_by("orchestrator/c") == ids

                await eventually(all_held_by_c, "all run where they were started")
        finally:
            lost.kill()

        async def taken_over() -> bool:
            return await held_by(HOLDER_A) | await held_by(HOLDER_B) == ids

        await eventually(taken_over, "all are taken over")
        (one, *_) = ids
        await pair.by_b.cancel(one)
        assert (await pair.by_a.finish(one)).state == "CANCELLED"
