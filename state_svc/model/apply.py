"""Applies one batch of mutations to a project: all of it, or an error that lists every bad one.

Pure: reads a `LiveProject`, changes nothing, returns `Applied`. The rules are SEM 6 to 10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from ramify.v1.command_pb2 import Command, CommandPatch, CommandState
from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import (
    Change,
    CommandMutation,
    Delta,
    Mutation,
    NodeMutation,
    ProjectMutation,
    Removal,
    ReviewMutation,
    RevisionInfo,
    StageMutation,
)
from ramify.v1.node_pb2 import Node, NodePatch, NodeState
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import Project
from ramify.v1.review_pb2 import Review
from state_svc.errors import BatchRejected, Violation
from state_svc.model import limits, patch, transitions, validate
from state_svc.model.dependencies import Created, check_created
from state_svc.model.ids import is_id
from state_svc.model.node import LiveNode, live_from_message, set_micros
from state_svc.model.payload import NO_PAYLOADS, KnownPayloads, References
from state_svc.model.problem import Problem
from state_svc.model.project import NO_ORIGIN, Applied, LiveProject, Origin
from state_svc.model.review import apply_review, count_reviews, stage_of
from state_svc.model.scalar_patch import scan
from state_svc.model.stage import add_stage, bodies
from state_svc.model.wire import (
    bytes_field,
    create_change,
    message_change,
    patch_change,
    revision_prefix,
    timestamp_field,
    varint,
)

_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION
_ILLEGAL = ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
_ENDED = ErrorReason.ERROR_REASON_PROJECT_ENDED
_CONFLICT = ErrorReason.ERROR_REASON_VERSION_CONFLICT
_PENDING = NodeState.NODE_STATE_PENDING
#: An encoded node is written anew after so many appended patches, which bounds its size.
_REWRITE_EVERY = 8
#: Time fields that a move to a state sets.
_STAMPED = {NodeState.NODE_STATE_RUNNING: NodePatch.START_TIME_FIELD_NUMBER} | dict.fromkeys(
    transitions.NODE.terminal, NodePatch.END_TIME_FIELD_NUMBER
)
#: Data of a node that is not counted among what a batch holds: its changes are counted anyway.
_SMALL_NODE = 1_024
_DEPENDS_ON = varint(Node.DEPENDS_ON_FIELD_NUMBER << 3 | 2)  #: what each dependency begins with
_OPEN = CommandState.COMMAND_STATE_OPEN
_NONE: frozenset[str] = frozenset()


def apply_batch(
    project: LiveProject,
    mutations: Sequence[Mutation],
    *,
    micros: int,
    origin: Origin = NO_ORIGIN,
    actor: str = "",
    traceparent: str = "",
    max_nodes: int = limits.Limits().max_project_nodes,
    payloads: KnownPayloads = NO_PAYLOADS,
) -> Applied:
    """Return what the batch does to `project`, counting what is pending there.

    `micros` is the present time, microseconds since 1970; the commit time of a revision never
    goes back (SEM 14). `payloads` are those that are known to be stored. Raises `BatchRejected`
    with every violation, and with the digests that are not among them.

    Fields of a newer contract are passed over: what is stored has only fields that are known
    here, as no limit holds for others.
    """
    application = _Application(project, max(micros, project.micros), actor, traceparent, payloads)
    return application.run(mutations, origin, max_nodes)


class _Application:
    """One batch being applied: what it has changed so far, on top of the project."""

    def __init__(
        self,
        project: LiveProject,
        micros: int,
        actor: str,
        traceparent: str,
        payloads: KnownPayloads,
    ) -> None:
        self._project = project
        self._revision = project.revision + 1
        self._micros = micros
        self._nodes: dict[str, LiveNode | None] = {}
        self._entity: Project | None = None
        self._commands: dict[str, Command] = {}
        self._reviews: dict[str, Review] = {}
        self._wholes: dict[int, Project | Command | Review] = {}
        self._prefix = revision_prefix(self._revision)
        self._images: list[tuple[LiveNode | None, LiveNode | None]] = []
        self._violations: list[Violation] = []
        self._created: list[Created] = []
        self._closed: list[Review] = []  #: the reviews that the batch closes, in order
        self._stages = 0
        self._held = 0  #: bytes of the larger nodes as their patches left them
        self._replaced = 0  #: bytes of what one mutation has left and a later one has changed
        self._payloads = payloads
        self._references: References | None = None  #: made at the first body in the store
        #: How many nodes name each as parent or dependency; counted at the first deletion.
        self._named: Counter[str] | None = None
        self._info = RevisionInfo(revision=self._revision, actor=actor, traceparent=traceparent)
        set_micros(self._info.commit_time, micros)
        self._parts = [bytes_field(Delta.REVISIONS_FIELD_NUMBER, self._info.SerializeToString())]

    def run(self, mutations: Sequence[Mutation], origin: Origin, max_nodes: int) -> Applied:
        """Apply every mutation in order and return the effects."""
        for index, mutation in enumerate(mutations):
            try:
                node = mutation.node
                if node.node_id:
                    self._apply_node(index, node)
                else:
                    self._apply_other(index, mutation)
            except Problem as problem:
                self._refuse(index, problem)
        for number, review in enumerate(self._closed):
            self._record_review(len(mutations) + number, review)
        if self._created:
            found_edges = check_created(self._created, self._node, self._deleted)
            for index, found in islice(found_edges, limits.MAX_VIOLATIONS):
                self._refuse(index, found)
            if self._project.id_count() + len(self._created) > max_nodes:
                self._refuse(
                    self._created[0].index,
                    Problem(
                        _INVALID,
                        "node.create",
                        f"a project has at most {max_nodes} nodes, deleted ones too",
                    ),
                )
        body = b"".join(self._parts)
        if len(body) > limits.MAX_REVISION_BYTES:
            allowed = f"at most {limits.MAX_REVISION_BYTES} are allowed"
            text = f"the effects of the batch have {len(body)} bytes, {allowed}"
            self._refuse(0, Problem(_INVALID, "", text))
        if self._violations:
            violations = sorted(self._violations, key=lambda v: v.index)
            raise BatchRejected(
                tuple(violations[: limits.MAX_VIOLATIONS]),
                missing=frozenset(self._references.missing if self._references else ()),
                project_id=self._project.project_id,
            )
        return Applied(
            revision=self._revision,
            micros=self._micros,
            mutation_count=len(mutations),
            info=self._info,
            body=body,
            images=self._images,
            nodes=self._nodes,
            entity=self._entity,
            commands=self._commands,
            reviews=self._reviews,
            wholes=self._wholes,
            origin=origin,
            stages=self._stages,
            references=frozenset(self._references.found) if self._references else _NONE,
            held_bytes=self._held_bytes(),
        )

    def _held_bytes(self) -> int:
        held = self._held
        if self._wholes:
            held += sum(whole.ByteSize() for whole in self._wholes.values())
        if self._reviews and self._entity is not None:
            held += self._entity.ByteSize()  # their counts are in it
        return held

    def _replace(self, size: int, field: str) -> None:
        """Count what the batch holds twice. Raises `Problem` if that is too much."""
        self._replaced += size
        if self._replaced > limits.MAX_REPLACED_BYTES:
            problem = "changes large entities again and again; send the rest in another batch"
            raise Problem(_INVALID, field, problem)

    def _resolve(self, *payloads: tuple[str, Payload]) -> None:
        if self._references is None:
            self._references = References(self._payloads)
        self._references.resolve(*payloads)

    def _refuse(self, index: int, problem: Problem) -> None:
        self._violations.append(
            Violation(index, problem.reason, problem.field, problem.description)
        )

    def _node(self, node_id: str) -> LiveNode | None:
        nodes = self._nodes
        return nodes[node_id] if node_id in nodes else self._project.node(node_id)

    def _deleted(self, node_id: str) -> bool:
        return self._project.ever_existed(node_id) and self._node(node_id) is None

    # Nodes

    def _apply_node(self, index: int, mutation: NodeMutation) -> None:
        node_id = mutation.node_id
        request = mutation.patch
        effect = request.SerializeToString()
        kind = "patch" if effect else mutation.WhichOneof("change")
        if kind == "create":
            for name in ("expected_version", "expected_state"):
                if getattr(mutation, name):
                    raise Problem(_CONFLICT, f"node.{name}", f"{node_id} does not exist yet")
            self._create_node(index, node_id, mutation.create)
            return
        if node_id in self._nodes:
            live = self._nodes[node_id]
            if live is not None and len(live.data) > _SMALL_NODE:
                self._replace(len(live.data), f"node.{kind}")
        else:
            live = self._project.node(node_id)
        if live is None:
            raise Problem(_INVALID, "node.node_id", f"there is no node {node_id!r}")
        if mutation.HasField("expected_version") and mutation.expected_version != live.version:
            raise Problem(
                _CONFLICT,
                "node.expected_version",
                f"{node_id} has version {live.version}, not {mutation.expected_version}",
            )
        expected_state = mutation.expected_state
        if expected_state and expected_state != live.state:
            raise Problem(
                _CONFLICT,
                "node.expected_state",
                f"{node_id} is {transitions.NODE.names[live.state]}",
            )
        if kind == "patch":
            self._patch_node(index, live, request, effect)
        elif kind == "delete":
            self._delete_node(index, live)
        else:
            raise Problem(_INVALID, "node.change", "one of create, patch and delete is needed")

    def _create_node(self, index: int, node_id: str, request: Node) -> None:
        if not is_id(node_id):
            raise Problem(_INVALID, "node.node_id", f"{node_id!r} is not a valid id")
        if request.node_id not in ("", node_id):
            raise Problem(_INVALID, "node.create.node_id", "differs from node.node_id")
        if node_id in self._nodes or self._project.ever_existed(node_id):
            raise Problem(
                _INVALID, "node.node_id", f"{node_id} exists or existed; ids are never reused"
            )
        node = Node()
        node.CopyFrom(request)
        node.DiscardUnknownFields()
        node.node_id = node_id
        if node.state == NodeState.NODE_STATE_UNSPECIFIED:
            node.state = _PENDING
        for name in ("goal", "task_type"):
            if not getattr(node, name):
                raise Problem(_INVALID, f"node.create.{name}", "is needed")
        found = validate.first_problem(node, validate.NEW_NODE_FIELDS)
        if found is not None:
            raise Problem(_INVALID, f"node.create.{found[0]}", found[1])
        if node.state not in transitions.NODE.initial:
            name = transitions.NODE.names[node.state]
            raise Problem(_ILLEGAL, "node.create.state", f"a node cannot be created {name}")
        if node.result.HasField("ref"):
            self._resolve(("node.create.result", node.result))
        set_micros(node.create_time, self._micros)
        live = live_from_message(node, version=1, revision=self._revision, micros=self._micros)
        self._parts.append(create_change(self._prefix, index, node_id, live.data))
        self._nodes[node_id] = live
        self._images.append((None, live))
        if self._named is not None:
            self._named.update(_named_by(live))
        self._created.append(Created(index, live, tuple(node.depends_on)))

    def _patch_node(self, index: int, live: LiveNode, request: NodePatch, effect: bytes) -> None:
        version = live.version + 1
        usual = scan(live, effect)
        if usual is not None:
            state, attempt, agent_name = usual
            if state != live.state and state in _STAMPED:
                effect += timestamp_field(_STAMPED[state], self._micros)
            data = live.data + effect
            if not version % _REWRITE_EVERY:
                data = Node.FromString(data).SerializeToString()
        else:
            request = NodePatch.FromString(effect)
            request.DiscardUnknownFields()
            if request.result.HasField("ref"):
                self._resolve(("node.patch.result", request.result))
            found = patch.node_effect(live, request, self._micros)
            if found is None:
                return
            node, changed = found
            effect, data = changed.SerializeToString(), node.SerializeToString()
            state, attempt, agent_name = node.state, node.attempt, node.agent_name
        if len(data) > _SMALL_NODE:
            self._held += len(data)
        spec = live.spec
        node_id = spec.node_id
        after = LiveNode(
            spec, data, state, version, attempt, agent_name, self._revision, self._micros
        )
        self._parts.append(
            patch_change(self._prefix, index, node_id, version, effect, live.state, live.agent_name)
        )
        self._nodes[node_id] = after
        self._images.append((live, after))

    def _delete_node(self, index: int, live: LiveNode) -> None:
        node_id = live.spec.node_id
        touched = self._nodes
        if self._named is None:
            others = [n for n in self._project.all_nodes() if n.spec.node_id not in touched]
            others.extend(node for node in touched.values() if node is not None)
            self._named = Counter(name for node in others for name in _named_by(node))
        if self._named[node_id]:
            raise Problem(_INVALID, "node.delete", f"{node_id} has children or dependants")
        self._named.subtract(_named_by(live))
        change = Change(revision=self._revision, index=index)
        change.node.node_id = node_id
        change.node.version = live.version + 1
        change.node.removal = Removal.REMOVAL_DELETED
        change.node.previous_state = live.state  # type: ignore[assignment]
        change.node.previous_agent_name = live.agent_name
        self._parts.append(message_change(change))
        touched[node_id] = None
        self._images.append((live, None))

    # The project, its commands and its reviews

    def _apply_other(self, index: int, request: Mutation) -> None:
        mutation = Mutation()
        mutation.CopyFrom(request)
        mutation.DiscardUnknownFields()
        kind = mutation.WhichOneof("target")
        if kind == "project":
            self._apply_project(index, mutation.project)
        elif kind == "command":
            self._apply_command(index, mutation.command)
        elif kind == "review":
            self._apply_review(index, mutation.review)
        elif kind == "stage":
            self._apply_stage(index, mutation.stage)
        elif kind == "node":
            raise Problem(_INVALID, "node.node_id", "is needed")
        else:
            kinds = "node, project, command, review and stage"
            raise Problem(_INVALID, "target", f"one of {kinds} is needed")

    def _apply_stage(self, index: int, mutation: StageMutation) -> None:
        change = Change(revision=self._revision, index=index)
        stage = change.stage.stage
        add_stage(mutation, self._micros, stage)
        if self._node(stage.node_id) is None:
            raise Problem(_INVALID, "stage.create.node_id", f"there is no node {stage.node_id!r}")
        named = [(f"stage.create.{f}", body) for f, body in bodies(stage) if body.HasField("ref")]
        if named:
            self._resolve(*named)
        self._parts.append(message_change(change))
        self._images.append((None, None))
        self._stages += 1

    def _apply_project(self, index: int, mutation: ProjectMutation) -> None:
        before = self._entity or self._project.entity
        expected = mutation.expected_state
        if expected and expected != before.state:
            name = transitions.PROJECT.names[before.state]
            raise Problem(_CONFLICT, "project.expected_state", f"the project is {name}")
        if self._entity is not None:
            self._replace(before.ByteSize(), "project.patch")
        after = Project()
        after.CopyFrom(before)
        changed = patch.patch_project(after, mutation.patch, self._micros)
        if changed is None:
            return
        after.version += 1
        set_micros(after.update_time, self._micros)
        change = Change(revision=self._revision, index=index)
        change.project.version = after.version
        change.project.patch.CopyFrom(changed)
        change.project.previous_state = before.state
        self._parts.append(message_change(change))
        self._entity = self._wholes[index] = after
        self._images.append((None, None))

    def _apply_command(self, index: int, mutation: CommandMutation) -> None:
        command_id = mutation.command_id
        kind = mutation.WhichOneof("change")
        before = self._commands.get(command_id) or self._project.command(command_id)
        after = Command()
        changed: CommandPatch | None = None
        if kind == "create":
            if not is_id(command_id):
                raise Problem(_INVALID, "command.command_id", f"{command_id!r} is not a valid id")
            if before is not None:
                raise Problem(_INVALID, "command.command_id", f"{command_id} exists already")
            state = (self._entity or self._project.entity).state
            if state in transitions.PROJECT.terminal:
                name = transitions.PROJECT.names[state]
                raise Problem(_ENDED, "command.create", f"the project is {name}")
            after.CopyFrom(mutation.create)
            found = validate.first_problem(after, validate.COMMAND_FIELDS)
            if found is not None or not after.type:
                field, problem = found or ("type", "is needed")
                raise Problem(_INVALID, f"command.create.{field}", problem)
            after.command_id = command_id
            after.state = _OPEN
            after.ClearField("answer")
            after.version = 1
            set_micros(after.create_time, self._micros)
        elif kind == "patch":
            if before is None:
                raise Problem(_INVALID, "command.command_id", f"there is no {command_id!r}")
            after.CopyFrom(before)
            changed = patch.patch_command(after, mutation.patch)
            if changed is None:
                return
            after.version += 1
        else:
            raise Problem(_INVALID, "command.change", "one of create and patch is needed")
        change = Change(revision=self._revision, index=index)
        change.command.command_id = command_id
        change.command.version = after.version
        if changed is None:
            change.command.command.CopyFrom(after)
        else:
            change.command.patch.CopyFrom(changed)
        self._parts.append(message_change(change))
        self._commands[command_id] = self._wholes[index] = after
        self._images.append((None, None))

    def _apply_review(self, index: int, mutation: ReviewMutation) -> None:
        review_id = mutation.review_id
        before = self._reviews.get(review_id) or self._project.review(review_id)
        if before is not None and review_id in self._reviews:
            self._replace(before.ByteSize(), f"review.{mutation.WhichOneof('change')}")
        node_exists = self._node(mutation.create.node_id) is not None
        if mutation.create.HasField("result"):
            self._resolve(("review.create.result", mutation.create.result))
        found = apply_review(before, mutation, node_exists=node_exists, micros=self._micros)
        if found is None:
            return
        after, changed = found
        change = Change(revision=self._revision, index=index)
        change.review.review_id = review_id
        change.review.version = after.version
        if changed is None:
            change.review.review.CopyFrom(after)
        else:
            change.review.patch.CopyFrom(changed)
        self._parts.append(message_change(change))
        entity = Project()
        entity.CopyFrom(self._entity or self._project.entity)
        count_reviews(entity, before, after)
        self._entity = entity
        self._reviews[review_id] = self._wholes[index] = after
        self._images.append((None, None))
        if changed is not None and changed.HasField("state"):
            self._closed.append(after)

    def _record_review(self, index: int, review: Review) -> None:
        """Add the record of the stage that a closed review was, in the revision that closes it."""
        node = self._node(review.node_id)
        attempt = Node.FromString(node.data).attempt if node is not None else 0
        change = Change(revision=self._revision, index=index)
        change.stage.stage.CopyFrom(stage_of(review, attempt, self._micros))
        self._parts.append(message_change(change))
        self._images.append((None, None))
        self._stages += 1


def _named_by(node: LiveNode) -> list[str]:
    """Return the parent and the dependencies of a node."""
    named = [node.spec.parent] if node.spec.parent else []
    if _DEPENDS_ON in node.data:  # perhaps in a text; most nodes need not be decoded
        named += Node.FromString(node.data).depends_on
    return named
