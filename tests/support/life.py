"""Random lives of projects, and ways to compare what watchers were told of them."""

from __future__ import annotations

import random
from collections.abc import Callable

from ramify.v1.mutation_pb2 import Change, Mutation, MutationBatch
from ramify.v1.node_pb2 import NodeState
from tests.support.mutations import (
    DONE,
    FAILED,
    NEEDS_REPLAN,
    READY,
    RUNNING,
    batch,
    change_project,
    create,
    delete,
    patch,
)
from tests.support.state_process import StateProcess
from tests.support.view import NodeView
from tests.support.watch import WatchLog
from tests.support.wire import Wire

Start = Callable[..., StateProcess]

ROUNDS = 40


async def random_life(wire: Wire, project_id: str, rounds: int = ROUNDS, seed: int = 1) -> int:
    """Write a project's life of many kinds of revision; return the last one."""
    chance = random.Random(seed)
    await wire.commit(project_id, create("root", state=READY))
    states: dict[str, NodeState.ValueType] = {}
    moves = {
        READY: [RUNNING, FAILED],
        RUNNING: [DONE, FAILED],
        DONE: [NEEDS_REPLAN],
        FAILED: [READY, NEEDS_REPLAN],
        NEEDS_REPLAN: [READY, RUNNING],
    }
    async with wire.producer() as producer:
        sequence = 0
        frame: list[MutationBatch] = []
        for at in range(rounds):
            mutations: list[Mutation] = []
            for index in range(chance.choice([0, 1, 2, 3, 4])):
                if len(states) < 4 or chance.random() < 0.3:
                    node_id = f"n{at}-{index}"
                    mutations.append(create(node_id, "root", state=READY, agent_name="first"))
                    states[node_id] = READY
                else:
                    node_id = chance.choice(sorted(states))
                    state = chance.choice(moves[states[node_id]])
                    states[node_id] = state
                    aux = {"at": {"number_value": at}}
                    mutations.append(patch(node_id, state=state, aux_upserts=aux))
                    if chance.random() < 0.3:
                        agent = chance.choice(["first", "second"])
                        mutations.append(patch(node_id, agent_name=agent, output_summary=f"{at}"))
            if states and chance.random() < 0.1:
                node_id = chance.choice(sorted(states))
                del states[node_id]
                mutations.append(delete(node_id))
            if chance.random() < 0.1:
                mutations.append(change_project(label_upserts={"at": str(at)}))
            if not mutations or chance.random() < 0.1:
                mutations.append(patch("root", goal="goal of root"))  # no effect (SEM 6)
            sequence += 1
            frame.append(batch(project_id, sequence, *mutations))
            # Several in one message and without waiting for acks: commits hold several revisions.
            if len(frame) == chance.choice([1, 2, 4]) or len(frame) == 4 or at == rounds - 1:
                await producer.send(*frame)
                frame = []
        return await producer.acked(project_id, sequence)


def flat(log: WatchLog) -> list[tuple[int, int, bytes]]:
    """Return every change a watcher was told, in order, to compare."""
    return [
        (revision, change.index, change.SerializeToString(deterministic=True))
        for revision, changes in log.changes.items()
        for change in changes
    ]


async def view_of(wire: Wire, project_id: str) -> dict[str, bytes]:
    """Return the nodes as ListNodes shows them, to compare."""
    return as_bytes(NodeView(await wire.nodes(project_id)))


def as_bytes(view: NodeView | None) -> dict[str, bytes]:
    """Return a view to compare."""
    assert view is not None
    return {key: n.SerializeToString(deterministic=True) for key, n in view.nodes.items()}


async def whole_log(wire: Wire, project_id: str, revision: int) -> WatchLog:
    """Return everything from the beginning through a revision."""
    async with wire.watch(project_id, from_beginning=True) as watch:
        return await watch.through(revision)


async def random_life_patches(wire: Wire, project_id: str, count: int) -> int:
    """Patch the root `count` times, one revision each."""
    revision = 0
    for at in range(count):
        revision = await wire.commit(project_id, patch("root", output_summary=f"at {at}"))
    return revision


def only(log: WatchLog, revision: int) -> Change:
    """Return the one change of a revision."""
    (change,) = log.changes[revision]
    return change
