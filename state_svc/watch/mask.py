"""Fields of nodes that a watch asks for (SEM 31). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ramify.v1.node_pb2 import Node, NodePatch

#: Always there: without them nothing else can be placed.
_ALWAYS = frozenset({"node_id", "version", "update_time", "update_revision"})
_AUX = frozenset({"aux_upserts", "aux_removals"})
NAMES = frozenset(field.name for field in Node.DESCRIPTOR.fields)


class FieldMask:
    """Keeps the fields that were asked for and empties the others."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names) | _ALWAYS

    def keep(self, node: Node) -> None:
        """Empty the fields of a node that were not asked for."""
        for field, _ in node.ListFields():
            if field.name not in self._names:
                node.ClearField(field.name)  # type: ignore[arg-type]

    def keep_in_patch(self, patch: NodePatch) -> None:
        """Empty the fields of a patch that were not asked for."""
        kept = [name for name in patch.clear_fields if name in self._names]
        for field, _ in patch.ListFields():
            if not self._has(field.name):
                patch.ClearField(field.name)  # type: ignore[arg-type]
        patch.clear_fields[:] = kept

    def hides(self, patch: NodePatch) -> bool:
        """Whether nothing of a patch would be left."""
        return not any(
            any(name in self._names for name in patch.clear_fields)
            if field.name == "clear_fields"
            else self._has(field.name)
            for field, _ in patch.ListFields()
        )

    def _has(self, name: str) -> bool:
        return ("aux_data" if name in _AUX else name) in self._names
