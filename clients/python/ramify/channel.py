"""How a channel to a service is set up."""

import grpc.aio

#: A server's messages may be 4 MiB of batch and envelope; snapshots chunk below that.
MAX_MESSAGE_BYTES = 16 << 20

#: A dead peer is noticed within 16 s (SEM 33). `grpc.keepalive_timeout_ms` has no effect in the
#: gRPC core; `grpc.http2.ping_timeout_ms` is what bounds the wait for a ping's answer.
OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # We retry by reason; the channel only has to be quick to find a restarted server.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Clients of different tests and addresses must not share a half-broken connection.
    ("grpc.use_local_subchannel_pool", 1),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """Open a plain-text channel. It connects on first use and reconnects by itself."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)
