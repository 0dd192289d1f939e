"""The one place that reads the clock of leases."""

from __future__ import annotations

import time

from ramify.v1.project_pb2 import Project
from state_svc.lease.table import LeaseTable


def lease_now() -> float:
    """Return the monotonic time that leases are measured by, in seconds."""
    return time.monotonic()


def lease_is_held(entity: Project, leases: LeaseTable) -> bool:
    """Whether somebody holds a lease on the project that has not run out."""
    lease = entity.lease
    if not lease.holder:
        return False
    return not leases.expired(entity.project_uid, lease.lease_epoch, now=lease_now())
