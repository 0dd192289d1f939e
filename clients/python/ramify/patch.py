"""Applies one change to one entity: the rules of the `Delta` comment in mutation.proto. Pure.

Each function changes the entity in place and knows nothing of other entities.
"""

from ramify.v1.command_pb2 import Command, CommandPatch
from ramify.v1.mutation_pb2 import RevisionInfo
from ramify.v1.node_pb2 import Node, NodePatch
from ramify.v1.project_pb2 import Project, ProjectPatch
from ramify.v1.review_pb2 import Review, ReviewPatch

#: Fields of `NodePatch` that are not fields of `Node`, or that merge instead of replacing.
_NODE_SPECIAL = frozenset({"aux_upserts", "aux_removals", "clear_fields"})
_PROJECT_SPECIAL = frozenset({"label_upserts", "label_removals", "clear_fields"})


def patch_node(node: Node, patch: NodePatch, version: int, info: RevisionInfo) -> None:
    """Set the patch's fields, remove its removals, clear its `clear_fields`, then stamp."""
    _replace_fields(node, patch, _NODE_SPECIAL)
    for key in patch.aux_removals:
        node.aux_data.pop(key, None)
    for key, value in patch.aux_upserts.items():
        node.aux_data[key].CopyFrom(value)
    for name in patch.clear_fields:
        node.ClearField(name)  # type: ignore[arg-type]  # the server checked the name
    stamp_node(node, version, info)


def stamp_node(node: Node, version: int, info: RevisionInfo) -> None:
    """Set what every change of a node sets: version, revision and time of the update."""
    node.version = version
    node.update_revision = info.revision
    node.update_time.CopyFrom(info.commit_time)


def patch_project(project: Project, patch: ProjectPatch, version: int, info: RevisionInfo) -> None:
    """Apply a change of the project itself, like `patch_node`."""
    _replace_fields(project, patch, _PROJECT_SPECIAL)
    for key in patch.label_removals:
        project.labels.pop(key, None)
    project.labels.update(patch.label_upserts)
    for name in patch.clear_fields:
        project.ClearField(name)  # type: ignore[arg-type]  # the server checked the name
    stamp_project(project, version, info)


def stamp_project(project: Project, version: int, info: RevisionInfo) -> None:
    """Set what every change of a project sets: version and time of the update."""
    project.version = version
    project.update_time.CopyFrom(info.commit_time)


def patch_command(command: Command, patch: CommandPatch, version: int) -> None:
    """Apply a change of a command."""
    _replace_fields(command, patch, frozenset())
    command.version = version


def patch_review(review: Review, patch: ReviewPatch, version: int, info: RevisionInfo) -> None:
    """Apply a change of a review."""
    _replace_fields(review, patch, frozenset())
    stamp_review(review, version, info)


def stamp_review(review: Review, version: int, info: RevisionInfo) -> None:
    """Set what every change of a review sets: version and time of the update."""
    review.version = version
    review.update_time.CopyFrom(info.commit_time)


def _replace_fields(
    entity: Node | Project | Command | Review,
    patch: NodePatch | ProjectPatch | CommandPatch | ReviewPatch,
    special: frozenset[str],
) -> None:
    """Replace each field that is set in the patch; its number and type equal the entity's."""
    # `ListFields` lists what is set and, of repeated fields, what is not empty: exactly the
    # fields that replace. `CopyFrom` replaces a message whole; merging would mix old and new.
    for field, value in patch.ListFields():
        name = field.name
        if name in special:
            continue
        if not field.has_presence:  # a list
            del getattr(entity, name)[:]
            getattr(entity, name).extend(value)
        elif field.message_type is not None:
            getattr(entity, name).CopyFrom(value)
        else:
            setattr(entity, name, value)
