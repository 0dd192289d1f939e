"""Changes of a project that do not come from producers: its creation, leases and pins. Pure."""

from __future__ import annotations

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.project_pb2 import Project, ProjectPatch, ProjectState
from state_svc.model.node import read_micros, set_micros
from state_svc.model.patch import replay_project
from state_svc.model.project import Applied, LiveProject

_PAUSED = (ProjectState.PROJECT_STATE_PAUSING, ProjectState.PROJECT_STATE_PAUSED)


def create_project(entity: Project, *, micros: int, actor: str) -> Applied:
    """Return revision 1 of a new project; `entity` has everything but its stamps.

    Fields of a newer contract are taken from it, as `apply_batch` does.
    """
    entity.DiscardUnknownFields()
    entity.state = entity.state or ProjectState.PROJECT_STATE_PENDING
    entity.version = 1
    set_micros(entity.create_time, micros)
    set_micros(entity.update_time, micros)
    delta = Delta()
    change = delta.changes.add(revision=1)
    change.project.version = 1
    change.project.project.CopyFrom(entity)
    return _applied(delta, 1, micros, actor, entity)


def change_lease(
    project: LiveProject, holder: str, epoch: int, *, micros: int, actor: str, ttl: float = 0.0
) -> Applied:
    """Return the revision that grants a lease of `ttl` seconds, or (empty holder) releases it."""
    patch = ProjectPatch()
    patch.lease.holder = holder
    patch.lease.lease_epoch = epoch
    if ttl:
        patch.lease.ttl.FromNanoseconds(int(ttl * 1e9))
    return _patched(project, patch, micros, actor)


def change_pin(
    project: LiveProject, pin: str, revision: int, *, micros: int, actor: str
) -> Applied:
    """Return the revision that pins a revision under a name, or (0) removes the pin."""
    patch = ProjectPatch()
    patch.pins.CopyFrom(project.entity.pins)
    if revision:
        patch.pins.revisions[pin] = revision
    else:
        patch.pins.revisions.pop(pin, None)
    return _patched(project, patch, micros, actor)


def stopped_micros(entity: Project, micros: int) -> int:
    """Return since when the timers of a project stand still that is made PAUSED (SEM 20, 32).

    Since the pause, if it was paused already; else since `micros`, its latest commit time: what
    was left of them then is left of them when it is resumed.
    """
    if entity.state in _PAUSED and entity.HasField("pause_time"):
        return read_micros(entity.pause_time)
    return micros


def lowest_pin(entity: Project) -> int | None:
    """Return the lowest revision whose history must stay; None if there is none."""
    return min(entity.pins.revisions.values(), default=None)


def _patched(project: LiveProject, patch: ProjectPatch, micros: int, actor: str) -> Applied:
    before = project.entity
    micros = max(micros, project.micros)
    after = Project()
    after.CopyFrom(before)
    replay_project(after, patch)
    after.version += 1
    set_micros(after.update_time, micros)
    revision = project.revision + 1
    delta = Delta()
    change = delta.changes.add(revision=revision)
    change.project.version = after.version
    change.project.patch.CopyFrom(patch)
    change.project.previous_state = before.state
    return _applied(delta, revision, micros, actor, after)


def _applied(delta: Delta, revision: int, micros: int, actor: str, entity: Project) -> Applied:
    info = delta.revisions.add(revision=revision, actor=actor)
    set_micros(info.commit_time, micros)
    return Applied(
        revision=revision,
        micros=micros,
        mutation_count=1,
        info=info,
        body=delta.SerializeToString(),
        images=[(None, None)],
        nodes={},
        entity=entity,
        commands={},
        wholes={0: entity},
        held_bytes=entity.ByteSize(),
    )
