"""The one place that reads the clock of leases."""

from __future__ import annotations

import time

from ramify.v1.project_pb2 import Project
from state_svc.lease.table import DEFAULT_TTL, LeaseTable


def lease_now() -> float:
    """Return the monotonic time that leases are measured by, in seconds."""
    return time.monotonic()


def lease_ttl(entity: Project) -> float:
    """Return how long the lease of a project lasts, in seconds."""
    lease = entity.lease
    return lease.ttl.ToNanoseconds() / 1e9 if lease.HasField("ttl") else DEFAULT_TTL


def lease_is_held(entity: Project, leases: LeaseTable) -> bool:
    """Whether somebody holds a lease on the project that has not run out."""
    lease = entity.lease
    if not lease.holder:
        return False
    ttl = lease_ttl(entity)
    return not leases.expired(entity.project_uid, lease.lease_epoch, ttl=ttl, now=lease_now())
