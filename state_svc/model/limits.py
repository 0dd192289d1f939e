"""The bounds on what a client may send. Each is enforced by `validate.py` or at the edge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that the service publishes in `GetServerInfo` and `Welcome`."""

    max_batch_mutations: int = 5_000
    max_batch_bytes: int = 3 << 20
    max_frame_batches: int = 1_000
    max_message_bytes: int = 4 << 20
    max_goal_chars: int = 10_000
    max_payload_bytes: int = 1 << 20
    payload_inline_bytes: int = 4 << 10  #: larger bodies are better put into the payload store
    max_stored_payload_bytes: int = 16 << 20
    max_project_nodes: int = 1_000_000
    max_project_commands: int = 100_000  #: ended ones too
    max_project_reviews: int = 100_000  #: ended ones too
    max_open_reviews: int = 10_000  #: of a project
    max_projects: int = 1_000_000  #: ids, of deleted projects too
    max_producers: int = 100_000  #: that named themselves
    max_project_producers: int = 1_000
    max_watchers: int = 10_000
    max_streams: int = 10_000  #: open mutation streams
    max_calls: int = 1_000  #: unary calls under way, without those about leases
    credit_batches: int = 256  #: unacknowledged batches of one stream
    credit_bytes: int = 16 << 20  #: unacknowledged encoded bytes of one stream


DEFAULT_LIMITS = Limits()

MIN_GOAL_CHARS = 3
MAX_NAME_CHARS = 255
MAX_TEXT_CHARS = 4_096
MAX_DEPENDENCIES = 1_000
MAX_LAYER = 1_000  #: of a node; a watch of a subtree goes up from each change to its root
MAX_MAP_KEYS = 64
MAX_MAP_BYTES = 16 << 10
MAX_VALUE_DEPTH = 16  #: levels of lists and structs in a value
MAX_TOOL_CALLS = 1_000
MAX_TRACEPARENT_CHARS = 64
MAX_VIOLATIONS = 100
MAX_REQUEST_ID_CHARS = 128
MAX_ID_CHARS = 128
MAX_REVIEW_BYTES = 3_000_000  #: a message of its own must take it
MAX_REPLACED_BYTES = 32 << 20  #: of a batch: what its mutations leave and later ones change
MAX_REVISION_BYTES = 16 << 20  #: of all effects of a batch
MAX_PINS = 64
MAX_CONTROL_BYTES = 4 << 10  #: of `open` and `attach` of a stream
MAX_PLAN_BYTES = 1 << 20  #: of a project whose tasks are given
