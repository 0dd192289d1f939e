"""JSON to and from `google.protobuf.Value`, which knows one kind of number."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Value

from orchestrator_svc.graph.node import Json


def set_value(target: Value, value: Json) -> None:
    """Set `target` to a JSON value. Raises ValueError for text that is not valid Unicode."""
    if value is None:
        target.null_value = 0  # type: ignore[assignment]
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = float(value)
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.list_value.SetInParent()
        for item in value:
            set_value(target.list_value.values.add(), item)
    else:
        target.struct_value.SetInParent()
        fields = target.struct_value.fields
        for key, item in value.items():
            set_value(fields[key], item)


def read_value(value: Value) -> Json:
    """Return a Value as JSON; whole numbers are ints."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [read_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        return read_fields(value.struct_value.fields)
    return None


def read_fields(fields: Mapping[str, Value]) -> dict[str, Json]:
    """Return a map of Values as JSON, in the order of its keys."""
    return {key: read_value(fields[key]) for key in sorted(fields)}
