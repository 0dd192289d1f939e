"""gRPC options of the server end (SEM 33).

`keepalive_timeout_ms` has no effect in grpcio; a dead peer is noticed by the HTTP/2 ping timeout.
A server with default options ends a stream whose client pings, so the permitted rate is raised.
"""

from __future__ import annotations

PING_SECONDS = 10
PING_TIMEOUT_SECONDS = 5
_SLACK_BYTES = 1 << 20


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Return the options of the server."""
    return [
        ("grpc.keepalive_time_ms", PING_SECONDS * 1_000),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_SECONDS * 500),
        ("grpc.http2.max_ping_strikes", 0),
        # A little room above our own limit, so that what is too large gets our typed error.
        ("grpc.max_receive_message_length", max_message_bytes + _SLACK_BYTES),
        ("grpc.max_send_message_length", 4 * max_message_bytes),
        ("grpc.so_reuseport", 0),
    ]
