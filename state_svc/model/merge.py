"""Joins successive changes of each entity into one that has the same effect. Pure.

This is coalescing: states between are hidden, so it happens only to what a watcher may see
joined, never to what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ramify.v1.command_pb2 import CommandPatch
from ramify.v1.mutation_pb2 import (
    Change,
    CommandChange,
    NodeChange,
    ProjectChange,
    ReviewChange,
)
from ramify.v1.node_pb2 import NodePatch
from ramify.v1.project_pb2 import ProjectPatch
from ramify.v1.review_pb2 import ReviewPatch
from state_svc.model.node import read_micros
from state_svc.model.patch import replay_command, replay_node, replay_project
from state_svc.model.review import replay_review

Patch = NodePatch | ProjectPatch | CommandPatch | ReviewPatch
EntityChange = NodeChange | ProjectChange | CommandChange | ReviewChange


class Shown(NamedTuple):
    """One change as a view is told of it."""

    change: Change
    entered: bool  #: the entity was not in the view before


def merge(shown: Iterable[Shown]) -> list[Change]:
    """Return at most one change per entity, by the place of its last one.

    An entity that came and went is left out. What only ever comes, stage records, stays.
    """
    return [item.change for item in join(shown)]


def join(shown: Iterable[Shown]) -> list[Shown]:
    """Return what `merge` does in a form to which later changes may be joined."""
    runs: dict[tuple[str, str], list[Shown]] = {}
    for item in shown:
        runs.setdefault(_key(item.change), []).append(item)
    joined: list[Shown] = []
    for run in runs.values():
        if run[0].entered and run[-1].change.node.removal:
            continue
        change = run[0].change if len(run) == 1 else _merge_run(run)
        joined.append(Shown(change, run[0].entered))
    return sorted(joined, key=lambda item: (item.change.revision, item.change.index))


def _key(change: Change) -> tuple[str, str]:
    kind = change.WhichOneof("entity") or ""
    if kind == "node":
        return kind, change.node.node_id
    if kind == "command":
        return kind, change.command.command_id
    if kind == "review":
        return kind, change.review.review_id
    if kind == "project":
        return kind, ""
    return kind, f"{change.revision}/{change.index}"


def _merge_run(run: list[Shown]) -> Change:
    last = run[-1].change
    kind = last.WhichOneof("entity")
    merged = Change()
    merged.CopyFrom(run[0].change)
    body: Any = getattr(merged, kind or "node")
    for item in run[1:]:
        change: Any = getattr(item.change, kind or "node")
        _join(body, change)
    merged.revision, merged.index = last.revision, last.index
    return merged


def _join(body: EntityChange, change: EntityChange) -> None:
    """Put a later change of the same entity on `body`."""
    body.version = change.version
    effect = change.WhichOneof("effect")
    if effect != "patch":  # whole or gone: what was before does not matter
        if effect == "removal":
            body.removal = change.removal  # type: ignore[union-attr]
        elif effect is not None:
            getattr(body, effect).CopyFrom(getattr(change, effect))
        return
    before = body.WhichOneof("effect")
    if before == "patch":
        join_patches(body.patch, change.patch)
    elif isinstance(body, NodeChange) and isinstance(change, NodeChange):
        replay_node(body.node, change.patch)
    elif isinstance(body, ProjectChange) and isinstance(change, ProjectChange):
        replay_project(body.project, change.patch)
    elif isinstance(body, CommandChange) and isinstance(change, CommandChange):
        replay_command(body.command, change.patch)
    elif isinstance(body, ReviewChange) and isinstance(change, ReviewChange):
        micros = read_micros(body.review.update_time)  # its reader stamps it
        replay_review(body.review, change.patch, version=change.version, micros=micros)


def join_patches(patch: Patch, later: Patch) -> None:
    """Change `patch` so that applying it does what applying it and then `later` did."""
    cleared: list[str] = list(getattr(patch, "clear_fields", ()))
    for name in getattr(later, "clear_fields", ()):
        patch.ClearField(name)
        if name not in cleared:
            cleared.append(name)
    for field, value in later.ListFields():
        name = field.name
        if name == "clear_fields":
            continue
        if name.endswith("_removals"):
            _remove_keys(patch, name, value)
        elif name.endswith("_upserts"):
            _upsert_keys(patch, name, value)
        else:
            if name in cleared:
                cleared.remove(name)
            patch.ClearField(name)  # type: ignore[arg-type]
            if field.is_repeated:
                getattr(patch, name).extend(value)
            elif field.message_type is not None:
                getattr(patch, name).CopyFrom(value)
            else:
                setattr(patch, name, value)
    if isinstance(patch, NodePatch | ProjectPatch):
        patch.clear_fields[:] = cleared


def _remove_keys(patch: Patch, name: str, keys: Iterable[str]) -> None:
    removals = getattr(patch, name)
    upserts = getattr(patch, name.removesuffix("removals") + "upserts")
    for key in keys:
        upserts.pop(key, None)
        if key not in removals:
            removals.append(key)


def _upsert_keys(patch: Patch, name: str, values: Any) -> None:
    upserts = getattr(patch, name)
    removals = getattr(patch, name.removesuffix("upserts") + "removals")
    for key, value in values.items():
        if key in removals:
            removals.remove(key)
        if isinstance(value, str):
            upserts[key] = value
        else:
            upserts[key].CopyFrom(value)
