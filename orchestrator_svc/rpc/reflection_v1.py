"""The descriptor of `grpc.reflection.v1`, which the reflection package does not carry.

Its messages are those of v1alpha under another name. Without it a client that walks through all
listed services, as `buf curl --list-methods` does, fails on this one.
"""

from __future__ import annotations

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

_OLD, _NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
_FILE = "grpc/reflection/v1/reflection.proto"


def add_descriptor() -> None:
    """Put the descriptor into the default pool. Idempotent."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        pool.AddSerializedFile(_renamed().SerializeToString())


def _renamed() -> FileDescriptorProto:
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = _FILE, _NEW
    file.ClearField("options")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _rename(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type = _rename(method.input_type)
            method.output_type = _rename(method.output_type)
    return file


def _rename(name: str) -> str:
    return name.replace(f".{_OLD}.", f".{_NEW}.")
