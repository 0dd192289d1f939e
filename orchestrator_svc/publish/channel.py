"""The connection to state_svc, with the keepalive of SEM 33."""

from __future__ import annotations

import grpc

MAX_MESSAGE_BYTES = 16 << 20  #: of one incoming message

#: A dead peer is noticed within 16 s: pings every 10 s, each answered within 5 s. gRPC core
#: ignores `keepalive_timeout_ms` where it uses the HTTP/2 ping timeout.
KEEPALIVE_OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    *KEEPALIVE_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 50),
    # gRPC core also gives up an attempt to connect after this long: a busy peer needs its time.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """Return a channel to `host:port`; it connects and reconnects by itself."""
    return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
