"""Slots for processes: owners take turns, every one is used, and none is lost."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.processes.turns import FairSlots, TurnQueue


def test_one_owner_waits_for_one_of_each_other_however_much_they_have_asked_for() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(1_000):
        queue.add("many", f"many {number}")
    queue.add("few", "few 0")
    queue.add("few", "few 1")
    served = [queue.pop() for _ in range(6)]
    assert served == ["many 0", "few 0", "many 1", "few 1", "many 2", "many 3"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "pop", "remove"]))))
def test_whatever_was_added_is_given_out_once_in_its_owners_order(
    steps: list[tuple[str, str]],
) -> None:
    queue: TurnQueue[tuple[str, int]] = TurnQueue()
    waiting: dict[str, list[tuple[str, int]]] = {owner: [] for owner in "abc"}
    for number, (owner, step) in enumerate(steps):
        if step == "add":
            queue.add(owner, (owner, number))
            waiting[owner].append((owner, number))
        elif step == "remove":
            item = waiting[owner].pop() if waiting[owner] else (owner, -1)
            queue.remove(owner, item)
        else:
            served = queue.pop()
            if served is None:
                assert not any(waiting.values())
            else:
                assert waiting[served[0]].pop(0) == served
        assert len(queue) == sum(map(len, waiting.values()))


async def test_a_slot_that_is_given_to_a_cancelled_waiter_goes_to_the_next() -> None:
    slots = FairSlots(1)
    await slots.acquire("a")
    waiters = [asyncio.create_task(slots.acquire(owner)) for owner in "abc"]
    await asyncio.sleep(0)
    waiters[1].cancel()  # before it is its turn
    await asyncio.sleep(0)
    slots.release()
    waiters[0].cancel()  # in the moment in which it is given the slot
    assert await asyncio.gather(*waiters, return_exceptions=True)
    assert [waiter.cancelled() for waiter in waiters] == [True, True, False]
    slots.release()
    await slots.acquire("d")
    late = asyncio.create_task(slots.acquire("e"))
    await asyncio.sleep(0)
    assert not late.done(), "there is one slot"
    slots.release()
    await late
