"""Turns a failed gRPC call into a `RamifyError`."""

import grpc.aio
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
    info = _error_info(error)
    if info is not None:
        return error_for(code, info.reason, error.details() or info.reason, info.metadata)
    if code == "UNAVAILABLE":
        # The core puts all that it tried before the cause: "…: …: Connection refused".
        message = f"cannot reach {address}: {_one_line(error.details()).rpartition(': ')[2]}"
    elif code == "DEADLINE_EXCEEDED":
        message = f"no answer from {address} in time"
    else:
        message = f"{address} answered {code}: {_one_line(error.details())}"
    return error_for(code, "", message)


def _error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    return info
        except DecodeError:
            return None
    return None


def _one_line(text: str | None) -> str:
    return " ".join((text or "no details").split())
