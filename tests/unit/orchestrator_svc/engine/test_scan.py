"""What is free is shared by all who are there, and nothing is left to nobody (SEM 18)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.engine.scan import MAX_LOOKS, Scanner, portion
from orchestrator_svc.errors import CorruptRecord
from orchestrator_svc.graph.types import ProjectState
from orchestrator_svc.publish.records import UnfinishedProject


class Store:
    """Leases of some projects; whoever takes one up holds it at once."""

    def __init__(
        self,
        held: dict[str, str],
        epochs: dict[str, int] | None = None,
        profiles: dict[str, str] | None = None,
    ) -> None:
        self.held = held
        self.epochs = epochs or {}
        self.profiles = profiles or {}  #: of projects that do not have the one all know
        self.states: dict[str, ProjectState] = {}
        self.revisions: dict[str, int] = {}
        self.ordered: set[str] = set()  #: projects with an open order
        self.looks: list[str] = []  #: for orders

    async def unfinished(self, *, leased: bool) -> Sequence[UnfinishedProject]:
        return [
            UnfinishedProject(
                project_id,
                holder,
                self.epochs.get(project_id, 1),
                self.profiles.get(project_id, ""),
                self.states.get(project_id, ProjectState.RUNNING),
                self.revisions.get(project_id, 1),
            )
            for project_id, holder in self.held.items()
            if leased == bool(holder)
        ]

    async def has_orders(self, project_id: str) -> bool:
        self.looks.append(project_id)
        if project_id == "unreadable":
            raise CorruptRecord(project_id=project_id)
        return project_id in self.ordered

    def scanner(self, holder: str, *knows: str) -> Scanner:
        def take_up(project_id: str) -> None:
            if not self.held[project_id]:
                self.held[project_id] = holder

        def problem_with(profile: str) -> str:
            return "it is not here" if profile not in ("", *knows) else ""

        return Scanner(self, holder=holder, ttl=0.0, take_up=take_up, problem_with=problem_with)

    def counts(self) -> Counter[str]:
        return Counter(self.held.values())


def free(count: int) -> dict[str, str]:
    return {f"p{number}": "" for number in range(count)}


async def test_what_one_has_lost_is_shared_by_those_who_are_left() -> None:
    store = Store({**free(40), "x": "a", "y": "b"})
    async with asyncio.TaskGroup() as group:
        for holder in ("a", "b"):
            group.create_task(store.scanner(holder).scan())
    assert store.counts() == {"a": 21, "b": 21}


async def test_two_that_start_at_the_same_time_share_without_knowing_of_each_other() -> None:
    store = Store(free(40))
    async with asyncio.TaskGroup() as group:
        for holder in ("a", "b"):
            group.create_task(store.scanner(holder).scan(first=True))
    counts = store.counts()
    assert counts["a"] + counts["b"] == 40
    assert min(counts.values()) >= 10


async def test_one_alone_takes_everything() -> None:
    store = Store(free(100))
    await store.scanner("a").scan(first=True)
    assert store.counts() == {"a": 100}


async def test_one_that_has_more_than_its_share_leaves_what_is_free_to_others_for_a_while() -> None:
    store = Store({"x": "a", "y": "a", "z": "a", "new": "", "w": "b"})
    scanner = store.scanner("a")
    await scanner.scan()
    await scanner.scan()
    assert store.held["new"] == ""
    await scanner.scan()
    assert store.held["new"] == "a", "nobody else has taken it"


async def test_a_new_project_is_left_to_whoever_started_it_for_one_scan() -> None:
    store = Store({"new": "", "given back": ""}, {"new": 0, "given back": 3})
    scanner = store.scanner("a")
    await scanner.scan()
    assert store.held == {"new": "", "given back": "a"}
    await scanner.scan()
    assert store.held["new"] == "a"


async def test_the_first_scan_takes_up_what_this_holder_has_held_before() -> None:
    taken: list[str] = []
    held = {"mine": "a", "theirs": "b", "not any more": "a"}
    scanner = Scanner(
        Store(held, profiles={"not any more": "gone"}),
        holder="a",
        ttl=0.0,
        take_up=taken.append,
        problem_with=lambda profile: profile,
    )
    await scanner.scan(first=True)
    assert taken == ["mine"]


async def test_what_one_cannot_execute_is_left_to_one_that_can_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store(free(4), profiles={"p1": "words", "p2": "words"})
    without, with_it = store.scanner("a"), store.scanner("b", "words")
    for _ in range(3):
        await without.scan()
    assert store.held == {"p0": "a", "p1": "", "p2": "", "p3": "a"}
    assert without.missing == ["words"]
    assert caplog.text.count("left to other orchestrators") == 1
    await with_it.scan()
    await with_it.scan()
    await with_it.scan()
    assert (store.held["p1"], store.held["p2"], with_it.missing) == ("b", "b", [])
    await without.scan()
    assert without.missing == []


async def test_what_is_left_is_taken_up_for_an_order_and_looked_at_when_it_has_changed() -> None:
    left = ["quiet", "ordered", "unreadable", "cancelling", "pausing"]
    store = Store(dict.fromkeys(left, ""), profiles=dict.fromkeys(left, "gone"))
    store.states = {
        "cancelling": ProjectState.CANCELLING,
        "pausing": ProjectState.PAUSING,
    }
    store.ordered = {"ordered"}
    scanner = store.scanner("a")
    await scanner.scan()
    taken = {"ordered": "a", "cancelling": "a", "pausing": "a"}
    assert store.held == {"quiet": "", "unreadable": "", **taken}
    await scanner.scan()
    assert store.looks.count("quiet") == 1
    store.ordered.add("quiet")
    store.revisions["quiet"] = 2
    await scanner.scan()
    assert store.held["quiet"] == "a"
    assert scanner.missing == ["gone"], "they still wait for whoever has it"


async def test_so_many_are_looked_at_in_one_scan_and_the_others_in_the_next() -> None:
    store = Store(free(MAX_LOOKS + 1), profiles=dict.fromkeys(free(MAX_LOOKS + 1), "gone"))
    scanner = store.scanner("a")
    await scanner.scan()
    assert len(store.looks) == MAX_LOOKS
    await scanner.scan()
    assert len(set(store.looks)) == len(store.looks) == MAX_LOOKS + 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 60), st.data())
def test_whatever_the_order_all_is_taken_and_nobody_gets_more_than_its_share(
    before: list[int], count: int, data: st.DataObject
) -> None:
    held = Counter({f"h{number}": own for number, own in enumerate(before)})
    free, share = [f"p{number}" for number in range(count)], -(-(sum(before) + count) // len(held))
    most = {name: max(own, share) for name, own in held.items()}
    turns = 0
    while free:
        turns += 1
        assert turns < 40, "each turn of all halves what is left, or more"
        for name in data.draw(st.permutations(sorted(held))):
            chosen = portion(free, held, name)
            held[name] += len(chosen)
            free = [project_id for project_id in free if project_id not in chosen]
    assert all(held[name] <= most[name] for name in held)
