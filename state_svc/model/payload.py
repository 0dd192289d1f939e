"""References from a batch to the payload store (SEM 12). Pure.

The store's answers come in as a mapping: a digest that is not in it counts as unknown, and
whoever applies the batch looks it up and tries again. So a batch without references costs
nothing, and one with known references a look into a dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.payload_pb2 import Payload, PayloadRef
from state_svc.model.problem import Problem

KnownPayloads = Mapping[str, PayloadRef]  #: by digest
NO_PAYLOADS: KnownPayloads = {}

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_UNKNOWN = ErrorReason.ERROR_REASON_PAYLOAD_NOT_FOUND
_INVALID = ErrorReason.ERROR_REASON_INVALID_MUTATION


def is_digest(text: str) -> bool:
    """Whether a text is a digest as the contract writes it."""
    return _DIGEST.fullmatch(text) is not None


class References:
    """The digests that one batch names."""

    def __init__(self, known: KnownPayloads) -> None:
        self._known = known
        self.found: set[str] = set()
        self.missing: set[str] = set()

    def resolve(self, *payloads: tuple[str, Payload]) -> None:
        """Fill in what the store knows of each (field, payload) that is a reference.

        Raises `Problem` for the first that is no digest or not known; `missing` has all of them.
        """
        first: Problem | None = None
        for field, payload in payloads:
            if payload.WhichOneof("body") != "ref":
                continue
            digest = payload.ref.digest
            known = self._known.get(digest)
            if known is not None:
                is_text = payload.ref.is_text
                payload.ref.CopyFrom(known)
                payload.ref.is_text = is_text
                self.found.add(digest)
            elif is_digest(digest):
                self.missing.add(digest)
                problem = f"{digest} is not in the payload store; PutPayload comes first"
                first = first or Problem(_UNKNOWN, f"{field}.ref.digest", problem)
            else:
                problem = "is not sha256: and 64 lower-case hexadecimal digits"
                first = first or Problem(_INVALID, f"{field}.ref.digest", problem)
        if first is not None:
            raise first
