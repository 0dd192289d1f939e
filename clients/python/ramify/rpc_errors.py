"""Turns a failed gRPC call into a `RamifyError`."""

from collections.abc import Iterable

import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ramify.errors import RamifyError, error_for

DOMAIN = "ramify"  #: domain of the `ErrorInfo` that our servers send
_DETAILS_KEY = "grpc-status-details-bin"


def error_from_rpc(error: grpc.aio.AioRpcError, address: str) -> RamifyError:
    """Return the typed error for a failed call to `address`.

    A cause named by the server (`ErrorInfo` with our domain) decides; without one the status code
    does, for example when nobody listens at the address.
    """
    code = error.code().name
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in _details(error):
        detail.Unpack(info)
        detail.Unpack(retry)
    if info.domain == DOMAIN:
        typed = error_for(code, info.reason, error.details() or info.reason, info.metadata)
        typed.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        return typed
    if code == "UNAVAILABLE":
        # The core puts all that it tried before the cause: "…: …: Connection refused".
        message = f"cannot reach {address}: {_one_line(error.details()).rpartition(': ')[2]}"
    elif code == "DEADLINE_EXCEEDED":
        message = f"no answer from {address} in time"
    else:
        message = f"{address} answered {code}: {_one_line(error.details())}"
    return error_for(code, "", message)


def _details(error: grpc.aio.AioRpcError) -> Iterable[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value).details
            except DecodeError:
                break  # not a server of ours
    return ()


def _one_line(text: str | None) -> str:
    return " ".join((text or "no details").split())
