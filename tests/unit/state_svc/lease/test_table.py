"""When a lease runs out (SEM 16)."""

from __future__ import annotations

import pytest

from state_svc.lease.table import DEFAULT_TTL, LeaseTable


def test_a_lease_lasts_its_time_and_not_longer() -> None:
    table = LeaseTable(now=0.0)
    table.renew("u", 1, ttl=3.0, now=100.0)
    assert not table.expired("u", 1, ttl=3.0, now=102.9)
    assert table.expired("u", 1, ttl=3.0, now=103.0)


def test_a_renewal_gives_the_lease_its_full_time_again() -> None:
    table = LeaseTable(now=0.0)
    table.renew("u", 1, ttl=3.0, now=100.0)
    table.renew("u", 1, ttl=3.0, now=102.0)
    assert not table.expired("u", 1, ttl=3.0, now=104.9)
    assert table.expired("u", 1, ttl=3.0, now=105.0)


def test_leases_of_other_projects_and_epochs_are_their_own() -> None:
    table = LeaseTable(now=100.0)
    table.renew("u", 1, ttl=1.0, now=100.0)
    table.renew("u", 2, ttl=5.0, now=100.0)
    assert table.expired("u", 1, ttl=1.0, now=101.0)
    assert not table.expired("u", 2, ttl=5.0, now=101.0)
    assert not table.expired("v", 1, ttl=5.0, now=101.0)


@pytest.mark.parametrize("ttl", [1.0, DEFAULT_TTL, 60.0])
def test_a_lease_from_before_the_start_has_its_full_time_from_the_start(ttl: float) -> None:
    table = LeaseTable(now=50.0)
    assert not table.expired("u", 7, ttl=ttl, now=50.0)
    assert not table.expired("u", 7, ttl=ttl, now=50.0 + ttl - 0.1)
    assert table.expired("u", 7, ttl=ttl, now=50.0 + ttl)


def test_a_lease_from_before_the_start_can_be_renewed() -> None:
    table = LeaseTable(now=50.0)
    table.renew("u", 7, ttl=10.0, now=59.0)
    assert not table.expired("u", 7, ttl=10.0, now=68.9)
    assert table.expired("u", 7, ttl=10.0, now=69.0)


def test_a_lease_that_was_released_is_forgotten() -> None:
    table = LeaseTable(now=0.0)
    table.renew("u", 1, ttl=60.0, now=0.0)
    table.end("u", 1)
    table.end("u", 1)
    assert table.expired("u", 1, ttl=DEFAULT_TTL, now=DEFAULT_TTL)
